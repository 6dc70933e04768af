"""The application's bus among many threads, and in the children of a process."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dev_mode import run_in_dev_mode

from llmgine.bus import MessageBus
from llmgine.errors import BusNotRunningError
from llmgine.messages import Command, Event
from llmgine.messages.bus import message_bus
from llmgine.messages.handlers import register_handlers
from llmgine.messages.resources import CreateResourceCommand

THREADS = 16


@dataclass
class Number(Command[Any]):
    value: int = 0


@dataclass
class NumberEvent(Event):
    value: int


@pytest.fixture(autouse=True)
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application's bus of the test's own."""
    monkeypatch.setattr(MessageBus, "_application", None)
    yield
    message_bus.close()
    assert "llmgine-bus" not in {thread.name for thread in threading.enumerate()}


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run each work in a thread of its own, all beginning together."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [*pool.map(begin, works)]


def test_many_threads_lose_nothing() -> None:
    heard: list[int] = []

    async def handle(command: Number) -> int:
        message_bus.add_pending_event(NumberEvent(command.value))
        if command.value % 3 == 0:
            await asyncio.sleep(0)
        return -command.value

    message_bus.register_command(Number, handle)
    message_bus.subscribe_event("number", lambda event: heard.append(event.value))

    def work(thread: int) -> list[int]:
        return [message_bus.dispatch(Number(value)) for value in range(thread * 500, thread * 500 + 500)]

    answers = at_once(*(lambda thread=thread: work(thread) for thread in range(THREADS)))

    assert [-value for answer in answers for value in answer] == [*range(THREADS * 500)]
    assert sorted(heard) == [*range(THREADS * 500)]
    for thread in range(THREADS):  # each thread waits, so its own events come in its own order
        own = range(thread * 500, thread * 500 + 500)
        assert [value for value in heard if value in own] == [*own]


@pytest.mark.parametrize("attempt", range(10))
def test_a_first_use_raced_by_all_threads_makes_one_bus_and_one_loop(attempt: int) -> None:
    def register_and_ask() -> Any:
        register_handlers()
        return MessageBus(), message_bus.dispatch(CreateResourceCommand("note")), MessageBus().loop

    answers = at_once(*[register_and_ask] * THREADS)

    assert len({bus for bus, _, _ in answers}) == 1
    assert len({resource_id for _, resource_id, _ in answers}) == THREADS
    assert len({loop for _, _, loop in answers}) == 1
    assert [thread.name for thread in threading.enumerate()].count("llmgine-bus") == 1
    assert len(register_handlers()) == THREADS


