import asyncio
import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
import weakref
from contextvars import ContextVar
from functools import partial

import pytest

from llmgine.llm.tools.threads import run_in_thread

variable: ContextVar[str] = ContextVar("variable")


async def test_the_function_runs_in_a_daemon_thread_of_the_given_name() -> None:
    def work() -> tuple[str, bool]:
        thread = threading.current_thread()
        return thread.name, thread.daemon

    assert [await run_in_thread(work, name) for name in ("one", "other")] == [("one", True), ("other", True)]


async def test_the_function_sees_the_callers_context_and_cannot_change_it() -> None:
    def work() -> str:
        seen = variable.get()
        variable.set("changed")
        return seen

    variable.set("set")
    assert await run_in_thread(work, "worker") == "set"
    assert variable.get() == "set"


@pytest.mark.parametrize(
    ("raised", "received"),
    [
        (KeyError, KeyError),
        (SystemExit, SystemExit),
        (StopIteration, RuntimeError),  # what Python makes of it in any coroutine
        (concurrent.futures.CancelledError, concurrent.futures.CancelledError),
    ],
)
async def test_what_the_function_raises_is_raised_here(
    raised: type[BaseException], received: type[BaseException]
) -> None:
    error = raised("from the thread")

    def work() -> None:
        raise error

    with pytest.raises(received) as caught:
        await run_in_thread(work, "worker")
    assert error in {caught.value, caught.value.__cause__}


async def test_a_cancellation_does_not_wait_for_the_thread() -> None:
    started, release, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait()
        finished.set()

    task = asyncio.create_task(run_in_thread(work, "worker"))
    await asyncio.to_thread(started.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not finished.is_set()
    release.set()
    assert await asyncio.to_thread(finished.wait, 10)


def test_a_thread_may_outlive_its_loop() -> None:
    started, release = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        started.set()
        release.wait()

    async def main() -> None:
        task = asyncio.create_task(run_in_thread(work, "worker"))
        await asyncio.to_thread(started.wait)
        task.cancel()

    asyncio.run(main())
    release.set()
    threads[0].join(10)  # an exception in the thread would fail the test
    assert not threads[0].is_alive()


async def test_a_thread_that_has_finished_is_used_again() -> None:
    first = await run_in_thread(threading.current_thread, "worker")
    assert await run_in_thread(threading.current_thread, "worker") is first


async def test_calls_at_the_same_time_have_a_thread_each_and_few_are_kept_afterwards() -> None:
    calls = 20
    together = threading.Barrier(calls)

    def work() -> threading.Thread:
        together.wait(10)
        return threading.current_thread()

    threads = await asyncio.gather(*(run_in_thread(work, "worker") for _ in range(calls)))
    assert len({*threads}) == calls
    kept = [await run_in_thread(threading.current_thread, "worker") for _ in range(calls)]
    assert {*kept} <= {*threads}
    assert sum(_ends(thread) for thread in threads) >= calls - 8


def _ends(thread: threading.Thread) -> bool:
    thread.join(0.2)
    return not thread.is_alive()


async def test_a_thread_whose_caller_has_gone_ends_and_is_not_used_again() -> None:
    release, threads = threading.Event(), list[threading.Thread]()

    def work() -> None:
        threads.append(threading.current_thread())
        release.wait(10)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await run_in_thread(work, "worker")
    other = await run_in_thread(threading.current_thread, "worker")
    release.set()
    assert _ends(threads[0])
    assert threads[0] is not other


async def test_a_thread_that_waits_for_the_next_call_keeps_nothing_of_the_last_alive() -> None:
    class Result:
        pass

    made: list[weakref.ref[Result]] = []

    def make(given: Result) -> Result:
        made.append(weakref.ref(given))
        return given

    await run_in_thread(partial(make, Result()), "worker")
    for _ in range(100):  # the thread is a step behind
        gc.collect()
        if made[0]() is None:
            break
        await asyncio.sleep(0.01)
    assert made[0]() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    program = """
import asyncio, os, threading
from llmgine.llm.tools.threads import run_in_thread

async def main():
    async with asyncio.timeout(10):
        await run_in_thread(threading.current_thread, "worker")

asyncio.run(main())
child = os.fork()
if child == 0:
    asyncio.run(main())
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout == "7\n"


def test_a_thread_that_hangs_does_not_keep_the_interpreter_from_exiting() -> None:
    program = """
import asyncio, threading
from llmgine.llm.tools.threads import run_in_thread

async def main():
    try:
        async with asyncio.timeout(0.01):
            await run_in_thread(threading.Event().wait, "worker")
    except TimeoutError:
        print("over")

asyncio.run(main())
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (finished.stdout, finished.stderr) == ("over\n", "")
