"""A course with people in it: accounts and roles over REST, stock clients that open it."""

import itertools
from collections.abc import Mapping

from tests.conformance.node_client import NodeDriver, YjsClient
from tests.server_process import Account, ServerProcess

VERSIONS = ("1", "2", "3")


class Classroom:
    """Opens stock clients on courses of one server and closes them all at the end of a test."""

    def __init__(self, server: ServerProcess, driver: NodeDriver, owner: Account) -> None:
        self.server = server
        self.driver = driver
        self.owner = owner
        self._numbers = itertools.count(1)
        self._open: dict[str, YjsClient] = {}

    def new_course(self, title: str = "A course") -> str:
        """Create a course of the owner."""
        return self.server.create_course(self.owner, title)

    def member(self, course: str, role: str) -> Account:
        """Register somebody and give them a role in the course."""
        account = self.server.register(role)
        self.server.add_member(self.owner, course, account, role)
        return account

    async def join(
        self,
        course: str,
        version: str = "3",
        *,
        account: Account | None = None,
        params: Mapping[str, str] | None = None,
        through: int | None = None,
        **options: object,
    ) -> YjsClient:
        """Open a client on the course (the owner's unless told). Connects at once unless `connect=False`.

        params: query parameters beside the token; receipts are asked for unless `ack` is overridden with "".
        through: a loopback port to connect to in place of the server's, for a line in between.
        """
        door = self.server.connect(account or self.owner, course)
        url = door.url if through is None else door.url.replace(f":{self.server.port}/", f":{through}/")
        query = {"token": door.token, "ack": "seq", **(params or {})}
        name = f"{course}.{next(self._numbers)}"
        client = await self.driver.open(
            name,
            {
                "version": version,
                "url": url,
                "room": course,
                "params": {key: value for key, value in query.items() if value},
                **options,
            },
        )
        self._open[name] = client
        return client

    async def joined(self, course: str, version: str = "3", **options: object) -> YjsClient:
        """Open a client on the course and wait until it is synced."""
        client = await self.join(course, version, **options)  # type: ignore[arg-type]
        await client.synced()
        return client

    async def leave(self, client: YjsClient) -> None:
        """Destroy one client with its document."""
        del self._open[client.name]
        await client.destroy()

    async def close(self) -> None:
        """Destroy all clients; fails if any of them threw or met a message that it does not know."""
        for client in list(self._open.values()):
            await self.leave(client)
        if complaints := await self.driver.complaints():
            raise AssertionError("the clients complained: " + "; ".join(complaints))
