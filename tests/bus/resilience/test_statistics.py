"""Failures are counted by session and type, for a bounded number of sessions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.resilience import ErrorStatistics
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult, SessionID

DATE = datetime(2026, 1, 2, tzinfo=UTC)


class Do(Command[Any]):
    pass


class Other(Command[Any]):
    pass


async def test_failures_are_counted_by_session_and_type(bus: MessageBus) -> None:
    statistics = ErrorStatistics(clock=lambda: DATE)
    steps: list[Any] = [1, ValueError("no"), CommandResult[Any](success=False, error="no"), asyncio.CancelledError()]

    def handle(_: Do) -> Any:
        step = steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    bus.add_command_middleware(statistics)
    bus.register_command_handler(Do, handle)
    bus.register_command_handler(Other, lambda _: 1)
    assert statistics.get() == {}
    for _ in range(3):
        await bus.execute(Do(session_id=SessionID("s")))
    with pytest.raises(asyncio.CancelledError):
        await bus.execute(Do(session_id=SessionID("s")))
    await bus.execute(Other())

    do = {
        "failure_count": 2,
        "consecutive_failures": 2,
        "total_executions": 3,
        "failure_rate": 2 / 3,
        "last_failure": DATE.isoformat(),
    }
    other = {
        "failure_count": 0,
        "consecutive_failures": 0,
        "total_executions": 1,
        "failure_rate": 0,
        "last_failure": None,
    }
    assert statistics.get() == {"s": {"Do": do}, "BUS": {"Other": other}}
    assert statistics.get("s") == {"s": {"Do": do}}
    assert statistics.get("unknown") == {}
    steps.append(2)
    await bus.execute(Do(session_id=SessionID("s")))
    assert statistics.get("s")["s"]["Do"]["consecutive_failures"] == 0


async def test_the_session_that_was_silent_longest_is_forgotten_first(bus: MessageBus) -> None:
    statistics = ErrorStatistics(max_sessions=2)
    bus.add_command_middleware(statistics)
    bus.register_command_handler(Do, lambda _: 1)
    for session in ("a", "b", "a", "c"):
        await bus.execute(Do(session_id=SessionID(session)))

    assert set(statistics.get()) == {"a", "c"}


@pytest.mark.parametrize("most", [0, None, 1.5])
def test_a_bound_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_sessions"):
        ErrorStatistics(most)
