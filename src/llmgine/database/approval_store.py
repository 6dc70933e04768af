"""Requests for approval in a table: what one process has asked, another may answer, and one alone may use."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from llmgine.bus.answer_schema import form_of
from llmgine.bus.approval_records import ApprovalRecord, ApprovalState, Unanswered
from llmgine.database.access import Access
from llmgine.database.tables import clean, microseconds, moment
from llmgine.errors import ApprovalError
from llmgine.messages import SessionID

__all__ = ["DatabaseApprovalStore"]

_log = logging.getLogger("llmgine.database")


class DatabaseApprovalStore:
    """An `ApprovalStore` that outlives the process, and that processes may share.

    A record is read, judged and written in one transaction, in which nobody else may write it.
    """

    shared = True

    def __init__(self, access: Access) -> None:
        self._access = access
        self._table = access.tables.approvals

    async def add(self, record: ApprovalRecord) -> None:
        """Keep a new request; it is on disk when this returns."""
        row = _row(record)
        await self._access.run(lambda connection: connection.execute(insert(self._table), row))

    async def get(self, approval_id: str) -> ApprovalRecord | None:
        """Return a request; None if there is no such."""
        return await self._first(select(self._table).where(self._table.c.id == clean(approval_id)))

    async def latest(self, call_key: str) -> ApprovalRecord | None:
        """Return the request that was made last for a call, by its key; None if there is none."""
        of_call = select(self._table).where(self._table.c.call_key == clean(call_key))
        return await self._first(of_call.order_by(self._table.c.position.desc()))

    async def usable(self, digest: str, session_id: SessionID) -> ApprovalRecord | None:
        """Return the oldest approval in a session that `consume` would take for this digest; None if there is none."""
        for_digest = self._query(session_id, ApprovalState.APPROVED).where(self._table.c.digest == clean(digest))
        records = await self._records(for_digest)
        return next((record for record in records if record.state is ApprovalState.APPROVED), None)

    async def pending(self, session_id: SessionID | None = None) -> list[ApprovalRecord]:
        """Return the requests that wait for an answer, the oldest first: of a session, or of all."""
        records = await self._records(self._query(session_id, ApprovalState.PENDING))
        return [record for record in records if record.state is ApprovalState.PENDING]

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
        return await self._change(
            approval_id,
            lambda record, now: record.decided(
                now, approve=approve, decided_by=decided_by, reason=reason, answer=answer
            ),
        )

    async def consume(self, approval_id: str, digest: str) -> ApprovalRecord:
        """Use an approval, for the call that is about to run. Of all who do this at the same time, one succeeds.

        Raises:
            ApprovalError: there is no such approval, it was given for another call, was used, or has expired.
        """
        return await self._change(approval_id, lambda record, now: record.used(now, digest))

    async def end(self, approval_id: str, state: Unanswered) -> ApprovalRecord:
        """End a request that nobody has answered. Return what has become of it: this, or what came first.

        Raises:
            ApprovalError: there is no such request.
        """
        return await self._change(approval_id, lambda record, now: record.ended(now, state))

    async def list(self, session_id: SessionID | None = None) -> list[ApprovalRecord]:
        """Return all requests, the oldest first: of a session, or of all."""
        return [*await self._records(self._query(session_id, None))]

    def _query(self, session_id: SessionID | None, state: ApprovalState | None) -> Select[Any]:
        query = select(self._table).order_by(self._table.c.position)
        if state is not None:
            query = query.where(self._table.c.state == state.value)
        return query if session_id is None else query.where(self._table.c.session_id == clean(session_id))

    async def _records(self, query: Select[Any]) -> Sequence[ApprovalRecord]:
        rows = await self._access.run(lambda connection: connection.execute(query).all(), reads=True)
        now = self._access.clock()
        return [_record(row).at(now) for row in rows]

    async def _first(self, query: Select[Any]) -> ApprovalRecord | None:
        return next(iter(await self._records(query.limit(1))), None)

    async def _change(
        self, approval_id: str, change: Callable[[ApprovalRecord, datetime], ApprovalRecord]
    ) -> ApprovalRecord:
        mine = self._table.c.id == clean(approval_id)

        def work(connection: Connection) -> ApprovalRecord | ApprovalError:
            row = connection.execute(select(self._table).where(mine).with_for_update()).one_or_none()
            if row is None:
                return ApprovalError(f"There is no request for approval {approval_id}.", approval_id=approval_id)
            before = _record(row)
            if before.state is ApprovalState.UNREADABLE:
                msg = f"What is stored of the request for approval {approval_id} makes no sense: it permits nothing."
                return ApprovalError(msg, approval_id=approval_id)
            try:
                after = change(before, self._access.clock())
            except ApprovalError as error:  # returned, because what work raises is taken for a fault of the database
                return error
            if after != before:
                connection.execute(update(self._table).where(mine).values(_outcome(after)))
            return after

        outcome = await self._access.run(work)
        if isinstance(outcome, ApprovalError):
            raise outcome
        return outcome


def _row(record: ApprovalRecord) -> dict[str, Any]:
    return {
        "id": clean(record.id),
        "digest": clean(record.digest),
        "call_key": clean(record.call_key),
        "session_id": clean(record.session_id),
        "run_id": clean(record.run_id),
        "tool": clean(record.tool),
        "arguments": json.dumps(record.arguments),
        "approver": None if record.approver is None else clean(record.approver),
        "note": clean(record.note),
        "requested_at": microseconds(record.requested_at),
        "expires_at": _stored(record.expires_at),
        "url": clean(record.url),
        "answer_schema": _json(record.answer_schema),
        **_outcome(record),
    }


def _outcome(record: ApprovalRecord) -> dict[str, Any]:
    """Return what changes of a request once it has been made."""
    return {
        "state": record.state.value,
        "decided_at": _stored(record.decided_at),
        "decided_by": clean(record.decided_by),
        "reason": clean(record.reason),
        "answer": _json(record.answer),
        "used_at": _stored(record.used_at),
    }


def _record(row: Row[Any]) -> ApprovalRecord:
    """Return what a row says; if it makes no sense, a record that permits nothing."""
    facts: dict[str, Any] = {
        name: str(getattr(row, name)) for name in ("id", "digest", "call_key", "run_id", "tool", "note")
    }
    record = ApprovalRecord(**facts, session_id=SessionID(str(row.session_id)), requested_at=moment(0))
    try:
        answer_schema = None if row.answer_schema is None else _object(row.answer_schema)
        if answer_schema is not None:
            form_of(answer_schema)
        return replace(
            record,
            arguments=_object(row.arguments),
            approver=row.approver,
            requested_at=moment(row.requested_at),
            expires_at=_date(row.expires_at),
            url=row.url or "",
            answer_schema=answer_schema,
            state=ApprovalState(row.state),
            decided_at=_date(row.decided_at),
            decided_by=row.decided_by,
            reason=row.reason,
            answer=None if row.answer is None else _object(row.answer),
            used_at=_date(row.used_at),
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        _log.warning("What is stored of the request for approval %s makes no sense: %s", record.id, error)
        return replace(record, state=ApprovalState.UNREADABLE)


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        msg = "there is no JSON object where one should be"
        raise TypeError(msg)
    return value


def _stored(date: datetime | None) -> int | None:
    return None if date is None else microseconds(date)


def _date(stored: int | None) -> datetime | None:
    return None if stored is None else moment(stored)
