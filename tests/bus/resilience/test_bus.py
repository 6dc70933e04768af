"""The resilient bus: what its published methods promise, on top of policies that have tests of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import BackpressureStrategy, BusSession, MessageBus, ResilientMessageBus
from llmgine.bus.resilience import CircuitBreakerConfig, CircuitState, DeadLetterEntry, Policy, RetryConfig
from llmgine.errors import ConfigurationError, QueueFullError
from llmgine.messages import Command, CommandResult, Event
from llmgine.messages.events import (
    CircuitBreakerChangedEvent,
    CommandErrorEvent,
    CommandStartedEvent,
    DeadLetterCommandEvent,
)

AT_ONCE = RetryConfig(max_retries=2, initial_delay=0)


@dataclass
class Charge(Command[str]):
    amount: int = 1


class Shop:
    """Fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls = 0

    def charge(self, command: Charge) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            msg = "no connection"
            raise ConnectionError(msg)
        return "charged"


@pytest.fixture
async def bus() -> AsyncIterator[ResilientMessageBus]:
    bus = ResilientMessageBus.isolated(retry_config=AT_ONCE)
    await bus.start()
    yield bus
    await bus.stop()


def test_the_preset_overrides_no_method() -> None:
    own = {name for name in vars(ResilientMessageBus) if not name.startswith("__")} - {"_abc_impl"}

    assert not own & {name for base in ResilientMessageBus.__mro__[1:] for name in vars(base)}


async def test_a_command_that_succeeds_in_time_is_a_success_and_announced_once(bus: ResilientMessageBus) -> None:
    shop, started = Shop(failures=2), list[Event]()
    bus.register_command_handler(Charge, shop.charge)
    bus.register_event_handler(CommandStartedEvent, started.append)
    result = await bus.execute(Charge())
    await bus.wait_for_events()

    assert (result.success, result.result, shop.calls, len(started)) == (True, "charged", 3, 1)
    assert bus.dead_letter_queue_size == 0
    assert not bus.is_retrying_commands


@pytest.mark.parametrize("raises", [True, False])
async def test_one_that_fails_for_good_becomes_a_dead_letter(bus: ResilientMessageBus, raises: bool) -> None:
    seen: list[Event] = []
    bus.register_event_handler(DeadLetterCommandEvent, seen.append)
    bus.register_event_handler(CommandErrorEvent, seen.append)

    def fail(command: Charge) -> CommandResult[str]:
        if raises:
            msg = "no connection"
            raise ConnectionError(msg)
        return CommandResult(success=False, error="no connection")

    bus.register_command_handler(Charge, fail)
    command = Charge(amount=7)
    result = await bus.execute(command)
    await bus.wait_for_events()

    assert not result.success
    assert result.command_id == command.command_id
    assert (result.error or "").startswith("Command failed after 3 attempts: ")
    assert "no connection" in (result.error or "")
    assert result.metadata["attempts"] == 3
    assert "no connection" in result.metadata["last_error"]
    assert result.metadata["dead_letter"] is True
    assert result.metadata["circuit_breaker_state"] == "closed"
    assert [type(event) for event in seen] == [DeadLetterCommandEvent, CommandErrorEvent]
    letter = seen[0]
    assert isinstance(letter, DeadLetterCommandEvent)
    assert (letter.command, letter.attempts) == (command, 3)

    (entry,) = await bus.get_dead_letter_entries()
    assert isinstance(entry, DeadLetterEntry)
    assert entry.command == command
    assert entry.attempts == 3
    assert entry.first_attempt <= entry.last_attempt
    assert bus.dead_letter_queue_size == 1
    assert (await bus.get_metrics())["gauges"]["dead_letter_queue_size"]["value"] == 1


async def test_a_dead_letter_is_retried_by_its_id_and_goes_when_that_succeeds(bus: ResilientMessageBus) -> None:
    shop = Shop(failures=4)
    bus.register_command_handler(Charge, shop.charge)
    command = Charge(amount=3)
    await bus.execute(command)
    again = await bus.retry_dead_letter_entry(command.command_id)

    assert again is not None
    assert again.success
    assert bus.dead_letter_queue_size == 0
    assert await bus.get_dead_letter_entries() == []
    assert await bus.retry_dead_letter_entry(command.command_id) is None


async def test_a_dead_letter_that_fails_again_stays_one(bus: ResilientMessageBus) -> None:
    shop = Shop(failures=100)
    bus.register_command_handler(Charge, shop.charge)
    command = Charge()
    await bus.execute(command)
    again = await bus.retry_dead_letter_entry(command.command_id)

    assert again is not None
    assert not again.success
    (entry,) = await bus.get_dead_letter_entries()
    assert entry.attempts > 3


