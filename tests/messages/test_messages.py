"""Messages: cheap to make, whole however they are made, never changed by being read."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.messages import Command, CommandResult, Event, SessionID, new_id
from llmgine.messages.ids import BUS


@dataclass
class Moved(Event):
    """Fields without defaults, as 000 and 003 declare them."""

    x: int
    y: int = 0
    tags: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Slotted(Event):
    x: int = 0


class Plain(Event):
    def __init__(self, x: int) -> None:
        super().__init__()
        self.x = x


class Forgetful(Event):
    def __init__(self, x: int) -> None:
        self.x = x


class Bare(Command[int]):
    pass


KINDS = [Moved(x=1), Slotted(x=1), Plain(1), Forgetful(1)]
MADE = datetime.now(UTC)


@pytest.mark.parametrize("event", KINDS, ids=lambda event: type(event).__name__)
def test_every_kind_of_subclass_is_whole(event: Any) -> None:
    assert len(event.event_id) == 32
    assert event.id == event.event_id == event.correlation_id
    assert event.metadata == {}
    assert event.session_id == BUS
    assert event.causation_id is None
    assert event.x == 1
    assert event == event  # noqa: PLR0124  # existing applications rely on it
    made = datetime.fromisoformat(event.timestamp)
    assert made.tzinfo is not None
    assert MADE - timedelta(minutes=1) < made <= datetime.now(UTC)


@pytest.mark.parametrize("event", KINDS, ids=lambda event: type(event).__name__)
def test_what_was_read_once_stays(event: Any) -> None:
    assert (event.event_id, event.timestamp) == (event.event_id, event.timestamp)
    event.metadata["key"] = 1
    assert event.metadata.pop("key") == 1


@pytest.mark.parametrize("event", KINDS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])  # noqa: S301
def test_copies_are_equal(event: Any, copied: Any) -> None:
    twin = copied(event)

    assert twin.to_dict() == event.to_dict()
    assert twin == event or type(event) is Forgetful


@pytest.mark.parametrize("event", KINDS, ids=lambda event: type(event).__name__)
def test_a_dict_holds_everything_and_comes_back(event: Any) -> None:
    event.metadata["key"] = [1]
    data = event.to_dict()

    assert data["x"] == 1
    assert {"event_id", "timestamp", "session_id", "metadata", "correlation_id", "causation_id"} <= set(data)
    back = type(event).from_dict(data)
    assert type(back) is type(event)
    assert back.to_dict() == data


def test_from_dict_fills_in_defaults_and_takes_no_private_names() -> None:
    event = Moved.from_dict({"x": 5, "_correlation_id": "theirs", "__class__": "Plain", "from_dict": 1})

    assert (event.x, event.y, event.tags) == (5, 0, [])
    assert type(event) is Moved
    assert event.correlation_id == event.event_id


def test_asdict_and_replace_work() -> None:
    event = Moved(x=1, session_id=SessionID("s"))

    assert asdict(event)["timestamp"] == event.timestamp
    assert replace(event, x=2).event_id == event.event_id
    assert {f.name for f in fields(event)} == {"event_id", "timestamp", "metadata", "session_id", "x", "y", "tags"}


def test_attributes_can_be_assigned() -> None:
    command = Bare(session_id=SessionID("x"))
    command.session_id = SessionID("")
    command.timestamp = "2026-01-01T00:00:00+00:00"
    command.correlation_id = "chain"

    assert (command.session_id, command.timestamp, command.correlation_id) == ("", "2026-01-01T00:00:00+00:00", "chain")


def test_a_datetime_is_taken_as_a_timestamp() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    event = Moved(x=1, timestamp=moment)  # type: ignore[arg-type]  # existing applications do

    assert event.timestamp == moment
    assert event.to_dict()["timestamp"] == "2026-01-02T00:00:00+00:00"


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'Moved' object has no attribute 'z'"):
        _ = Moved(x=1).z


def test_a_result_that_no_bus_has_seen_has_an_id_of_its_own() -> None:
    result: CommandResult[int] = CommandResult(success=True)

    assert len(result.command_id) == 32
    assert result.command_id == result.command_id
    assert result.command_id != CommandResult(success=True).command_id


def test_a_result_made_the_cheap_way_is_no_different() -> None:
    command = Bare(session_id=SessionID("s"))
    cheap = CommandResult.of(3, command)
    dear = CommandResult(
        success=True,
        result=3,
        command_id=command.command_id,
        session_id=command.session_id,
        timestamp=cheap.timestamp,
    )

    assert cheap == dear
    assert repr(cheap) == repr(dear)
    assert cheap.to_dict() == dear.to_dict()


@given(st.integers(2, 500))
def test_ids_never_repeat_and_sort_by_time(n: int) -> None:
    ids = [new_id() for _ in range(n)]

    assert len(set(ids)) == n
    assert [id_[:16] for id_ in ids] == sorted(id_[:16] for id_ in ids)


def test_ids_differ_between_threads() -> None:
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.extend(new_id() for _ in range(5000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(ids)) == 40_000


FORKED = """
import os, sys
from llmgine.messages import new_id
new_id()
for child in range(4):
    if os.fork() == 0:
        os.write(1, "".join(new_id()[16:] + "\\n" for _ in range(200)).encode())
        os._exit(0)
for child in range(4):
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_processes_draw_different_random_bits() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], check=True, capture_output=True, text=True)
    random_bits = done.stdout.split()

    assert len(random_bits) == 800
    assert len(set(random_bits)) == 800
