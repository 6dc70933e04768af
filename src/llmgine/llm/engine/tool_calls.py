"""The tool calls of one run: each runs if it has not before, if it is approved, and if the budget has room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from llmgine.bus import causality
from llmgine.errors import BudgetExceededError
from llmgine.llm.approvals import needs_approval
from llmgine.llm.engine.run_ledger import MAY_HAVE_RUN, RunLedger
from llmgine.llm.engine.setting import Setting
from llmgine.llm.engine.spending import RunSpending
from llmgine.llm.tools.prepared_call import PreparedCall, effect_keys
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_events import ToolExecuteResultEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.messages import SessionID

__all__ = ["ToolCalls", "joined", "keys_of", "result_event", "told_of"]

_CANCELLED = "Error: cancelled before it had finished."

T = TypeVar("T")


class ToolCalls:
    """Runs the tool calls of a run."""

    def __init__(
        self,
        setting: Setting,
        tools: ToolManager,
        run_id: str,
        session_id: SessionID,
        *,
        spending: RunSpending,
        ledger: RunLedger,
    ) -> None:
        self._setting = setting
        self._tools = tools
        self._run_id = run_id
        self._session_id = session_id
        self._spending = spending
        if spending.budget is not None:
            setting.budgets[run_id] = spending.budget
        self._ledger = ledger

    async def run(self, found: PreparedCall | ToolResult, key: str, *, below: str | None) -> ToolResult:
        """Run a call, if it may be: it has not run before, whoever has to agree does, and the budget has room.

        Args:
            found: the call.
            key: of its effect.
            below: the span of the call, which what it does is below; None where nobody traces it.
        """
        causality.go_below(below)
        recalled = self._ledger.recall(found, key)
        if recalled is not None:
            return recalled
        if isinstance(found, ToolResult):
            return found
        context = ToolContext(
            session_id=self._session_id,
            bus=self._setting.bus,
            engine_id=self._setting.engine_id,
            run_id=self._run_id,
            tool_call_id=found.call.id,
            tool_name=found.tool.name,
            deadline=causality.deadline(),
            idempotency_key=key,
            traceparent=below,
        )
        may_have_run = self._ledger.may_have_run(found, key)
        if may_have_run or needs_approval(found):
            refused = await self._asked(found, context, may_have_run=may_have_run)
            if refused is not None:
                return ToolResult(found.call, refused, arguments=found.arguments)
        try:
            reservation = self._spending.reserve_tool_call()
        except BudgetExceededError as error:
            if error.action != "finish":
                raise
            return ToolResult(found.call, f"Error: not run: {error}", arguments=found.arguments)
        if reservation is not None:
            reservation.settle()  # it is spent when it begins, however it ends
        return await self._ledger.run(self._tools, found, context)

    async def _asked(self, prepared: PreparedCall, context: ToolContext, *, may_have_run: bool) -> str | None:
        """Return why a call that a person has to agree to must not run; None if it may."""
        approvals = self._setting.approvals
        if approvals is not None:
            refused = await approvals.check(prepared, context, note=MAY_HAVE_RUN if may_have_run else "")
            return f"{refused} {MAY_HAVE_RUN}" if refused is not None and may_have_run else refused
        if may_have_run:
            return self._ledger.doubt(prepared)
        return f"Error: {prepared.tool.name} was not run: it needs approval, and there is nobody here to ask."


def keys_of(run_id: str, turn: int, found: Sequence[PreparedCall | ToolResult]) -> list[str]:
    """Return the keys of the effects of a turn's calls; empty for those that cannot be run."""
    keys = iter(effect_keys(run_id, turn, [each for each in found if isinstance(each, PreparedCall)]))
    return [next(keys) if isinstance(each, PreparedCall) else "" for each in found]


async def joined(task: asyncio.Task[T]) -> T:
    """Wait for a task. Being cancelled meanwhile counts, also if the task finishes in spite of it."""
    waiter = asyncio.current_task()
    cancelled_before = waiter.cancelling() if waiter else 0
    result = await task
    if waiter and waiter.cancelling() > cancelled_before:
        raise asyncio.CancelledError
    return result


def told_of(task: asyncio.Task[ToolResult]) -> str:
    """Return what the model is told of a call that has ended."""
    if task.cancelled():
        return _CANCELLED
    error = task.exception()
    return task.result().content if error is None else f"Error: not run: {error}"


def result_event(call: ToolCall, result: ToolResult, tool_info: dict[str, Any]) -> ToolExecuteResultEvent:
    """Return the event that says how a call has ended."""
    return ToolExecuteResultEvent(
        execution_succeed=result.succeeded,
        tool_info=tool_info,
        tool_args=result.arguments,
        tool_result=result.content,
        tool_name=call.name,
        tool_call_id=call.id,
        duration=result.duration,
    )