async def test_no_more_dead_letters_are_kept_than_may_be() -> None:
    bus = ResilientMessageBus.isolated(retry_config=RetryConfig(max_retries=0), max_dead_letter_size=3)
    bus.register_command_handler(Charge, Shop(failures=100).charge)
    for amount in range(5):
        await bus.execute(Charge(amount=amount))

    entries = await bus.get_dead_letter_entries()
    assert [entry.command.amount for entry in entries if isinstance(entry.command, Charge)] == [2, 3, 4]
    assert len(await bus.get_dead_letter_entries(limit=2)) == 2
    assert bus.dead_letter_queue_size == 3


async def test_a_missing_handler_is_not_retried_and_no_dead_letter(bus: ResilientMessageBus) -> None:
    result = await bus.execute(Charge())

    assert result.error == "No handler registered for command Charge"
    assert bus.dead_letter_queue_size == 0


async def test_a_command_type_that_keeps_failing_is_refused_and_others_are_not() -> None:
    config = CircuitBreakerConfig(failure_threshold=2)
    bus = ResilientMessageBus.isolated(retry_config=RetryConfig(max_retries=0), circuit_breaker_config=config)
    shop = Shop(failures=100)
    bus.register_command_handler(Charge, shop.charge)
    bus.register_command_handler(Command, lambda command: "other")
    for _ in range(2):
        await bus.execute(Charge())
    refused = await bus.execute(Charge())

    assert not refused.success
    assert refused.error == "Circuit breaker is OPEN for Charge"
    assert refused.metadata["circuit_breaker_state"] == "open"
    assert shop.calls == 2
    assert bus.dead_letter_queue_size == 2
    assert (await bus.execute(Command())).success
    states = bus.get_circuit_breaker_states()
    assert states["Charge"]["state"] == "open"
    assert states["Charge"]["failure_count"] == 2
    assert set(states["Charge"]) == {
        "name",
        "state",
        "failure_count",
        "success_count",
        "last_failure",
        "last_state_change",
    }
    assert (await bus.get_metrics())["gauges"]["circuit_breaker_state"]["value"] == 1
    assert CircuitState(states["Command"]["state"]) is CircuitState.CLOSED


async def test_a_breaker_can_be_opened_and_closed_by_hand_and_everybody_is_told(bus: ResilientMessageBus) -> None:
    changes: list[CircuitBreakerChangedEvent] = []
    bus.register_event_handler(CircuitBreakerChangedEvent, changes.append)
    bus.register_command_handler(Charge, Shop().charge)
    await bus.execute(Charge())
    breaker = bus.circuit_breakers["Charge"]
    breaker.isolate()
    refused = await bus.execute(Charge())
    gauge = (await bus.get_metrics())["gauges"]["circuit_breaker_state"]
    breaker.reset()
    again = await bus.execute(Charge())
    await bus.wait_for_events()

    assert (refused.success, again.success) == (False, True)
    assert (gauge["value"], gauge["labels"]) == (1, [{"labels": {"name": "Charge"}, "value": 1}])
    assert [(change.previous, change.state) for change in changes] == [("closed", "isolated"), ("isolated", "closed")]


async def test_how_handlers_fare_is_counted_by_session(bus: ResilientMessageBus) -> None:
    bus.register_command_handler(Charge, Shop(failures=3).charge)
    async with bus.session("till") as session:
        await session.execute_with_session(Charge())
        await session.execute_with_session(Charge())
        figures = bus.get_handler_error_stats("till")["till"]["Charge"]

    assert figures["failure_count"] == 1
    assert figures["consecutive_failures"] == 0
    assert figures["total_executions"] == 2
    assert figures["failure_rate"] == 0.5
    assert figures["last_failure"] is not None
    assert "till" in bus.get_handler_error_stats()


async def test_the_queue_is_bounded_and_tells_how_it_is() -> None:
    bus = ResilientMessageBus.isolated(
        event_queue_size=10, backpressure_strategy=BackpressureStrategy.REJECT_NEW, retry_config=AT_ONCE
    )
    handled: list[Event] = []
    bus.register_event_handler(Event, handled.append)
    await bus.start()
    refused = 0
    for _ in range(15):
        try:
            await bus.publish(Event(), await_processing=False)
        except QueueFullError:
            refused += 1
    figures = bus.get_queue_metrics()
    await bus.stop()

    assert refused == 5
    assert len(handled) == 10
    assert figures == {
        "current_size": 10,
        "total_enqueued": 10,
        "total_dequeued": 0,
        "total_dropped": 0,
        "total_rejected": 5,
        "high_water_mark_hits": 1,
        "max_size_reached": 10,
        "backpressure_active": True,
    }


