"""What is measured in each of these rows. What a disk or another thread takes part in is measured on the wall clock."""

import asyncio
from collections.abc import Awaitable
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, thread_time

from measurements import Figures, MessagesLostError, Size, cpu, handled

from durable.contestant import Durable

_TURN = 500
"""Commands from one layer to the next, and events from one look of the event loop at its other work to the next."""


def check(count: int, expected: int, what: str) -> None:
    if count != expected:
        msg = f"{count} {what} instead of {expected}"
        raise MessagesLostError(msg)


async def policies(contestant: Durable, size: Size) -> Figures:
    """What each layer adds to the bare execute. They take turns."""
    layered = contestant.layered()
    spent: dict[str, list[float]] = {name: [] for name in layered}
    started = process_time()
    while process_time() - started < size.seconds * len(layered):
        for name, execute in layered.items():
            spent[name].append(await handled(_TURN, cpu(execute(_TURN))))
    bare = median(spent.pop("bare"))
    return {name: (median(turns) - bare) / _TURN * 1e6 for name, turns in spent.items()}


async def schedule(contestant: Durable, size: Size) -> Figures:
    """Events per second, on disk."""
    figures: Figures = {}
    expected = 0
    with TemporaryDirectory() as folder:
        await contestant.open_schedule(Path(folder))
        ways = {"schedule-gathered": size.scheduled, "schedule-tasks": 100, "schedule-alone": 1}
        for name, tasks in ways.items():
            if name not in contestant.cannot:
                count = size.scheduled if tasks > 1 else size.scheduled // 10
                await contestant.store(tasks, tasks)  # warm up
                start = perf_counter()
                await contestant.store(count, tasks)
                figures[name] = count / (perf_counter() - start)
                expected += tasks + count
        check(contestant.stored(), expected, "scheduled events on disk")
    return figures


async def waiting(contestant: Durable, size: Size) -> Figures:
    with TemporaryDirectory() as folder:
        await contestant.fill(Path(folder), size.waiting)
        start = perf_counter()
        await handled(1, wall(contestant.start_filled()))
        started = perf_counter() - start
        await asyncio.sleep(0.5)
        used, start = process_time(), perf_counter()
        await asyncio.sleep(size.at_rest)
        rest = (process_time() - used) / (perf_counter() - start)
    return {"waiting-start": started, "waiting-rest": rest * 1e3}


async def event_log(contestant: Durable, size: Size) -> Figures:
    """What the log adds to publishing: in the publisher's thread, and in the process. And rows per second."""
    with TemporaryDirectory() as folder:
        costs: list[tuple[float, float]] = []
        seconds = 0.0
        for log in (None, Path(folder)):
            await contestant.start(log)
            await publish(contestant, size.logged // 10)
            start, thread, process = perf_counter(), thread_time(), process_time()
            await handled(size.logged, publish(contestant, size.logged))
            own = thread_time() - thread
            if log is not None:
                check(await contestant.close_log(), size.logged + size.logged // 10, "rows in the log")
            costs.append((own, process_time() - process))
            seconds = perf_counter() - start
    (own, both), (own_logged, both_logged) = costs
    return {
        "event-log-publisher": (own_logged - own) / size.logged * 1e6,
        "event-log-process": (both_logged - both) / size.logged * 1e6,
        "event-log-rows": size.logged / seconds,
    }


async def publish(contestant: Durable, count: int) -> float:
    for _ in range(0, count, _TURN):
        await contestant.publish(_TURN)
        await asyncio.sleep(0)
    return 0.0


async def dead_letter(contestant: Durable, size: Size) -> Figures:
    with TemporaryDirectory() as folder:
        await contestant.open_letters(Path(folder))
        seconds = [await wall(contestant.fail()) for _ in range(size.failing)]
        check(await contestant.close_letters(), size.failing, "dead letters on disk")
    return {"dead-letter": median(seconds) * 1e3, "dead-letter-p99": quantiles(seconds, n=100)[-1] * 1e3}


async def outbox(contestant: Durable, size: Size) -> Figures:
    """CPU time of the user's thread that an event adds to a transaction; then events per second to their handler."""
    with TemporaryDirectory() as folder:
        await contestant.open_outbox(Path(folder))
        added: list[float] = []
        for _ in range(size.transactions):
            times = [thread_time()]
            for events in (0, 1):
                contestant.order(events)
                times.append(thread_time())
            without, with_event = (end - start for start, end in pairwise(times))
            added.append(with_event - without)
        contestant.order(size.relayed - size.transactions)
        start = perf_counter()
        await handled(size.relayed, wall(contestant.relay(size.relayed)))
        return {"outbox": median(added) * 1e6, "outbox-relay": size.relayed / (perf_counter() - start)}


async def wall(work: Awaitable[None]) -> float:
    start = perf_counter()
    await work
    return perf_counter() - start
