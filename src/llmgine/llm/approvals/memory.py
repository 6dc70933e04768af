"""Requests for approval in memory: for programs that have nothing to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState, Unanswered
from llmgine.bus.clocks import utc_now
from llmgine.errors import ApprovalError
from llmgine.messages import SessionID

__all__ = ["MemoryApprovalStore"]


class MemoryApprovalStore:
    """An `ApprovalStore` that is gone with the process."""

    shared = False

    def __init__(self, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._records: dict[str, ApprovalRecord] = {}

    async def add(self, record: ApprovalRecord) -> None:
        """Keep a new request."""
        if record.id in self._records:
            msg = f"There is a request for approval {record.id} already; make another id."
            raise ApprovalError(msg, approval_id=record.id)
        self._records[record.id] = record

    async def get(self, approval_id: str) -> ApprovalRecord | None:
        """Return a request; None if there is no such."""
        record = self._records.get(approval_id)
        return None if record is None else record.at(self._clock())

    async def latest(self, call_key: str) -> ApprovalRecord | None:
        """Return the request that was made last for a call, by its key; None if there is none."""
        return next((record for record in reversed(self._now()) if record.call_key == call_key), None)

    async def usable(self, digest: str, session_id: SessionID) -> ApprovalRecord | None:
        """Return the oldest approval in a session that `consume` would take for this digest; None if there is none."""
        of_session = _in(self._now(), session_id)
        approved = (record for record in of_session if record.state is ApprovalState.APPROVED)
        return next((record for record in approved if record.digest == digest), None)

    async def pending(self, session_id: SessionID | None = None) -> list[ApprovalRecord]:
        """Return the requests that wait for an answer, the oldest first: of a session, or of all."""
        return [record for record in _in(self._now(), session_id) if record.state is ApprovalState.PENDING]

    async def decide(
        self,
        approval_id: str,
        *,
        approve: bool,
        decided_by: str = "",
        reason: str = "",
        answer: Mapping[str, Any] | None = None,
    ) -> ApprovalRecord:
        """Answer a request.

        Raises:
            ApprovalAnswerError: the answer does not fit what is asked for; the request stays open.
            ApprovalError: there is no such request, it was answered or has ended, or it is too late.
        """
        record = self._found(approval_id)
        now = self._clock()
        return self._keep(record.decided(now, approve=approve, decided_by=decided_by, reason=reason, answer=answer))

    async def consume(self, approval_id: str, digest: str) -> ApprovalRecord:
        """Use an approval, for the call that is about to run.

        Raises:
            ApprovalError: there is no such approval, it was given for another call, was used, or has expired.
        """
        return self._keep(self._found(approval_id).used(self._clock(), digest))

    async def end(self, approval_id: str, state: Unanswered) -> ApprovalRecord:
        """End a request that nobody has answered. Return what has become of it: this, or what came first.

        Raises:
            ApprovalError: there is no such request.
        """
        return self._keep(self._found(approval_id).ended(self._clock(), state))

    def _now(self) -> list[ApprovalRecord]:
        now = self._clock()
        return [record.at(now) for record in self._records.values()]

    def _found(self, approval_id: str) -> ApprovalRecord:
        if approval_id not in self._records:
            msg = f"There is no request for approval {approval_id}."
            raise ApprovalError(msg, approval_id=approval_id)
        return self._records[approval_id]

    def _keep(self, record: ApprovalRecord) -> ApprovalRecord:
        self._records[record.id] = record
        return record

    async def list(self, session_id: SessionID | None = None) -> list[ApprovalRecord]:
        """Return all requests, the oldest first: of a session, or of all."""
        return _in(self._now(), session_id)


def _in(records: Iterable[ApprovalRecord], session_id: SessionID | None) -> list[ApprovalRecord]:
    return [record for record in records if session_id in {None, record.session_id}]
