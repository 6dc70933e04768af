"""What a contestant does in these rows."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol


class Durable(Protocol):
    """One library, with SQLite as the rows want it: a write-ahead log, synced at each commit."""

    cannot: ClassVar[Mapping[str, str]] = {}
    """The name of each row, or figure of a row, that is left out, and why."""
    loop: ClassVar[str] = "asyncio"

    def layered(self) -> Mapping[str, Callable[[int], Awaitable[None]]]:
        """Return what executes commands one after another: inside of each layer, by its figure, and "bare"."""
        raise NotImplementedError

    async def open_schedule(self, folder: Path) -> None:
        """Begin with an empty database."""
        raise NotImplementedError

    async def store(self, count: int, tasks: int) -> None:
        """Schedule events for tomorrow, one after another in each task; by hand, as many as tasks in a transaction."""
        raise NotImplementedError

    def stored(self) -> int:
        """Return how many scheduled events are in the database."""
        raise NotImplementedError

    async def fill(self, folder: Path, count: int) -> None:
        """Make a database with events for tomorrow, and one that is due."""
        raise NotImplementedError

    async def start_filled(self) -> None:
        """Start with that database; return when what was due has been handled."""
        raise NotImplementedError

    async def start(self, log: Path | None) -> None:
        """Begin with one event handler, and if there is a folder, with a log of every event in a database there."""
        raise NotImplementedError

    async def publish(self, count: int) -> None:
        """Build an event and wait until it has been handled; `count` times, one after another."""
        raise NotImplementedError

    async def close_log(self) -> int:
        """Return how many rows there are, when the log is complete."""
        raise NotImplementedError

    async def open_letters(self, folder: Path) -> None:
        """Begin with an empty database."""
        raise NotImplementedError

    async def fail(self) -> None:
        """Execute a command that fails, and have it on disk as a dead letter."""
        raise NotImplementedError

    async def close_letters(self) -> int:
        """Return how many dead letters there are."""
        raise NotImplementedError

    async def open_outbox(self, folder: Path) -> None:
        """Begin with an empty database, in which nothing is relayed."""
        raise NotImplementedError

    def order(self, events: int) -> None:
        """Write an order in a transaction that publishes so many events."""
        raise NotImplementedError

    async def relay(self, count: int) -> None:
        """Return when so many events, committed before, have been handled, and their rows are gone."""
        raise NotImplementedError
