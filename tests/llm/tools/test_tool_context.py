import asyncio
import gc
import threading
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.errors import BlockingCallError
from llmgine.llm.tools import ToolCall, ToolContext, ToolManager
from llmgine.llm.tools.tool_events import ToolProgressEvent
from llmgine.messages import Command, Event, SessionID

SESSION = SessionID("s1")


@dataclass
class NoteEvent(Event):
    text: str = ""


@dataclass
class AskCommand(Command[str]):
    pass


def call(name: str, arguments: str = "{}", id_: str = "c1") -> ToolCall:
    return ToolCall(id=id_, name=name, arguments=arguments)


@pytest.fixture
def manager() -> ToolManager:
    return ToolManager()


async def test_a_tool_is_told_about_its_call(manager: ToolManager) -> None:
    seen: list[ToolContext] = []

    @manager.register_tool
    async def look(city: str, context: ToolContext) -> str:
        seen.append(context)
        return city

    given = ToolContext(session_id=SESSION, engine_id="e", run_id="r", idempotency_key="k")
    result = await manager.run(call("look", '{"city": "Paris"}'), given)
    assert result.value == "Paris"
    assert result.arguments == {"city": "Paris"}
    [context] = seen
    assert (context.session_id, context.engine_id, context.run_id) == (SESSION, "e", "r")
    assert (context.tool_call_id, context.tool_name, context.attempt, context.idempotency_key) == ("c1", "look", 1, "k")
    with pytest.raises(FrozenInstanceError):
        context.attempt = 2  # type: ignore[misc]


async def test_a_tool_has_a_context_and_a_key_of_its_own_also_outside_an_engine(manager: ToolManager) -> None:
    keys: list[str] = []

    @manager.register_tool
    async def look(context: ToolContext | None = None) -> None:
        assert context is not None
        await context.publish(NoteEvent())  # which nobody hears
        keys.append(context.idempotency_key)

    for _ in range(2):
        assert (await manager.run(call("look"))).succeeded
    assert all(keys)
    assert keys[0] != keys[1]


async def test_the_deadline_is_the_nearer_one_of_the_tools_and_the_runs(manager: ToolManager) -> None:
    now = asyncio.get_running_loop().time()
    seen: list[float | None] = []

    async def look(context: ToolContext) -> None:
        seen.append(context.deadline)

    manager.register_tool(look, name="short", timeout=5)
    manager.register_tool(look, name="long", timeout=float("inf"))
    run = ToolContext(deadline=now + 60)
    await manager.run(call("short"), run)
    await manager.run(call("long"), run)
    await manager.run(call("long"))
    assert seen[0] is not None
    assert now + 5 <= seen[0] < now + 60
    assert seen[1:] == [pytest.approx(now + 60), None]


async def test_a_run_whose_time_is_up_starts_no_tool(manager: ToolManager) -> None:
    started: list[int] = []
    manager.register_tool(lambda: started.append(1), name="work")
    result = await manager.run(call("work"), ToolContext(deadline=asyncio.get_running_loop().time()))
    assert result.content == "Error executing work: not run, because no time was left"
    assert (result.timed_out, result.attempts, started) == (False, 0, [])


async def test_the_runs_deadline_ends_a_tool(manager: ToolManager) -> None:
    @manager.register_tool
    async def hang() -> None:
        await asyncio.Event().wait()

    result = await manager.run(call("hang"), ToolContext(deadline=asyncio.get_running_loop().time() + 0.02))
    assert "timed out after" in result.content
    assert result.timed_out


# Events


async def test_what_a_tool_publishes_is_of_the_session_and_says_what_caused_it(
    bus: MessageBus, manager: ToolManager
) -> None:
    heard: list[Event] = []
    bus.register_event_handler(NoteEvent, heard.append)
    bus.register_event_handler(ToolProgressEvent, heard.append)

    @manager.register_tool
    async def work(context: ToolContext) -> None:
        await context.publish(NoteEvent(text="a"))
        assert len(heard) == 1  # it has been handled
        await context.publish(NoteEvent(text="b", session_id=SessionID("other")))
        await context.report_progress(1, 2, "half")

    async def handle(command: AskCommand) -> str:
        context = ToolContext(session_id=SESSION, bus=bus, engine_id="e")
        return (await manager.run(call("work"), context)).content

    bus.register_command_handler(AskCommand, handle)
    command = AskCommand()
    await bus.execute(command)
    assert [event.session_id for event in heard] == [SESSION, "other", SESSION]
    assert {event.causation_id for event in heard} == {command.command_id}
    progress = heard[2]
    assert isinstance(progress, ToolProgressEvent)
    assert (progress.engine_id, progress.tool_call_id, progress.tool_name) == ("e", "c1", "work")
    assert (progress.progress, progress.total, progress.message) == (1, 2, "half")


async def test_a_tool_in_a_thread_publishes_through_the_loop(bus: MessageBus, manager: ToolManager) -> None:
    heard: list[str] = []
    bus.register_event_handler(NoteEvent, lambda event: heard.append(event.text))

    @manager.register_tool
    def work(context: ToolContext) -> list[str]:
        context.run_async(context.publish(NoteEvent(text="from a thread")))
        return list(heard)

    result = await manager.run(call("work"), ToolContext(bus=bus))
    assert result.value == ["from a thread"]


async def test_in_the_loop_a_coroutine_is_awaited_and_not_waited_for(manager: ToolManager) -> None:
    @manager.register_tool
    async def work(context: ToolContext) -> None:
        context.run_async(context.publish(NoteEvent()))

    assert "BlockingCallError: run_async is for tools in threads" in (await manager.run(call("work"))).content
    gc.collect()  # a coroutine that was never awaited would warn
    with pytest.raises(BlockingCallError):
        ToolContext().run_async(asyncio.sleep(0))


# Cancellation


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_thread_can_see_that_nobody_waits_for_it(manager: ToolManager, how: str) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    given_up, done = threading.Event(), threading.Event()
    seen: list[Any] = []

    def work(context: ToolContext) -> None:
        seen.append(context.cancelled)
        loop.call_soon_threadsafe(started.set)
        given_up.wait(10)
        seen.append(context.cancelled)
        try:
            context.run_async(context.publish(NoteEvent()))
        except asyncio.CancelledError:
            seen.append("told")
        done.set()

    manager.register_tool(work, timeout=0.02 if how == "timeout" else None)
    running = asyncio.create_task(manager.run(call("work")))
    await started.wait()
    if how == "cancel":
        running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() == (how == "cancel")
    given_up.set()
    assert await asyncio.to_thread(done.wait, 10)
    assert seen == [False, True, "told"]


async def test_an_attempt_that_has_ended_is_over_for_its_threads_too(manager: ToolManager) -> None:
    contexts: list[ToolContext] = []

    def keep(context: ToolContext) -> None:
        contexts.append(context)

    manager.register_tool(keep)
    await manager.run(call("keep"))
    assert contexts[0].cancelled