@pytest.mark.parametrize("attempt", range(10))
def test_a_first_use_raced_by_threads_and_loops_runs_the_bus_on_one_of_them(attempt: int) -> None:
    asked = threading.Barrier(THREADS)
    MessageBus().register_command_handler(Number, lambda _: asyncio.get_running_loop())

    def ask() -> Any:
        loop = message_bus.dispatch(Number())
        asked.wait()
        return loop

    async def ask_async() -> Any:
        loop: Any = await message_bus.dispatch_async(Number())
        await asyncio.to_thread(asked.wait)  # no loop ends while another thread may need it
        if loop is asyncio.get_running_loop():
            await MessageBus().stop()
        return loop

    works: list[Callable[[], Any]] = [ask, lambda: asyncio.run(ask_async())] * (THREADS // 2)

    assert len(set(at_once(*works))) == 1


def test_no_call_hangs_while_the_background_is_closed_and_begun_again_and_again() -> None:
    message_bus.register_command(Number, lambda command: command.value)
    done = threading.Event()
    counts = {"answered": 0, "told": 0}

    def work() -> None:
        value = 0
        while not done.is_set():
            value += 1
            try:
                assert message_bus.dispatch(Number(value)) == value
                counts["answered"] += 1
            except BusNotRunningError:
                counts["told"] += 1

    def close() -> None:
        try:
            for _ in range(30):
                message_bus.dispatch(Number())
                message_bus.close()
        finally:
            done.set()

    at_once(work, work, work, close)

    assert counts["answered"] > 0


def test_handlers_are_registered_safely_while_the_bus_is_at_work() -> None:
    message_bus.register_command(Number, lambda command: message_bus.add_pending_event(NumberEvent(command.value)))
    heard: list[int] = []

    def subscribe() -> None:
        for _ in range(100):
            message_bus.subscribe_event(NumberEvent, lambda event: heard.append(event.value))

    def work() -> None:
        for value in range(100):
            message_bus.dispatch(Number(value))

    at_once(subscribe, subscribe, work, work)
    heard.clear()
    message_bus.dispatch(Number(7))

    assert heard == [7] * 200


# Forks

PROGRAM = """
import asyncio, multiprocessing, os, sys, threading, time, warnings
from dataclasses import dataclass
from pathlib import Path

# Python warns of forks with threads; that they are safe here is what is being tested.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

from llmgine.bus import MessageBus
from llmgine.messages import Command, Event
from llmgine.messages.bus import message_bus

@dataclass
class Where(Command[tuple]):
    pass

@dataclass
class AnsweredEvent(Event):
    by: int

async def where(command):
    await asyncio.sleep(0)
    await MessageBus().publish(AnsweredEvent(os.getpid()), await_processing=False)
    return os.getpid(), threading.current_thread().name

def here(answer):
    return answer == (os.getpid(), "llmgine-bus")

async def note(event):
    await asyncio.sleep(0.01)
    with open("answered", "a") as file:
        print(event.by, file=file)

message_bus.register_command(Where, where)
message_bus.subscribe_event("answered", note)

def fork(work):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    code = 1
    try:
        work()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)

def work():
    for _ in range(3):
        assert here(message_bus.dispatch(Where()))
    message_bus.close()
"""


def run(program: str, folder: Path) -> list[int]:
    """Run a program after `PROGRAM`, which must say nothing; return who answered, as often as they did."""
    script = folder / "program.py"
    script.write_text(PROGRAM + textwrap.dedent(program))
    done = run_in_dev_mode(script.name, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return [int(line) for line in (folder / "answered").read_text().split()]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")


@needs_fork
@pytest.mark.parametrize("used", ["", "work()", "assert here(message_bus.dispatch(Where()))"])
def test_a_child_has_a_background_of_its_own_and_the_parent_keeps_his(used: str, tmp_path: Path) -> None:
    answered = run(
        f"""
        {used or "pass"}
        fork(work)
        fork(lambda: fork(work))
        work()
        """,
        tmp_path,
    )
    counts = sorted(answered.count(process) for process in set(answered))

    assert counts == [3, 3, {"": 3, "work()": 6}.get(used, 4)]


@needs_fork
def test_a_child_of_a_loop_that_runs_the_bus_can_start_it_on_its_own(tmp_path: Path) -> None:
    answered = run(
        """
        async def main():
            await message_bus.dispatch_async(Where())
            fork(work)
            fork(lambda: asyncio.run(child()))
            await MessageBus().stop()

        async def child():
            await message_bus.dispatch_async(Where())
            await MessageBus().stop()

        asyncio.run(main())
        """,
        tmp_path,
    )

    assert sorted(answered.count(process) for process in set(answered)) == [1, 1, 3]


@needs_fork
def test_a_child_of_a_handler_can_dispatch(tmp_path: Path) -> None:
    answered = run(
        """
        class Fork(Command[None]):
            pass

        message_bus.register_command(Fork, lambda _: fork(work))
        message_bus.dispatch(Fork())
        """,
        tmp_path,
    )

    assert len(answered) == 3


@needs_fork
def test_forks_in_the_midst_of_work_hang_nobody(tmp_path: Path) -> None:
    answered = run(
        """
        done = threading.Event()

        class Pause(Command[None]):
            pass

        def busy():
            while not done.is_set():
                message_bus.dispatch(Pause())

        message_bus.register_command(Pause, lambda _: asyncio.sleep(0))

        threads = [threading.Thread(target=busy) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            fork(work)
        done.set()
        for thread in threads:
            thread.join()
        """,
        tmp_path,
    )

    assert [answered.count(process) for process in set(answered)] == [3] * 20


@needs_fork
def test_a_child_that_ends_as_programs_do_delivers_what_it_accepted(tmp_path: Path) -> None:
    answered = run(
        """
        message_bus.dispatch(Where())
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
        else:
            message_bus.dispatch(Where())
        """,
        tmp_path,
    )

    assert len(answered) == len(set(answered)) == 2


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_deliver_what_they_accepted(method: str, tmp_path: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform has no {method}")
    answered = run(
        f"""
        def ask():
            assert here(message_bus.dispatch(Where()))

        if __name__ == "__main__":
            ask()
            context = multiprocessing.get_context("{method}")
            processes = [context.Process(target=ask) for _ in range(3)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
                assert process.exitcode == 0
        """,
        tmp_path,
    )

    assert len(answered) == len(set(answered)) == 4
