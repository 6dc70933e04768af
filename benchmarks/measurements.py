"""What is measured in each row: one function per row, run in a process of its own, alike for every contestant.

CPU time, unless a function says otherwise. Each function checks that every message was handled, so that nothing is
measured that did not happen.
"""

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from contestants.contestant import Contestant
from contestants.counter import counter

Figures = dict[str, float]
Work = Callable[[int], Awaitable[float]]
"""Does that many operations and returns the CPU seconds they took."""

CHUNK = 1024
"""Messages built at a time where building is not timed: few enough to stay in the cache and out of the collector."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    seconds: float = 0.5
    """CPU time per timing."""
    burst: int = 50_000
    tasks: int = 200
    commands: int = 100
    sessions: int = 10_000
    queued: int = 100_000
    processed: int = 500_000
    idle: int = 200
    imports: int = 5
    scheduled: int = 5_000
    waiting: int = 100_000
    at_rest: float = 3.0
    """Seconds on the clock."""
    logged: int = 50_000
    failing: int = 1_000
    transactions: int = 500
    relayed: int = 5_000
    streamed: int = 500
    """Chunks of a long reply."""
    replies: int = 5
    streams: int = 1_000


QUICK = Size(
    seconds=0.1,
    burst=5_000,
    tasks=50,
    commands=40,
    sessions=1_000,
    queued=10_000,
    processed=50_000,
    idle=50,
    imports=3,
    scheduled=1_000,
    waiting=10_000,
    at_rest=0.5,
    logged=10_000,
    failing=200,
    transactions=100,
    relayed=1_000,
    streamed=200,
    replies=3,
    streams=200,
)


class MessagesLostError(Exception):
    """What was handled is not what was sent."""


async def cpu(work: Awaitable[None]) -> float:
    start = process_time()
    await work
    return process_time() - start


async def handled(expected: int, work: Awaitable[float]) -> float:
    """Return what `work` returns, once it is sure that it led to `expected` calls of handlers."""
    before = counter.handled
    result = await work
    if counter.handled - before != expected:
        msg = f"{counter.handled - before} calls of handlers instead of {expected}"
        raise MessagesLostError(msg)
    return result


async def microseconds(work: Work, size: Size, *, handlers: int = 1) -> float:
    """Return the CPU time of one operation, warmed up. What `work` does besides counts against the time there is."""
    count = 1
    start = process_time()
    while process_time() - start < size.seconds / 5:
        await handled(count * handlers, work(count))
        count *= 2
    spent, done = 0.0, 0
    start = process_time()
    while process_time() - start < size.seconds:
        spent += await handled(count * handlers, work(count))
        done += count
    return spent / done * 1e6


async def execute(contestant: Contestant, size: Size) -> Figures:
    await contestant.start()
    return {"execute": await microseconds(lambda count: cpu(contestant.execute(count)), size)}


async def execute_built(contestant: Contestant, size: Size) -> Figures:
    async def work(count: int) -> float:
        spent = 0.0
        for start in range(0, count, CHUNK):
            commands = contestant.commands(min(CHUNK, count - start))
            spent += await cpu(contestant.execute_built(commands))
        return spent

    await contestant.start()
    return {"execute-built": await microseconds(work, size)}


async def publish(contestant: Contestant, size: Size) -> Figures:
    await contestant.start()
    return {"publish": await microseconds(lambda count: cpu(contestant.publish(count)), size)}


async def fan_out(contestant: Contestant, size: Size) -> Figures:
    await contestant.start(handlers=10)
    return {"fan-out": await microseconds(lambda count: cpu(contestant.publish(count)), size, handlers=10)}


async def burst(contestant: Contestant, size: Size) -> Figures:
    async def queue_and_drain(count: int) -> None:
        await contestant.queue(count)
        await contestant.drain()

    await contestant.start()
    await queue_and_drain(100)
    return {"burst": await handled(size.burst, cpu(queue_and_drain(size.burst))) / size.burst * 1e6}


async def concurrency(contestant: Contestant, size: Size) -> Figures:
    """The handler suspends once, so that the tasks do take turns. The latency is measured in a second pass."""
    latencies: list[float] = []

    async def commands_one_by_one() -> None:
        latencies.extend([await cpu(contestant.execute(1)) for _ in range(size.commands)])

    async def tasks(task: Callable[[], Awaitable[None]]) -> None:
        await asyncio.gather(*(task() for _ in range(size.tasks)))

    await contestant.start(suspend=True)
    count = size.tasks * size.commands
    await contestant.execute(1_000)
    spent = await handled(count, cpu(tasks(lambda: contestant.execute(size.commands))))
    await handled(count, cpu(tasks(commands_one_by_one)))
    return {"concurrency": spent / count * 1e6, "p99": quantiles(latencies, n=100)[-1] * 1e6}


async def sessions(contestant: Contestant, size: Size) -> Figures:
    """Ten sessions are busy; first they are all there are, then the others are there too."""

    async def work(count: int) -> float:
        return await cpu(contestant.publish_in(busy, count))

    await contestant.start(handlers=0)
    names = [f"session-{n}" for n in range(size.sessions)]
    busy = names[:10]
    idle = names[10:]
    await contestant.register_sessions(busy)
    few = await microseconds(work, size)
    registering = await cpu(contestant.register_sessions(idle))
    many = await microseconds(work, size)
    figures = {"sessions": many / few, "session-register": registering / len(idle) * 1e6}
    if "session-end" not in contestant.cannot:
        figures["session-end"] = await cpu(contestant.end_sessions(idle)) / len(idle) * 1e6
    return figures


async def log(contestant: Contestant, size: Size) -> Figures:
    """Publish, with a log of every event. At its end there has to be a line for each."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        await contestant.start_with_log(path)
        spent = await microseconds(lambda count: cpu(contestant.publish(count)), size)
        await contestant.close_log()
        with path.open("rb") as lines:  # nothing else happens any more
            written = sum(1 for _ in lines)
    if written != counter.handled:
        msg = f"{written} lines in the log of {counter.handled} events"
        raise MessagesLostError(msg)
    return {"log": spent}


