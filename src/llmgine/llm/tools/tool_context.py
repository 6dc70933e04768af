"""What a tool may know about the call that it runs for, and what it may do there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from llmgine.errors import BlockingCallError
from llmgine.llm.tools.attempt_clock import AttemptClock
from llmgine.llm.tools.tool_events import ToolManagerEvent, ToolProgressEvent
from llmgine.messages import Event, SessionID
from llmgine.messages.ids import BUS

if TYPE_CHECKING:
    from llmgine.bus import MessageBus

__all__ = ["ToolContext"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ToolContext:
    """One attempt at one call. A tool gets it in every parameter that is annotated `ToolContext`."""

    session_id: SessionID = BUS
    bus: MessageBus | None = None
    """None outside an engine."""
    engine_id: str = ""
    run_id: str = ""
    """Of the prompt being answered."""
    tool_call_id: str = ""
    """The model's id of the call. It differs when the model asks again: `idempotency_key` does not."""
    tool_name: str = ""
    deadline: float | None = None
    """When the tool must be done, in seconds of the loop's clock; None if there is no limit. Later, if a person has
    been waited for."""
    attempt: int = 1
    """Which one it is, counted from 1."""
    idempotency_key: str = ""
    """The same for all attempts at one effect, across retries and restarts."""
    traceparent: str | None = None
    """The span of the call (W3C Trace Context), where it is traced."""
    _loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False, compare=False)
    _clock: AttemptClock | None = field(default=None, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more. A thread cannot be stopped: it has to look here."""
        return self._clock is not None and self._clock.ended

    async def publish(self, event: Event) -> None:
        """Publish an event in the session of the call, and wait until it is handled. Without a bus, do nothing."""
        if self.bus is None:
            return
        if event.session_id in {"", BUS}:
            event.session_id = self.session_id
        if isinstance(event, ToolManagerEvent):
            event.engine_id = event.engine_id or self.engine_id
        await self.bus.publish(event)

    async def report_progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        """Publish a `ToolProgressEvent`.

        Args:
            progress: how much is done.
            total: how much there is to do, in the same unit; None if that is not known.
            message: what is being done, for people.
        """
        await self.publish(
            ToolProgressEvent(
                tool_call_id=self.tool_call_id,
                tool_name=self.tool_name,
                progress=progress,
                total=total,
                message=message,
            )
        )

    @contextmanager
    def waiting_for_person(self) -> Generator[float | None]:
        """Stop the clock of the tool's own timeout for the block, in which somebody is asked something.

        For the event loop, not for tools in threads. Gives the deadline that holds all the same, that of the prompt, in
        seconds of the loop's clock; None if there is none.
        """
        if self._clock is None:
            yield self.deadline
            return
        with self._clock.stopped() as deadline:
            yield deadline

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop, from a tool in a thread, and return what it returns.

            context.run_async(context.report_progress(0.5))

        Raises:
            BlockingCallError: called in the event loop itself, where it can be awaited.
            asyncio.CancelledError: nobody waits for the tool any more; the coroutine was not run.
        """
        loop = self._loop
        problem: BaseException | None = None
        if _running_loop() is not None:
            problem = BlockingCallError("run_async is for tools in threads. In the event loop, await the coroutine.")
        elif self.cancelled or loop is None:
            problem = asyncio.CancelledError()
        else:
            try:
                return asyncio.run_coroutine_threadsafe(work, loop).result()
            except RuntimeError as exc:
                if not loop.is_closed():
                    raise  # the coroutine's own
                problem = asyncio.CancelledError()
                problem.__cause__ = exc
        work.close()  # else it would be reported as never awaited
        raise problem


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
