"""The message bus: commands to their one handler, events to all of theirs."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from threading import get_ident
from types import CoroutineType
from typing import Any, ClassVar, Self, TypeVar, cast

from llmgine.bus import causality
from llmgine.bus.delivery import Delivery
from llmgine.bus.failures import Failures
from llmgine.bus.interfaces import (
    CommandHandler,
    EventFilter,
    EventHandler,
    Observer,
    SupportsObserveEvent,
)
from llmgine.bus.lanes import Lanes
from llmgine.bus.pipeline import call_command_handler
from llmgine.bus.registration import Registration
from llmgine.bus.session import BusSession
from llmgine.bus.stream import EventStream
from llmgine.errors import BusNotRunningError, CommandTimeoutError, ConfigurationError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import (
    CommandErrorEvent,
    CommandResultEvent,
    CommandStartedEvent,
    EventHandlerFailedEvent,
)
from llmgine.messages.ids import BUS
from llmgine.messages.message import id_of

__all__ = ["MessageBus", "StopReport"]

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


class MessageBus(Registration):
    """Executes commands and delivers events, on one event loop.

    `MessageBus()` is the application's bus: the first call makes it, later calls return it. `MessageBus.isolated()`
    makes an independent one. What it promises is written in `docs/guarantees.md`.
    """

    _application: ClassVar[MessageBus | None] = None
    _options: dict[str, Any] | None = None
    _lanes: Lanes | None = None  # None while the bus does not run

    # The options are for `__init__`, which runs on the application's bus again and again.
    def __new__(cls, **_: Any) -> Self:  # noqa: D102
        if MessageBus._application is None:
            MessageBus._application = super().__new__(cls)
        return cast("Self", MessageBus._application)

    def __init__(  # pyright: ignore[reportInconsistentConstructor]
        self,
        *,
        observability: SupportsObserveEvent | None = None,
        batch_size: int | None = None,
        batch_timeout: float | None = None,
    ) -> None:
        """Configure the bus, or, when it exists already, check that the options do not contradict it.

        Args:
            observability: sees every event, as `add_observer(observability.observe_event)` would have it.
            batch_size: how many queued events of a session are delivered before other tasks get their turn; 10.
            batch_timeout: kept for applications that set it, in seconds; nothing waits for a batch to fill.

        Raises:
            ConfigurationError: the bus exists and was made with other options, or an option makes no sense.
        """
        given = {"observability": observability, "batch_size": batch_size, "batch_timeout": batch_timeout}
        given = {name: value for name, value in given.items() if value is not None}
        if self._options is not None:
            self._refuse_contradictions(given)
            return
        self._options = given
        self._set_up()
        if observability is not None:
            self.set_observability_manager(observability)

    @classmethod
    def isolated(cls, **options: Any) -> Self:
        """Return a bus of its own, for a test or for one of several applications in a process."""
        bus = super().__new__(cls)
        bus.__init__(**options)  # type: ignore[misc]  # __new__ would return the application's
        return bus

    def _set_up(self) -> None:
        options = self._options or {}
        self.set_batch_processing(options.get("batch_size", 10), options.get("batch_timeout", 0.01))
        self._forget_handlers()
        self._filters: list[EventFilter] = []
        self._filtered: Counter[str] = Counter()
        self._observers: list[Observer] = []
        self._streams: dict[str, list[EventStream[Any]]] = {}
        self._thread = 0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._buffer: list[Event] | None = []  # None once the bus has been stopped
        self._suppress_errors = True
        self._failures = Failures()
        self._delivery = Delivery(self._registry, self._handler_failed)

    # Life

    async def start(self) -> None:
        """Begin to deliver, first what was published before. Does nothing on a bus that runs."""
        loop = asyncio.get_running_loop()
        waiting = self._buffer or []
        if self._lanes is not None:
            if self._loop is loop:
                return
            if self._loop is not None and not self._loop.is_closed():
                msg = "The bus runs on another event loop. Stop it there, or make another with MessageBus.isolated()."
                raise BusNotRunningError(msg)
            waiting = self._lanes.leave()
        self._loop, self._thread, self._buffer = loop, get_ident(), []
        self._lanes = Lanes(loop, self._delivery.of)
        self._lanes.batch_size = self._batch_size
        for event in waiting:
            await self.publish(event, await_processing=False)

    async def stop(self, timeout: float | None = 30.0) -> StopReport:
        """Deliver what was accepted, and end. Does nothing on a bus that does not run.

        Args:
            timeout: seconds after which what is still under way is cancelled; None waits without end.

        Raises:
            DeadlockError: called by an event handler, which `stop` would wait for.
        """
        lanes = self._lanes
        if lanes is None:
            return StopReport()
        if self._loop is not asyncio.get_running_loop():
            self._lanes, self._buffer = None, None
            return StopReport(abandoned=lanes.unfinished)
        finished = lanes.finished
        self._stopping = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await lanes.idle()
            delivered = lanes.finished - finished
            abandoned = await lanes.abandon(_CANCEL_GRACE)
        finally:
            self._stopping = False
        if abandoned:
            _log.warning("The bus stopped with %d events not handled to their end", abandoned)
        self._lanes, self._buffer = None, None
        return StopReport(delivered=delivered, abandoned=abandoned)

    async def reset(self) -> None:
        """Stop, and forget handlers, middleware, filters, buffered events and errors. It can be started again."""
        await self.stop()
        observers = self._observers
        self._set_up()
        self._observers = observers

    # Who looks on, who passes

    def add_event_filter(self, event_filter: EventFilter) -> None:
        """Ask `event_filter` about every event; the first that says no turns it away."""
        self._filters.append(event_filter)

    def add_observer(self, observer: Observer) -> None:
        """Show every event to `observer`, once, when it is published."""
        self._observers.append(observer)

    def set_observability_manager(self, observability: SupportsObserveEvent) -> None:
        """Show every event to `observability.observe_event`."""
        self.add_observer(observability.observe_event)

    def create_session(self, session_id: str | None = None) -> BusSession:
        """Return a session that has not begun; without an id it gets a new one."""
        return BusSession(session_id, self)

    session = create_session

    # Commands

    async def execute(self, command: Command[R], *, timeout: float | None = None) -> CommandResult[R]:
        """Run a command's handler in the caller's task and return what came of it, also what it raised.

        Args:
            command: answered by its session's handler, or else by the bus's.
            timeout: seconds; commands that the handler executes in turn get what is left of them.
        """
        outer = causality.current.get()
        deadline = None
        if outer is not None:
            causality.stamp(command, outer)
            deadline = outer[3]
        if timeout is not None:
            own = asyncio.get_running_loop().time() + timeout
            deadline = own if deadline is None else min(own, deadline)
        command_id = command.command_id
        announced = self._observers or self._registry.lifecycle_handlers
        if announced:
            self._announce(CommandStartedEvent(command=command, session_id=command.session_id), command)
        correlation_id = command._correlation_id or command_id
        held = outer[2] if outer is not None else ()
        causality.current.set((correlation_id, command_id, held, deadline, command.traceparent))
        result: CommandResult[R] | None = None
        try:
            handler = self._registry.command_chain(type(command), command.session_id or BUS)
            if handler is None:
                result = _failed(f"No handler registered for command {type(command).__name__}", command)
            elif deadline is None:
                outcome = handler(command)
                if type(outcome) is CoroutineType or hasattr(type(outcome), "__await__"):
                    outcome = await outcome
                result = CommandResult.of(outcome, command)
            else:
                result = await self._execute_until(deadline, timeout, handler, command)
        except Exception as error:  # noqa: BLE001  # the boundary: whatever a handler raises becomes its result
            trace = "".join(traceback.format_exception(error))
            result = _failed(f"{type(error).__name__}: {error}", command, traceback=trace)
        finally:
            causality.current.set(outer)
            if result is None:
                result = _failed(f"CancelledError: {type(command).__name__} was cancelled", command)
            if announced:
                kind = CommandResultEvent if result.success else CommandErrorEvent
                self._announce(kind(command_result=result, session_id=command.session_id), command)
        return result

    def stream(self, command: Command[R]) -> EventStream[R]:
        """Run a command and see the events that it causes as they happen.

        `async for event in stream` yields what is published under the command's correlation id, save for what announces
        commands; `await stream` gives the result. Leaving the loop early cancels the command.
        """
        return EventStream(command, self.execute, self._streams)

    # Events

    async def publish(self, event: Event, await_processing: bool = True) -> None:  # noqa: FBT001, FBT002  # published
        """Deliver an event to its handlers, in the order of its session.

        Args:
            event: goes to the handlers of the bus and of its session, by ascending priority.
            await_processing: return when those have finished; if False, as soon as the event is queued. Before `start`
                the event is kept and the call returns at once.

        Raises:
            BusNotRunningError: the bus has been stopped, or runs in another thread.
            DeadlockError: the session waits for the handler that publishes.
            Exception: what a handler raised, while errors are unsuppressed and processing is awaited.
        """
        chain = causality.current.get()
        if chain is not None:
            causality.stamp(event, chain)
        lanes = self._lanes
        if lanes is None or (self._stopping and chain is None):
            self._keep(event)
            return
        if get_ident() != self._thread:
            msg = "The bus runs on the event loop of another thread; publish there (asyncio.run_coroutine_threadsafe)."
            raise BusNotRunningError(msg)
        session = event.session_id or BUS
        if (self._observers or self._filters or self._streams) and not self._admit(event, session):
            return
        if not await_processing:
            lanes.offer(session, event)
            return
        outcome = lanes.begin(session, event, chain)
        if isinstance(outcome, asyncio.Future):
            outcome = await lanes.outlast(outcome)
        if outcome is not None and not self._suppress_errors:
            raise outcome

    async def wait_for_events(self) -> None:
        """Wait until no event is queued or being handled.

        Raises:
            DeadlockError: called by an event handler, which would wait for itself.
        """
        if self._lanes is not None:
            await self._lanes.idle()

    # Settings and figures

    def set_batch_processing(self, batch_size: int, batch_timeout: float) -> None:
        """Set how many queued events of a session are delivered before other tasks get their turn.

        Raises:
            ConfigurationError: `batch_size` is below 1 or `batch_timeout` is negative.
        """
        if batch_size < 1 or batch_timeout < 0:
            msg = f"batch_size must be at least 1 and batch_timeout not negative; got {batch_size} and {batch_timeout}."
            raise ConfigurationError(msg)
        self._batch_size, self._batch_timeout = batch_size, batch_timeout
        if self._lanes is not None:
            self._lanes.batch_size = batch_size

    def suppress_event_errors(self) -> None:
        """Keep the failures of event handlers from their publishers; the default."""
        self._suppress_errors = True

    def unsuppress_event_errors(self) -> None:
        """Raise the first failure of an event's handlers to its waiting publisher."""
        self._suppress_errors = False

    def set_error_history_limit(self, limit: int) -> None:
        """Keep at most `limit` failures in `event_handler_errors`."""
        self._failures.limit(limit)

    @property
    def event_handler_errors(self) -> list[BaseException]:
        """The latest failures of event handlers, oldest first."""
        return self._failures.latest

    async def get_stats(self) -> dict[str, Any]:
        """Return whether the bus runs, what waits, how much failed, what was filtered, and how many are registered."""
        return {
            "running": self._lanes is not None,
            "queue_size": self._lanes.queued if self._lanes is not None else len(self._buffer or ()),
            "batch_size": self._batch_size,
            "batch_timeout": self._batch_timeout,
            "error_suppression": self._suppress_errors,
            "total_errors": self._failures.total,
            "filtered": dict(self._filtered),
            **self._registry.get_handler_stats(),
        }

    # Inside

    async def _execute_until(
        self, deadline: float, timeout: float | None, handler: CommandHandler, command: Command[R]
    ) -> CommandResult[R]:
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                return await call_command_handler(command, handler)
        except TimeoutError as error:
            if not limit.expired():
                raise
            given = "the time its caller had left" if timeout is None else f"{timeout:g} s"
            msg = f"{type(command).__name__} did not finish within {given}"
            raise CommandTimeoutError(msg, timeout=timeout or 0.0) from error

    def _handler_failed(self, event: Event, handler: EventHandler, error: BaseException) -> None:
        name = self._failures.note(event, handler, error)
        if not isinstance(event, EventHandlerFailedEvent):
            failure = EventHandlerFailedEvent(event=event, handler=name, exception=error, session_id=event.session_id)
            self._announce(failure, event)

    def _announce(self, event: Event, cause: Command[Any] | Event) -> None:
        """Publish an event of the bus's own, without waiting and without cost where nobody listens."""
        event.correlation_id = cause.correlation_id
        event.causation_id = id_of(cause)
        event.traceparent = cause.traceparent
        if self._lanes is None:
            if self._buffer is not None:
                self._buffer.append(event)
            return
        session = event.session_id or BUS
        if self._admit(event, session) and self._registry.event_plan(type(event), session):
            self._lanes.offer(session, event)

    def _admit(self, event: Event, session: SessionID) -> bool:
        """Show an event to streams and observers, and ask the filters whether it may go on."""
        if self._streams and not isinstance(event, CommandStartedEvent | CommandResultEvent):
            for stream in self._streams.get(event.correlation_id, ()):
                stream.put(event)
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001  # an observer must not disturb what it observes
                _log.exception("An observer failed on %s", type(event).__name__)
        for event_filter in self._filters:
            try:
                passes = event_filter.should_handle(event, session)
            except Exception:  # noqa: BLE001  # a broken filter must not lose events
                _log.exception("%s failed on %s, which passes", type(event_filter).__name__, type(event).__name__)
                continue
            if not passes:
                self._filtered[type(event_filter).__name__] += 1
                return False
        return True

    def _keep(self, event: Event) -> None:
        if self._buffer is None or self._stopping:
            msg = f"The bus has been stopped; {type(event).__name__} was not published. Start it again first."
            raise BusNotRunningError(msg)
        self._buffer.append(event)

    def _refuse_contradictions(self, given: dict[str, Any]) -> None:
        made_with = self._options or {}
        for name, value in given.items():
            if made_with.get(name) is not value and made_with.get(name) != value:
                msg = (
                    f"The application's bus exists already, made with {name}={made_with.get(name)!r}, not {value!r}. "
                    "Give options on the first call, or make another bus with MessageBus.isolated()."
                )
                raise ConfigurationError(msg)


def _failed(error: str, command: Command[Any], **metadata: str) -> CommandResult[Any]:
    return CommandResult.of(CommandResult(success=False, error=error, metadata=metadata), command)
