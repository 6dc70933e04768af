"""Asynchronous handlers: on the loop that runs, in order, and nothing lost when it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.causality import current
from llmgine.messages import Command, Event
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers import (
    ConsoleEventHandler,
    FileEventHandler,
    ObservabilityEventHandler,
    SyncConsoleEventHandler,
    SyncFileEventHandler,
)
from llmgine.observability.handlers.adapters import (
    AsyncHandlerAdapter,
    create_sync_console_handler,
    create_sync_file_handler,
)
from llmgine.observability.sink import HandlerStats


class Recording(ObservabilityEventHandler):
    """Waits at its gate, if that is shut, once in each event."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed: list[asyncio.AbstractEventLoop] = []

    async def handle(self, event: Event) -> None:
        self.begun.append(event.event_id)
        self.loops.append(asyncio.get_running_loop())
        await until(self.gate.is_set)
        await asyncio.sleep(0)
        self.ended.append(event.event_id)

    async def close(self) -> None:
        self.closed.append(asyncio.get_running_loop())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for may happen in another thread
            await asyncio.sleep(0)


def events(count: int, start: int = 0) -> list[Event]:
    return [Event(event_id=str(number)) for number in range(start, start + count)]


def ids(count: int, start: int = 0) -> list[str]:
    return [str(number) for number in range(start, start + count)]


async def test_on_a_loop_events_are_handled_there_one_after_another() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)
    for event in events(5):
        adapter.handle(event)
    assert recording.begun == []  # the publisher was not kept
    await until(lambda: not adapter.waiting)
    assert recording.begun == recording.ended == ids(5)
    assert set(recording.loops) == {asyncio.get_running_loop()}
    adapter.handle(Event(event_id="5"))  # the task has ended, and another begins
    assert await asyncio.to_thread(adapter.close, 60) == 0
    assert recording.ended == ids(6)
    assert recording.closed == [asyncio.get_running_loop()]


def test_without_a_loop_a_thread_handles_them_on_a_loop_of_its_own() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)
    for event in events(5):
        adapter.handle(event)
    assert adapter.close(60) == 0
    assert recording.ended == ids(5)
    assert len(set(recording.loops)) == 1
    assert recording.closed == recording.loops[:1]
    assert recording.loops[0].is_closed()


def test_what_a_loop_that_ends_does_not_come_to_is_handled_by_the_thread() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)

    async def publish(begin: bool) -> None:
        recording.gate.clear()
        for event in events(3):
            adapter.handle(event)
        if begin:
            await until(lambda: recording.begun)

    asyncio.run(publish(begin=True))
    recording.gate.set()
    assert adapter.close(60) == 0
    assert recording.begun == ["0", *ids(3)]  # the first was cut short, and is handled again
    assert recording.ended == ids(3)
    assert len(recording.closed) == 1

    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)
    asyncio.run(publish(begin=False))
    recording.gate.set()
    assert adapter.close(60) == 0
    assert recording.ended == ids(3)


def test_a_loop_that_only_stands_still_keeps_nothing_back() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)
    loop = asyncio.new_event_loop()

    async def publish() -> None:
        for event in events(3):
            adapter.handle(event)

    loop.run_until_complete(publish())
    assert adapter.waiting == 3
    assert adapter.close(60) == 0
    assert recording.ended == ids(3)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert recording.ended == [*ids(3), "0"]  # which had begun when the loop stood still


async def test_closing_on_the_loop_itself_loses_nothing() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)
    for event in events(3):
        adapter.handle(event)
    assert adapter.close(60) == 0
    assert recording.ended == ids(3)
    assert len(recording.closed) == 1


async def test_closing_on_the_loop_leaves_the_event_under_way_to_it_and_closes_the_handler_behind_it() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)
    recording.gate.clear()
    adapter.handle(Event(event_id="0"))
    await until(lambda: recording.begun)
    adapter.handle(Event(event_id="1"))
    recording.gate.set()  # for the thread
    assert adapter.close(60) == 1
    assert (recording.ended, recording.closed) == (["1"], [])
    await until(lambda: recording.closed)
    assert recording.ended == ["1", "0"]
    assert adapter.waiting == 0


def test_an_event_under_way_is_not_lost_if_the_loop_ends_right_after_closing() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)

    async def publish() -> None:
        recording.gate.clear()
        adapter.handle(Event(event_id="0"))
        await until(lambda: recording.begun)
        assert adapter.close(60) == 1

    asyncio.run(publish())
    recording.gate.set()
    assert adapter.close(60) == 0
    assert (recording.begun, recording.ended) == (["0", "0"], ["0"])
    assert len(recording.closed) == 1


async def test_it_is_bounded_and_what_is_dropped_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording, maxsize=3)
    for event in events(10):
        adapter.handle(event)
    assert adapter.stats() == HandlerStats("Recording", 10, 0, {"queue full": 7}, waiting=3)
    await until(lambda: not adapter.waiting)
    assert [record.getMessage() for record in caplog.records][1:] == [
        "Recording has caught up; it did not get 7 events"
    ]
    assert await asyncio.to_thread(adapter.close) == 0
    assert recording.ended == ids(3)


