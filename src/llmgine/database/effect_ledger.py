"""Runs and their effects in tables: what one process has begun, another can go on with, and does not do twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, delete, func, select, update

from llmgine.bus.effect_records import Answer, EffectRecord, OpenRun, Outcome, TurnRecord, of_another_session
from llmgine.database.access import Access
from llmgine.database.tables import clean, microseconds
from llmgine.errors import StoreError
from llmgine.messages import SessionID

__all__ = ["DatabaseEffectLedger"]

_Stored: TypeAlias = tuple[Row[Any], Row[Any] | None, Sequence[Row[Any]]]
"""A run, its last turn, and the effects of that."""
_KEPT = timedelta(days=30)
"""How long it stays known what a run did that has ended."""


class DatabaseEffectLedger:
    """An `EffectLedger` that outlives the process, and that processes may share."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._runs = access.tables.runs
        self._turns = access.tables.run_turns
        self._effects = access.tables.effects

    async def begin_run(self, run_id: str, session_id: SessionID, prompt: Mapping[str, Any]) -> OpenRun | Answer | None:
        """Keep a new run, in the place of one that is open in this session; or return what is known of it.

        What ended long ago is forgotten.

        Raises:
            ResourceConflictError: it belongs to another session.
            StoreError: the database cannot be reached, or what is stored of the run makes no sense.
        """
        now = self._now()
        runs, long_ago = self._runs, now - _KEPT // timedelta(microseconds=1)
        row = {
            "run_id": clean(run_id),
            "session_id": clean(session_id),
            "prompt": json.dumps(prompt),
            "begun_at": now,
            "ended_at": None,
        }
        is_open = (runs.c.session_id == row["session_id"]) & runs.c.ended_at.is_(None)
        old = select(runs.c.run_id).where(runs.c.ended_at < long_ago)

        def work(connection: Connection) -> _Stored | None:
            for table in (self._effects, self._turns):
                connection.execute(delete(table).where(table.c.run_id.in_(old)))
            connection.execute(delete(runs).where(runs.c.ended_at < long_ago))
            is_this = runs.c.run_id == row["run_id"]
            known = connection.execute(select(runs).where(is_this)).one_or_none()
            if known is not None:
                stored = self._stored(connection, known)
                if known.ended_at is None or known.session_id != row["session_id"] or _is_answer(stored[1]):
                    return stored
                connection.execute(delete(self._turns).where(self._turns.c.run_id == row["run_id"]))
            connection.execute(update(runs).where(is_open).values(ended_at=now))
            connection.execute(runs.insert() if known is None else update(runs).where(is_this), row)
            return None

        stored = await self._access.run(work)
        if stored is None:
            return None
        if stored[0].session_id != row["session_id"]:
            raise of_another_session(run_id)
        return _readable(stored, session_id)

    async def begin_turn(self, run_id: str, turn: TurnRecord) -> bool:
        """Keep what the model asked for, before any of it runs. Return False if this step was kept before."""
        row = {
            "run_id": clean(run_id),
            "step": turn.step,
            "message": json.dumps(turn.message),
            "effect_keys": json.dumps(turn.keys),
        }
        return await self._add(self._turns, row)

    async def intend(self, record: EffectRecord) -> bool:
        """Write down that a call is about to run. Of all who do this, in whatever process, one is told True."""
        row = {
            "key": record.key,
            "run_id": clean(record.run_id),
            "step": record.step,
            "tool": clean(record.tool),
            "arguments": clean(record.arguments),
            "effect": record.effect,
            "intended_at": self._now(),
        }
        return await self._add(self._effects, row)

    async def finish(self, key: str, outcome: Outcome) -> None:
        """Write down what came of a call."""
        values = {"content": clean(outcome.content), "succeeded": int(outcome.succeeded), "finished_at": self._now()}
        done = update(self._effects).where(self._effects.c.key == key).values(values)
        await self._access.run(lambda connection: connection.execute(done))

    async def outcome(self, key: str) -> Outcome | None:
        """Return what came of a call; None if that is not known."""
        query = select(self._effects).where(self._effects.c.key == key)
        row = await self._access.run(lambda connection: connection.execute(query).one_or_none(), reads=True)
        return None if row is None else _outcome(row)

    async def open_run(self, session_id: SessionID) -> OpenRun | None:
        """Return the run of a session that has not ended; None if there is none.

        Raises:
            StoreError: the database cannot be reached, or what is stored of the run makes no sense.
        """
        runs = self._runs
        is_open = (runs.c.session_id == clean(session_id)) & runs.c.ended_at.is_(None)
        query = select(runs).where(is_open).order_by(runs.c.begun_at.desc()).limit(1)

        def work(connection: Connection) -> _Stored | None:
            run = connection.execute(query).one_or_none()
            return None if run is None else self._stored(connection, run)

        stored = await self._access.run(work, reads=True)
        run = None if stored is None else _readable(stored, session_id)
        return run if isinstance(run, OpenRun) else None

    async def end_run(self, run_id: str, answer: str | None = None) -> None:
        """Write down that a run needs nobody to go on with it. What it did stays known for 30 days."""
        runs, turns = self._runs, self._turns
        ended = update(runs).where(runs.c.run_id == clean(run_id), runs.c.ended_at.is_(None))
        ended = ended.values(ended_at=self._now()).execution_options(preserve_rowcount=True)
        # The answer is the last turn: the one in which the model asked for nothing.
        row = {"run_id": clean(run_id), "message": json.dumps({"content": answer}), "effect_keys": "[]"}
        step = select(func.coalesce(func.max(turns.c.step), 0) + 1).where(turns.c.run_id == row["run_id"])

        def work(connection: Connection) -> None:
            if connection.execute(ended).rowcount and answer is not None:
                connection.execute(turns.insert(), row | {"step": connection.execute(step).scalar_one()})

        await self._access.run(work)

    def _stored(self, connection: Connection, run: Row[Any]) -> _Stored:
        turns, effects = self._turns, self._effects
        of_run = select(turns).where(turns.c.run_id == run.run_id).order_by(turns.c.step.desc()).limit(1)
        turn = connection.execute(of_run).one_or_none()
        if turn is None:
            return run, None, []
        of_turn = select(effects).where(effects.c.run_id == run.run_id, effects.c.step == turn.step)
        return run, turn, connection.execute(of_turn).all()

    async def _add(self, table: Any, row: Mapping[str, Any]) -> bool:
        """Add a row; return False if there is one with this primary key."""
        statement = self._access.tables.insert(table).values(row).on_conflict_do_nothing()
        statement = statement.execution_options(preserve_rowcount=True)  # psycopg's says -1 otherwise
        return await self._access.run(lambda connection: connection.execute(statement).rowcount == 1)

    def _now(self) -> int:
        return microseconds(self._access.clock())


