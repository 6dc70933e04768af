"""A tool that waits for a person: that time is the prompt's, and not the tool's."""

from __future__ import annotations

import asyncio

from llmgine.llm.tools import ToolCall, ToolContext
from llmgine.llm.tools.tool_manager import ToolManager

CALL = ToolCall("1", name="ask")
SHORT_S = 0.1


async def run(tool: object, *, timeout: float = SHORT_S, seconds: float | None = None) -> tuple[str, bool]:
    """Run a tool; return what the model is told, and whether it timed out."""
    manager = ToolManager()
    manager.register_tool(tool, name="ask", timeout=timeout)  # type: ignore[type-var]
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    async with asyncio.timeout(10):
        result = await manager.run(CALL, ToolContext(deadline=deadline))
    return result.content, result.timed_out


async def test_the_tools_time_stands_still_while_somebody_is_asked() -> None:
    async def ask(context: ToolContext) -> str:
        with context.waiting_for_person() as deadline:
            assert deadline is None
            await asyncio.sleep(3 * SHORT_S)
        return "answered"

    assert await run(ask) == ("answered", False)


async def test_it_goes_on_afterwards_from_where_it_was() -> None:
    async def ask(context: ToolContext) -> None:
        with context.waiting_for_person():
            await asyncio.sleep(2 * SHORT_S)
        await asyncio.Event().wait()

    assert (await run(ask))[1]


async def test_it_stands_still_until_nobody_is_asked_any_more() -> None:
    async def one(context: ToolContext, seconds: float) -> None:
        with context.waiting_for_person():
            await asyncio.sleep(seconds)

    async def ask(context: ToolContext) -> str:
        await asyncio.gather(one(context, SHORT_S), one(context, 3 * SHORT_S))
        return "answered"

    assert await run(ask) == ("answered", False)


async def test_the_prompts_deadline_holds_all_the_same() -> None:
    async def ask(context: ToolContext) -> None:
        with context.waiting_for_person() as deadline:
            assert deadline is not None
            assert deadline > asyncio.get_running_loop().time()
            await asyncio.Event().wait()

    assert (await run(ask, timeout=0.01, seconds=2 * SHORT_S))[1]


async def test_who_is_still_waiting_when_the_attempt_has_ended_changes_nothing() -> None:
    left: list[asyncio.Task[None]] = []
    answered = asyncio.Event()

    async def ask(context: ToolContext) -> str:
        async def wait() -> None:
            with context.waiting_for_person():
                await answered.wait()

        left.append(asyncio.create_task(wait()))
        await asyncio.sleep(0)
        return "gone"

    assert await run(ask) == ("gone", False)
    answered.set()
    await left[0]


async def test_without_a_call_the_deadline_is_that_of_the_context() -> None:
    with ToolContext(deadline=5.0).waiting_for_person() as deadline:
        assert deadline == 5.0
