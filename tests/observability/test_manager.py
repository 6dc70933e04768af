"""A manager shows every event to every handler, whatever the others do."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from threading import current_thread
from time import monotonic

import pytest

from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.observability import LogLevel, ObservabilityBaseEvent, ObservabilityHandler, ObservabilityManager
from llmgine.observability.sink import MUTE_AFTER, PROBE_EVERY, HandlerStats


@dataclass
class Collecting(ObservabilityHandler):
    events: list[Event] = field(default_factory=list[Event])
    closed: int = 0

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


class Failing(ObservabilityHandler):
    error: Exception = OSError("disk full")

    def handle(self, event: Event) -> None:
        raise self.error

    def close(self) -> None:
        raise self.error


class Bare(ObservabilityHandler):
    """Does not call its base's `__init__` and cannot be closed."""

    def __init__(self) -> None:
        self.seen = 0

    def handle(self, event: Event) -> None:
        self.seen += 1


def test_every_handler_sees_every_event_in_the_order_of_registration() -> None:
    manager, seen = ObservabilityManager(), []

    class Named(ObservabilityHandler):
        def __init__(self, name: str) -> None:
            self.name = name

        def handle(self, event: Event) -> None:
            seen.append((self.name, event))

    manager.register_handler(Named("a"))
    manager.register_handler(Named("b"))
    first, second = Event(), Event()
    manager.observe_event(first)
    manager.observe_event(second)
    assert seen == [("a", first), ("b", first), ("a", second), ("b", second)]


def test_a_handler_is_registered_once_and_equal_ones_apart() -> None:
    manager, handler = ObservabilityManager(), Collecting()
    manager.register_handler(handler)
    manager.register_handler(handler)
    assert manager.handler_count == 1
    manager.register_handler(Collecting())
    assert manager.handler_count == 2


def test_an_unregistered_handler_sees_nothing_more_and_an_unknown_one_does_no_harm() -> None:
    manager, handler = ObservabilityManager(), Collecting()
    manager.unregister_handler(handler)
    manager.register_handler(handler)
    manager.unregister_handler(handler)
    manager.observe_event(Event())
    assert (manager.handler_count, handler.events) == (0, [])


def test_a_disabled_manager_shows_nothing_until_it_is_enabled() -> None:
    manager, handler, event = ObservabilityManager(), Collecting(), Event()
    manager.register_handler(handler)
    manager.set_enabled(False)
    manager.observe_event(Event())
    manager.set_enabled(True)
    manager.observe_event(event)
    assert handler.events == [event]


def test_clearing_forgets_handlers_and_does_not_close_them() -> None:
    manager, handler = ObservabilityManager(), Collecting()
    manager.register_handler(handler)
    manager.clear_handlers()
    assert (manager.handler_count, handler.closed) == (0, 0)


def test_a_failing_handler_does_not_keep_the_event_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    manager, handler = ObservabilityManager(), Collecting()
    manager.register_handler(Failing())
    manager.register_handler(handler)
    manager.observe_event(Event())
    assert len(handler.events) == 1
    assert "Failing failed on Event: OSError('disk full')" in caplog.text


def test_failures_of_a_kind_are_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    manager, handler = ObservabilityManager(), Failing()
    manager.register_handler(handler)
    for _ in range(100):
        manager.observe_event(Event())
    assert len(caplog.records) == 1
    handler.error = ValueError("another kind")
    manager.observe_event(Event())
    assert len(caplog.records) == 2
    caplog.clear()
    manager.close()
    assert [record.getMessage() for record in caplog.records] == [
        "Failing could not be closed",
        "Failing failed 100 times with OSError",
    ]


def test_a_handler_may_unregister_itself_and_register_another_while_it_handles() -> None:
    manager, last, added = ObservabilityManager(), Collecting(), Collecting()

    class Once(ObservabilityHandler):
        def handle(self, event: Event) -> None:
            manager.unregister_handler(self)
            manager.register_handler(added)

    manager.register_handler(Once())
    manager.register_handler(last)
    manager.observe_event(Event())
    manager.observe_event(Event())
    assert (len(last.events), len(added.events)) == (2, 1)


def test_closing_closes_every_handler_that_can_be_closed_once(caplog: pytest.LogCaptureFixture) -> None:
    manager, handler = ObservabilityManager(), Collecting()
    for each in (Failing(), Bare(), handler):
        manager.register_handler(each)
    manager.close()
    manager.close()
    assert (handler.closed, manager.handler_count, len(caplog.records)) == (1, 0, 1)


def test_a_base_event_has_a_level() -> None:
    assert ObservabilityBaseEvent().level is LogLevel.INFO
    assert [level.value for level in LogLevel] == ["debug", "info", "warning", "error", "critical"]
    assert {level.name for level in LogLevel} <= logging.getLevelNamesMapping().keys()


def test_importing_the_package_needs_the_standard_library_only() -> None:
    code = "import sys, llmgine.observability; sys.exit(any(m in sys.modules for m in ('orjson', 'pydantic', 'rich')))"
    subprocess.run([sys.executable, "-c", code], check=True)


# Muting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("llmgine.observability.sink.monotonic", lambda: clock.now)
    return clock


class Clock:
    now = 1000.0


class Broken(ObservabilityHandler):
    def __init__(self) -> None:
        self.calls = 0
        self.works = False

    def handle(self, event: Event) -> None:
        self.calls += 1
        if not self.works:
            raise OSError("disk full")


