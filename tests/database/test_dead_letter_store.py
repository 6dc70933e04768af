"""Dead letters in a database: kept, listed, leased to whoever retries, and never lost for what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from llmgine.bus.stores import DeadLetterEntry
from llmgine.database.stores import Database
from llmgine.messages import Command, SessionID

from .conftest import NOON, Clock, Place


@dataclass
class Charge(Command[None]):
    amount: float = 0.0
    extra: Any = None
    tags: list[str] = field(default_factory=list)


@dataclass
class Refund(Command[None]):
    pass


def letter(command: Command[Any], error: str = "ValueError: no", **metadata: Any) -> DeadLetterEntry:
    facts = {"command_id": command.command_id, "command_type": type(command).__name__, "session_id": command.session_id}
    return DeadLetterEntry(command, error, 4, NOON, NOON + timedelta(seconds=1.5), {**facts, **metadata})


async def test_what_is_kept_comes_back_as_it_was(database: Database, opened: Callable[[], Database]) -> None:
    command = Charge(command_id="c1", amount=9.5, tags=["a"], session_id=SessionID("s"), metadata={"k": 1})
    entry = letter(command, exception_type="ValueError", traceback="line\nline")
    assert await database.dead_letters.add(entry) == (True, [])
    await database.aclose()

    again = opened().dead_letters
    assert await again.get("c1") == entry
    assert await again.list() == [entry]
    assert await again.get("c2") is None


async def test_the_oldest_come_first_and_give_way_first(database: Database) -> None:
    letters = database.dead_letters
    gone = [(await letters.add(letter(Charge(command_id=f"{n}")), limit=3)).gone for n in range(5)]

    assert gone == [[], [], [], ["0"], ["1"]]
    assert [each.metadata["command_id"] for each in await letters.list()] == ["2", "3", "4"]
    assert [each.metadata["command_id"] for each in await letters.list(2)] == ["2", "3"]
    assert await letters.add(letter(Charge(command_id="5")), limit=1) == (True, ["2", "3", "4"])


async def test_one_with_the_id_of_another_takes_its_place(database: Database) -> None:
    letters = database.dead_letters
    for name in ("a", "b"):
        await letters.add(letter(Charge(command_id=name)), limit=2)
    assert await letters.lease("a")
    assert await letters.add(letter(Charge(command_id="a"), "TypeError: still"), limit=2) == (False, [])

    assert [each.error for each in await letters.list()] == ["TypeError: still", "ValueError: no"]
    assert await letters.lease("a")  # it has failed again, so that nobody is trying it any more


async def test_entries_are_found_by_class_and_by_position(database: Database) -> None:
    letters = database.dead_letters
    assert await letters.position() == 0
    await letters.add(letter(Charge(command_id="a")))
    before = await letters.position()
    await letters.add(letter(Refund(command_id="b")))
    await letters.add(letter(Charge(command_id="c")))

    assert [each.metadata["command_id"] for each in await letters.list(command_type="Charge")] == ["a", "c"]
    assert [each.metadata["command_id"] for each in await letters.list(since=before)] == ["b", "c"]
    assert (await letters.count(), await letters.count(since=before)) == (3, 2)

    assert await letters.remove(["c", "b", "c", "nobody"]) == 2
    await letters.add(letter(Charge(command_id="d")))
    assert await letters.count(since=before) == 1  # positions are not given out twice
    assert await letters.position() > before + 2


async def test_one_process_retries_at_a_time(
    database: Database, opened: Callable[[], Database], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = database, opened()
    monkeypatch.setattr(
        type(theirs.access), "owner", property(lambda access: "we" if access is ours.access else "they")
    )
    await ours.dead_letters.add(letter(Charge(command_id="a")))

    assert await ours.dead_letters.lease("a")
    assert not await theirs.dead_letters.lease("a")
    await theirs.dead_letters.unlease("a")  # which is not theirs to give back
    assert not await theirs.dead_letters.lease("a")

    await ours.dead_letters.unlease("a")
    assert await theirs.dead_letters.lease("a")
    clock.advance(300)  # they have crashed
    assert await ours.dead_letters.lease("a")
    assert not await ours.dead_letters.lease("nobody")


async def test_a_command_that_cannot_be_stored_exactly_is_not_lost(database: Database) -> None:
    unserializable: Any = object()
    looped: dict[str, Any] = {}
    looped["self"] = looped
    command = Charge(command_id="a", amount=5.0, extra=unserializable)
    await database.dead_letters.add(letter(command, "half \ud83d nul \0", odd=unserializable, looped=looped))

    entry = await database.dead_letters.get("a")
    assert entry is not None
    assert entry.metadata["lossy"] == ["extra"] or "extra" in str(entry.metadata["lossy"])
    assert entry.metadata["command_type"] == "Charge"
    (record,) = await database.dead_letters.records()
    assert '"amount":5.0' in record.payload


DAMAGE = ["type_name = 'gone:Gone'", "payload = '{'", "metadata = '['", "metadata = '1'", f"last_attempt = {2**62}"]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_cannot_be_read_is_listed_and_says_why(place: Place, database: Database, damage: str) -> None:
    letters = database.dead_letters
    for name in ("bad", "good"):
        await letters.add(letter(Charge(command_id=name)))
    place.execute("UPDATE {dead_letters} SET", damage, "WHERE command_id = 'bad'")

    bad, good = await letters.list()
    assert good.command is not None
    if "type_name" in damage or "payload" in damage:
        assert bad.command is None
        assert bad.metadata["unreadable"]
    assert [each.command_id for each in await letters.records()] == ["bad", "good"]
    assert await letters.remove(["bad"]) == 1


async def test_tools_need_no_classes(place: Place, database: Database) -> None:
    entry = letter(Charge(command_id="a", amount=2.0, session_id=SessionID("s")))
    await database.dead_letters.add(replace(entry, attempts=7))
    place.execute("UPDATE {dead_letters} SET type_name = 'gone:Charge'")

    (record,) = await database.dead_letters.records(command_type="Charge")
    assert (record.command_type, record.session_id, record.attempts) == ("Charge", "s", 7)
    assert (record.first_attempt, record.last_attempt) == (NOON, NOON + timedelta(seconds=1.5))
    assert await database.dead_letters.records(since=record.position) == []