def _readable(stored: _Stored, session_id: SessionID) -> OpenRun | Answer:
    run, turn, effects = stored
    try:
        if turn is not None and _is_answer(turn):
            return Answer(str(json.loads(turn.message)["content"]))
        return OpenRun(
            run_id=run.run_id,
            session_id=session_id,
            prompt=dict(json.loads(run.prompt)),
            turn=None if turn is None else _turn(turn),
            effects={row.key: _effect(row) for row in effects},
        )
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        msg = f"What is stored of the run {run.run_id} in session {session_id!r} makes no sense: {error}"
        raise StoreError(msg) from error


def _is_answer(turn: Row[Any] | None) -> bool:
    return turn is not None and turn.effect_keys == "[]"


def _turn(row: Row[Any]) -> TurnRecord:
    return TurnRecord(row.step, dict(json.loads(row.message)), tuple(map(str, json.loads(row.effect_keys))))


def _effect(row: Row[Any]) -> EffectRecord:
    return EffectRecord(
        key=row.key,
        run_id=row.run_id,
        step=row.step,
        tool=row.tool,
        arguments=row.arguments,
        effect=row.effect,
        outcome=_outcome(row),
    )


def _outcome(row: Row[Any]) -> Outcome | None:
    return None if row.finished_at is None else Outcome(row.content, bool(row.succeeded))
