"""What is measured in each of these rows. Each contestant takes turns with the limit, in one process."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from measurements import Figures, MessagesLostError, Size, resident

from engine.contestant import Engine

_SERVER = Path(__file__).parent / "server.py"
_SHORT = 10
"""Chunks of a short reply."""
_PAUSE = 0.001
"""Seconds from chunk to chunk where each arrives alone."""
_EACH = 12
"""Chunks of each of the replies that stream at once."""
_RATE = 2_500
"""Chunks per second of all the sessions that stream at once."""


@asynccontextmanager
async def served(chunks: int, pause: float = 0.0, together: int = 1) -> AsyncIterator[str]:
    """Start a server and yield its base URL; see `server.py`."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, str(_SERVER), str(chunks), str(pause), str(together))
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        process.kill()
        await process.wait()


@dataclass
class Calls:
    """What one contestant's calls of one kind took."""

    engine: Engine
    chunks: int
    cpu: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Seconds on the clock from the call to its first chunk."""

    async def call(self) -> None:
        times: list[float] = []
        cpu, start = process_time(), perf_counter()
        await self.engine.ask(lambda _: times.append(perf_counter()))
        self.cpu.append(process_time() - cpu)
        check(len(times), self.chunks)
        self.first.append(times[0] - start)

    def forget(self) -> None:
        self.cpu.clear()
        self.first.clear()


async def stream(contestant: Engine, size: Size) -> Figures:
    """CPU time of a chunk that arrives alone, of one among many, and of a short call; then the wait for the first."""
    limit: type[Engine] = import_module("engine.limit").contestant  # not above: the other tables do without the SDK
    engines = [contestant] if isinstance(contestant, limit) else [limit(), contestant]
    async with served(_SHORT) as short, served(size.streamed) as at_once, served(size.streamed, _PAUSE) as alone:
        # The kinds of calls, and how many of each there are in a turn.
        kinds = [((short, _SHORT), 10), ((at_once, size.streamed), 3), ((alone, size.streamed), 1)]
        calls = [[Calls(await started(engine, url), chunks) for engine in engines] for (url, chunks), _ in kinds]
        for turn in range(size.replies + 1):
            for of_a_kind, (_, times) in zip(calls, kinds, strict=True):
                for each in of_a_kind * times:
                    await each.call()
                    if turn == 0:  # warmed up
                        each.forget()
    call = over([each.cpu for each in calls[0]])
    more = size.streamed - _SHORT
    return {
        "chunk": (over([each.cpu for each in calls[2]]) - call) / more * 1e6,
        "chunk-at-once": (over([each.cpu for each in calls[1]]) - call) / more * 1e6,
        "first-chunk": over([each.first for each in calls[0]]) * 1e3,
        "short-call": call * 1e3,
    }


def over(seconds: list[list[float]]) -> float:
    """Return what a call took: the limit's as it is, another's less that of the limit just before."""
    if len(seconds) == 1:
        return median(seconds[0])
    limit, own = seconds
    return median([mine - base for base, mine in zip(limit, own, strict=True)])


async def started(engine: Engine, url: str) -> Engine:
    """Return another one of the same kind, for that server."""
    another = type(engine)()
    await another.start(url)
    return another


async def many(contestant: Engine, size: Size) -> Figures:
    """All sessions stream at once: no reply begins before all have been asked for. Then the chunks come evenly.

    Memory and fairness are read when half of all chunks have come.
    """
    chunks, pause = _EACH, size.streams / _RATE
    half_time = chunks * size.streams // 2
    heard = [0] * size.streams
    half: list[int] = []
    times: list[float] = []
    ends: list[float] = []
    memory = 0

    def hear(number: int, _: str) -> None:
        nonlocal memory
        times.append(perf_counter())
        heard[number] += 1
        if len(times) == half_time:
            half.extend(heard)
            memory = resident()

    async def session(number: int) -> None:
        await contestant.ask(partial(hear, number))
        check(heard[number], chunks)
        ends.append(perf_counter())

    async with served(_SHORT) as url:  # warm up
        await contestant.start(url)
        await contestant.ask(lambda _: None)
    async with served(chunks, pause, size.streams) as url:
        await contestant.start(url)
        gc.collect()
        before, cpu = resident(), process_time()
        await asyncio.gather(*(session(number) for number in range(size.streams)))
        cpu = process_time() - cpu
    return {
        "many-cpu": cpu,
        "many-pace": chunks * pause / (ends[-1] - times[0]),
        "many-memory": (memory - before) / size.streams / 1e3,
        "many-fairness": sum(half) ** 2 / len(half) / sum(count * count for count in half),
        "many-least": min(half) / max(half),
        "many-ends": (ends[0] - times[0]) / (ends[-1] - times[0]),
    }


def check(count: int, expected: int) -> None:
    if count != expected:
        msg = f"{count} pieces of text instead of {expected}"
        raise MessagesLostError(msg)