async def test_a_types_own_policy_takes_the_place_of_that_of_all() -> None:
    shop = Shop(failures=3)
    bus = ResilientMessageBus.isolated(retry_config=AT_ONCE, policies={Charge: Policy(dead_letters=True)})
    bus.register_command_handler(Charge, shop.charge)
    result = await bus.execute(Charge())

    assert shop.calls == 1
    assert result.metadata["dead_letter"] is True


async def test_policies_work_on_any_bus() -> None:
    bus = MessageBus.isolated(policies={Charge: Policy(timeout=0.01)})

    async def sleep(command: Command[Any]) -> None:
        await asyncio.sleep(0.05)

    bus.register_command_handler(Charge, sleep)
    bus.register_command_handler(Command, sleep)
    late = await bus.execute(Charge())

    assert "did not finish within 0.01 s" in (late.error or "")
    assert (await bus.execute(Command())).success


async def test_dead_letters_outlive_the_bus(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    command = Charge(amount=9)
    before = ResilientMessageBus.isolated(retry_config=AT_ONCE, database=url)
    before.register_command_handler(Charge, Shop(failures=100).charge)
    await before.start()
    await before.execute(command)
    await before.stop()

    after = ResilientMessageBus.isolated(retry_config=AT_ONCE, database=url)
    after.register_command_handler(Charge, Shop().charge)
    await after.start()
    assert after.dead_letter_queue_size == 1
    again = await after.retry_dead_letter_entry(command.command_id)
    left = await after.get_dead_letter_entries()
    await after.stop()

    assert again is not None
    assert again.success
    assert left == []


async def test_a_bus_that_is_reset_forgets_the_letters_and_the_database_keeps_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    bus = ResilientMessageBus.isolated(retry_config=AT_ONCE, database=url)
    bus.register_command_handler(Charge, Shop(failures=100).charge)
    await bus.execute(Charge(amount=1))
    await bus.reset()
    bus.register_command_handler(Charge, Shop(failures=100).charge)
    await bus.start()
    forgotten = bus.dead_letter_queue_size
    await bus.execute(Charge(amount=2))
    seen = await bus.get_dead_letter_entries()
    await bus.stop()
    other = ResilientMessageBus.isolated(database=url)
    kept = await other.get_dead_letter_entries()
    await other.stop()

    assert forgotten == 0
    assert [entry.command for entry in seen] == [entry.command for entry in kept[1:]]
    assert len(kept) == 2


def _run(program: str, folder: Path) -> str:
    head = (
        "import asyncio\n"
        "from llmgine.bus import BusSession, MessageBus, ResilientMessageBus\n"
        "from llmgine.bus.resilience import RetryConfig\n"
        "from llmgine.messages import Command\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_becomes_the_applications_bus_and_every_call_returns_it(tmp_path: Path) -> None:
    program = (
        "unused = MessageBus()\n"
        "bus = ResilientMessageBus(retry_config=RetryConfig(max_retries=1))\n"
        "print(MessageBus() is bus, ResilientMessageBus() is bus, BusSession().bus is bus, unused is bus)\n"
    )

    assert _run(program, tmp_path) == "True True True False"


def test_it_does_not_take_the_place_of_a_bus_that_is_in_use(tmp_path: Path) -> None:
    program = (
        "bus = MessageBus()\n"
        "bus.register_command_handler(Command, lambda command: None)\n"
        "try:\n"
        "    ResilientMessageBus()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "print(MessageBus() is bus)\n"
    )

    said, still = _run(program, tmp_path).splitlines()
    assert "in use already" in said
    assert still == "True"


def test_other_options_are_refused_until_it_is_reset(tmp_path: Path) -> None:
    program = (
        "bus = ResilientMessageBus(max_dead_letter_size=5)\n"
        "try:\n"
        "    ResilientMessageBus(max_dead_letter_size=6)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "asyncio.run(bus.reset())\n"
        "print(ResilientMessageBus(max_dead_letter_size=6) is bus)\n"
    )

    said, same = _run(program, tmp_path).splitlines()
    assert "max_dead_letter_size=5, not 6" in said
    assert same == "True"


def test_an_option_that_there_is_not_is_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'retries'"):
        ResilientMessageBus.isolated(retries=3)
    with pytest.raises(ConfigurationError, match="max_dead_letters must be"):
        ResilientMessageBus.isolated(max_dead_letter_size=0)


async def test_a_session_belongs_to_it(bus: ResilientMessageBus) -> None:
    async with BusSession(bus=bus) as session:
        assert session.bus is bus
