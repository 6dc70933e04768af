"""A queue and a thread for a handler that takes its time, so that publishers never wait for it."""

from __future__ import annotations

import atexit
import logging
import os
from collections import Counter
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import RLock, Thread, current_thread
from time import monotonic
from typing import Any
from weakref import WeakSet

from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.observability.sink import HandlerStats, ObservabilityHandler, Sink

__all__ = ["CLOSE_TIMEOUT", "QueuedHandler"]

_log = logging.getLogger("llmgine.observability")

CLOSE_TIMEOUT = 5.0
"""Seconds that a handler gets to work off its queue, unless it is told otherwise. All together get them at exit."""


class QueuedHandler(ObservabilityHandler):
    """Shows events to another handler in a thread of its own, in the order in which they came.

    The thread begins with the first event and uses no CPU while there is none. Where `maxsize` events wait already,
    further ones are dropped, counted by reason, and reported once until the queue has been worked off. What the handler
    raises stays in the thread and is treated as the manager treats it.

    What waits when the program ends is handled then, for at most `CLOSE_TIMEOUT` seconds. After a fork the child begins
    with an empty queue and a thread of its own; what the handler holds besides is the handler's affair.
    """

    def __init__(self, handler: Any, maxsize: int = 10_000) -> None:
        """Make the queue.

        Args:
            handler: an `ObservabilityHandler`. It is called from one thread only, also to be closed.
            maxsize: how many events may wait, the one that is being handled included; at least 1.

        Raises:
            ConfigurationError: `maxsize` is below 1.
        """
        if maxsize < 1:
            msg = f"maxsize is how many events may wait, at least 1; got {maxsize}."
            raise ConfigurationError(msg)
        self.handler = handler
        self._maxsize = maxsize
        self._sink = Sink(handler)
        self._closed = False
        """Whether no more events are accepted."""
        self._sealed = False
        """Whether no more come out of the queue than are in it."""
        self._closes_handler = True
        self._begin()
        _every.add(self)

    def _begin(self) -> None:
        """Begin with nothing, in a new process too."""
        self._lock = RLock()  # reentrant: the garbage collector may run a publisher inside of a publisher
        self._queue: SimpleQueue[Event | None] = SimpleQueue()  # None: there is no more
        self._thread: Thread | None = None
        self._accepted = 0
        self._done = 0
        self._dropped: Counter[str] = Counter()
        self._dropped_before = 0
        """Of those, how many in outages that are over."""
        self._outage = False

    @property
    def waiting(self) -> int:
        """How many events have been accepted and not been handled to their end."""
        return self._accepted - self._done

    def stats(self) -> HandlerStats:
        """Return what has become of the events, under the name of the handler."""
        sink, dropped = self._sink, dict(self._dropped)
        seen = self._accepted + sum(dropped.values()) - dropped.get(_OUT_OF_TIME, 0)
        if sink.skipped:
            dropped["muted"] = sink.skipped
        return HandlerStats(sink.name, seen, sink.failures.total(), dropped, self.waiting, sink.muted)

    def handle(self, event: Event) -> None:
        """Queue an event, or drop it. Never waits."""
        with self._lock:
            reason = self._refusal()
            if reason is None and self._thread is None and not self._start():
                reason = "no thread"
            if reason is None:
                self._accepted += 1
                self._queue.put(event)
                return
        self._drop(reason)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> int:
        """Handle what waits, then close the handler. Events that come later are dropped.

        Args:
            timeout: seconds, after which what still waits is dropped. A handler that is busy then is closed once it
                has come to an end with its event.

        Returns:
            How many events were not handled to their end.
        """
        return self._finish(timeout, closes_handler=True)

    def release(self) -> None:
        """Let the thread handle what waits, and end; do not wait for it, and do not close the handler."""
        self._finish(0.0, closes_handler=False, abandons=False)

    def _finish(self, timeout: float, *, closes_handler: bool, abandons: bool = True) -> int:
        with self._lock:
            no_thread = False
            if not self._sealed:
                self._sealed = self._closed = True
                self._closes_handler = closes_handler
                if self._thread is None and (closes_handler or not self._queue.empty()):
                    no_thread = not self._start()
                if self._thread is not None or no_thread:
                    self._queue.put(None)
            thread = self._thread
        if thread is current_thread():
            return self.waiting - 1
        if thread is not None:
            thread.join(timeout)
        elif no_thread:
            self._work()
        unfinished = self.waiting
        if unfinished and abandons:
            self._abandon()
        return unfinished

    def _abandon(self) -> None:
        """Drop what waits, because there is no time left for it."""
        waiting: list[Event | None] = []
        with suppress(Empty):
            while True:
                waiting.append(self._queue.get_nowait())
        if None in waiting:
            self._queue.put(None)
        left = sum(event is not None for event in waiting)
        if left:
            self._drop(_OUT_OF_TIME, left)
            with self._lock:
                self._done += left

    def _refusal(self) -> str | None:
        """Say why no event is accepted; None if one is."""
        if self._closed:
            return "closed"
        return "queue full" if self._accepted - self._done >= self._maxsize else None

    def _start(self) -> bool:
        thread = Thread(target=self._work, name=f"llmgine-{self._sink.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there are too many, or the interpreter is about to end
            return False
        self._thread = thread
        return True

    def _work(self) -> None:
        sink, queue = self._sink, self._queue
        while (event := queue.get()) is not None:
            try:
                self._show(event)
            except BaseException as error:  # noqa: BLE001  # the boundary: a log that fails must not end its thread
                sink.failed(event, error)
            self._note_done()
            event = None  # which is not to be kept alive until the next one
        try:
            self._end()
        except Exception:  # noqa: BLE001  # the boundary: nobody may be left to tell
            _log.exception("%s could not be closed", sink.name)
        sink.report()

    def _note_done(self) -> None:
        with self._lock:
            self._done += 1
        if self._outage and self._accepted == self._done:
            self._caught_up()

    def _show(self, event: Event) -> None:
        self._sink.handle(event)

    def _end(self) -> None:
        """Do what is to be done at the end of the thread."""
        close = getattr(self.handler, "close", None)
        if self._closes_handler and close is not None:
            close()

    def _drop(self, reason: str, events: int = 1) -> None:
        with self._lock:
            self._dropped[reason] += events
            begins, self._outage = not self._outage, True
        if begins:
            text = "%s does not get all events (%s, %d wait). They are counted, and this is not logged again for now."
            _log.warning(text, self._sink.name, reason, self.waiting)

    def _caught_up(self) -> None:
        with self._lock:
            self._outage = False
            dropped = self._dropped.total() - self._dropped_before
            self._dropped_before += dropped
        _log.warning("%s has caught up; it did not get %d events", self._sink.name, dropped)


_OUT_OF_TIME = "out of time"
_every: WeakSet[QueuedHandler] = WeakSet()


def _at_exit() -> None:
    deadline = monotonic() + CLOSE_TIMEOUT
    for handler in list(_every):
        if handler.waiting or handler._thread is not None:
            handler.close(max(0.0, deadline - monotonic()))


def _after_fork() -> None:
    for handler in _every:
        handler._begin()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_after_fork)