def test_a_handler_that_fails_every_time_is_muted_after_a_stated_number_and_reported_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    manager, broken, other = ObservabilityManager(), Broken(), Collecting()
    manager.register_handler(broken)
    manager.register_handler(other)
    for _ in range(MUTE_AFTER + 50):
        manager.observe_event(Event())
    assert (broken.calls, len(other.events)) == (MUTE_AFTER, MUTE_AFTER + 50)
    assert manager.stats() == [
        HandlerStats("Broken", MUTE_AFTER + 50, MUTE_AFTER, {"muted": 50}, muted=True),
        HandlerStats("Collecting", MUTE_AFTER + 50),
    ]
    (_, muted) = caplog.records
    assert muted.getMessage() == (
        f"Broken failed {MUTE_AFTER} times in a row, and is muted; it is tried again every {PROBE_EVERY:g} s. "
        "The last failure: OSError('disk full')"
    )


def test_a_muted_handler_is_tried_again_after_a_while_and_goes_on_when_it_works(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    manager, broken = ObservabilityManager(), Broken()
    manager.register_handler(broken)
    for _ in range(MUTE_AFTER + 1):
        manager.observe_event(Event())
    clock.now += PROBE_EVERY
    manager.observe_event(Event())
    manager.observe_event(Event())
    assert broken.calls == MUTE_AFTER + 1  # one attempt, and muted again
    assert manager.stats()[0].muted

    broken.works = True
    clock.now += PROBE_EVERY
    caplog.clear()
    manager.observe_event(Event())
    manager.observe_event(Event())
    assert broken.calls == MUTE_AFTER + 3
    assert manager.stats() == [HandlerStats("Broken", MUTE_AFTER + 5, MUTE_AFTER + 1, {"muted": 2})]
    assert [record.getMessage() for record in caplog.records] == [
        "Broken works again; it was not shown 2 events so far"
    ]


def test_failures_with_successes_between_them_mute_nothing(clock: Clock) -> None:
    manager, broken = ObservabilityManager(), Broken()
    manager.register_handler(broken)
    for turn in range(3 * MUTE_AFTER):
        broken.works = turn % (MUTE_AFTER - 1) == 0
        manager.observe_event(Event())
    assert broken.calls == 3 * MUTE_AFTER


def test_registering_a_muted_handler_anew_gives_it_a_new_chance(clock: Clock) -> None:
    manager, broken = ObservabilityManager(), Broken()
    manager.register_handler(broken)
    for _ in range(MUTE_AFTER + 1):
        manager.observe_event(Event())
    manager.unregister_handler(broken)
    manager.register_handler(broken)
    manager.observe_event(Event())
    assert broken.calls == MUTE_AFTER + 1
    assert manager.stats() == [HandlerStats("Broken", 1, 1)]


# What is registered


def test_what_has_no_handle_is_refused_when_it_is_registered() -> None:
    with pytest.raises(ConfigurationError, match=r"has a method handle\(event\)"):
        ObservabilityManager().register_handler(print)  # type: ignore[arg-type]


def test_a_slow_handler_is_called_in_a_thread_of_its_own_and_is_known_by_itself() -> None:
    manager, threads = ObservabilityManager(), list[str]()

    class Slow(Collecting):
        def handle(self, event: Event) -> None:
            threads.append(current_thread().name)

    slow = Slow()
    manager.register_handler(slow, slow=True)
    manager.register_handler(slow)
    assert manager.handler_count == 1
    manager.observe_event(Event())
    assert manager.close() == 0
    assert (threads, slow.closed) == (["llmgine-Slow"], 1)


def test_a_slow_handler_that_is_unregistered_gets_what_it_was_promised_and_is_not_closed() -> None:
    manager, go_on, done = ObservabilityManager(), threading.Event(), threading.Event()

    class Slow(Collecting):
        def handle(self, event: Event) -> None:
            go_on.wait(60)
            super().handle(event)
            if len(self.events) == 2:
                done.set()

    slow = Slow()
    manager.register_handler(slow, slow=True)
    manager.observe_event(Event())
    manager.observe_event(Event())
    manager.clear_handlers()
    manager.observe_event(Event())
    go_on.set()
    assert done.wait(60)
    assert (len(slow.events), slow.closed, manager.stats()) == (2, 0, [])


async def test_closing_without_blocking_the_loop() -> None:
    manager, go_on = ObservabilityManager(), threading.Event()

    class Slow(Collecting):
        def handle(self, event: Event) -> None:
            go_on.wait(60)
            super().handle(event)

    slow = Slow()
    manager.register_handler(slow, slow=True)
    manager.observe_event(Event())
    closing = asyncio.ensure_future(manager.aclose(60))
    await asyncio.sleep(0)  # the loop turns while it closes
    go_on.set()
    assert await closing == 0
    assert (len(slow.events), slow.closed) == (1, 1)


def test_the_slow_handlers_have_one_deadline_together() -> None:
    manager, go_on = ObservabilityManager(), threading.Event()

    class Stuck(Collecting):
        def handle(self, event: Event) -> None:
            go_on.wait(60)

    for _ in range(3):
        manager.register_handler(Stuck(), slow=True)
    for _ in range(2):
        manager.observe_event(Event())
    begun = monotonic()
    assert manager.close(0.2) == 6
    assert 0.2 <= monotonic() - begun < 0.5
    go_on.set()
