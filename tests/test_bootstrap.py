"""An application's life: what it starts, what it undoes, how it ends, and what signals do to it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event as ThreadEvent
from typing import Any, assert_type

import pytest

from llmgine.bootstrap import ApplicationBootstrap, ApplicationConfig, CommandBootstrap, setup_basic_logging
from llmgine.bus import MessageBus, StopReport
from llmgine.errors import ConfigurationError, DeadlockError, HandlerAlreadyRegisteredError
from llmgine.messages import Command, CommandResult, Event
from llmgine.observability import LogLevel, ObservabilityHandler


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MessageBus, "_application", None)


@dataclass
class Work(Command[str]):
    text: str = ""


@dataclass
class Worked(Event):
    text: str = ""


@dataclass
class OwnConfig(ApplicationConfig):
    greeting: str = "Hello"


class Recorder(ObservabilityHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.closed = 0

    def handle(self, event: Event) -> None:
        self.seen.append(type(event).__name__)

    def close(self) -> None:
        self.closed += 1


class Application(ApplicationBootstrap[OwnConfig]):
    heard: list[str]

    def _register_command_handlers(self) -> None:
        self.heard = []
        self.register_command_handler(Work, self.work)

    def _register_event_handlers(self) -> None:
        self.register_event_handler(Worked, self.note)

    async def work(self, command: Work) -> str:
        await self.message_bus.publish(Worked(text=command.text))
        return f"{self.config.greeting}, {command.text}"

    def note(self, event: Worked) -> None:
        self.heard.append(event.text)
        self.obs_bus.log(LogLevel.INFO, f"Event handled: {event.text}")


def quiet(folder: Path | None = None) -> OwnConfig:
    """Settings without a console; with a log if there is a folder for it."""
    return OwnConfig(
        enable_console_handler=False,
        enable_file_handler=folder is not None,
        file_handler_log_dir=folder or "logs",
        file_handler_log_filename="app.jsonl",
    )


def logged(folder: Path) -> list[str]:
    """The events in the log, by class."""
    return [json.loads(line)["event_type"] for line in (folder / "app.jsonl").read_text().splitlines()]


# What it is


def test_settings_have_the_published_defaults() -> None:
    config = ApplicationConfig()

    assert (config.name, config.log_level) == ("application", LogLevel.INFO)
    assert (config.enable_console_handler, config.enable_file_handler) == (True, True)
    assert (config.file_handler_log_dir, config.file_handler_log_filename) == ("logs", None)


def test_an_application_without_settings_takes_the_defaults_of_its_own(tmp_path: Path) -> None:
    class Further(Application):
        pass

    class Program(CommandBootstrap[OwnConfig]):
        pass

    class Plain(ApplicationBootstrap):
        pass

    assert_type(Further().config, OwnConfig)
    assert_type(Plain().config, ApplicationConfig)
    assert Application().config == Further().config == Program().config == OwnConfig()
    assert type(Plain().config) is ApplicationConfig


def test_construction_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    application = Application()

    assert list(tmp_path.iterdir()) == []
    assert application.observability.handler_count == 0
    assert application.message_bus is MessageBus()
    assert application.obs_bus is application.observability


def test_importing_it_reads_no_settings(tmp_path: Path) -> None:
    program = "import sys, llmgine.bootstrap; print('pydantic_settings' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout.strip() == "False"


# Starting


async def test_the_published_example_runs(tmp_path: Path) -> None:
    application = Application(quiet(tmp_path))
    await application.bootstrap()
    result = await application.message_bus.execute(Work(text="you"))
    await application.message_bus.publish(Worked(text="me"))
    await application.shutdown()

    assert result.unwrap() == "Hello, you"
    assert application.heard == ["you", "me"]
    assert logged(tmp_path).count("LogEvent") == 2
    assert logged(tmp_path).count("Worked") == 2


async def test_a_file_alone_is_one_handler_and_gets_what_is_published(tmp_path: Path) -> None:
    application = ApplicationBootstrap(quiet(tmp_path / "some" / "where"))
    await application.bootstrap()
    await application.message_bus.publish(Worked())

    assert application.observability.handler_count == 1
    assert logged(tmp_path / "some" / "where") == ["Worked"]
    await application.shutdown()


async def test_handlers_are_registered_before_and_during_bootstrap() -> None:
    application = Application(quiet())
    before: list[Event] = []
    application.register_event_handler(Worked, before.append)
    application.register_event_handler("worked", before.append, priority=10)
    await application.message_bus.publish(Worked(text="early"))
    async with application:
        await application.message_bus.execute(Work(text="late"))

    assert application.heard == ["early", "late"]
    assert len(before) == 4


async def test_bootstrap_of_an_application_that_runs_does_nothing() -> None:
    application = Application(quiet())
    await application.bootstrap()
    await application.bootstrap()
    await application.message_bus.execute(Work(text="once"))

    assert application.heard == ["once"]
    await application.shutdown()


async def test_commands_have_spans_while_there_is_a_log(tmp_path: Path) -> None:
    async with Application(quiet(tmp_path)) as application:
        await application.message_bus.execute(Work())
    assert logged(tmp_path).count("TraceEvent") == 2

    recorder = Recorder()
    application = Application(quiet())
    await application.bootstrap()
    application.observability.register_handler(recorder)
    await application.message_bus.execute(Work())
    await application.shutdown()
    assert "Worked" in recorder.seen
    assert "TraceEvent" not in recorder.seen


async def test_a_session_is_on_the_applications_bus() -> None:
    application = Application(quiet(), message_bus=MessageBus.isolated())
    async with application, application.create_session("s1") as session:
        result = await session.execute_with_session(Work(text="you"))

    assert result.session_id == session.session_id == "s1"
    assert application.message_bus is not MessageBus()


# What cannot work


@contextmanager
def warnings_of(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    texts: list[str] = []
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        yield texts
        texts += [record.getMessage() for record in caplog.records]


async def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with warnings_of(caplog) as texts:
        async with Application(quiet(tmp_path / "file" / "logs")) as application:
            await application.message_bus.execute(Work(text="you"))

    assert application.heard == ["you"]
    assert len(texts) == 1
    assert "file/logs' cannot be written: " in texts[0]
    assert "Name another folder in file_handler_log_dir" in texts[0]


async def test_a_failed_bootstrap_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken(Application):
        def _register_event_handlers(self) -> None:
            super()._register_event_handlers()
            msg = "mine"
            raise LookupError(msg)

    bus = MessageBus.isolated()
    application = Broken(quiet(tmp_path), message_bus=bus)
    kept: list[Event] = []
    application.register_event_handler(Worked, kept.append)
    with pytest.raises(LookupError, match="mine"):
        await application.bootstrap()

    assert application.observability.handler_count == 0
    assert bus.loop is None
    assert bus._gate.open
    assert not bus._tracing
    assert (await bus.get_stats())["total_command_handlers"] == 0
    assert (await bus.get_stats())["total_event_handlers"] == 1  # from before
    assert await application.shutdown() == StopReport()
    assert (await bus.get_stats())["total_event_handlers"] == 0


async def test_a_context_that_could_not_be_entered_is_shut_down() -> None:
    class Further(Application):
        async def bootstrap(self) -> None:
            await super().bootstrap()
            msg = "no database"
            raise ConnectionError(msg)

    application = Further(quiet())
    with pytest.raises(ConnectionError):
        await application.__aenter__()

    assert application.message_bus.loop is None
    assert (await application.message_bus.get_stats())["total_command_handlers"] == 0


async def test_a_command_that_has_a_handler_keeps_it() -> None:
    bus = MessageBus.isolated()
    bus.register_command_handler(Work, lambda command: "theirs")
    application = Application(quiet(), message_bus=bus)
    with pytest.raises(HandlerAlreadyRegisteredError):
        await application.bootstrap()

    assert (await bus.execute(Work())).result == "theirs"


async def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    config = quiet(tmp_path / "logs")
    config.file_handler_log_filename = "../app.jsonl"
    with pytest.raises(ConfigurationError, match="inside the folder"):
        await Application(config).bootstrap()


# Ending


async def test_shutdown_delivers_what_was_accepted_and_then_closes_the_sinks(tmp_path: Path) -> None:
    class Slow(Application):
        async def note(self, event: Worked) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            await self.message_bus.publish(Event())

    application = Slow(quiet(tmp_path))
    recorder = Recorder()
    application.observability.register_handler(recorder)
    await application.bootstrap()
    for _ in range(20):
        await application.message_bus.publish(Worked(), await_processing=False)
    report = await application.shutdown()

    assert (report.delivered, report.abandoned) == (20, 0)
    assert logged(tmp_path).count("Event") == recorder.seen.count("Event") == 20
    assert recorder.closed == 1
    assert application.observability.handler_count == 0


async def test_shutdown_takes_everything_back_so_that_another_application_may_follow() -> None:
    first = Application(quiet())
    first.register_event_handler(Worked, lambda event: None)
    async with first:
        pass
    stats = await MessageBus().get_stats()
    assert (stats["running"], stats["total_command_handlers"], stats["total_event_handlers"]) == (False, 0, 0)
    assert MessageBus()._gate.open
    assert MessageBus()._registry.count == 0

    async with first, Application(quiet(), message_bus=MessageBus.isolated()) as other:
        await first.message_bus.execute(Work(text="again"))
        await other.message_bus.execute(Work(text="beside"))
    assert (first.heard, other.heard) == (["again"], ["beside"])


async def test_shutdown_is_idempotent() -> None:
    application = Application(quiet())
    assert await application.shutdown() == StopReport()
    await application.bootstrap()
    held = asyncio.Event()

    async def hold(event: Worked) -> None:
        await held.wait()

    application.register_event_handler(Worked, hold)
    await application.message_bus.publish(Worked(), await_processing=False)
    both = asyncio.gather(application.shutdown(), application.shutdown())
    asyncio.get_running_loop().call_soon(held.set)
    assert list(await both) == [StopReport(delivered=1)] * 2
    assert await application.shutdown() == StopReport()


async def test_what_does_not_end_in_time_is_cancelled_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    application = ApplicationBootstrap(quiet())
    began = asyncio.Event()
    cancelled: list[str] = []

    async def never(event: Worked) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.text)
            raise

    application.register_event_handler(Worked, never)
    await application.bootstrap()
    for text in ("a", "b", "c"):
        await application.message_bus.publish(Worked(text=text), await_processing=False)
    await began.wait()
    with warnings_of(caplog) as texts:
        report = await application.shutdown(timeout=0.01)

    assert report == StopReport(delivered=0, abandoned=3)
    assert cancelled == ["a"]
    assert texts == ["The bus stopped with 3 events not handled to their end"]


async def test_a_sink_that_never_closes_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgine.bootstrap._GRACE", 0.01)
    released = ThreadEvent()

    class Stuck(Recorder):
        def close(self) -> None:
            released.wait()

    application = Application(quiet())
    application.observability.register_handler(Stuck())
    await application.bootstrap()
    with warnings_of(caplog) as texts:
        await application.shutdown(timeout=0.01)
    released.set()

    assert texts == ["A sink did not close in time; what it had yet to write may be lost"]
    assert application.message_bus.loop is None


async def test_a_handler_that_shuts_down_its_own_bus_is_told_and_nothing_has_ended() -> None:
    application = Application(quiet())
    told: list[BaseException] = []

    async def shut_down(event: Event) -> None:
        try:
            await application.shutdown()
        except DeadlockError as error:
            told.append(error)

    application.register_event_handler(Worked, shut_down)
    async with application:
        await application.message_bus.publish(Worked(text="a"))
        await application.message_bus.publish(Worked(text="b"))

    assert len(told) == 2
    assert application.heard == ["a", "b"]


async def test_the_error_of_a_body_goes_on_to_the_caller() -> None:
    application = Application(quiet())
    with pytest.raises(ZeroDivisionError):
        async with application:
            raise ZeroDivisionError
    assert application.message_bus.loop is None


# Running, and signals


async def test_run_returns_what_main_returned() -> None:
    application = Application(quiet())
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    async def main() -> int:
        await application.message_bus.execute(Work(text="you"))
        return 3

    async def silent() -> None:
        assert application.message_bus.loop is not None

    assert await application.run(main) == 3
    assert application.heard == ["you"]
    assert await application.run(silent) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_run_raises_what_main_raised_after_the_end() -> None:
    application = Application(quiet())

    async def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await application.run(main)
    assert application.message_bus.loop is None


async def test_cancelling_run_from_outside_is_a_cancellation() -> None:
    application = Application(quiet())
    began = asyncio.Event()

    async def main() -> None:
        began.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(application.run(main))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert application.message_bus.loop is None


async def test_a_main_that_ends_well_on_a_signal_decides_the_exit_code() -> None:
    application = Application(quiet())

    async def main() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 7
        return 0

    assert await application.run(main) == 7
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_signal_during_the_shutdown_does_not_cut_it_short() -> None:
    application = ApplicationBootstrap(quiet())
    handled: list[str] = []

    async def note(event: Worked) -> None:
        if not handled:
            os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(5):
            await asyncio.sleep(0)
        handled.append(event.text)

    async def main() -> int:
        application.register_event_handler(Worked, note)
        for text in ("a", "b"):
            await application.message_bus.publish(Worked(text=text), await_processing=False)
        return 4

    assert await application.run(main) == 4
    assert handled == ["a", "b"]


PROGRAM = """
import asyncio, sys
from llmgine.bootstrap import ApplicationBootstrap, ApplicationConfig
from llmgine.messages import Event

