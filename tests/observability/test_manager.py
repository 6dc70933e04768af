"""A manager shows every event to every handler, whatever the others do."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from llmgine.messages import Event
from llmgine.observability import LogLevel, ObservabilityBaseEvent, ObservabilityHandler, ObservabilityManager


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
