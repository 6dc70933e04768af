"""What a contestant does. Each row asks for some of it; an adapter names what its library cannot do, and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol


def left_out(why: str, *rows: str) -> dict[str, str]:
    return dict.fromkeys(rows, why)


class Contestant(Protocol):
    """One library, set up with handlers that count."""

    module: ClassVar[str]
    """What a user imports."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """The name of each row, or figure of a row, that is left out, and why."""

    loop: ClassVar[str] = "asyncio"
    """Whose event loop it runs on."""

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        """Register one command handler, which lets other tasks run once if `suspend`, and `handlers` event handlers."""
        raise NotImplementedError

    async def start_with_log(self, path: Path) -> None:
        """Start with one event handler, and keep a log of every event: a line of JSON in the file."""
        raise NotImplementedError

    async def close_log(self) -> None:
        """Return when the log is complete."""
        raise NotImplementedError

    async def execute(self, count: int) -> None:
        """Build a command, have it handled and take the result; `count` times, one after another."""
        raise NotImplementedError

    def commands(self, count: int) -> list[Any]:
        """Build commands for `execute_built`."""
        raise NotImplementedError

    async def execute_built(self, commands: list[Any]) -> None:
        """Have each command handled and take its result."""
        raise NotImplementedError

    async def publish(self, count: int) -> None:
        """Build an event and wait until its handlers have finished; `count` times, one after another."""
        raise NotImplementedError

    async def queue(self, count: int) -> None:
        """Build `count` events and hand each over without waiting for its handlers."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until every queued event has been handled."""
        raise NotImplementedError

    async def register_sessions(self, sessions: Sequence[str]) -> None:
        """Give each session an event handler of its own."""
        raise NotImplementedError

    async def publish_in(self, sessions: Sequence[str], count: int) -> None:
        """Publish `count` events to the sessions' own handlers, to each session in turn, and wait for each event."""
        raise NotImplementedError

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        """Remove the sessions with their handlers."""
        raise NotImplementedError