class Application(ApplicationBootstrap):
    def _register_event_handlers(self):
        self.register_event_handler(Event, self.slow)

    async def slow(self, event):
        await asyncio.sleep(SECONDS)

    async def bootstrap(self):
        await super().bootstrap()
        for _ in range(5):
            await self.message_bus.publish(Event(), await_processing=False)
        print("up", flush=True)

config = ApplicationConfig(enable_console_handler=False, file_handler_log_filename="app.jsonl")
application = Application(config)
code = asyncio.run(application.run(timeout=TIMEOUT))
print("down", code, flush=True)
sys.exit(code)
"""


@contextmanager
def running(program: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The program in a process of its own, once it has said that it is up."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program], cwd=folder, stdout=pipe, stderr=pipe, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(number: signal.Signals, tmp_path: Path) -> None:
    with running(PROGRAM.replace("SECONDS", "0.01").replace("TIMEOUT", "30"), tmp_path / ".") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=30)

    assert (out, err) == (f"down {128 + number}\n", "")
    assert process.returncode == 128 + number
    assert logged(tmp_path / "logs") == ["Event"] * 5 + ["LogEvent"]


def test_what_is_not_done_by_the_deadline_is_told(tmp_path: Path) -> None:
    with running(PROGRAM.replace("SECONDS", "600").replace("TIMEOUT", "0.1"), tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 143
    assert out == "down 143\n"
    assert err == "The bus stopped with 5 events not handled to their end\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path) -> None:
    with running(PROGRAM.replace("SECONDS", "600").replace("TIMEOUT", "600"), tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < limit:  # until it has heard the first
            process.send_signal(number)
            time.sleep(0.05)
        process.communicate(timeout=30)

    assert process.returncode in {-signal.SIGTERM, -number}


def test_a_signal_that_was_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    ignoring = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    with running(ignoring + PROGRAM.replace("SECONDS", "0").replace("TIMEOUT", "30"), tmp_path) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    assert process.returncode == 128 + signal.SIGTERM


# One command


class Program(CommandBootstrap[OwnConfig]):
    heard: list[str]
    handle: Callable[[Work], Awaitable[Any] | Any] = staticmethod(lambda command: f"did {command.text}")

    def _register_command_handlers(self) -> None:
        self.register_command_handler(Work, self.handle)


async def test_a_command_is_executed_and_its_result_returned() -> None:
    program = Program(quiet())
    result: CommandResult[str] = await program.run_command(Work(text="it"))

    assert result.unwrap() == "did it"
    assert program.message_bus.loop is None


async def test_a_commands_failure_is_its_result() -> None:
    program = Program(quiet())
    program.handle = lambda command: 1 / 0
    result = await program.run_command(Work())

    assert result.error == "ZeroDivisionError: division by zero"


async def test_a_signal_cancels_the_command_and_is_named_in_its_result() -> None:
    program = Program(quiet())

    async def handle(command: Work) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    program.handle = handle
    command = Work()
    result = await program.run_command(command)

    assert (result.success, result.error) == (False, "CancelledError: Work was cancelled by SIGTERM")
    assert result.command_id == command.command_id


# Logging


@contextmanager
def bare_logging() -> Iterator[logging.Logger]:
    """The root logger as in a program that has not set it up."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers = handlers
        root.setLevel(level)


