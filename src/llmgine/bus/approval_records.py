"""What is kept of a request for approval of a tool call, what may become of it, and the port to where it is kept.

The rules are here, once, for every store: an answer is given once, in time, and says what was asked for; an approval
holds for exactly the call that was shown, is used once, and not after its time. Whatever is not plainly so permits
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias

from llmgine.bus.answer_form import AnswerForm
from llmgine.bus.answer_schema import form_of
from llmgine.errors import ApprovalAnswerError, ApprovalError
from llmgine.messages import SessionID
from llmgine.messages.ids import BUS

__all__ = ["ApprovalRecord", "ApprovalState", "ApprovalStore", "Unanswered"]


class ApprovalState(StrEnum):
    """What has become of a request."""

    PENDING = "pending"
    APPROVED = "approved"
    """And not used so far."""
    DENIED = "denied"
    EXPIRED = "expired"
    """Nobody has answered in time, or the approval was not used in time."""
    WITHDRAWN = "withdrawn"
    """Whoever asked does not want to know any more."""
    USED = "used"
    """It was approved, and the call was let through."""
    UNREADABLE = "unreadable"
    """What is stored makes no sense."""


Unanswered: TypeAlias = Literal[ApprovalState.EXPIRED, ApprovalState.WITHDRAWN]
"""How a request ends to which nobody has said anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord:
    """One request to let one call of a tool through, and what came of it. Dates are aware and UTC."""

    id: str
    """Of this request alone: two calls never share one, however much alike they are."""
    digest: str
    """SHA-256 of the tool and its arguments: what is approved."""
    tool: str
    requested_at: datetime
    arguments: dict[str, Any] = field(default_factory=dict[str, Any], metadata={"content": True})
    """JSON data, for whoever decides to look at. Secrets of pydantic are masked."""
    session_id: SessionID = BUS
    run_id: str = ""
    """Of the prompt that asks."""
    call_key: str = ""
    """The same when the prompt is taken up again in another process, so that nobody is asked twice."""
    approver: str | None = None
    """Who is to decide; None for anybody."""
    note: str = ""
    """What whoever decides ought to know."""
    expires_at: datetime | None = None
    """When it is too late, to answer and to use the answer; None for never."""
    url: str = field(default="", metadata={"content": True})
    """A page that whoever approves has to visit. Nothing here opens it."""
    answer_schema: dict[str, Any] | None = field(default=None, metadata={"content": True})
    """JSON schema of what an approval has to say, as `form_of` reads it; None where it says no more than yes."""
    state: ApprovalState = ApprovalState.PENDING
    decided_at: datetime | None = None
    decided_by: str = ""
    reason: str = ""
    answer: dict[str, Any] | None = field(default=None, metadata={"content": True})
    """What an approval says, where something was asked for; JSON data that fits `answer_schema`."""
    used_at: datetime | None = None

    @property
    def form(self) -> AnswerForm | None:
        """What an approval has to say; None where it says no more than yes."""
        return None if self.answer_schema is None else form_of(self.answer_schema)

    def at(self, now: datetime) -> ApprovalRecord:
        """Return the record as it is at a time: expired, if that is so."""
        in_time = self.expires_at is None or now < self.expires_at
        if in_time or self.state not in {ApprovalState.PENDING, ApprovalState.APPROVED}:
            return self
        return replace(self, state=ApprovalState.EXPIRED)

    def decided(
        self, now: datetime, *, approve: bool, decided_by: str, reason: str, answer: Mapping[str, Any] | None = None
    ) -> ApprovalRecord:
        """Return the record with an answer; where an approval must say something, and does not, with the defaults.

        Raises:
            ApprovalAnswerError: what it says does not fit what is asked for.
            ApprovalError: there is an answer already, or it is too late.
        """
        self._expect(ApprovalState.PENDING, now, "approved" if approve else "denied")
        state = ApprovalState.APPROVED if approve else ApprovalState.DENIED
        said = self._said(answer) if approve else None
        return replace(self, state=state, decided_at=now, decided_by=decided_by, reason=reason, answer=said)

    def used(self, now: datetime, digest: str) -> ApprovalRecord:
        """Return the record of an approval that lets the call with this digest through.

        Raises:
            ApprovalError: it does not.
        """
        self._expect(ApprovalState.APPROVED, now, "used")
        if digest != self.digest:
            msg = f"The approval {self.id} cannot be used: it was given for another call of {self.tool}, or of another."
            raise ApprovalError(msg, approval_id=self.id)
        return replace(self, state=ApprovalState.USED, used_at=now)

    def ended(self, now: datetime, state: Unanswered) -> ApprovalRecord:
        """Return the record of a request that ends without an answer; as it is if there was one, or it had ended."""
        if self.at(now).state is not ApprovalState.PENDING:
            return self.at(now)
        return replace(self, state=state)

    def _said(self, answer: Any) -> dict[str, Any] | None:
        """Return what an approval says; whoever answers may have sent anything."""
        form = self.form
        if form is None and not answer:
            return None
        said = form.defaults if form is not None and answer is None else answer
        if not isinstance(said, Mapping):
            problems = {"": "expected a JSON object, with a value for each field"}
        elif form is None:
            problems = dict.fromkeys(map(str, said), "was not asked for, only yes or no")
        else:
            problems = form.problems(said)
        if problems:
            wrong = "; ".join(f"{name}: {problem}" if name else problem for name, problem in problems.items())
            msg = f"The answer to the request for approval {self.id} does not fit; it stays open. {wrong}."
            raise ApprovalAnswerError(msg, approval_id=self.id, problems=problems)
        return dict(said)

    def _expect(self, state: ApprovalState, now: datetime, what: str) -> None:
        found = self.at(now).state
        if found is not state:
            by = f" by {self.decided_by}" if self.decided_by and found in {"approved", "denied", "used"} else ""
            msg = f"The request for approval {self.id} cannot be {what}: it is {found}{by}, and had to be {state}."
            raise ApprovalError(msg, approval_id=self.id)