async def queued_memory(contestant: Contestant, size: Size) -> Figures:
    await contestant.start()
    before = counter.handled
    resident_before = resident()
    await contestant.queue(size.queued)
    figures = {"queued-memory": (resident() - resident_before) / 1e6}
    if counter.handled != before:
        msg = "events were handled before the memory was read"
        raise MessagesLostError(msg)
    await handled(size.queued, cpu(contestant.drain()))
    return figures


async def growth(contestant: Contestant, size: Size) -> Figures:
    await contestant.start()
    await contestant.publish(size.processed // 10)
    gc.collect()
    before = resident()
    await handled(size.processed, cpu(contestant.publish(size.processed)))
    gc.collect()
    return {"growth": (resident() - before) / 1e6}


async def idle(contestant: Contestant, size: Size) -> Figures:
    """Wall clock from handing over an event, after the loop has slept, until its handler has run."""
    await contestant.start()
    latencies = []
    for _ in range(size.idle):
        await asyncio.sleep(0.002)
        before = counter.handled
        start = perf_counter()
        await contestant.queue(1)
        while counter.handled == before:  # noqa: ASYNC110  # the same for all; an event would be a part of the bus
            await asyncio.sleep(0)
        latencies.append(perf_counter() - start)
    return {"idle": median(latencies) * 1e6}


async def importing(contestant: Contestant, size: Size) -> Figures:
    """In a fresh process each time. A package is third-party unless it is the contestant or of the standard library."""
    code = f"""
import json, sys, time
before, start = set(sys.modules), time.process_time()
import {contestant.module}
spent = time.process_time() - start
packages = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([spent, sorted(packages - sys.stdlib_module_names - {{{contestant.module.partition(".")[0]!r}}})]))
"""
    spent: list[float] = []
    packages: list[str] = []
    for _ in range(size.imports):
        printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # noqa: ASYNC221
        seconds, packages = json.loads(printed.stdout)
        spent.append(seconds)
    return {"import": median(spent) * 1e3, "third-party": len(packages)}


def resident() -> int:
    """Return the bytes of memory this process occupies; where the system does not say, the most it ever did."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
