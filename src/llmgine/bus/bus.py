"""The message bus: commands to their one handler, events to all of theirs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from inspect import signature
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from weakref import WeakSet

from llmgine.bus.delivery import Delivery
from llmgine.bus.durability import Durability
from llmgine.bus.excepthook import bus_exception_hook
from llmgine.bus.failures import Failures
from llmgine.bus.gate import Gate
from llmgine.bus.handler_task import Handlers
from llmgine.bus.interfaces import EventFilter, Observer, SupportsObserveEvent
from llmgine.bus.lanes import Lanes
from llmgine.bus.metrics import APPLICATION, MetricsCollector
from llmgine.bus.options import check_number
from llmgine.bus.pending import PendingEvents
from llmgine.bus.registry import HandlerRegistry
from llmgine.bus.session import BusSession
from llmgine.errors import (
    BusNotRunningError,
    ConfigurationError,
)
from llmgine.messages import Command, Event

if TYPE_CHECKING:
    from llmgine.bus.backpressure import BoundedEventQueue
    from llmgine.bus.resilience.policy import Policy
    from llmgine.bus.stores import Stores

__all__ = ["MessageBus", "StopReport", "bus_exception_hook"]

R = TypeVar("R")

_log = logging.getLogger("llmgine.bus")
_CANCEL_GRACE = 1.0
"""Seconds that handlers get to clean up when they are cancelled at the end of `stop`."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """What became of the events that were accepted when the bus was asked to stop, and from then on."""

    delivered: int = 0
    persisted: int = 0
    """Kept for the next start."""
    abandoned: int = 0
    """Cancelled in the middle, or never begun, because the deadline passed."""


class _Made:
    """What a bus was made with."""

    __slots__ = ("forgotten", "options", "spelt_out")

    def __init__(self, options: dict[str, Any], spelt_out: dict[str, Any]) -> None:
        self.options = options
        """As they were given."""
        self.spelt_out = spelt_out
        """All of them, those of a subclass in terms of `MessageBus`."""
        self.forgotten = False
        """Whether the bus has been reset, and may be given other options."""


class MessageBus(Durability):
    """Executes commands and delivers events, on one event loop.

    `MessageBus()` is the application's bus: the first call makes it, later calls return it. `MessageBus.isolated()`
    makes an independent one. What it promises is written in `docs/guarantees.md`.
    """

    _application: ClassVar[MessageBus | None] = None
    _making: ClassVar[Lock] = Lock()
    _made: _Made | None = None

    # The options are for `__init__`, which runs on the application's bus again and again.
    def __new__(cls, *_: Any, **__: Any) -> Self:  # noqa: D102
        with MessageBus._making:
            bus = MessageBus._application
            if bus is None or not (isinstance(bus, cls) or bus._in_use):
                bus = MessageBus._application = super().__new__(cls)
            elif not isinstance(bus, cls):
                msg = (
                    f"The application's bus is in use already, and it is no {cls.__name__}. Make the "
                    f"{cls.__name__} before anything calls {type(bus).__name__}() and registers or publishes."
                )
                raise ConfigurationError(msg)
            return bus

    def __init__(  # pyright: ignore[reportInconsistentConstructor]
        self,
        registry: HandlerRegistry | None = None,
        event_queue: BoundedEventQueue[Any] | None = None,
        observability: SupportsObserveEvent | None = None,
        *,
        batch_size: int = 10,
        batch_timeout: float = 0.01,
        log_dir: str | os.PathLike[str] | None = None,
        log_filename: str | None = None,
        enable_console_metrics: bool | None = None,
        enable_console_traces: bool | None = None,
        policy: Policy | None = None,
        policies: Mapping[type[Command[Any]], Policy] | None = None,
        max_dead_letters: int = 1000,
        database: str | Stores | None = None,
    ) -> None:
        """Configure the bus, or, when it exists already, check that the options do not contradict it.

        Args:
            registry: holds the handlers; by default a new one.
            event_queue: how many events may wait, those of all sessions together, and what becomes of one too many; by
                default there is no bound.
            observability: sees every event, as `add_observer(observability.observe_event)` would have it.
            batch_size: how many queued events of a session are delivered before other tasks get their turn.
            batch_timeout: kept for applications that set it, in seconds; nothing waits for a batch to fill.
            log_dir: write every event as a line of JSON to a file in this folder, and trace commands.
            log_filename: the file's name; by default a new one, `events_<UTC time>.jsonl`.
            enable_console_metrics: write every metric to standard error; by default if there is a log.
            enable_console_traces: trace commands, and write every span to standard error; by default if there is a log.
            policy: what is done about commands that fail, take long, or are too many.
            policies: the same for commands of a class and its subclasses, instead of `policy`; the nearest class
                decides.
            max_dead_letters: how many commands that failed for good are kept; the oldest give way.
            database: where scheduled events and dead letters are kept, such as "sqlite:///./message_bus.db". By default
                the application's bus has the one that the environment names, and others keep them in memory.

        Raises:
            ConfigurationError: the bus exists and was made with other options, or an option makes no sense.
        """
        self._take({name: value for name, value in locals().items() if name not in {"self", "__class__"}})

    @classmethod
    def isolated(cls, **options: Any) -> Self:
        """Return a bus of its own, for a test or for one of several applications in a process."""
        bus = super().__new__(cls)
        bus.__init__(**options)  # type: ignore[misc]  # __new__ would return the application's
        return bus

    def _take(
        self, options: dict[str, Any], spell_out: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    ) -> None:
        """Take the options of a constructor, the first time and after a reset; otherwise see that they agree.

        Args:
            options: as they were given.
            spell_out: puts them in terms of this class's.
        """
        defaults = _defaults(MessageBus)
        known = defaults | _defaults(type(self)) if spell_out is not None else defaults
        if unknown := sorted(options.keys() - known.keys()):
            msg = f"{type(self).__name__}() got an unexpected keyword argument {unknown[0]!r}"
            raise TypeError(msg)
        given = {name: value for name, value in options.items() if value is not None and value != known[name]}
        with MessageBus._making:
            if self._made is not None and not (self._made.forgotten and given and not self._in_use):
                self._refuse_contradictions(given)
                return
            try:
                spelt_out = defaults | (spell_out(options) if spell_out is not None else options)
                self._configure(spelt_out)
            except BaseException:
                if MessageBus._application is self:
                    MessageBus._application = None
                raise
            self._made = _Made(known | options, spelt_out)

    @property
    def _is_application(self) -> bool:
        """Whether it is the application's bus."""
        return MessageBus._application is self

    @property
    def _in_use(self) -> bool:
        """Whether somebody relies on this bus."""
        if self._made is None:
            return False
        has_something = self._buffer or self._registry.count or self._command_middleware or self._event_middleware
        return self._lanes is not None or bool(has_something)

    def _configure(self, options: dict[str, Any]) -> None:
        self._check_queue(options["event_queue"])
        if not isinstance(options["registry"], HandlerRegistry | None):
            msg = f"registry is a HandlerRegistry; got {options['registry']!r}."
            raise ConfigurationError(msg)
        check_number("max_dead_letters", options["max_dead_letters"], int, "how many to keep, at least 1", least=1)
        self._metrics = APPLICATION if self._is_application else MetricsCollector()
        self._gate = Gate()
        self._observability: Observer | None = None
        self._tracing = False
        self._active_sessions = 0
        self._session_traces = {}
        self._set_up(options)
        if options["observability"] is not None:
            self.set_observability_manager(options["observability"])
        shown = {name: options[name] for name in ("log_dir", "log_filename")}
        shown |= {name: options[name] for name in ("enable_console_metrics", "enable_console_traces")}
        if any(value is not None and value is not False for value in shown.values()):
            from llmgine.observability.setup import from_options  # above this layer: loaded for those who ask for it

            self.add_observer(from_options(**shown).observe_event)
            logs = shown["log_dir"] is not None or shown["log_filename"] is not None
            self._tracing = logs or bool(shown["enable_console_traces"])
        self._take_bound(options["event_queue"])
        _every_bus.add(self)

    def _check_queue(self, queue: Any) -> None:
        if queue is not None:
            from llmgine.bus.backpressure import BoundedEventQueue  # which a bus without a bound does not need

            if not isinstance(queue, BoundedEventQueue):
                msg = (
                    "A bus takes no queue from outside but a BoundedEventQueue, which says how many events may wait; "
                    f"got {queue!r}. Leave event_queue out for a bus without a bound."
                )
                raise ConfigurationError(msg)

    def _take_bound(self, queue: BoundedEventQueue[Any] | None) -> None:
        if queue is None:
            with suppress(AttributeError):  # where there is none, there is no attribute: see `Kept`
                del self._bound
            return
        bound = queue._bound
        if bound is not self._bound:  # or else the bus was reset, and has it already
            self._bound = queue.hand_over()
        bound.on_lost = self._note_lost
        self._metrics.register_counter("events_dropped_total", "Events that backpressure dropped or rejected")

    def _set_up(self, options: dict[str, Any]) -> None:
        self.set_batch_processing(options["batch_size"], options["batch_timeout"])
        self._set_up_durability(options)
        self._forget_handlers(options["registry"])
        self._gate.clear_filters()
        self._thread = 0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._buffer: list[Event] | None = []  # None once the bus has been stopped
        self._failures = Failures()
        self._pending = PendingEvents()
        metrics = self._metrics
        self._published = metrics.counters["events_published_total"]
        self._handlers_failed = metrics.counters["events_failed_total"]
        self._sent = metrics.counters["commands_sent_total"]
        self._succeeded = metrics.counters["commands_processed_total"]
        self._failed = metrics.counters["commands_failed_total"]
        self._durations = metrics.histograms["command_processing_duration_seconds"]
        metrics.gauges["queue_size"].set_function(self._queue_size)
        metrics.gauges["backpressure_active"].set_function(
            lambda: int(self._bound is not None and self._bound.is_backpressure_active)
        )
        metrics.gauges["active_sessions"].set_function(lambda: self._active_sessions)
        metrics.gauges["registered_handlers"].set_function(lambda: self._registry.count)
        metrics.gauges["circuit_breaker_state"].set_function(self._breaker_figure)
        metrics.gauges["dead_letter_queue_size"].set_function(
            lambda: 0 if self._kept.letters is None else self._kept.letters.size
        )

    # Life

    async def start(self) -> None:
        """Begin to deliver, first what was published before. Does nothing on a bus that runs.

        Raises:
            BusNotRunningError: the bus runs on another event loop.
        """
        with MessageBus._making:  # two threads may start it at once, each on a loop of its own
            waiting = self._start_here(asyncio.get_running_loop())
        if waiting is None:
            return
        self._begin_log()
        for event in waiting:
            if self._bound is not None:
                self._bound.withdrawn()
            self._offer(event)
        await self._begin_schedule()

    def _start_here(self, loop: asyncio.AbstractEventLoop) -> list[Event] | None:
        """Begin on a loop. Return what was published before; None if it runs there already."""
        waiting = self._buffer or []
        if self._lanes is not None:
            if self._loop is loop:
                return None
            if self._loop is not None and not self._loop.is_closed():
                msg = "The bus runs on another event loop. Stop it there, or make another with MessageBus.isolated()."
                raise BusNotRunningError(msg)
            waiting = self._lanes.leave()
        self._loop, self._thread, self._buffer = loop, get_ident(), []
        delivery = Delivery(Handlers(loop, self._metrics, self._pending, self._handler_ended))
        if self._bound is None:
            self._lanes = Lanes(loop, self._registry, delivery)
        else:
            from llmgine.bus.bounded_lanes import BoundedLanes

            self._lanes = BoundedLanes(loop, self._registry, delivery, self._bound)
        self._lanes.batch_size = self._batch_size
        return waiting

    async def stop(self, timeout: float | None = 30.0) -> StopReport:
        """Deliver what was accepted, and end. Does nothing on a bus that does not run.

        Args:
            timeout: seconds after which what is still under way is cancelled; None waits without end.

        Raises:
            DeadlockError: called by an event handler, which `stop` would wait for.
        """
        lanes = self._lanes
        if lanes is None:
            await self._close_stores()
            return StopReport()
        if self._loop is not asyncio.get_running_loop():
            self._lanes, self._buffer = None, None
            persisted, lost = await self._end_durability()
            return StopReport(persisted=persisted, abandoned=lanes.disown() + lost)
        finished = lanes.finished
        self._stopping = True
        if lanes.room is not None:
            lanes.room.refuse()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await lanes.idle()
            delivered = lanes.finished - finished
            self._lanes, self._buffer = None, None  # nothing is accepted any more
            self._pause_schedule()
            abandoned = await lanes.abandon(_CANCEL_GRACE)
            persisted, lost = await self._end_durability()
            abandoned += lost
        finally:
            self._stopping = False
        if abandoned:
            _log.warning("The bus stopped with %d events not handled to their end", abandoned)
        if self._pending:
            left = sum(len(events) for events in self._pending.values())
            self._pending.clear()
            _log.warning("The bus stopped with %d pending events whose handlers had not succeeded by then", left)
        return StopReport(delivered=delivered, persisted=persisted, abandoned=abandoned)

    async def reset(self) -> None:
        """Stop, and forget handlers, middleware, filters, buffered events and errors. It can be started again.

        What is in a database stays there: scheduled events for the next start, dead letters for the command line and
        for other buses.
        """
        await self._forget_letters()
        await self.stop()
        if self._bound is not None:
            for event in self._buffer or ():
                self._bound.dropped(event, "stopped")
        if self._made is not None:
            self._set_up({**self._made.spelt_out, "registry": None})
            self._made.forgotten = True

    @property
    def metrics(self) -> MetricsCollector:
        """The figures of this bus. Those of the application's bus are also `get_metrics_collector()`."""
        return self._metrics.ask()

    @property
    def unfinished(self) -> int:
        """How many events wait, or are being handled."""
        return self._lanes.unfinished if self._lanes is not None else len(self._buffer or ())

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the bus runs on; None while it does not run, and when that loop has been closed."""
        loop = self._loop
        return loop if self._lanes is not None and loop is not None and not loop.is_closed() else None

    # Who looks on, who passes

    def add_event_filter(self, event_filter: EventFilter) -> None:
        """Ask `event_filter` about every event; the first that says no turns it away.

        Raises:
            ConfigurationError: it is no filter.
        """
        from llmgine.bus.filters import check_filter  # which a bus without filters does not need

        check_filter(event_filter)
        self._gate.add_filter(event_filter)

    def add_observer(self, observer: Observer) -> None:
        """Show every event to `observer`, once, when it is published.

        Raises:
            ConfigurationError: it cannot be called.
        """
        given: Any = observer
        if not callable(given):
            msg = f"An observer is a function that takes an event; got {observer!r}."
            raise ConfigurationError(msg)
        self._gate.add_observer(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Show `observer` nothing more.

        Raises:
            ValueError: it was not added.
        """
        self._gate.remove_observer(observer)

    def set_tracing(self, enabled: bool) -> bool:  # noqa: FBT001  # like the other switches
        """Give every command a span, or only while a handler is registered for spans. Return what it was before."""
        before, self._tracing = self._tracing, enabled
        return before

    def set_observability_manager(self, observability: SupportsObserveEvent) -> None:
        """Show every event to `observability.observe_event`, and no more to the manager that was set before.

        Raises:
            ConfigurationError: it has no such method.
        """
        if not callable(getattr(observability, "observe_event", None)):
            msg = f"An observability manager has a method observe_event(event); {observability!r} has none."
            raise ConfigurationError(msg)
        if self._observability is not None:
            self._gate.remove_observer(self._observability)
        self._observability = observability.observe_event
        self.add_observer(self._observability)

    def create_session(self, session_id: str | None = None) -> BusSession:
        """Return a session that has not begun; without an id it gets a new one."""
        return BusSession(session_id, self)

    session = create_session

    # Settings and figures

    def set_batch_processing(self, batch_size: int, batch_timeout: float) -> None:
        """Set how many queued events of a session are delivered before other tasks get their turn.

        Raises:
            ConfigurationError: `batch_size` is below 1 or `batch_timeout` is negative.
        """
        check_number("batch_size", batch_size, int, "a whole number, at least 1", least=1)
        check_number("batch_timeout", batch_timeout, int | float, "a number of seconds, not negative")
        self._batch_size, self._batch_timeout = batch_size, batch_timeout
        if self._lanes is not None:
            self._lanes.batch_size = batch_size

    async def get_stats(self) -> dict[str, Any]:
        """Return whether the bus runs, what waits, how much failed, what was filtered, and how many are registered."""
        return {
            "running": self._lanes is not None,
            "queue_size": self._queue_size(),
            "batch_size": self._batch_size,
            "batch_timeout": self._batch_timeout,
            "error_suppression": self._failures.suppressed,
            "total_errors": self._failures.total,
            "filtered": dict(self._gate.turned_away),
            **self._registry.get_handler_stats(),
            **({"database": self._kept.stores.stats()} if self._kept.stores is not None else {}),
        }

    async def get_metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return counters, histograms and gauges by name, in the form of `MetricsCollector.snapshot`."""
        return self._metrics.snapshot()

    # Inside

    def _after_fork(self) -> None:
        """Be as if not started: the loop, and what it has yet to deliver, belong to the parent process."""
        self._registry.after_fork()
        if self._lanes is not None or self._buffer is not None:
            self._lanes, self._loop, self._buffer = None, None, []
        if self._bound is not None:
            self._bound.forget()
        self._stopping = False
        self._active_sessions = 0
        self._session_traces.clear()
        self._pending.clear()
        self._leave_durability()

    def _refuse_contradictions(self, given: dict[str, Any]) -> None:
        made_with = self._made.options if self._made is not None else {}
        contradictions = [
            f"{name}={made_with[name]!r}, not {value!r}"
            for name, value in given.items()
            if made_with[name] is not value and made_with[name] != value
        ]
        if contradictions:
            msg = (
                f"The application's bus exists already, made with {'; with '.join(contradictions)}. Give options on "
                "the first call, or make another bus with MessageBus.isolated()."
            )
            raise ConfigurationError(msg)


@cache
def _defaults(bus_class: type[MessageBus]) -> dict[str, Any]:
    """Return the options of a constructor by name, as they are if they are left out."""
    parameters = signature(bus_class.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.name not in {"self", "options"}}


_every_bus: WeakSet[MessageBus] = WeakSet()


def _after_fork() -> None:
    MessageBus._making = Lock()
    for bus in _every_bus:
        bus._after_fork()


if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_after_fork)
