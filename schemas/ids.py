"""The ids of the system, as distinct types so that a checker tells a user from a course."""

from typing import NewType
from uuid import UUID

UserId = NewType("UserId", UUID)
CourseId = NewType("CourseId", UUID)
DocumentId = NewType("DocumentId", UUID)
SessionId = NewType("SessionId", UUID)

Seq = NewType("Seq", int)
"""Place of a saved update in its document's log: 1, 2, 3 … without gaps, in commit order (R9). 0: nothing saved."""

CommitId = NewType("CommitId", int)
"""Random 63-bit id of the commit that made a document's head what it is (R9). 0: nothing was ever appended."""