async def test_what_the_handler_raises_stops_neither_it_nor_anything_else(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Recording):
        async def handle(self, event: Event) -> None:
            await super().handle(event)
            if event.event_id == "1":
                raise asyncio.CancelledError  # by something that it waited for
            if event.event_id == "2":
                raise OSError("full")

    failing = Failing()
    manager = ObservabilityManager()
    manager.register_handler(failing)
    for event in events(4):
        manager.observe_event(event)
    assert manager.handler_count == 1
    await until(lambda: len(failing.ended) == 4)
    assert manager.stats()[0].failures == 2
    assert await manager.aclose() == 0
    assert [record.getMessage().split(".")[0] for record in caplog.records] == [
        "Failing failed on Event: CancelledError()",
        "Failing failed on Event: OSError('full')",
    ]


async def test_the_handler_runs_in_no_publishers_context() -> None:
    variable = ContextVar("variable", default="outside")
    seen: list[Any] = []

    class Looking(ObservabilityEventHandler):
        async def handle(self, event: Event) -> None:
            seen.append((variable.get(), current.get()))

    manager = ObservabilityManager()
    manager.register_handler(Looking())
    bus = MessageBus.isolated(observability=manager)

    async def work(_: Command[None]) -> None:
        variable.set("inside")
        await bus.publish(Event())

    bus.register_command_handler(Command, work)
    await bus.start()
    await bus.execute(Command())
    await bus.stop()
    await manager.aclose()
    assert seen == [("outside", None)] * 3


def test_from_many_threads_with_and_without_a_loop_nothing_is_lost() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)

    def publish(start: int) -> None:
        for event in events(100, start):
            adapter.handle(event)

    async def publish_on_a_loop(start: int) -> None:
        for event in events(100, start):
            adapter.handle(event)
            await asyncio.sleep(0)

    threads = [threading.Thread(target=publish, args=(100 * number,)) for number in range(4)]
    threads += [threading.Thread(target=asyncio.run, args=(publish_on_a_loop(100 * n),)) for n in range(4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert adapter.close(60) == 0
    assert sorted(recording.ended, key=int) == ids(800)


def test_a_handler_that_never_comes_to_an_end_does_not_keep_the_manager_from_closing() -> None:
    recording = Recording()
    adapter = AsyncHandlerAdapter(recording)
    recording.gate.clear()
    ready, leave = threading.Event(), threading.Event()

    async def run() -> None:
        for event in events(3):
            adapter.handle(event)
        await until(lambda: recording.begun)
        ready.set()
        await asyncio.to_thread(leave.wait, 60)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(60)
    begun = monotonic()
    assert adapter.close(0.1) == 3
    assert monotonic() - begun < 10
    recording.gate.set()
    while len(recording.ended) < 1:
        sleep(0.001)
    leave.set()
    thread.join()


async def test_an_unregistered_asynchronous_handler_gets_what_it_was_promised() -> None:
    recording, manager = Recording(), ObservabilityManager()
    manager.register_handler(recording)
    for event in events(3):
        manager.observe_event(event)
    manager.unregister_handler(recording)
    manager.observe_event(Event(event_id="3"))
    await until(lambda: len(recording.ended) == 3)
    assert (sorted(recording.ended), recording.closed, manager.handler_count) == (ids(3), [], 0)


# Those that come with the package


async def test_the_asynchronous_file_handler_writes_what_the_synchronous_one_does(tmp_path: Path) -> None:
    handler = FileEventHandler(tmp_path, "log.jsonl")
    event = Event(metadata={"a": 1})
    await handler.handle(event)
    await handler.close()
    other = SyncFileEventHandler(tmp_path, "other.jsonl")
    other.handle(event)
    other.close()
    assert handler.log_file == tmp_path / "log.jsonl"
    assert handler.log_file.read_bytes() == other.log_file.read_bytes()


async def test_the_asynchronous_console_handler_logs_the_line_of_the_synchronous_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await ConsoleEventHandler().handle(Event(event_id="e"))
    assert [record.getMessage() for record in caplog.records] == ["[EVENT] Event, ID=e, Session=BUS"]


async def test_they_serve_as_handlers_of_a_bus_and_of_a_manager(tmp_path: Path, bus: MessageBus) -> None:
    handler = FileEventHandler(tmp_path, "log.jsonl")
    bus.register_event_handler(Event, handler.handle)
    await bus.publish(Event(event_id="1"))
    manager = ObservabilityManager()
    manager.register_handler(handler)
    manager.observe_event(Event(event_id="2"))
    await manager.aclose()
    lines = [json.loads(line) for line in handler.log_file.read_text().splitlines()]
    assert [line["event_id"] for line in lines] == ["1", "2"]


def test_functions_make_the_synchronous_handlers(tmp_path: Path) -> None:
    assert type(create_sync_console_handler()) is SyncConsoleEventHandler
    handler = create_sync_file_handler(log_dir=tmp_path, filename="log.jsonl")
    assert type(handler) is SyncFileEventHandler
    assert handler.log_file == tmp_path / "log.jsonl"
    handler.close()
