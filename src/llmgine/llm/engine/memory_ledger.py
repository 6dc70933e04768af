"""A ledger in memory: for tests, and for programs in which one engine goes on with what another one began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmgine.bus.effect_records import EffectRecord, OpenRun, Outcome, TurnRecord
from llmgine.messages import SessionID

__all__ = ["MemoryEffectLedger"]


class MemoryEffectLedger:
    """An `EffectLedger` that is gone with the process. Of a run that has ended it keeps nothing."""

    def __init__(self) -> None:
        self._runs: dict[SessionID, OpenRun] = {}
        self._effects: dict[str, EffectRecord] = {}

    async def begin_run(self, run_id: str, session_id: SessionID, prompt: Mapping[str, Any]) -> None:
        """Keep a new run. It takes the place of one that is open in this session."""
        before = self._runs.get(session_id)
        if before is not None:
            await self.end_run(before.run_id)
        self._runs[session_id] = OpenRun(
            run_id=run_id, session_id=session_id, prompt=dict(prompt), turn=None, effects={}
        )

    async def begin_turn(self, run_id: str, turn: TurnRecord) -> bool:
        """Keep what the model asked for, before any of it runs. Return False if this step was kept before."""
        run = self._find(run_id)
        if run is not None and run.turn is not None and run.turn.step >= turn.step:
            return False
        if run is not None:
            self._runs[run.session_id] = replace(run, turn=turn)
        return True

    async def intend(self, record: EffectRecord) -> bool:
        """Write down that a call is about to run. Of all who do this, one is told True."""
        return self._effects.setdefault(record.key, record) is record

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
        run = self._runs.get(session_id)
        if run is None or run.turn is None:
            return run
        return replace(run, effects={key: self._effects[key] for key in run.turn.keys if key in self._effects})

    async def end_run(self, run_id: str) -> None:
        """Forget a run."""
        run = self._find(run_id)
        if run is not None:
            del self._runs[run.session_id]
        self._effects = {key: each for key, each in self._effects.items() if each.run_id != run_id}

    def _find(self, run_id: str) -> OpenRun | None:
        return next((run for run in self._runs.values() if run.run_id == run_id), None)
