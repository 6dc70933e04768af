"""Commands that failed for good are kept before the failure is reported, can be looked at, and tried again."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.bus.resilience import (
    Action,
    CircuitBreakerConfig,
    CircuitBreakerMiddleware,
    DeadLetterMiddleware,
    DeadLetters,
    MemoryDeadLetterStore,
    Policy,
    Retry,
    RetryConfig,
    Rule,
)
from llmgine.bus.stores import Added, DeadLetterEntry, DeadLetterStore
from llmgine.errors import BusError, CodecError, ConfigurationError, StoreError, ToolValidationError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import DeadLetterCommandEvent

START = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass
class Do(Command[Any]):
    number: int = 0


class Other(Command[Any]):
    pass


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Store(MemoryDeadLetterStore):
    """One that can be away, slow, or unable to write some commands."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.gate: asyncio.Event | None = None
        self.cannot_write: set[str] = set()

    def check(self) -> None:
        if self.away:
            raise StoreError("The database is away.")

    async def add(self, entry: DeadLetterEntry, limit: int | None = None) -> Added:
        self.check()
        if self.gate is not None:
            await self.gate.wait()
        if entry.command is not None and entry.command.command_id in self.cannot_write:
            raise CodecError("It cannot be written down.")
        return await super().add(entry, limit)

    async def count(self, *, since: int = 0) -> int:
        self.check()
        number = await super().count(since=since)
        await asyncio.sleep(0)
        return number

    async def remove(self, command_ids: Iterable[str]) -> int:
        self.check()
        return await super().remove(command_ids)

    async def unlease(self, command_id: str) -> None:
        self.check()
        await super().unlease(command_id)


