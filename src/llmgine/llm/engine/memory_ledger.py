"""A ledger in memory: for tests, and for programs in which one engine goes on with what another one began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmgine.bus.effect_records import Answer, EffectRecord, OpenRun, Outcome, TurnRecord, of_another_session
from llmgine.messages import SessionID

__all__ = ["MemoryEffectLedger"]

_KEPT = 1_000
"""Runs that have ended, of which it stays known what they did."""


@dataclass(slots=True)
class _Run:
    session_id: SessionID
    prompt: dict[str, Any]
    turn: TurnRecord | None = None
    keys: list[str] = field(default_factory=list[str])
    """Of the effects of all its turns."""
    answer: str | None = None


class MemoryEffectLedger:
    """An `EffectLedger` that is gone with the process. Of runs that have ended it knows the last thousand."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._open: dict[SessionID, str] = {}
        self._ended: dict[str, None] = {}  # those that did so longest ago first
        self._effects: dict[str, EffectRecord] = {}

    async def begin_run(self, run_id: str, session_id: SessionID, prompt: Mapping[str, Any]) -> OpenRun | Answer | None:
        """Keep a new run, in the place of one that is open in this session; or return what is known of it."""
        run = self._runs.get(run_id)
        if run is not None and run.session_id != session_id:
            raise of_another_session(run_id)
        if run is not None and run.answer is not None:
            return Answer(run.answer)
        if self._open.get(session_id) == run_id:
            return await self.open_run(session_id)
        await self.end_run(self._open.get(session_id, ""))
        self._ended.pop(run_id, None)
        self._runs[run_id] = _Run(session_id, dict(prompt), keys=[] if run is None else run.keys)
        self._open[session_id] = run_id
        return None

    async def begin_turn(self, run_id: str, turn: TurnRecord) -> bool:
        """Keep what the model asked for, before any of it runs. Return False if this step was kept before."""
        run = self._runs.get(run_id)
        if run is not None and run.turn is not None and run.turn.step >= turn.step:
            return False
        if run is not None:
            run.turn = turn
        return True

    async def intend(self, record: EffectRecord) -> bool:
        """Write down that a call is about to run. Of all who do this, one is told True."""
        if record.key in self._effects:
            return False
        self._effects[record.key] = record
        if (run := self._runs.get(record.run_id)) is not None:
            run.keys.append(record.key)
        return True

    async def finish(self, key: str, outcome: Outcome) -> None:
        """Write down what came of a call."""
        if key in self._effects:
            self._effects[key] = replace(self._effects[key], outcome=outcome)

    async def outcome(self, key: str) -> Outcome | None:
        """Return what came of a call; None if that is not known."""
        record = self._effects.get(key)
        return None if record is None else record.outcome

    async def open_run(self, session_id: SessionID) -> OpenRun | None:
        """Return the run of a session that has not ended; None if there is none."""
        run_id = self._open.get(session_id)
        if run_id is None:
            return None
        run = self._runs[run_id]
        keys = () if run.turn is None else run.turn.keys
        return OpenRun(
            run_id=run_id,
            session_id=session_id,
            prompt=run.prompt,
            turn=run.turn,
            effects={key: self._effects[key] for key in keys if key in self._effects},
        )

    async def end_run(self, run_id: str, answer: str | None = None) -> None:
        """Write down that a run needs nobody to go on with it. The oldest of those that have ended is forgotten."""
        run = self._runs.get(run_id)
        if run is None or run_id in self._ended:
            return
        run.answer = answer
        self._ended[run_id] = None
        if self._open.get(run.session_id) == run_id:
            del self._open[run.session_id]
        if len(self._ended) > _KEPT:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            for key in self._runs.pop(oldest).keys:
                self._effects.pop(key, None)
