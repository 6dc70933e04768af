"""One thread that owns one connection. What waits for it is done in one transaction, so that many share one commit."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread
from time import monotonic
from typing import Any, TypeAlias, TypeVar, overload
from weakref import WeakSet

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.dml import Insert as InsertStatement

from llmgine.database.engine import masked, reason
from llmgine.database.health import Health
from llmgine.database.link import WRONGLY_ASKED, Link, UnreachableError
from llmgine.errors import LLMgineError, StoreError

__all__ = ["Insert", "Worker"]

T = TypeVar("T")

_BATCH = 1000
"""How many jobs share one transaction at most, so that none waits long for its commit."""
_PATIENCE_S = 5.0
"""How long the end of the program, or a fork, waits for what is under way."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows for a table. Jobs that follow each other with the same statement are written as one."""

    statement: InsertStatement
    """Without values; the very same object each time."""
    rows: Sequence[Mapping[str, Any]]


Work: TypeAlias = Callable[[Connection], T]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any] | Insert
    reads: bool
    future: Future[Any]

    @property
    def key(self) -> int:
        return id(self.work.statement if isinstance(self.work, Insert) else self)


class Worker:
    """Does work on a database, in order, in a thread that begins with the first job and sleeps while there is none.

    Jobs that wait are done in one transaction. If one of them fails it is rolled back, and each is done in a
    transaction of its own: work may be called more than once, and is to touch nothing but its connection. A connection
    that was lost is opened anew for the next job; so is one to an SQLite file that somebody has taken away.

    May be used from any thread and any event loop. After a fork the child begins afresh; what waits belongs to the
    parent. What waits when the program ends is done then, for up to 5 s.
    """

    def __init__(self, url: str, prepare: Work[None], *, level: int = logging.WARNING) -> None:
        """Take the database URL; nothing is opened yet.

        Args:
            url: of the database.
            prepare: called with every new connection, outside of a transaction.
            level: at which outages are logged.
        """
        self._url = url
        self._link = Link(url, prepare)
        self.health = Health(url, level=level)
        self._begin()
        _every.add(self)

    def _begin(self) -> None:
        """Begin with nothing, in a new process too."""
        self._lock = Lock()
        self._using = Lock()
        """Held while the connection is used."""
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()  # None: there is no more
        self._thread: Thread | None = None
        self._held = False
        """Whether a fork waits for nothing any more."""

    @overload
    def submit(self, work: Insert) -> Future[None]: ...
    @overload
    def submit(self, work: Work[T], *, reads: bool = ...) -> Future[T]: ...
    def submit(self, work: Work[T] | Insert, *, reads: bool = False) -> Future[Any]:
        """Have work done. It cannot be cancelled any more.

        Args:
            work: called in the thread, inside of a transaction.
            reads: whether it writes nothing, and so need not wait for those who write.

        Returns:
            What will be set to what the work returns, or to what it raises: `StoreError` if that is the database's
            fault, `ConfigurationError` if the URL is not usable.
        """
        job = _Job(work, reads, Future())
        job.future.set_running_or_notify_cancel()
        with self._lock:
            if self._thread is None:
                self._start()
            self._queue.put(job)
        return job.future

    @overload
    async def run(self, work: Insert) -> None: ...
    @overload
    async def run(self, work: Work[T], *, reads: bool = ...) -> T: ...
    async def run(self, work: Any, *, reads: bool = False) -> Any:
        """Have work done and wait for it, as `submit` says. It is done also if the caller is cancelled."""
        return await asyncio.wrap_future(self.submit(work, reads=reads))

    def close(self, timeout: float | None = None) -> None:
        """Do what waits, close the connection and end the thread. The next job begins it again.

        Args:
            timeout: seconds after which it is left to itself.
        """
        thread = self._stop()
        if thread is not None and thread is not current_thread():
            thread.join(timeout)

    async def aclose(self) -> None:
        """Do as `close` does, without blocking the event loop."""
        thread = self._stop()
        if thread is not None:
            await asyncio.to_thread(thread.join)

    def _start(self) -> None:
        self._queue = SimpleQueue()
        thread = Thread(target=self._work, args=(self._queue,), name="llmgine-database", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many, or the interpreter is about to end
            msg = f"The database {masked(self._url)} cannot be used: there is no thread to be had ({error})."
            raise StoreError(msg) from error
        self._thread = thread

    def _stop(self) -> Thread | None:
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        return thread

    def _work(self, queue: SimpleQueue[_Job | None]) -> None:
        goes_on = True
        while goes_on:
            waiting = [queue.get()]
            with suppress(Empty):
                while len(waiting) < _BATCH:
                    waiting.append(queue.get_nowait())
            goes_on = None not in waiting
            with self._using:
                for jobs in [[*jobs] for _, jobs in groupby(filter(None, waiting), key=lambda job: job.reads)]:
                    self._carry_out(jobs)
                    jobs.clear()
                if not goes_on:
                    self._link.close()
            del waiting  # which is not to be kept alive until the next job comes

    def _carry_out(self, jobs: list[_Job]) -> None:
        """Do jobs of one kind, together or else one by one."""
        error = self._attempt(jobs)
        if error is None:
            return
        if len(jobs) == 1 or isinstance(error, UnreachableError):
            self._fail(jobs, error)
            return
        for number, job in enumerate(jobs):
            error = self._attempt([job])
            if isinstance(error, UnreachableError):
                self._fail(jobs[number:], error)
                return
            if error is not None:
                self._fail([job], error)

    def _attempt(self, jobs: list[_Job]) -> BaseException | None:
        """Do jobs in one transaction. Return what it failed with."""
        try:
            results = self._link.transact(partial(_do, jobs), reads=jobs[0].reads)
        except BaseException as error:  # noqa: BLE001  # the boundary: whoever waits is to learn of it
            return error
        self.health.succeeded(reads=jobs[0].reads)
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)
        return None

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        """Tell whoever waits for the jobs."""
        text = "cannot be used"
        if isinstance(error, UnreachableError):
            text = "was lost, and what was being written may be there or not" if error.in_doubt else "cannot be reached"
            error = error.error
        if isinstance(error, (SQLAlchemyError, OSError, LLMgineError)) and not isinstance(error, WRONGLY_ASKED):
            self.health.failed(error, reads=jobs[0].reads)
        for job in jobs:
            if isinstance(error, (SQLAlchemyError, OSError)):
                msg = f"The database {masked(self._url)} {text}: {reason(error, self._url)}"
                failure: BaseException = StoreError(msg)
                failure.__cause__ = error
            else:
                failure = error
            job.future.set_exception(failure)

    def _before_fork(self) -> None:
        """See to it that the child inherits no connection to a file: SQLite's locks belong to the process."""
        self._held = self._using.acquire(timeout=_PATIENCE_S)
        if self._held and not self._link.in_memory:
            self._link.close()

    def _after_fork_in_parent(self) -> None:
        if self._held:
            self._using.release()

    def _after_fork_in_child(self) -> None:
        _inherited.append(self._link.abandon())
        self._begin()


def _do(jobs: Iterable[_Job], connection: Connection) -> list[Any]:
    """Do jobs, those that follow each other with one statement together, and return what came of each."""
    results: list[Any] = []
    for _, alike in groupby(jobs, key=lambda job: job.key):
        works = [job.work for job in alike]
        if isinstance(works[0], Insert):
            rows = [row for work in works if isinstance(work, Insert) for row in work.rows]
            connection.execute(works[0].statement, rows)
            results += [None] * len(works)
        else:
            results.append(works[0](connection))
    return results


_every: WeakSet[Worker] = WeakSet()
_inherited: list[object] = []
"""What belongs to the parent; were it forgotten, it would be closed, and the parent's end with it."""


def _tell(what: Callable[[Worker], None]) -> None:
    for worker in list(_every):
        what(worker)


def _at_exit() -> None:
    deadline = monotonic() + _PATIENCE_S
    for worker in list(_every):
        worker.close(max(0.0, deadline - monotonic()))


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(
        before=lambda: _tell(Worker._before_fork),
        after_in_parent=lambda: _tell(Worker._after_fork_in_parent),
        after_in_child=lambda: _tell(Worker._after_fork_in_child),
    )
