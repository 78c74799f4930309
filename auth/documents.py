"""Who may open a document's socket, and as what."""

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from auth.policy import Decision, Principal, decide
from auth.tokens import AccessClaims, ConnectClaims, InvalidToken, Tokens
from schemas.ids import CourseId, DocumentId, SessionId, UserId
from schemas.problems import PROBLEMS, ProblemCode
from schemas.roles import Action, Role, can_write_document
from storage.contracts import StorageUnavailable
from storage.courses import Courses

DOCUMENT_NAME: Final = re.compile(
    r"(?P<course>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:/body/[0-9A-Za-z]{12}|/review)?",
    re.ASCII,
)
"""`{course}`, `{course}/body/{node}` or `{course}/review`. One spelling for each document: no case, no encodings."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A socket may open. role: as the database has it now. expires_at: when its token ends, seconds since 1970.

    is_read_only: the document takes no writes for now, whatever the role.
    """

    user_id: UserId
    user_name: str
    role: Role
    document_id: DocumentId
    document_name: str
    lineage: UUID
    schema_version: int
    course_id: CourseId
    session_id: SessionId
    expires_at: float
    is_read_only: bool = False

    @property
    def can_write(self) -> bool:
        """Whether the holder may write to the document now."""
        return can_write_document(self.role) and not self.is_read_only


@dataclass(frozen=True, slots=True)
class Denied:
    """A socket may not open. status: HTTP. code: a stable problem code. detail: for people, holds nothing secret."""

    status: int
    code: str
    detail: str


class DocumentAccess:
    """Decides over sockets as the policy does over requests, from the database of this moment."""

    def __init__(self, tokens: Tokens, courses: Courses) -> None:
        self._tokens = tokens
        self._courses = courses

    async def authorise_document(self, token: str, document_name: str) -> Grant | Denied:
        """A grant for the holder of a connect or access token; otherwise why not."""
        try:
            claims = self._tokens.read(token)
        except InvalidToken as error:
            return _denied(ProblemCode.UNAUTHENTICATED, str(error))
        name = DOCUMENT_NAME.fullmatch(document_name)
        if name is None:
            return _denied(ProblemCode.NOT_FOUND, "there is no such document")
        if isinstance(claims, ConnectClaims) and str(claims.course_id) != name["course"]:
            return _denied(ProblemCode.FORBIDDEN, "the token is for another course")
        return await self._decide(claims, document_name)

    async def recheck(self, grant: Grant) -> Grant | Denied:
        """The grant of an open socket as it would be now: another role, another name, or none at all."""
        claims = AccessClaims(grant.user_id, grant.session_id, int(grant.expires_at))
        now = await self._decide(claims, grant.document_name)
        if isinstance(now, Grant) and now.lineage != grant.lineage:
            return _denied(ProblemCode.OTHER_LINEAGE, "the document was replaced by a fresh one")
        return now

    async def _decide(self, claims: AccessClaims | ConnectClaims, name: str) -> Grant | Denied:
        try:
            document = await self._courses.document(name, claims.user_id, claims.session_id)
        except StorageUnavailable:
            return _denied(ProblemCode.UNAVAILABLE, "the database is away")
        if document is None:
            return _denied(ProblemCode.NOT_FOUND, "there is no such document")
        if document.user is None or not document.session_alive:
            return _denied(ProblemCode.UNAUTHENTICATED, "the sign-in has ended")
        if isinstance(claims, ConnectClaims) and claims.lineage != document.lineage:
            return _denied(ProblemCode.OTHER_LINEAGE, "the document was replaced by a fresh one")
        user_name, platform_role = document.user
        principal = Principal(claims.user_id, claims.session_id, platform_role)
        allowed = decide(principal, Action.READ_DOCUMENT, document.role) is Decision.ALLOWED
        if not allowed or document.role is None:
            return _denied(ProblemCode.FORBIDDEN, "only members of the course may open it")
        return Grant(
            user_id=claims.user_id,
            user_name=user_name,
            role=document.role,
            document_id=document.id,
            document_name=name,
            lineage=document.lineage,
            schema_version=document.schema_version,
            course_id=document.course_id,
            session_id=claims.session_id,
            expires_at=claims.expires_at,
            is_read_only=document.is_read_only,
        )


def _denied(code: ProblemCode, detail: str) -> Denied:
    return Denied(PROBLEMS[code].status, code.value, detail)
