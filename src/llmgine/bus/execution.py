"""Commands: the one handler, its boundary, and what is said of each."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from math import inf
from time import perf_counter, time_ns
from types import CoroutineType
from typing import Any, TypeVar

from llmgine.bus.causality import Holds, current, stamp
from llmgine.bus.deadline import within
from llmgine.bus.gate import Gate
from llmgine.bus.handler_check import check_message
from llmgine.bus.histogram import BATCH, Histogram
from llmgine.bus.interfaces import CommandHandler
from llmgine.bus.metrics import Counter, MetricsCollector
from llmgine.bus.options import check_number
from llmgine.bus.pending import PendingEvents
from llmgine.bus.registration import Registration
from llmgine.bus.results import failed, raised
from llmgine.bus.stream import EventStream
from llmgine.bus.tracing import CommandSpan, begin_span
from llmgine.errors import HandlerNotFoundError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import CommandErrorEvent, CommandResultEvent, CommandStartedEvent
from llmgine.messages.ids import BUS, Id
from llmgine.messages.message import origin_of

__all__ = ["CommandExecution"]

R = TypeVar("R")


class CommandExecution(Registration):
    """The part of a bus that executes commands."""

    _gate: Gate
    _pending: PendingEvents
    _metrics: MetricsCollector
    _sent: Counter
    _succeeded: Counter
    _failed: Counter
    _durations: Histogram
    _session_traces: dict[SessionID, str | None]
    """The `traceparent` of each session that somebody traces."""
    _tracing: bool
    """Whether every command has a span, also while no handler is registered for spans."""

    # The path of every command, written out: a call costs a tenth of it.
    async def execute(  # noqa: PLR0912, PLR0915
        self, command: Command[R], *, timeout: float | None = None
    ) -> CommandResult[R]:
        """Run a command's handler in the caller's task and return what came of it, also what it raised.

        Args:
            command: answered by its session's handler, or else by the bus's.
            timeout: seconds; commands that the handler executes in turn get what is left of them.

        Raises:
            ConfigurationError: this is no command, its class is broken, or `timeout` is no number.
        """
        registry = self._registry
        try:
            scope = registry.scopes.get(command.session_id, registry.bus_scope)
            chains = scope.command_chains
            if scope.version == registry.version and type(command) in chains:
                handler = chains[type(command)]
            else:
                check_message(command, Command)
                handler = registry.command_chain(type(command), command.session_id or BUS)
        except AttributeError:  # a command has a session
            check_message(command, Command)
            raise
        outer = current.get()
        held: Holds = ()
        deadline = None
        if outer is not None:
            stamp(command, outer)
            held, deadline = outer[2], outer[3]
        if timeout is not None:
            deadline = _earlier(deadline, timeout)
        self._sent.unlocked += 1
        listened = registry.listeners or self._gate.observers
        span = self._announce_start(command) if listened else None
        made, identity = command._timestamp, command._identity  # in this order: see `origin_of`
        if type(identity) is int:
            own: Id = (made, identity)
            correlation: Id | None = own
            traceparent: str | None = None
        else:
            own, correlation, _, traceparent = origin_of(command)
        token = current.set((correlation or own, own, held, deadline, traceparent, True))
        result: CommandResult[R] | None = None
        begun = 0.0
        try:
            if handler is None:
                msg = f"No handler registered for command {type(command).__name__}"
                result = failed(msg, command, HandlerNotFoundError(msg))
            elif deadline is None and not self._layered:
                if self._metrics.timing:
                    begun = perf_counter()
                outcome = handler(command)
                if type(outcome) is CoroutineType or hasattr(type(outcome), "__await__"):
                    outcome = await outcome
                if outcome is not None and isinstance(outcome, CommandResult):
                    result = CommandResult.of(outcome, command)
                else:  # the same, without the call
                    result = CommandResult.__new__(CommandResult)
                    result._timestamp = time_ns()
                    result._identity = own
                    result.session_id = command.session_id
                    result.success = True
                    result.result = outcome
            elif deadline is None:
                result = CommandResult.of(await handler(command), command)
            else:
                work = handler(command) if self._layered else self._call_command_handler(command, handler)
                result = CommandResult.of(await within(deadline, work, command, timeout), command)
        except Exception as error:  # noqa: BLE001  # the boundary: whatever a handler raises becomes its result
            result = raised(error, command)
        finally:
            try:
                current.reset(token)
            except ValueError:  # the generator that waits here is closed from outside
                current.set(outer)
            pending = self._pending.pop(own, ()) if self._pending else ()
            if result is None:
                result = failed(f"CancelledError: {type(command).__name__} was cancelled", command)
            if result.success:
                self._succeeded.unlocked += 1
            else:
                self._failed.unlocked += 1
            if begun:
                self._measure(begun)
            if listened:
                self._announce_end(command, result, span)
        if pending and result.success:
            await self._publish_pending(pending, wait=not held)
        return result

    def stream(self, command: Command[R]) -> EventStream[R]:
        """Run a command and see the events that it causes as they happen.

        `async for event in stream` yields what is published under the command's correlation id, save for what announces
        commands; `await stream` gives the result. Leaving the loop early cancels the command.
        """
        return EventStream(command, self.execute, self._gate.listening)

    @abstractmethod
    async def _publish_pending(self, events: list[Event], *, wait: bool) -> None:
        """Publish what a command's handler left pending."""

    def _announce_start(self, command: Command[Any]) -> CommandSpan | None:
        traced = self._tracing or self._registry.trace_handlers
        span = begin_span(command, self._session_traces.get(command.session_id)) if traced else None
        if span is not None:
            self._announce(span.started(), command)
        self._announce(CommandStartedEvent(command=command, session_id=command.session_id), command)
        return span

    def _announce_end(self, command: Command[Any], result: CommandResult[Any], span: CommandSpan | None) -> None:
        kind = CommandResultEvent if result.success else CommandErrorEvent
        ended = kind(command_result=result, result_is_content=command.result_is_content, session_id=command.session_id)
        self._announce(ended, command)
        if span is not None:
            self._announce(span.ended(result), command)

    def _measure(self, begun: float) -> None:
        pending = self._durations.pending
        pending.append(perf_counter() - begun)
        if len(pending) >= BATCH:
            self._metrics.flush(self._durations)

    async def _call_command_handler(self, command: Any, handler: CommandHandler) -> CommandResult[Any]:
        begun = perf_counter() if self._metrics.timing else 0.0
        succeeded = False
        try:
            outcome = handler(command)
            if type(outcome) is CoroutineType or hasattr(type(outcome), "__await__"):
                outcome = await outcome
            result = CommandResult.of(outcome, command)
            succeeded = result.success
        finally:
            if begun:
                self._measure(begun)
            if self._pending and not succeeded:
                self._pending.take()
        return result


def _earlier(deadline: float | None, timeout: float) -> float:
    """Return the earlier of a deadline and of the time when `timeout` seconds will have passed."""
    check_number("timeout", timeout, int | float, "a number of seconds, or None", least=-inf)
    own = asyncio.get_running_loop().time() + timeout
    return own if deadline is None else min(own, deadline)