class ApprovalStore(Protocol):
    """Keeps requests for approval. What cannot be reached raises `StoreError`; nothing is half done then.

    Whatever is returned is as it is at that time: what has expired says so.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes may change what is in it."""
        ...

    async def add(self, record: ApprovalRecord) -> None:
        """Keep a new request; it is on disk, where there is one, when this returns."""
        ...

    async def get(self, approval_id: str) -> ApprovalRecord | None:
        """Return a request; None if there is no such."""
        ...

    async def latest(self, call_key: str) -> ApprovalRecord | None:
        """Return the request that was made last for a call, by its key; None if there is none."""
        ...

    async def usable(self, digest: str, session_id: SessionID) -> ApprovalRecord | None:
        """Return the oldest approval in a session that `consume` would take for this digest; None if there is none."""
        ...

    async def pending(self, session_id: SessionID | None = None) -> list[ApprovalRecord]:
        """Return the requests that wait for an answer, the oldest first: of a session, or of all."""
        ...

    async def list(self, session_id: SessionID | None = None) -> list[ApprovalRecord]:
        """Return all requests, the oldest first: of a session, or of all."""
        ...

    async def decide(
        self,
        approval_id: str,
        *,
        approve: bool,
        decided_by: str = "",
        reason: str = "",
        answer: Mapping[str, Any] | None = None,
    ) -> ApprovalRecord:
        """Answer a request. Of all who do this at the same time, in whatever process, one succeeds.

        Raises:
            ApprovalAnswerError: the answer does not fit what is asked for; the request stays open.
            ApprovalError: there is no such request, it was answered or has ended, or it is too late.
        """
        ...

    async def consume(self, approval_id: str, digest: str) -> ApprovalRecord:
        """Use an approval, for the call that is about to run. Of all who do this at the same time, one succeeds.

        Raises:
            ApprovalError: there is no such approval, it was given for another call, was used, or has expired.
        """
        ...

    async def end(self, approval_id: str, state: Unanswered) -> ApprovalRecord:
        """End a request that nobody has answered. Return what has become of it: this, or what came first.

        Raises:
            ApprovalError: there is no such request.
        """
        ...