def test_basic_logging_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_logging():
        setup_basic_logging(LogLevel.DEBUG)
        setup_basic_logging(LogLevel.WARNING)
        logging.getLogger("mine").info("quiet")
        logging.getLogger("mine").warning("loud")

    assert capsys.readouterr().err.endswith(" WARNING mine: loud\n")
    with pytest.raises(
        ConfigurationError, match=r"'loud' is no log level. There are debug, info, warning, error, crit"
    ):
        setup_basic_logging("loud")  # type: ignore[arg-type]


async def test_the_console_sets_logging_up_only_where_nobody_has(capsys: pytest.CaptureFixture[str]) -> None:
    config = ApplicationConfig(enable_file_handler=False, log_level=LogLevel.ERROR)
    with bare_logging() as root:
        async with ApplicationBootstrap(config) as application:
            assert application.observability.handler_count == 1
            application.obs_bus.log(LogLevel.WARNING, "quiet")
            application.obs_bus.log(LogLevel.ERROR, "loud")
        assert root.level == logging.ERROR

        config.log_level = LogLevel.DEBUG
        async with ApplicationBootstrap(config):
            assert root.level == logging.ERROR

    assert "loud" in (text := capsys.readouterr().err)
    assert "quiet" not in text


def test_a_level_that_there_is_not_is_refused() -> None:
    assert ApplicationConfig(log_level="debug").log_level is LogLevel.DEBUG  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'loud' is no log level"):
        ApplicationConfig(log_level="loud")  # type: ignore[arg-type]
