import asyncio
import concurrent.futures
import subprocess
import sys
import threading
from contextvars import ContextVar

import pytest

from llmgine.llm.tools.threads import run_in_thread

variable: ContextVar[str] = ContextVar("variable")


async def test_the_function_runs_in_a_daemon_thread_of_the_given_name() -> None:
    thread = await run_in_thread(threading.current_thread, "worker")
    assert thread.name == "worker"
    assert thread.daemon


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
