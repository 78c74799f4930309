"""Which channels are to be subscribed to, and how far a connection to the server has come with that. Pure."""


class Subscriptions:
    """What is wanted outlives connections; what was sent and confirmed belongs to the present one.

    However often a channel is wanted and not wanted between two calls of `commands`, what comes of it is one command or none.
    """

    def __init__(self) -> None:
        self._wanted: dict[bytes, None] = {}
        self._changed: dict[bytes, None] = {}
        self._sent: set[bytes] = set()
        self._unconfirmed: dict[bytes, int] = {}

    @property
    def has_changes(self) -> bool:
        return bool(self._changed)

    @property
    def is_settled(self) -> bool:
        """Whether everything that was wanted is established."""
        return not self._changed and not self._unconfirmed

    def want(self, channel: bytes) -> None:
        self._wanted[channel] = None
        self._changed[channel] = None

    def unwant(self, channel: bytes) -> None:
        self._wanted.pop(channel, None)
        self._changed[channel] = None

    def is_established(self, channel: bytes) -> bool:
        """Whether the server has confirmed that this connection hears the channel, and nothing since has ended that."""
        return channel in self._sent and channel in self._wanted and channel not in self._unconfirmed

    def begin(self) -> None:
        """A new connection, which is subscribed to nothing."""
        self._sent.clear()
        self._unconfirmed.clear()
        self._changed = dict.fromkeys(self._wanted)

    def commands(self) -> list[tuple[bytes, bool]]:
        """Return what is to be sent now: channels, with whether to subscribe or to unsubscribe."""
        changed, self._changed = self._changed, {}
        commands = []
        for channel in changed:
            is_wanted = channel in self._wanted
            if is_wanted == (channel in self._sent):
                continue
            commands.append((channel, is_wanted))
            if is_wanted:
                self._sent.add(channel)
                self._unconfirmed[channel] = self._unconfirmed.get(channel, 0) + 1
            else:
                self._sent.discard(channel)
        return commands

    def confirmed(self, channel: bytes) -> bool:
        """The server has confirmed a subscription; return whether the channel is established now.

        It is not when this was the answer to an earlier command, and another is still on its way.
        """
        outstanding = self._unconfirmed.pop(channel, 0) - 1
        if outstanding > 0:
            self._unconfirmed[channel] = outstanding
        return self.is_established(channel)
