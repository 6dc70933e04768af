"""The console handler logs a line about each event."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandStartedEvent
from llmgine.observability.handlers import SyncConsoleEventHandler


class Greet(Command[str]):
    pass


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event(event_id="e", session_id=SessionID("s")), "[EVENT] Event, ID=e, Session=s"),
        (
            Event(event_id="e", metadata={"command_type": "Greet", "source": "100%", "other": 1}),
            "[EVENT] Event, ID=e, Session=BUS [source=100%, command_type=Greet]",
        ),
        (
            CommandStartedEvent(command=Greet(), event_id="e"),
            "[EVENT] CommandStartedEvent, ID=e, Session=BUS [command_type=Greet]",
        ),
    ],
)
def test_an_event_is_a_line_at_info(event: Event, line: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    SyncConsoleEventHandler().handle(event)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.INFO, line)]


def test_nothing_is_read_from_an_event_that_nobody_will_see(caplog: pytest.LogCaptureFixture) -> None:
    class Unread(Event):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    caplog.set_level(logging.WARNING)
    SyncConsoleEventHandler().handle(Unread())
    assert not caplog.records
