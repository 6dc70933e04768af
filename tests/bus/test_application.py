"""The application's bus: one per process, configured by the call that makes it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.bus import bus_exception_hook
from llmgine.bus.registry import HandlerRegistry
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, Event


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MessageBus, "_application", None)


def test_there_is_one_and_isolated_ones_beside_it() -> None:
    assert MessageBus() is MessageBus()
    assert MessageBus.isolated() is not MessageBus()
    assert MessageBus.isolated() is not MessageBus.isolated()


def test_threads_that_make_it_at_once_get_the_same() -> None:
    barrier = threading.Barrier(8)
    made: list[MessageBus] = []

    def make() -> None:
        barrier.wait()
        made.append(MessageBus(batch_size=3))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 8
    assert len({id(bus) for bus in made}) == 1


def test_options_that_agree_are_taken_and_those_that_contradict_are_refused() -> None:
    bus = MessageBus(batch_size=5, enable_console_metrics=False)

    assert MessageBus(batch_size=5) is bus
    assert MessageBus(batch_size=10) is bus  # the default says nothing
    with pytest.raises(ConfigurationError, match=r"made with batch_size=5, not 7.*isolated"):
        MessageBus(batch_size=7)
    with pytest.raises(ConfigurationError, match="enable_console_traces=None, not True"):
        MessageBus(enable_console_traces=True)
    with pytest.raises(ConfigurationError, match="log_dir"):
        MessageBus(log_dir="elsewhere")


def test_options_that_make_no_sense_make_no_bus() -> None:
    with pytest.raises(ConfigurationError, match="batch_size must be a whole number, at least 1"):
        MessageBus(batch_size=0)
    with pytest.raises(ConfigurationError, match="event_queue"):
        MessageBus(event_queue=object())  # type: ignore[arg-type]

    assert MessageBus(batch_size=3)._batch_size == 3


async def test_a_registry_from_outside_holds_the_handlers() -> None:
    registry = HandlerRegistry()
    bus = MessageBus.isolated(registry=registry)
    bus.register_command_handler(Command, lambda command: "done")

    assert registry.get_command_handler(Command) is not None
    assert (await bus.execute(Command())).result == "done"
    await bus.reset()
    assert not (await bus.execute(Command())).success


@pytest.mark.parametrize("logs", [False, True])
async def test_a_bus_with_a_log_writes_every_event_and_span(
    logs: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"log_dir": tmp_path, "log_filename": "app.jsonl"} if logs else {}
    bus = MessageBus.isolated(**options)
    bus.register_command_handler(Command, lambda command: "done")
    await bus.start()
    await bus.publish(Event())
    await bus.execute(Command())
    await bus.stop()

    if logs:
        lines = [json.loads(line) for line in (tmp_path / "app.jsonl").read_text().splitlines()]
        assert [line["event_type"] for line in lines] == [
            "Event",
            "TraceEvent",
            "CommandStartedEvent",
            "CommandResultEvent",
            "TraceEvent",
        ]
        assert "[TRACE] Command Command" in capsys.readouterr().err
    else:
        assert list(tmp_path.iterdir()) == []
        assert capsys.readouterr().err == ""


async def test_spans_are_made_while_a_handler_hears_them() -> None:
    from llmgine.bus.tracing import TraceEvent

    bus = MessageBus.isolated()
    await bus.start()
    spans: list[TraceEvent] = []
    bus.register_command_handler(Command, lambda command: None)
    bus.register_event_handler(TraceEvent, spans.append)
    await bus.execute(Command())
    await bus.wait_for_events()
    bus.unregister_event_handler(TraceEvent, spans.append)
    await bus.execute(Command())
    await bus.stop()

    assert [span.status for span in spans] == [None, "OK"]
    assert spans[0].span_context == spans[1].span_context


def test_an_exception_that_ends_the_program_says_what_is_lost() -> None:
    program = (
        "import asyncio\n"
        "from llmgine.bus.bus import MessageBus, bus_exception_hook\n"
        "from llmgine.messages import Event\n"
        "bus = MessageBus()\n"
        "bus_exception_hook(bus)\n"
        "asyncio.run(bus.publish(Event()))\n"
        "raise ValueError('mine')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert "ValueError ends the program; 1 events have not been handled to their end" in done.stderr
    assert "ValueError: mine" in done.stderr
    assert callable(bus_exception_hook)


async def test_setting_a_manager_replaces_the_one_before() -> None:
    class Manager:
        def __init__(self) -> None:
            self.seen: list[Event] = []

        def observe_event(self, event: Event) -> None:
            self.seen.append(event)

    first, second = Manager(), Manager()
    bus = MessageBus.isolated(observability=first)
    await bus.start()
    await bus.publish(Event())
    bus.set_observability_manager(second)
    bus.set_observability_manager(second)
    await bus.publish(Event())
    await bus.stop()

    assert (len(first.seen), len(second.seen)) == (1, 1)


async def test_reset_leaves_a_bus_as_it_was_made(tmp_path: Path) -> None:
    from llmgine.bus.filters import EventTypeFilter

    bus = MessageBus.isolated(batch_size=3, log_dir=tmp_path, log_filename="app.jsonl", enable_console_traces=False)
    await bus.start()
    bus.set_batch_processing(7, 0.5)
    bus.add_event_filter(EventTypeFilter(exclude_types={Event}))
    bus.register_event_handler(Event, lambda event: None)
    await bus.publish(Event())
    await bus.reset()
    stats = await bus.get_stats()

    assert (stats["batch_size"], stats["filtered"], stats["total_event_handlers"]) == (3, {}, 0)
    heard: list[Event] = []
    bus.register_event_handler(Event, heard.append)
    await bus.start()
    await bus.publish(Event())
    await bus.stop()
    assert len(heard) == 1
    assert len((tmp_path / "app.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from 3.13 on, attributes are kept in another way")
async def test_the_attributes_of_a_bus_are_few_enough_to_be_looked_up_fast() -> None:
    bus = MessageBus.isolated()
    await bus.start()
    bus.register_command_handler(Command, lambda command: None)
    await bus.execute(Command())
    dictionaries = [each for each in gc.get_referents(bus) if isinstance(each, dict) and "_gate" in each]
    await bus.stop()

    assert dictionaries == []
