"""How many events may wait, what becomes of one too many, and the count of all of it.

`QueueBound` is the account: it holds no events. `BoundedEventQueue` puts a queue behind it; a bus that is given one
keeps the same account for the lanes of all its sessions together. At every moment
`total_enqueued == total_dequeued + total_dropped + current_size`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from llmgine.bus.options import check_number
from llmgine.errors import ConfigurationError, QueueFullError
from llmgine.messages import Event

__all__ = [
    "OLDEST",
    "REJECTED",
    "STOPPED",
    "BackpressureStrategy",
    "BoundedEventQueue",
    "EventDroppedEvent",
    "QueueBound",
    "QueueMetrics",
]

T = TypeVar("T")

_log = logging.getLogger("llmgine.bus")

OLDEST: Final = "oldest"
REJECTED: Final = "rejected"
STOPPED: Final = "stopped"


class BackpressureStrategy(Enum):
    """What happens to an event that is offered while as many wait as may."""

    DROP_OLDEST = "drop_oldest"
    """The oldest of those that wait gives way."""
    REJECT_NEW = "reject_new"
    """It is refused."""
    ADAPTIVE_RATE_LIMIT = "adaptive_rate_limit"
    """Its publisher waits, and before that the longer the fuller the queue is, so that nothing is lost."""


@dataclass(slots=True)
class QueueMetrics:
    """What has gone through a queue."""

    total_enqueued: int = 0
    """How many were accepted, also those that were dropped later."""
    total_dequeued: int = 0
    """How many were taken out to be handled."""
    total_dropped: int = 0
    """How many were accepted and never handled."""
    total_rejected: int = 0
    """How many were not accepted."""
    high_water_mark_hits: int = 0
    """How often backpressure began."""
    last_high_water_mark: datetime | None = None
    """When it last began; UTC."""
    current_size: int = 0
    max_size_reached: int = 0


@dataclass
class EventDroppedEvent(Event):
    """An event was lost to backpressure. Shown to observers only; handlers and filters never see it."""

    event: Event | None = None
    reason: str = ""
    """It gave way to a newer one ("oldest"), was not accepted ("rejected"), or the bus stopped first ("stopped")."""


class QueueBound:
    """The account of a queue: how many wait, how many may, and what has gone through.

    Backpressure begins when `int(maxsize * high_water_mark)` wait and ends when no more than
    `int(maxsize * low_water_mark)` do.
    """

    def __init__(
        self,
        *,
        maxsize: int,
        high_water_mark: float,
        low_water_mark: float,
        strategy: BackpressureStrategy,
        on_high_water: Callable[[], object] | None,
        on_low_water: Callable[[], object] | None,
    ) -> None:
        """Take what `BoundedEventQueue` takes."""
        check_number("maxsize", maxsize, int, "how many events may wait, at least 1", least=1)
        check_number("high_water_mark", high_water_mark, int | float, "a share of maxsize, above 0 and at most 1")
        check_number("low_water_mark", low_water_mark, int | float, "a share of maxsize, above 0 and below 1")
        if not 0 < low_water_mark < high_water_mark <= 1:
            msg = (
                "Backpressure begins above where it ends: 0 < low_water_mark < high_water_mark <= 1. "
                f"Got low_water_mark={low_water_mark!r}, high_water_mark={high_water_mark!r}."
            )
            raise ConfigurationError(msg)
        given: Any = strategy
        if not isinstance(given, BackpressureStrategy):
            msg = f"strategy is a BackpressureStrategy, such as BackpressureStrategy.REJECT_NEW; got {strategy!r}."
            raise ConfigurationError(msg)
        callbacks: dict[str, Any] = {"on_high_water": on_high_water, "on_low_water": on_low_water}
        for name, given in callbacks.items():
            if not (given is None or callable(given)):
                msg = f"{name} is a function without arguments, or None; got {given!r}."
                raise ConfigurationError(msg)
        self.maxsize = maxsize
        self.high = int(maxsize * high_water_mark)
        """How many wait when backpressure begins."""
        self.low = int(maxsize * low_water_mark)
        """How many wait at most when it ends."""
        self.strategy = strategy
        self.metrics = QueueMetrics()
        self.is_backpressure_active = False
        self.on_lost: Callable[[Any, str], None] | None = None
        """Told of every item that is dropped or rejected, and why."""
        self._on_high_water = on_high_water
        self._on_low_water = on_low_water

    @property
    def size(self) -> int:
        """How many wait."""
        return self.metrics.current_size

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        return self.metrics.current_size >= self.maxsize

    def figures(self) -> dict[str, int | bool]:
        """Return the figures by name, and whether backpressure is active."""
        metrics = self.metrics
        return {
            "current_size": metrics.current_size,
            "total_enqueued": metrics.total_enqueued,
            "total_dequeued": metrics.total_dequeued,
            "total_dropped": metrics.total_dropped,
            "total_rejected": metrics.total_rejected,
            "high_water_mark_hits": metrics.high_water_mark_hits,
            "max_size_reached": metrics.max_size_reached,
            "backpressure_active": self.is_backpressure_active,
        }

    def make_room(self, item: object, evict: Callable[[], object]) -> None:
        """Apply the strategy before one more is queued. Under ADAPTIVE_RATE_LIMIT, who publishes has waited before.

        Args:
            item: what is to be queued.
            evict: takes the oldest item out of the queue and returns it.

        Raises:
            QueueFullError: the queue is full and its strategy is REJECT_NEW.
        """
        if self.metrics.current_size < self.maxsize:
            return
        if self.strategy is BackpressureStrategy.REJECT_NEW:
            raise self.rejected(item)
        if self.strategy is BackpressureStrategy.DROP_OLDEST:
            self.dropped(evict(), OLDEST)

    def enqueued(self) -> None:
        """Count an item that has been queued."""
        metrics = self.metrics
        metrics.total_enqueued += 1
        metrics.current_size = size = metrics.current_size + 1
        metrics.max_size_reached = max(metrics.max_size_reached, size)
        if size >= self.high and not self.is_backpressure_active:
            self.is_backpressure_active = True
            metrics.high_water_mark_hits += 1
            metrics.last_high_water_mark = datetime.now(UTC)
            _tell(self._on_high_water)

    def dequeued(self) -> None:
        """Count an item that has been taken out to be handled."""
        self.metrics.total_dequeued += 1
        self._shrink()

    def passed(self) -> None:
        """Count an item that is handled at once, without having waited."""
        self.metrics.total_enqueued += 1
        self.metrics.total_dequeued += 1

    def dropped(self, item: object, reason: str) -> None:
        """Count an item that has been taken out and will not be handled."""
        self.metrics.total_dropped += 1
        if reason == OLDEST:
            self.metrics.current_size -= 1  # and its place is taken at once
        else:
            self._shrink()
        self._lost(item, reason)

    def rejected(self, item: object) -> QueueFullError:
        """Count an item that is not accepted. Return the error to tell so."""
        self.metrics.total_rejected += 1
        self._lost(item, REJECTED)
        msg = (
            f"{type(item).__name__} was not accepted: {self.metrics.current_size} events wait already, and "
            f"{self.maxsize} may. Publish it again later, or let more wait (maxsize)."
        )
        return QueueFullError(msg, maxsize=self.maxsize)

    def withdrawn(self) -> None:
        """Take back an item that waits, because it is about to be offered again."""
        self.metrics.total_enqueued -= 1
        self._shrink()

    def forget(self) -> None:
        """Take back all that waits: it belongs to another process."""
        self.metrics.total_enqueued -= self.metrics.current_size
        self.metrics.current_size = 0
        self.is_backpressure_active = False

    def _shrink(self) -> None:
        self.metrics.current_size = size = self.metrics.current_size - 1
        if size <= self.low and self.is_backpressure_active:
            self.is_backpressure_active = False
            _tell(self._on_low_water)

    def _lost(self, item: object, reason: str) -> None:
        if self.on_lost is not None:
            self.on_lost(item, reason)


def _tell(callback: Callable[[], object] | None) -> None:
    if callback is None:
        return
    try:
        callback()
    except Exception:  # noqa: BLE001  # whoever wants to know of a mark must not disturb the queue
        _log.exception("What was to be told of the queue's marks failed")


class BoundedEventQueue(Generic[T]):
    """A queue that holds so many items and no more, and never makes whoever puts something in wait.

    `MessageBus(event_queue=BoundedEventQueue(…))` bounds how many events may wait, those of all sessions together. From
    then on the queue tells about the bus, and nothing can be put in or taken out by hand.
    """

    def __init__(  # noqa: PLR0917  # published
        self,
        maxsize: int = 10000,
        high_water_mark: float = 0.8,
        low_water_mark: float = 0.5,
        strategy: BackpressureStrategy = BackpressureStrategy.DROP_OLDEST,
        on_high_water: Callable[[], object] | None = None,
        on_low_water: Callable[[], object] | None = None,
    ) -> None:
        """Make an empty queue.

        Args:
            maxsize: how many may wait.
            high_water_mark: the share of `maxsize` at which backpressure begins.
            low_water_mark: the share of `maxsize` at which it ends.
            strategy: what happens when one more is offered.
            on_high_water: called when backpressure begins. What it raises is logged.
            on_low_water: called when it ends. What it raises is logged.

        Raises:
            ConfigurationError: not `0 < low_water_mark < high_water_mark <= 1`, or another argument makes no sense.
        """
        self._bound = QueueBound(
            maxsize=maxsize,
            high_water_mark=high_water_mark,
            low_water_mark=low_water_mark,
            strategy=strategy,
            on_high_water=on_high_water,
            on_low_water=on_low_water,
        )
        self._items: asyncio.Queue[T] | None = asyncio.Queue()  # None once a bus keeps the events

    @property
    def maxsize(self) -> int:
        """How many may wait."""
        return self._bound.maxsize

    @property
    def strategy(self) -> BackpressureStrategy:
        """What happens when one more is offered."""
        return self._bound.strategy

    @property
    def metrics(self) -> QueueMetrics:
        """What has gone through; it goes on counting."""
        return self._bound.metrics

    @property
    def is_backpressure_active(self) -> bool:
        """Whether the high water mark was reached, and the low one not since."""
        return self._bound.is_backpressure_active

    async def put(self, item: T) -> bool:
        """Add an item at the end, without waiting. Return whether it was accepted.

        A full queue drops its oldest item for it under DROP_OLDEST, and otherwise does not accept it.
        """
        items, bound = self._own(), self._bound
        if bound.full and bound.strategy is not BackpressureStrategy.DROP_OLDEST:
            bound.rejected(item)
            return False
        bound.make_room(item, lambda: self._evict(items))
        items.put_nowait(item)
        bound.enqueued()
        return True

    async def get(self) -> T:
        """Take the first item; wait for one if the queue is empty."""
        item = await self._own().get()
        self._bound.dequeued()
        return item

    def get_nowait(self) -> T:
        """Take the first item.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        item = self._own().get_nowait()
        self._bound.dequeued()
        return item

    def qsize(self) -> int:
        """Return how many wait."""
        return self._bound.size

    def empty(self) -> bool:
        """Return whether none waits."""
        return self._bound.size == 0

    def full(self) -> bool:
        """Return whether as many wait as may."""
        return self._bound.full

    def task_done(self) -> None:
        """Say that an item that was taken has been dealt with.

        Raises:
            ValueError: more often than items were taken.
        """
        self._own().task_done()

    async def join(self) -> None:
        """Wait until every item has been dropped, or taken and dealt with."""
        await self._own().join()

    def hand_over(self) -> QueueBound:
        """Return the account, for a bus that keeps the events in place of this queue.

        Raises:
            ConfigurationError: a bus has it already, or something waits here.
        """
        if self._items is None:
            msg = "This queue bounds another bus already. Make a BoundedEventQueue for each bus."
            raise ConfigurationError(msg)
        if not self.empty():
            msg = f"{self.qsize()} items wait in this queue; give the bus an empty one."
            raise ConfigurationError(msg)
        self._items = None
        return self._bound

    def _own(self) -> asyncio.Queue[T]:
        if self._items is None:
            msg = "This queue bounds a bus, which alone puts events in and takes them out: use bus.publish."
            raise ConfigurationError(msg)
        return self._items

    def _evict(self, items: asyncio.Queue[T]) -> T:
        item = items.get_nowait()
        items.task_done()
        return item
