"""The ports behind which messages outlive the process: scheduled events, dead letters and the log of events.

What is here has two implementations: in memory, for a bus without a database, and in one
(`llmgine.database`). Dates are aware and UTC.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, Protocol

from llmgine.messages import Command, Event, SessionID
from llmgine.messages.ids import BUS

__all__ = [
    "Added",
    "Claim",
    "DeadLetterEntry",
    "DeadLetterStore",
    "EventLog",
    "Held",
    "Misfire",
    "Recurrence",
    "ScheduleStore",
    "Stores",
]


class Misfire(Enum):
    """What becomes of the occurrences of a repeated event that came due while nothing ran."""

    ONCE = "once"
    """They are made up for by one, at once."""
    ALL = "all"
    """Each is made up for, at once and in order."""
    SKIP = "skip"
    """They are left out."""


class Recurrence(Protocol):
    """When a repeated event comes due."""

    @property
    def spec(self) -> str:
        """The recurrence as text, such as "every 30 s" or "cron 0 9 * * mon-fri Europe/Berlin"."""
        ...

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time after `moment`; None if there is none any more."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """An event that waits for its time."""

    id: str
    """What `cancel` takes: the event's id."""
    event: Event | None
    """None where what is stored cannot be read; then `error` says why."""
    due: datetime
    """When it is delivered next."""
    recurrence: Recurrence | None = None
    misfire: Misfire = Misfire.ONCE
    error: str | None = None
    event_type: str = ""
    """The name of its class, also where that is not there."""
    session_id: SessionID = BUS

    @classmethod
    def of(
        cls, event: Event, due: datetime, recurrence: Recurrence | None = None, misfire: Misfire = Misfire.ONCE
    ) -> Held:
        """Return an event that waits, with what is known of it."""
        kind = type(event).__name__
        return cls(event.event_id, event, due, recurrence, misfire, event_type=kind, session_id=event.session_id or BUS)


@dataclass(frozen=True, slots=True)
class Claim:
    """A due event that this process, and no other, delivers until the lease ends."""

    held: Held
    """With an event; `held.due` is the occurrence that has come due."""
    token: int = 0
    """The fencing token: what a later claim of the same row raises, so that whoever lost the lease changes nothing."""


class ScheduleStore(Protocol):
    """Keeps scheduled events. What cannot be reached raises `StoreError`; nothing is half done then."""

    @property
    def lease(self) -> float:
        """For how many seconds a claim holds, unless it is renewed."""
        ...

    async def add(self, held: Sequence[Held]) -> None:
        """Keep events, all or none; they are on disk when this returns. One with the id of another takes its place."""
        ...

    async def claim(self, now: datetime, limit: int) -> list[Claim]:
        """Lease up to `limit` events that are due at `now`, the earliest first.

        What cannot be decoded is kept, with its error, and out of the way of the others for a while; it is logged once.
        """
        ...

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Begin the leases of claims anew, save those that others have taken over."""
        ...

    async def settle(self, claims: Sequence[Claim], now: datetime) -> None:
        """Forget events that have been delivered; hold those that repeat until they are due after `now`.

        With `Misfire.ALL` the next occurrence may be before `now`. Claims that others have taken over are left alone.
        """
        ...

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims back undelivered, so that they are due at once for whoever comes."""
        ...

    async def next_time(self) -> datetime | None:
        """Return when `claim` next finds something: when an event is due or a lease ends; None if nothing is kept."""
        ...

    async def cancel(self, ids: Sequence[str]) -> int:
        """Forget events. Return how many.

        One that is being delivered is forgotten, and counted, only if it repeats: it does not come again.
        """
        ...

    async def list(self, *, session_id: SessionID | None = None, limit: int | None = None) -> list[Held]:
        """Return events by the time they are due, also those that cannot be decoded."""
        ...

    async def count(self) -> int:
        """Return how many events are kept."""
        ...


@dataclass(slots=True)
class DeadLetterEntry:
    """A command that failed in all its attempts."""

    command: Command[Any] | None
    """None where what is stored cannot be read; then `metadata["unreadable"]` says why."""
    error: str
    """What the last attempt said."""
    attempts: int
    first_attempt: datetime
    last_attempt: datetime
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON: "command_id", "command_type" (the name of its class), "session_id", and where there was an exception
    "exception_type" and "traceback"."""


class Added(NamedTuple):
    """What came of adding a dead letter."""

    is_new: bool
    """Whether there was none with this command id."""
    gone: list[str]
    """The ids of those that gave way."""


class DeadLetterStore(Protocol):
    """Keeps commands that have failed for good, by their ids. What cannot be reached raises `StoreError`."""

    async def add(self, entry: DeadLetterEntry, limit: int | None = None) -> Added:
        """Keep an entry, in the place of one with the same command id; it is on disk when this returns.

        Args:
            entry: with a command.
            limit: how many may be kept; the oldest give way.
        """
        ...

    async def list(
        self, limit: int | None = None, *, command_type: str | None = None, since: int = 0
    ) -> list[DeadLetterEntry]:
        """Return entries, the oldest first: of a class by its name, and only those added after position `since`."""
        ...

    async def get(self, command_id: str) -> DeadLetterEntry | None:
        """Return one entry; None if there is no such."""
        ...

    async def remove(self, command_ids: Iterable[str]) -> int:
        """Forget entries. Return how many there were."""
        ...

    async def lease(self, command_id: str) -> bool:
        """Take an entry to retry it. Return False while another process does, or if there is no such entry."""
        ...

    async def unlease(self, command_id: str) -> None:
        """Give an entry back."""
        ...

    async def count(self, *, since: int = 0) -> int:
        """Return how many are kept of those that were added after position `since`."""
        ...

    async def position(self) -> int:
        """Return the position of the entry that was added last; 0 if there was none."""
        ...


class EventLog(Protocol):
    """Keeps every published event, in the order of publishing. Written in batches, in the background."""

    def append(self, event: Event) -> None:
        """Take an event in, to be written soon. Never blocks, never raises."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether publishers are to be slowed down, because too much has not been written yet."""
        ...

    async def wait_for_room(self) -> None:
        """Wait until something has been written; no longer than a moment while the database is away."""
        ...

    async def flush(self) -> None:
        """Wait until everything has been written, or the database is away."""
        ...


class Stores(Protocol):
    """The three together, in one place."""

    @property
    def schedule(self) -> ScheduleStore:
        """Scheduled events."""
        ...

    @property
    def dead_letters(self) -> DeadLetterStore:
        """Commands that failed for good."""
        ...

    @property
    def event_log(self) -> EventLog | None:
        """The log of events; None where it is off."""
        ...

    def read_events(
        self,
        session_id: SessionID | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        types: Sequence[str] = (),
    ) -> AsyncIterator[Event]:
        """Yield events as they were published: of a session, from `since` to before `until`, of classes by their names.

        What cannot be decoded is left out, and logged.
        """
        ...

    async def holds_schedule(self) -> bool:
        """Return whether anything is scheduled, without making a database that is not there.

        Raises:
            StoreError: that cannot be told.
        """
        ...

    def stats(self) -> dict[str, Any]:
        """Return how the stores are doing: {"url", "available", "outages", "unwritten"}; no password in the url."""
        ...

    async def aclose(self) -> None:
        """Write what is to be written, and close what is open."""
        ...
