"""Events of the log, handled again by chosen handlers and by nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.messages import Command, Event, SessionID


@dataclass
class Sold(Event):
    amount: int


@dataclass
class Note(Event):
    text: str = ""


ADA, BOB = SessionID("ada"), SessionID("bob")


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MessageBus]:
    """A bus whose log holds three sales of two sessions, and a note."""
    monkeypatch.setenv("LLMGINE_PERSIST_EVENTS", "1")
    bus = MessageBus.isolated(database=f"sqlite:///{tmp_path / 'bus.db'}")
    await bus.start()
    for event in (Sold(1, session_id=ADA), Sold(2, session_id=BOB), Note("in between", session_id=ADA)):
        await bus.publish(event)
    await bus.publish(Sold(3, session_id=ADA))
    await bus.stop()
    await bus.start()
    yield bus
    await bus.stop()


async def test_the_chosen_handlers_see_the_events_in_their_order_and_marked(bus: MessageBus) -> None:
    seen: list[Any] = []
    others: list[Event] = []
    bus.register_event_handler(Sold, seen.append)
    bus.register_event_handler(Event, others.append)
    bus.add_observer(others.append)
    report = await bus.replay(handlers=[seen.append])

    assert [event.amount for event in seen] == [1, 2, 3]
    assert all(event.metadata["replay"] is True for event in seen)
    assert others == []
    assert (report.events, report.handled, report.failed) == (4, 3, 0)


async def test_a_stretch_is_chosen_by_session_class_and_time(bus: MessageBus) -> None:
    seen: list[Any] = []
    bus.register_event_handler(Event, seen.append)
    await bus.replay(ADA, types=[Sold])
    await bus.replay(BOB, types=["Sold"])
    now = datetime.now(UTC)
    none = [await bus.replay(since=now), await bus.replay(until=datetime(2020, 1, 1, tzinfo=UTC))]

    assert [event.amount for event in seen] == [1, 3, 2]
    assert [report.events for report in none] == [0, 0]


async def test_a_replay_is_not_written_to_the_log(bus: MessageBus) -> None:
    bus.register_event_handler(Sold, lambda event: None)
    await bus.replay()
    again = await bus.replay()

    assert again.events == 4


async def test_a_handler_that_fails_is_counted_and_ends_nothing(
    bus: MessageBus, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Sold) -> None:
        if event.amount == 1:
            msg = "not again"
            raise ValueError(msg)

    bus.register_event_handler(Sold, fail)
    report = await bus.replay()

    assert (report.handled, report.failed) == (2, 1)
    assert "failed on the replay of Sold" in caplog.text


@pytest.mark.parametrize("allowed", [False, True])
async def test_tools_are_not_used_unless_that_is_asked_for(bus: MessageBus, allowed: bool) -> None:
    charged: list[int] = []

    def charge(amount: int) -> str:
        """Charge a card.

        Args:
            amount: in cents.
        """
        charged.append(amount)
        return "charged"

    tools = ToolManager()
    tools.register_tool(charge)
    said: list[str] = []

    async def use_tool(command: Command[None]) -> None:
        said.append(await tools.execute_tool_call(ToolCall("1", name="charge", arguments='{"amount": 5}')))

    async def sell(event: Sold) -> None:
        await bus.execute(Command[None]())

    bus.register_command_handler(Command, use_tool)
    bus.register_event_handler(Sold, sell)
    await bus.replay(BOB, tools=allowed)

    assert charged == ([5] if allowed else [])
    assert ("replay" in said[0]) is not allowed


async def test_messages_of_a_replayed_handler_belong_to_the_events_chain(bus: MessageBus) -> None:
    chains: list[tuple[str, str | None]] = []
    ids: list[str] = []

    async def note(event: Sold) -> None:
        ids.append(event.event_id)
        await bus.publish(Note())

    bus.register_event_handler(Sold, note)
    bus.register_event_handler(Note, lambda event: chains.append((event.correlation_id, event.causation_id)))
    await bus.replay(BOB)

    assert chains == [(ids[0], ids[0])]


async def test_a_bus_without_a_log_says_so() -> None:
    with pytest.raises(ConfigurationError, match="no log of events"):
        await MessageBus.isolated().replay()