class Handler:
    """Fails as long as it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = ValueError("no")
        self.calls = 0

    def __call__(self, _: Any) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def handler() -> Handler:
    return Handler()


def keep(
    bus: MessageBus, handler: Callable[[Any], Any], letters: DeadLetters, retries: int = 0, *rules: Rule
) -> DeadLetters:
    """Set a bus up with two layers: dead letters around retries."""
    sleep = letters.clock.sleep if isinstance(letters.clock, Clock) else asyncio.sleep
    config = RetryConfig(retries, initial_delay=0, jitter=False)
    if isinstance(letters.clock, Clock):
        config = replace(config, initial_delay=1)
    bus.add_command_middleware(DeadLetterMiddleware(letters, rules=rules))
    bus.add_command_middleware(Retry(config, rules=rules, sleep=sleep))
    bus.register_command_handler(Do, handler)
    return letters


def numbers(entries: list[DeadLetterEntry]) -> list[int]:
    return [entry.command.number for entry in entries if isinstance(entry.command, Do)]


async def test_a_command_that_fails_in_all_attempts_is_kept_and_its_result_says_so(
    bus: MessageBus, store: Store, handler: Handler
) -> None:
    announced: list[Event] = []
    letters = DeadLetters(store, clock=Clock(), announce=lambda event, _: announced.append(event))
    keep(bus, handler, letters, 2)
    command = Do(number=7, session_id=SessionID("s"))
    result = await bus.execute(command)

    assert (result.success, result.error) == (False, "Command failed after 3 attempts: ValueError: no")
    assert result.command_id == command.command_id
    assert result.exception is handler.error
    assert {name: result.metadata[name] for name in ("attempts", "last_error", "dead_letter")} == {
        "attempts": 3,
        "last_error": "ValueError: no",
        "dead_letter": True,
    }
    (entry,) = await letters.entries()
    assert (entry.command, entry.error, entry.attempts) == (command, "ValueError: no", 3)
    assert (entry.first_attempt, entry.last_attempt) == (START, START + timedelta(seconds=3))
    assert "Traceback" in entry.metadata.pop("traceback")
    assert json.loads(json.dumps(entry.metadata)) == {
        "command_id": command.command_id,
        "command_type": "Do",
        "session_id": "s",
        "exception_type": "ValueError",
    }
    (event,) = announced
    assert isinstance(event, DeadLetterCommandEvent)
    assert (event.command, event.error, event.attempts) == (command, "ValueError: no", 3)
    assert (letters.size, letters.recorded) == (1, 1)


async def test_a_returned_failure_is_kept_and_the_handlers_own_result_stays_as_it_is(
    bus: MessageBus, store: Store
) -> None:
    constant = CommandResult[Any](success=False, error="sorry")
    letters = keep(bus, lambda _: constant, DeadLetters(store))

    assert (await bus.execute(Do())).error == "Command failed after 1 attempts: sorry"
    assert (constant.error, constant.metadata) == ("sorry", {})
    assert [entry.error for entry in await letters.entries()] == ["sorry"]


async def test_the_letter_is_written_before_the_failure_is_reported(
    bus: MessageBus, store: Store, handler: Handler
) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    store.gate = asyncio.Event()
    executing = asyncio.create_task(bus.execute(Do()))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not executing.done()
    store.gate.set()
    await executing

    assert letters.size == 1


async def test_what_is_no_dead_letter(bus: MessageBus, store: Store, handler: Handler) -> None:
    rules = (Rule(Action.GIVE_UP, on=KeyError), Rule(Action.DISCARD, on=IndexError))
    letters = keep(bus, handler, DeadLetters(store), 1, *rules)
    results = []
    for error in (ToolValidationError("bad"), KeyError("mine"), IndexError("so what"), None):
        handler.error = error
        results.append(await bus.execute(Do()))
    results.append(await bus.execute(Other()))  # which nobody handles

    assert [each.success for each in results] == [False, False, True, True, False]
    assert results[0].error == "ToolValidationError: bad"
    assert "dead_letter" not in results[1].metadata
    assert (letters.size, handler.calls) == (0, 4)


async def test_a_rule_sends_a_command_straight_to_the_dead_letters(
    bus: MessageBus, store: Store, handler: Handler
) -> None:
    letters = keep(bus, handler, DeadLetters(store), 5, Rule(Action.DEAD_LETTER, on=ValueError))
    result = await bus.execute(Do())

    assert (result.metadata["attempts"], handler.calls, letters.size) == (1, 1, 1)


@pytest.mark.parametrize("rules", [(), (Rule(Action.DEAD_LETTER),)])
async def test_refused_at_once_is_no_dead_letter_and_refused_after_a_failure_is(
    bus: MessageBus, store: Store, handler: Handler, rules: tuple[Rule, ...]
) -> None:
    letters = keep(bus, handler, DeadLetters(store), 5 if not rules else 0, *rules)
    bus.add_command_middleware(CircuitBreakerMiddleware(CircuitBreakerConfig(failure_threshold=2)))
    results = [await bus.execute(Do()) for _ in range(2 if not rules else 3)]

    assert handler.calls == 2
    assert results[-1].error == "Circuit breaker is OPEN for Do"
    assert [each.metadata["circuit_breaker_state"] for each in results][-2:] == ["open", "open"]
    assert sum(each.metadata.get("dead_letter", False) for each in results) == letters.size == len(results) - 1
    if not rules:
        assert results[0].error == "Command failed after 2 attempts: ValueError: no"


async def test_a_cancelled_command_is_no_dead_letter(bus: MessageBus, store: Store) -> None:
    letters = keep(bus, lambda _: asyncio.Event().wait(), DeadLetters(store))
    result = await bus.execute(Do(), timeout=0.01)

    assert (result.success, letters.size) == (False, 0)


@pytest.mark.parametrize("times", [1, 3])
async def test_being_cancelled_while_it_is_written_loses_nothing(
    bus: MessageBus, store: Store, handler: Handler, times: int
) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    store.gate = asyncio.Event()
    executing = asyncio.create_task(bus.execute(Do()))
    for _ in range(times):
        for _ in range(5):
            await asyncio.sleep(0)
        executing.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await executing

    assert len(await letters.entries()) == 1


def test_a_program_that_ends_while_it_is_written_loses_nothing(store: Store, handler: Handler) -> None:
    letters = DeadLetters(store)

    async def program() -> None:
        bus = MessageBus.isolated()
        keep(bus, handler, letters)
        store.gate = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, store.gate.set)
        bus_task = asyncio.create_task(bus.execute(Do()))
        await asyncio.sleep(0.005)
        assert not bus_task.done()

    asyncio.run(program())

    assert asyncio.run(store.count()) == 1


# While the store is away


async def test_while_the_store_is_away_letters_are_held_and_written_afterwards_in_order(
    bus: MessageBus, store: Store, handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    letters = keep(bus, handler, DeadLetters(store))
    store.away = True
    commands = [Do(number=number) for number in range(3)]
    results = [await bus.execute(command) for command in commands]

    assert [each.metadata["dead_letter"] for each in results] == [False] * 3
    assert "The database is away." in results[0].metadata["dead_letter_error"]
    assert results[0].error == "Command failed after 1 attempts: ValueError: no"
    assert (letters.size, letters.unwritten) == (3, 3)
    assert [record.levelno for record in caplog.records] == [logging.INFO]  # once per outage
    store.away = False
    await bus.execute(Do(number=3))

    assert numbers(await store.list()) == [0, 1, 2, 3]
    assert (letters.size, letters.unwritten) == (4, 0)


async def test_what_is_held_in_memory_is_bounded(bus: MessageBus, store: Store, handler: Handler) -> None:
    letters = keep(bus, handler, DeadLetters(store, max_size=2))
    store.away = True
    for number in range(5):
        await bus.execute(Do(number=number))
    store.away = False
    entries = await letters.entries()

    assert numbers(entries) == [3, 4]
    assert letters.dropped == 3


async def test_one_that_cannot_be_written_holds_up_no_other(bus: MessageBus, store: Store, handler: Handler) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    odd = Do(number=1)
    store.cannot_write = {odd.command_id}
    results = [await bus.execute(command) for command in (odd, Do(number=2))]

    assert [each.metadata["dead_letter"] for each in results] == [False, True]
    assert (letters.size, letters.unwritten, await store.count()) == (2, 1, 1)
    assert [entry.metadata["command_type"] for entry in await letters.entries()] == ["Do", "Do"]
    handler.error = None
    result = await letters.retry(odd.command_id, bus.execute)
    assert result is not None
    assert result.success
    assert letters.size == 1


async def test_a_letter_that_is_only_in_memory_can_be_retried_while_the_store_is_away(
    bus: MessageBus, store: Store, handler: Handler
) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    store.away = True
    command = Do()
    await bus.execute(command)
    result = await letters.retry(command.command_id, bus.execute)
    assert result is not None
    assert result.metadata["attempts"] == 2
    handler.error = None
    assert (await letters.retry(command.command_id, bus.execute)) is not None
    store.away = False

    assert await letters.entries() == []
    assert letters.size == 0


# When there are too many


async def test_the_oldest_give_way(bus: MessageBus, store: Store, handler: Handler) -> None:
    letters = keep(bus, handler, DeadLetters(store, max_size=2))
    for number in range(4):
        assert (await bus.execute(Do(number=number))).metadata["dead_letter"]

    assert numbers(await letters.entries()) == [2, 3]
    assert (letters.size, letters.dropped, letters.rejected) == (2, 2, 0)


async def test_or_new_ones_are_not_kept_however_many_come_at_once(
    bus: MessageBus, store: Store, handler: Handler
) -> None:
    letters = keep(bus, handler, DeadLetters(store, max_size=2, when_full="reject_new"))
    results = await asyncio.gather(*(bus.execute(Do(number=number)) for number in range(5)))

    assert sorted(each.metadata["dead_letter"] for each in results) == [False] * 3 + [True] * 2
    assert results[-1].metadata["dead_letter_error"] == "there are 2 dead letters already"
    assert (letters.size, letters.dropped, letters.rejected) == (2, 0, 3)


@pytest.mark.parametrize("options", [{"max_size": 0}, {"max_size": None}, {"when_full": "block"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], store: Store) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        DeadLetters(store, **options)


# Again


async def test_a_retry_that_succeeds_forgets_the_letter(bus: MessageBus, store: Store, handler: Handler) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    command = Do(number=5)
    await bus.execute(command)
    handler.error = None
    result = await letters.retry(command.command_id, bus.execute)

    assert result is not None
    assert (result.success, result.result) == (True, 2)
    assert (letters.size, await store.count()) == (0, 0)
    assert await letters.retry(command.command_id, bus.execute) is None


async def test_a_retry_that_fails_adds_to_the_one_letter(bus: MessageBus, store: Store, handler: Handler) -> None:
    clock = Clock()
    announced: list[Event] = []
    letters = DeadLetters(store, clock=clock, announce=lambda event, _: announced.append(event))
    keep(bus, handler, letters, 1)
    command = Do()
    await bus.execute(command)
    handler.error = KeyError("again")
    result = await letters.retry(command.command_id, bus.execute)

    assert result is not None
    assert result.error == "Command failed after 4 attempts: KeyError: 'again'"
    (entry,) = await letters.entries()
    assert (entry.attempts, entry.error, entry.first_attempt) == (4, "KeyError: 'again'", START)
    assert entry.last_attempt == START + timedelta(seconds=2)
    assert (len(announced), letters.recorded) == (1, 1)
    handler.error = None
    await letters.retry(command.command_id, bus.execute)
    assert letters.size == 0  # it was not left leased


async def test_a_letter_that_is_retried_needs_no_more_room(bus: MessageBus, store: Store, handler: Handler) -> None:
    letters = keep(bus, handler, DeadLetters(store, max_size=1, when_full="reject_new"))
    command = Do()
    await bus.execute(command)
    result = await letters.retry(command.command_id, bus.execute)

    assert result is not None
    assert result.metadata["dead_letter"]
    assert [entry.attempts for entry in await letters.entries()] == [2]


async def test_a_retry_without_our_middleware_brings_the_letter_up_to_date_as_well(
    bus: MessageBus, store: Store, handler: Handler
) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    command = Do()
    await bus.execute(command)

    async def plain(command: Command[Any]) -> CommandResult[Any]:
        return CommandResult(success=False, error="other", metadata={"attempts": 3})

    await letters.retry(command.command_id, plain)
    (entry,) = await letters.entries()
    assert (entry.attempts, entry.error) == (4, "other")


async def test_a_letter_is_retried_by_one_at_a_time(bus: MessageBus, store: Store, handler: Handler) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    elsewhere = DeadLetters(store)
    command = Do()
    await bus.execute(command)
    release = asyncio.Event()

    async def slow(command: Command[Any]) -> CommandResult[Any]:
        await release.wait()
        return CommandResult(success=True)

    first = asyncio.create_task(letters.retry(command.command_id, slow))
    await asyncio.sleep(0)
    for each in (letters, elsewhere):
        with pytest.raises(BusError, match="being retried already"):
            await each.retry(command.command_id, slow)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    release.set()

    assert await elsewhere.retry(command.command_id, slow) is not None
    assert await store.count() == 0


async def test_a_success_is_reported_also_when_the_letter_cannot_be_removed(
    bus: MessageBus, store: Store, handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    command = Do()
    await bus.execute(command)
    handler.error = None

    async def execute(command: Command[Any]) -> CommandResult[Any]:
        store.away = True
        return await bus.execute(command)

    result = await letters.retry(command.command_id, execute)

    assert result is not None
    assert result.success
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_what_cannot_be_read_is_not_retried_and_not_taken(store: Store) -> None:
    class Unreadable(Store):
        async def get(self, command_id: str) -> DeadLetterEntry | None:
            return DeadLetterEntry(None, "no", 1, START, START, {"command_id": "x", "unreadable": "no such class"})

        async def lease(self, command_id: str) -> bool:
            return True

    with pytest.raises(BusError, match="no such class"):
        await DeadLetters(Unreadable()).retry("x", MessageBus.isolated().execute)


async def test_letters_can_be_listed_edited_and_discarded(bus: MessageBus, store: Store, handler: Handler) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    bus.register_command_handler(Other, handler)
    commands: list[Command[Any]] = [Do(number=1), Other(), Do(number=2)]
    for command in commands:
        await bus.execute(command)
    first, second, third = await letters.entries()

    assert await letters.entries(2) == [first, second]
    assert await letters.entries(command_type="Other") == [second]
    assert isinstance(third.command, Do)
    third.command = replace(third.command, number=9)
    third.metadata["note"] = "edited"
    assert (await letters.entries())[2].metadata == {k: v for k, v in third.metadata.items() if k != "note"}
    assert await letters.edit(third)
    assert numbers(await letters.entries(command_type="Do")) == [1, 9]
    assert await letters.discard([commands[0].command_id, commands[1].command_id, "unknown"]) == 2
    assert letters.size == 1
    assert not await letters.edit(first)


async def test_letters_from_before_a_position_can_be_left_aside(
    bus: MessageBus, store: Store, handler: Handler
) -> None:
    letters = keep(bus, handler, DeadLetters(store))
    await bus.execute(Do(number=1))
    letters.since = await store.position()
    assert await letters.refresh() == 0
    await bus.execute(Do(number=2))

    assert letters.size == len(await letters.entries()) == 1


def test_the_store_in_memory_is_a_dead_letter_store() -> None:
    store: DeadLetterStore = MemoryDeadLetterStore()

    assert asyncio.run(store.count()) == 0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["fail", "retry", "retry fails", "discard", "away", "back"]), st.integers(0, 4)),
        max_size=25,
    )
)
def test_no_letter_is_lost_or_doubled_whatever_happens_to_the_store(steps: list[tuple[str, int]]) -> None:
    commands = [Do(command_id=f"c{number}") for number in range(5)]
    kept: dict[str, int] = {}
    """By command id: the attempts."""

    async def scenario() -> None:
        store, handler, bus = Store(), Handler(), MessageBus.isolated()
        letters = keep(bus, handler, DeadLetters(store))
        for what, number in steps:
            command_id = commands[number].command_id
            handler.error = None if what == "retry" else ValueError("no")
            if what in {"away", "back"}:
                store.away = what == "away"
            elif what == "fail":
                await bus.execute(commands[number])
                kept[command_id] = 1
            elif what == "discard":
                if not store.away:
                    assert await letters.discard([command_id]) == (command_id in kept)
                    kept.pop(command_id, None)
            elif not store.away:
                result = await letters.retry(command_id, bus.execute)
                assert (result is not None) == (command_id in kept)
                if what == "retry":
                    kept.pop(command_id, None)
                elif command_id in kept:
                    kept[command_id] += 1
        store.away = False
        entries = await letters.entries()
        assert {entry.metadata["command_id"]: entry.attempts for entry in entries} == kept
        assert len(entries) == letters.size == len(kept)

    asyncio.run(scenario())


async def test_a_letter_that_could_not_be_stored_whole_is_not_retried_until_it_is_edited(tmp_path: Path) -> None:
    bus = MessageBus.isolated(policy=Policy(dead_letters=True), database=f"sqlite:///{tmp_path / 'bus.db'}")
    ran: list[Command[Any]] = []

    def fail(command: Command[Any]) -> None:
        ran.append(command)
        msg = "no"
        raise ValueError(msg)

    bus.register_command_handler(Command, fail)
    command = Command[Any](metadata={"file": sys.stderr})
    await bus.execute(command)
    letters = bus.dead_letters
    assert letters is not None
    with pytest.raises(BusError, match=r"lacks what could not be stored.*file"):
        await letters.retry(command.command_id, bus.execute)
    await bus.stop()

    assert len(ran) == 1
