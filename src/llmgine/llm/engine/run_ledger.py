"""What is kept of one run, so that what its tools may have done is not done again by whoever goes on with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from llmgine.bus.effect_records import Answer, EffectLedger, EffectRecord, OpenRun, Outcome, TurnRecord
from llmgine.errors import EngineBusyError, ResourceConflictError, StoreError
from llmgine.llm.context import ChatMessage
from llmgine.llm.tools.effects import Effect
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import SessionID

__all__ = ["MAY_HAVE_RUN", "RunLedger"]

_log = logging.getLogger("llmgine.engine")
MAY_HAVE_RUN = "It may have run before."
"""What a person is told who is asked whether a call may run, perhaps for the second time."""
_UNUSABLE = "Error: not run: the call could not be understood when it was made."


class RunLedger:
    """The part of a ledger that is about one run. Without a ledger it costs nothing, and tools just run."""

    def __init__(self, ledger: EffectLedger | None, run_id: str) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._effects: Mapping[str, EffectRecord] = {}
        self._step = 0
        self.is_ours = True
        """False where it is for another process to end the run: one that has gone on with it, or will."""

    async def begin(self, session_id: SessionID, prompt: ChatMessage) -> OpenRun | Answer | None:
        """Keep the run. Return what is known of it if this prompt has come before.

        Raises:
            ResourceConflictError: it belongs to another session.
            StoreError: it could not be kept.
        """
        if self._ledger is None:
            return None
        try:
            return await self._ledger.begin_run(self._run_id, session_id, prompt.to_stored())
        except ResourceConflictError:
            self.is_ours = False
            raise

    def take_up(self, opened: OpenRun) -> None:
        """Go on from where the run had come in another process, and end it."""
        self.is_ours = True
        self._effects = opened.effects
        self._step = 0 if opened.turn is None else opened.turn.step

    async def begin_turn(self, step: int, message: ChatMessage, keys: Sequence[str]) -> None:
        """Keep what the model has asked for, before any of it runs.

        Raises:
            EngineBusyError: another process goes on with this run, and has come as far.
            StoreError: it could not be kept.
        """
        if self._ledger is None:
            return
        if not await self._ledger.begin_turn(self._run_id, TurnRecord(step, message.to_stored(), tuple(keys))):
            self.is_ours = False
            msg = (
                "Another process is answering this prompt. Wait for its answer, or end it before taking up the prompt."
            )
            raise EngineBusyError(msg)
        self._step = step

    async def end(self, answer: str | None = None) -> None:
        """Say that nobody needs to go on with the run. A failure is logged: at worst, somebody does.

        Args:
            answer: what it has ended with; None if it was cancelled or has failed.
        """
        if self._ledger is None:
            return
        try:
            await self._ledger.end_run(self._run_id, answer)
        except StoreError:
            _log.exception("The end of run %s could not be kept", self._run_id)

    def recall(self, found: PreparedCall | ToolResult, key: str) -> ToolResult | None:
        """Return what came of a call in another process; None if it is still to be run, or refused."""
        record = self._effects.get(key)
        if record is not None and record.outcome is not None:
            return _known(found, record.outcome)
        if isinstance(found, PreparedCall):
            return None if key else ToolResult(found.call, _UNUSABLE, arguments=found.arguments)
        return None if record is None or _repeatable(record) else _doubtful(found)

    def may_have_run(self, prepared: PreparedCall, key: str) -> bool:
        """Return whether a person has to agree to running a call, because its effect might happen twice."""
        record = self._effects.get(key)
        return record is not None and not (_repeatable(record) and prepared.tool.effect.repeatable)

    def doubt(self, prepared: PreparedCall) -> str:
        """Return what the model is told of a call that may have run, and was not run again."""
        return _doubtful(prepared).content

    async def run(self, tools: ToolManager, prepared: PreparedCall, context: ToolContext) -> ToolResult:
        """Run a call, and write down that before and what came of it afterwards.

        Raises:
            StoreError: it could not be written down, and was not run.
        """
        if self._ledger is None:
            return await tools.run_prepared(prepared, context)
        key = context.idempotency_key
        intent = EffectRecord(
            key=key,
            run_id=self._run_id,
            step=self._step,
            tool=prepared.tool.name,
            arguments=prepared.canonical,
            effect=prepared.tool.effect.value,
        )
        if key not in self._effects and not await self._ledger.intend(intent):
            outcome = await self._ledger.outcome(key)  # of another process that goes on with this run
            if outcome is not None:
                return _known(prepared, outcome)
            if not prepared.tool.effect.repeatable:
                return _doubtful(prepared)
        result = await tools.run_prepared(prepared, context)
        try:
            await self._ledger.finish(key, Outcome(result.content, result.succeeded))
        except StoreError:
            _log.exception("What came of a call of %s could not be kept", prepared.tool.name)
        except asyncio.CancelledError:
            # The tool has finished, and its result is not thrown away. Whoever cancels waits for this task.
            _log.debug("Cancelled while the outcome of a call of %s was being kept", prepared.tool.name)
        return result


def _repeatable(record: EffectRecord) -> bool:
    return record.effect in {Effect.READ, Effect.IDEMPOTENT}  # whatever else is stored there


def _known(found: PreparedCall | ToolResult, outcome: Outcome) -> ToolResult:
    return ToolResult(found.call, outcome.content, succeeded=outcome.succeeded, arguments=found.arguments)


def _doubtful(found: PreparedCall | ToolResult) -> ToolResult:
    text = (
        f"Error: {found.call.name} may have run: the program ended before the outcome was known. It was not run again."
    )
    return ToolResult(found.call, text, arguments=found.arguments)
