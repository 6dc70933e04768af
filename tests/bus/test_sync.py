"""The synchronous face of the application's bus."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from dev_mode import run_in_dev_mode

from llmgine.bus import MessageBus, sync
from llmgine.errors import (
    BlockingCallError,
    BusError,
    BusNotRunningError,
    CommandFailedError,
    HandlerAlreadyRegisteredError,
    HandlerNotFoundError,
)
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.bus import message_bus


@dataclass
class Add(Command[int]):
    left: int
    right: int = 1


@dataclass
class AddedEvent(Event):
    total: int


class Ask(Command[Any]):
    pass


class Hang(Command[None]):
    pass


def add(command: Add) -> int:
    return command.left + command.right


@pytest.fixture(autouse=True)
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application's bus of the test's own."""
    monkeypatch.setattr(MessageBus, "_application", None)
    yield
    message_bus.close()
    assert "llmgine-bus" not in {thread.name for thread in threading.enumerate()}


@contextlib.contextmanager
def loop_elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in another thread, for the application's bus."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
        asyncio.run_coroutine_threadsafe(MessageBus().stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def start_on(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.run_coroutine_threadsafe(MessageBus().start(), loop).result()


class Hanging:
    """A handler that ends only when it is cancelled."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self, command: Hang) -> None:
        self.inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


# dispatch


async def add_later(command: Add) -> int:
    await asyncio.sleep(0)
    return command.left + command.right


@pytest.mark.parametrize("handler", [add, add_later])
def test_dispatch_returns_the_handlers_value(handler: Any) -> None:
    message_bus.register_command(Add, handler)

    assert message_bus.dispatch(Add(2, 3)) == 5


def test_dispatch_raises_the_handlers_own_exception_with_the_frames_of_both_sides() -> None:
    error = KeyError("lost")

    def fail(command: Add) -> int:
        raise error

    message_bus.register_command(Add, fail)

    with pytest.raises(KeyError) as raised:
        message_bus.dispatch(Add(1))
    assert raised.value is error
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert names[0] == "test_dispatch_raises_the_handlers_own_exception_with_the_frames_of_both_sides"
    assert names[-1] == "fail"
    assert "result" not in names  # nothing of the futures between


def test_a_reported_failure_is_raised_with_its_result() -> None:
    failure: CommandResult[int] = CommandResult(success=False, error="no")
    message_bus.register_command(Add, lambda _: failure)

    with pytest.raises(CommandFailedError, match="no") as raised:
        message_bus.dispatch(Add(1))
    assert raised.value.result is failure


def test_a_command_without_a_handler_is_an_error() -> None:
    with pytest.raises(HandlerNotFoundError, match="Add"):
        message_bus.dispatch(Add(1))


def test_a_second_handler_is_refused() -> None:
    message_bus.register_command(Add, add)

    with pytest.raises(HandlerAlreadyRegisteredError):
        message_bus.register_command(Add, add)


def test_a_bus_that_does_not_run_gets_one_background_thread() -> None:
    message_bus.register_command(Ask, lambda _: threading.current_thread())

    (thread,) = {message_bus.dispatch(Ask()) for _ in range(3)}

    assert thread is not threading.current_thread()
    assert thread.daemon


async def test_dispatch_works_where_another_loop_runs_as_in_a_notebook() -> None:
    message_bus.register_command(Add, add_later)

    assert message_bus.dispatch(Add(1)) == 2
    assert MessageBus().loop is not asyncio.get_running_loop()


def test_dispatch_goes_to_the_loop_that_the_bus_runs_on() -> None:
    message_bus.register_command(Ask, lambda _: asyncio.get_running_loop())
    with loop_elsewhere() as loop:
        start_on(loop)
        assert message_bus.dispatch(Ask()) is loop


@pytest.mark.parametrize("form", ["sync", "async"])
def test_a_bus_that_another_thread_starts_meanwhile_is_used_there(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = MessageBus.start
    message_bus.register_command(Ask, lambda _: asyncio.get_running_loop())
    with loop_elsewhere() as loop:

        async def start_second(bus: MessageBus) -> None:
            asyncio.run_coroutine_threadsafe(start(bus), loop).result()
            await start(bus)

        monkeypatch.setattr(MessageBus, "start", start_second)
        if form == "sync":
            assert message_bus.dispatch(Ask()) is loop
        else:
            assert asyncio.run(message_bus.dispatch_async(Ask())) is loop


async def test_dispatch_on_the_loop_of_the_bus_is_refused_and_names_dispatch_async() -> None:
    message_bus.register_command(Add, add)
    bus = MessageBus()
    await bus.start()

    with pytest.raises(BlockingCallError, match=r"await message_bus\.dispatch_async\(Add\(…\)\)"):
        message_bus.dispatch(Add(1))
    with pytest.raises(RuntimeError, match="add_pending_event"):
        message_bus.publish(AddedEvent(1))

    await bus.stop()


@pytest.mark.parametrize(
    "call",
    [
        lambda: message_bus.dispatch(Add(1)),
        lambda: message_bus.publish(AddedEvent(1)),
        message_bus.close,
    ],
    ids=["dispatch", "publish", "close"],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_waiting_inside_a_handler_is_refused_and_does_not_hang(call: Any, kind: str) -> None:
    async def later(command: Add) -> None:
        call()

    message_bus.register_command(Add, later if kind == "async" else lambda _: call())

    with pytest.raises(BlockingCallError):
        message_bus.dispatch(Add(1))


def test_waiting_on_the_background_thread_is_refused_also_when_the_bus_was_stopped_there() -> None:
    async def stop_and_wait(command: Add) -> int:
        await MessageBus().stop()
        return message_bus.dispatch(command)

    message_bus.register_command(Add, stop_and_wait)

    with pytest.raises(BlockingCallError):
        message_bus.dispatch(Add(1))


def test_a_thread_that_a_handler_waits_for_may_dispatch() -> None:
    async def outer(command: Ask) -> int:
        return await asyncio.to_thread(message_bus.dispatch, Add(1))

    message_bus.register_command(Ask, outer)
    message_bus.register_command(Add, add)

    assert message_bus.dispatch(Ask()) == 2


def test_an_interrupt_cancels_the_command() -> None:
    handler = Hanging()
    message_bus.register_command(Hang, handler)
    main = threading.get_ident()

    def interrupt() -> None:
        handler.inside.wait()
        while not waits():  # the handler may begin before its caller has come to wait for it
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    def waits() -> bool:
        frame: FrameType | None = sys._current_frames()[main]
        while frame is not None and frame.f_code is not sync._wait.__code__:
            frame = frame.f_back
        return frame is not None

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        message_bus.dispatch(Hang())
    thread.join()

    assert handler.cancelled.wait(10)


def test_a_handler_that_exits_the_program_does_so_where_it_was_called() -> None:
    message_bus.register_command(Add, lambda command: sys.exit(command.left))

    with pytest.raises(SystemExit) as raised:
        message_bus.dispatch(Add(3))
    assert raised.value.code == 3

    message_bus.close()
    message_bus.register_command(Ask, lambda _: "still here")
    assert message_bus.dispatch(Ask()) == "still here"


# Loops that end


def test_a_loop_that_does_not_run_is_an_error() -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(MessageBus().start())

    with pytest.raises(BusNotRunningError, match="does not run now"):
        message_bus.dispatch(Add(1))

    loop.run_until_complete(MessageBus().stop())
    loop.close()


def test_waiting_ends_when_the_loop_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_GLANCE", 0.01)

    async def stop_the_loop(command: Hang) -> None:
        asyncio.get_running_loop().stop()
        await asyncio.Event().wait()

    message_bus.register_command(Hang, stop_the_loop)
    loop = asyncio.new_event_loop()

    def run() -> None:
        loop.run_forever()
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    asyncio.run_coroutine_threadsafe(MessageBus().start(), loop).result()

    with pytest.raises(BusNotRunningError, match="ended before"):
        message_bus.dispatch(Hang())
    thread.join()


def test_waiting_ends_when_the_program_of_the_loop_ends() -> None:
    handler = Hanging()
    message_bus.register_command(Hang, handler)
    ready = threading.Event()

    async def main() -> None:
        await MessageBus().start()
        ready.set()
        await asyncio.to_thread(handler.inside.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait()

    with pytest.raises(BusNotRunningError, match="ended before"):
        message_bus.dispatch(Hang())
    thread.join()
    assert handler.cancelled.is_set()


def test_after_asyncio_run_both_forms_of_dispatch_work_again() -> None:
    message_bus.register_command(Add, add_later)

    assert asyncio.run(message_bus.dispatch_async(Add(1))) == 2
    assert message_bus.dispatch(Add(2)) == 3
    assert asyncio.run(message_bus.dispatch_async(Add(3))) == 4
    message_bus.close()
    assert asyncio.run(message_bus.dispatch_async(Add(4))) == 5
    assert asyncio.run(message_bus.dispatch_async(Add(5))) == 6


def test_what_waited_before_the_bus_ran_is_delivered_when_the_first_call_starts_it() -> None:
    heard: list[int] = []
    message_bus.subscribe_event(AddedEvent, lambda event: heard.append(event.total))
    asyncio.run(MessageBus().publish(AddedEvent(1)))
    assert heard == []

    message_bus.publish(AddedEvent(2))
    assert heard == [1, 2]


def test_what_waited_when_a_loop_was_closed_is_delivered_on_the_next() -> None:
    heard: list[int] = []

    async def note(event: AddedEvent) -> None:
        if event.total == 1:
            inside.set()
            await asyncio.Event().wait()
        heard.append(event.total)

    inside = asyncio.Event()

    async def main() -> None:
        await MessageBus().start()
        for total in (1, 2):
            await MessageBus().publish(AddedEvent(total), await_processing=False)
        await inside.wait()

    message_bus.subscribe_event(AddedEvent, note)
    asyncio.run(main())
    message_bus.publish(AddedEvent(3))

    assert heard == [2, 3]


# dispatch_async


async def test_on_the_loop_of_the_bus_the_handler_runs_in_the_callers_task() -> None:
    tasks: list[Any] = []
    message_bus.register_command(Add, lambda _: tasks.append(asyncio.current_task()))
    await message_bus.dispatch_async(Add(1))

    assert tasks == [asyncio.current_task()]
    assert MessageBus().loop is asyncio.get_running_loop()
    await MessageBus().stop()


async def test_on_another_loop_the_callers_goes_on_meanwhile() -> None:
    answer: Future[int] = Future()

    async def wait(command: Add) -> int:
        return await asyncio.wrap_future(answer)

    message_bus.register_command(Add, wait)
    message_bus.register_command(Ask, lambda _: None)
    message_bus.dispatch(Ask())  # the bus is now in the background

    dispatched = asyncio.create_task(message_bus.dispatch_async(Add(1)))
    await asyncio.sleep(0)
    answer.set_result(7)
    assert await dispatched == 7


async def test_dispatch_async_raises_the_handlers_own_exception_from_either_loop() -> None:
    message_bus.register_command(Add, lambda c: c.left / 0)
    message_bus.register_command(Ask, lambda _: None)

    with pytest.raises(ZeroDivisionError):
        await message_bus.dispatch_async(Add(1))
    await MessageBus().stop()
    message_bus.dispatch(Ask())
    with pytest.raises(ZeroDivisionError):
        await message_bus.dispatch_async(Add(1))


@pytest.mark.parametrize("place", ["here", "elsewhere"])
async def test_cancelling_the_caller_cancels_the_command(place: str) -> None:
    handler = Hanging()
    message_bus.register_command(Hang, handler)
    message_bus.register_command(Add, add)
    if place == "elsewhere":
        message_bus.dispatch(Add(1))

    dispatched = asyncio.create_task(message_bus.dispatch_async(Hang()))
    await asyncio.to_thread(handler.inside.wait)
    dispatched.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dispatched

    assert await asyncio.to_thread(handler.cancelled.wait, 10)
    if place == "here":
        await MessageBus().stop()


async def test_a_caller_whose_bus_is_closed_elsewhere_is_told_and_not_cancelled() -> None:
    handler = Hanging()
    message_bus.register_command(Hang, handler)
    message_bus.register_command(Add, add)
    message_bus.dispatch(Add(1))

    dispatched = asyncio.create_task(message_bus.dispatch_async(Hang()))
    await asyncio.to_thread(handler.inside.wait)
    await asyncio.to_thread(message_bus.close)

    with pytest.raises(BusNotRunningError, match="ended before"):
        await dispatched


# Events


def test_publish_returns_when_the_event_is_handled() -> None:
    heard: list[int] = []

    async def later(event: AddedEvent) -> None:
        await asyncio.sleep(0)
        heard.append(event.total)

    message_bus.subscribe_event(AddedEvent, later)
    message_bus.publish(AddedEvent(3))

    assert heard == [3]


def test_publish_raises_what_a_handler_raised_where_errors_are_unsuppressed() -> None:
    def fail(event: AddedEvent) -> None:
        raise TimeoutError(event.total)

    message_bus.subscribe_event(AddedEvent, fail)
    message_bus.publish(AddedEvent(1))
    MessageBus().unsuppress_event_errors()

    with pytest.raises(TimeoutError, match="2"):
        message_bus.publish(AddedEvent(2))


@pytest.mark.parametrize("subscription", [AddedEvent, Event, "added", "*", "**"])
def test_an_event_is_heard_by_class_and_by_name_until_unsubscribed(subscription: Any) -> None:
    heard: list[Event] = []
    message_bus.subscribe_event(subscription, heard.append)
    event = AddedEvent(1)
    message_bus.publish(event)

    assert heard == [event]
    assert message_bus.unsubscribe_event(subscription, heard.append)
    message_bus.publish(AddedEvent(2))
    assert heard == [event]
    assert not message_bus.unsubscribe_event(subscription, heard.append)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_pending_events_are_heard_before_dispatch_returns(kind: str) -> None:
    heard: list[int] = []

    async def note(event: AddedEvent) -> None:
        await asyncio.sleep(0)
        heard.append(event.total)

    def add_and_tell(command: Add) -> int:
        message_bus.add_pending_event(AddedEvent(add(command)))
        assert heard == []
        return add(command)

    async def add_and_tell_later(command: Add) -> int:
        await asyncio.sleep(0)
        return add_and_tell(command)

    message_bus.subscribe_event("added", note)
    message_bus.register_command(Add, add_and_tell if kind == "sync" else add_and_tell_later)

    assert message_bus.dispatch(Add(1)) == 2
    assert heard == [2]


def test_pending_events_of_a_handler_that_fails_are_dropped() -> None:
    heard: list[Event] = []

    def tell_and_fail(command: Add) -> int:
        message_bus.add_pending_event(AddedEvent(1))
        raise ValueError

    message_bus.subscribe_event("added", heard.append)
    message_bus.register_command(Add, tell_and_fail)

    with pytest.raises(ValueError):  # noqa: PT011  # the handler's, without a text
        message_bus.dispatch(Add(1))
    message_bus.close()
    assert heard == []


def test_a_pending_event_outside_a_handler_is_an_error() -> None:
    with pytest.raises(BusError):
        message_bus.add_pending_event(AddedEvent(1))


# The end


def test_close_delivers_what_was_accepted_and_the_next_call_begins_anew() -> None:
    heard: list[int] = []

    async def leave_an_event(command: Add) -> None:
        event = AddedEvent(command.left, session_id=SessionID("other"))
        await MessageBus().publish(event, await_processing=False)

    async def note(event: AddedEvent) -> None:
        await asyncio.sleep(0.01)
        heard.append(event.total)

    message_bus.register_command(Add, leave_an_event)
    message_bus.subscribe_event(AddedEvent, note)
    for number in (1, 2):
        message_bus.dispatch(Add(number))
        message_bus.close()
        assert heard[-1] == number
    message_bus.close()
    assert heard == [1, 2]


def test_close_cancels_commands_under_way_and_their_callers_are_told() -> None:
    handler = Hanging()
    message_bus.register_command(Hang, handler)
    outcome: list[BaseException] = []

    def dispatch() -> None:
        try:
            message_bus.dispatch(Hang())
        except BusNotRunningError as error:
            outcome.append(error)

    thread = threading.Thread(target=dispatch)
    thread.start()
    handler.inside.wait()
    message_bus.close()
    thread.join()

    assert handler.cancelled.is_set()
    assert len(outcome) == 1


def test_close_leaves_a_bus_alone_that_runs_elsewhere() -> None:
    message_bus.register_command(Add, add)
    message_bus.dispatch(Add(1))
    asyncio.run(stop())
    with loop_elsewhere() as loop:
        start_on(loop)
        message_bus.close()
        assert MessageBus().loop is loop
        assert message_bus.dispatch(Add(1)) == 2


async def stop() -> None:
    await MessageBus().stop()


PROGRAM = """
import asyncio, atexit, logging, sys, threading, time
from dataclasses import dataclass
from llmgine.bus import MessageBus, sync
from llmgine.messages import Command, Event
from llmgine.messages.bus import message_bus

@dataclass
class Leave(Command[str]):
    pass

@dataclass
class LeftEvent(Event):
    pass

async def leave(command):
    await MessageBus().publish(LeftEvent(), await_processing=False)
    return "left"

async def arrive(event):
    await asyncio.sleep(0.05)
    print("arrived")

message_bus.register_command(Leave, leave)
message_bus.subscribe_event("left", arrive)
"""


def run(program: str, timeout: float = 60) -> str:
    """Run a program after `PROGRAM`; it must end well, say nothing on stderr, and not need longer than `timeout`."""
    done = run_in_dev_mode("-c", PROGRAM + textwrap.dedent(program), timeout=timeout)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_at_the_end_of_the_program_what_was_accepted_is_delivered() -> None:
    assert run("print(message_bus.dispatch(Leave()))") == "left\narrived\n"


def test_a_program_that_ends_by_sys_exit_delivers_too() -> None:
    assert run("message_bus.dispatch(Leave()); sys.exit(0)") == "arrived\n"


def test_atexit_callbacks_may_dispatch() -> None:
    program = """
        atexit.register(lambda: print(message_bus.dispatch(Leave())))
        message_bus.dispatch(Leave())
    """
    assert sorted(run(program).split()) == ["arrived", "arrived", "left"]


def test_a_program_that_never_dispatches_starts_no_thread() -> None:
    assert run("import threading; print(threading.active_count())") == "1\n"


SOON = """
atexit.unregister(message_bus.close)
atexit.register(message_bus.close, 0.1)
"""


def test_a_handler_that_never_ends_is_cancelled_at_the_end_of_the_program() -> None:
    program = """
        async def hang(event):
            try:
                await asyncio.Event().wait()
            finally:
                print("cancelled")

        logging.disable()
        message_bus.subscribe_event("left", hang)
        message_bus.dispatch(Leave())
    """
    assert run(SOON + textwrap.dedent(program)) == "arrived\ncancelled\n"


def test_a_handler_that_blocks_its_loop_does_not_hold_up_the_end_of_the_program() -> None:
    program = """
        blocked, dispatched = threading.Event(), threading.Event()

        async def block(event):
            await asyncio.to_thread(dispatched.wait)
            blocked.set()
            time.sleep(1000)

        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        sync._GRACE = 0.1
        message_bus.subscribe_event("left", block)
        message_bus.dispatch(Leave())
        dispatched.set()
        blocked.wait()
    """
    assert "did not stop within 0.1 s" in run(SOON + textwrap.dedent(program))
