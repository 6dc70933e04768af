"""Law 18 and what it stands on: ids never repeat, sort by the time of making, and stay as they were first read."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus.causality import Chain, stamp
from llmgine.messages import Command, CommandResult, Event, SessionID, new_id
from llmgine.messages.ids import next_number, write
from llmgine.messages.message import Message


@dataclass
class Noted(Event):
    text: str = ""
    tags: list[str] = field(default_factory=list)


@dataclass
class Do(Command[str]):
    text: str = ""


@dataclass(slots=True)
class Slotted(Event):
    text: str = ""


class Plain(Event):
    """With an `__init__` of its own, which fills nothing in."""

    def __init__(self, text: str = "") -> None:
        self.text = text


KINDS: list[Callable[[], Message]] = [Noted, Do, Slotted, Plain, lambda: CommandResult(success=True)]
COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda message: pickle.loads(pickle.dumps(message)),  # noqa: S301  # its own
    lambda message: type(message).from_dict(message.to_dict()),
]
READS: list[Callable[[Any], Any]] = [
    lambda message: message.id,
    lambda message: message.timestamp,
    lambda message: message.metadata,
    lambda message: message.correlation_id,
    lambda message: message.causation_id,
    lambda message: message.to_dict(),
    repr,
]
CHAINS: list[Chain] = [
    (new_id(), new_id(), (), None, None, False),
    ((1_700_000_000_000_000_000, 5), (1_700_000_000_000_000_001, 6), (), None, "00-ab-cd-01", False),
]


def origin(message: Message) -> tuple[str, str, str | None, str | None]:
    return message.id, message.correlation_id, message.causation_id, message.traceparent


steps = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, len(KINDS) - 1)),
        st.tuples(st.sampled_from(["read", "copy", "stamp"]), st.tuples(st.integers(0, 9), st.integers(0, 6))),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(steps)
def test_whatever_is_done_to_messages_their_ids_stay_and_sort_by_the_time_of_making(steps: list[Any]) -> None:
    made: list[Message] = []
    known: list[list[Message]] = []  # each message with its copies
    noted: dict[int, tuple[str, str, str | None, str | None]] = {}

    def check(index: int) -> None:
        """What has been read before a message is stamped, or afterwards, is read again."""
        for each in known[index]:
            assert origin(each)[0] == noted.setdefault(index, origin(each))[0]

    for what, details in steps:
        if what == "make":
            made.append(KINDS[details]())
            known.append([made[-1]])
        elif made:
            which, how = details
            index = which % len(made)
            message = known[index][how % len(known[index])]
            if what == "read":
                READS[how % len(READS)](message)
                if how % 2:
                    check(index)
            elif what == "copy":
                twin = COPIES[how % len(COPIES)](message)
                assert origin(twin) == origin(message)
                assert twin.timestamp == message.timestamp
                assert twin.metadata == message.metadata
                known[index].append(twin)
            elif isinstance(message, Command | Event):
                chain = CHAINS[how % len(CHAINS)]
                before = origin(message) if how % 2 else None
                stamp(message, chain)
                after = origin(message)
                assert after[2] is not None
                if before is not None:
                    assert after[0] == before[0]
                    assert before[2] is None or after == before
                stamp(message, CHAINS[(how + 1) % len(CHAINS)])
                assert origin(message) == after
                check(index)

    for index in range(len(made)):
        check(index)
    # A message that fills in what its `__init__` left out counts from when it is first read.
    ids = [message.id for message in made if not isinstance(message, Plain)]
    assert ids == sorted(ids)
    assert len({message.id for message in made}) == len(made)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(
    kind=st.sampled_from([Noted, Do, Slotted]),
    text=st.text(max_size=5),
    metadata=st.dictionaries(st.text(max_size=3), values, max_size=3),
    session=st.sampled_from(["BUS", "a", ""]),
    given_id=st.none() | st.text(min_size=1, max_size=5),
    correlated=st.none() | st.just(new_id()),
    stamped=st.none() | st.sampled_from(CHAINS),
    read_first=st.booleans(),
    keys=st.randoms(use_true_random=False),
)
def test_a_message_comes_back_from_its_dictionary_in_any_order_of_keys(
    *,
    kind: type[Noted | Do | Slotted],
    text: str,
    metadata: dict[str, Any],
    session: str,
    given_id: str | None,
    correlated: str | None,
    stamped: Chain | None,
    read_first: bool,
    keys: Any,
) -> None:
    message = kind(text=text, session_id=SessionID(session), metadata=metadata)
    if given_id is not None:
        setattr(message, message._id_field, given_id)
    if read_first:
        assert message.id
    if correlated is not None:
        message.correlation_id = correlated
    if stamped is not None:
        stamp(message, stamped)
        assert message.causation_id == write(stamped[1])
        assert message.correlation_id == (correlated or write(stamped[0]))
    data = message.to_dict()
    names = list(data)
    keys.shuffle(names)
    twin = kind.from_dict({name: data[name] for name in names})

    assert twin == message
    assert origin(twin) == origin(message)
    assert twin.to_dict() == data
    assert replace(message).id == message.id


def test_ids_of_one_nanosecond_sort_by_the_order_of_making() -> None:
    ids = [write((1_700_000_000_000_000_000, next_number())) for _ in range(1000)]

    assert ids == sorted(set(ids))


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads that change at every opportunity."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", KINDS, ids=["event", "command", "slots", "own __init__", "result"])
def test_threads_that_read_a_message_at_once_for_the_first_time_agree(kind: Callable[[], Message]) -> None:
    threads, rounds = 4, 250
    messages = [kind() for _ in range(rounds)]
    together = threading.Barrier(threads)

    def read(order: int) -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []
        for message in messages:
            together.wait()
            if order % 2:
                read_id, timestamp = message.id, message.timestamp
            else:
                timestamp, read_id = message.timestamp, message.id
            message.metadata[f"by {order}"] = True
            seen.append((read_id, timestamp, message.correlation_id, id(message.metadata)))
        return seen

    with ThreadPoolExecutor(threads) as pool:
        first, *others = pool.map(read, range(threads))

    assert all(other == first for other in others)
    assert len({seen[0] for seen in first}) == rounds
    assert [set(message.metadata) for message in messages] == [{f"by {n}" for n in range(threads)}] * rounds


@pytest.mark.usefixtures("hasty")
def test_ids_made_in_many_threads_never_repeat() -> None:
    threads, each = 4, 2000
    together = threading.Barrier(threads)

    def make(_: int) -> list[str]:
        together.wait()
        return [Noted().id if n % 2 else new_id() for n in range(each)]

    with ThreadPoolExecutor(threads) as pool:
        made = list(pool.map(make, range(threads)))

    assert len({id_ for ids in made for id_ in ids}) == threads * each
    assert all(ids == sorted(ids) for ids in made)
