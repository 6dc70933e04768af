"""What has to be true of what processes have written down, whatever has become of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from .journal import Record


@dataclass
class Tally:
    """What has happened."""

    kept: int = 0
    handled: int = 0
    twice: int = 0
    """How many deliveries were not the first of their event."""
    beats: int = 0
    letters: int = 0
    steps: Counter[str] = field(default_factory=Counter[str])
    """How many processes have died at which step."""


def check(records: Iterable[Record], killed: Collection[int], *, lease: float) -> Tally:
    """Check the laws of a shop that was drained in the end, and some of whose children were killed."""
    by_kind: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_kind[record["what"]].append(record)
    (left,) = by_kind["left"]
    _check_events(by_kind, {*left["far"]}, killed)
    _check_leases(by_kind, int(lease * 1_000_000))
    _check_letters(by_kind, left["letters"])
    assert left["repeated"] == 1
    beats = _once_unless_killed(((record["due"], record) for record in by_kind["beat"]), killed)
    assert len({due % 500_000 for due in beats}) == 1, "a repeated event has left its grid"
    assert {record["child"] for record in by_kind["beat"]} >= {left["child"]}, "what repeats has come to an end"
    return Tally(
        kept=len(by_kind["kept"]),
        handled=len(by_kind["handled"]),
        twice=len(by_kind["handled"]) - len({record["id"] for record in by_kind["handled"]}),
        beats=len(beats),
        letters=len(left["letters"]),
        steps=Counter(": ".join(record["step"]) for record in by_kind["killed"]),
    )


def _check_events(by_kind: dict[str, list[Record]], left: set[str], killed: Collection[int]) -> None:
    offered = {record["id"]: record["due"] for record in by_kind["offered"]}
    near = {record["id"] for record in by_kind["kept"] if not record["far"]}
    far = {record["id"] for record in by_kind["kept"] if record["far"]}
    cancelling = {record["id"] for record in by_kind["cancelling"]}
    cancelled = {record["id"] for record in by_kind["cancelled"]}
    assert all(record["count"] == 1 for record in by_kind["cancelled"])

    handled = _once_unless_killed(((record["id"], record) for record in by_kind["handled"]), killed)
    assert not (near - handled.keys()), "a scheduled event was lost"
    assert not (far - cancelling - left), "an event that was not due was lost"
    assert not cancelled & left, "a cancelled event was kept"
    assert not handled.keys() & (far | cancelled), "an event that was not due was handled"
    assert handled.keys() | left <= offered.keys(), "an event came from nowhere"
    for record in by_kind["handled"]:
        assert record["intact"], "an event was not what it had been"
        assert record["due"] == offered[record["id"]]
        assert record["time"] >= record["due"], "an event was early"
    for record in by_kind["settled"]:
        for event in record["ids"]:
            last = handled[event][-1]
            assert last["child"] == record["child"], "an event was handled once more although it was settled"


def _check_leases(by_kind: dict[str, list[Record]], lease: int) -> None:
    given_back = {event for record in by_kind["releasing"] for event in record["ids"]}
    claimed: dict[str, list[int]] = defaultdict(list)
    for record in by_kind["claimed"]:
        for event in record["ids"]:
            claimed[event].append(record["now"])
    for event in claimed.keys() - given_back:
        times = sorted(claimed[event])
        assert all(later - earlier >= lease for earlier, later in pairwise(times)), "a lease was not respected"


def _check_letters(by_kind: dict[str, list[Record]], left: dict[str, bool]) -> None:
    failed = {record["id"] for record in by_kind["failed"]}
    trying = {record["id"] for record in by_kind["trying"]}
    assert all(record["written"] for record in by_kind["failed"])
    assert failed - trying <= left.keys(), "a dead letter was lost"
    assert not left.keys() & {record["id"] for record in by_kind["succeeded"]}, "a dead letter came back"
    assert all(left.values()), "a dead letter was not what it had been"


def _once_unless_killed(deliveries: Iterable[tuple[str, Record]], killed: Collection[int]) -> dict[str, list[Record]]:
    """Return deliveries by event. No process handles one twice, and only what a killed one had may be another's."""
    by_event: dict[str, list[Record]] = defaultdict(list)
    for event, record in deliveries:
        by_event[event].append(record)
    for records in by_event.values():
        children = [record["child"] for record in records]
        assert len({*children}) == len(children), "a process has handled an event twice"
        assert all(child in killed for child in children[:-1]), "an event was handled twice, and nobody was killed"
    return by_event
