"""An application's life: what it is made of is put together and started in order, and ended in the reverse of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, Self, cast, get_args

from typing_extensions import TypeVar

from llmgine.bus import BusSession, HandlerPriority, MessageBus, StopReport
from llmgine.bus.interfaces import CommandHandler, EventHandler
from llmgine.bus.registry import EventKey
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult
from llmgine.observability import LogLevel, ObservabilityHandler, ObservabilityManager
from llmgine.observability.content import content_wanted
from llmgine.observability.handlers import ConsoleHandler
from llmgine.observability.setup import open_log

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ApplicationBootstrap", "ApplicationConfig", "CommandBootstrap", "setup_basic_logging"]

R = TypeVar("R")

_log = logging.getLogger("llmgine.bootstrap")
_GRACE = 1.0
"""Seconds that sinks get to write what they hold, also when the handlers took all the time there was."""


@dataclass
class ApplicationConfig:
    """Settings that every application has. A dataclass that derives from it adds its own."""

    name: str = "application"
    description: str = "An LLMgine application"
    log_level: LogLevel = LogLevel.INFO
    """Of events at the console; and of the standard library's `logging`, if nobody else has set that up."""
    enable_console_handler: bool = True
    """Write lines about events to standard error."""
    enable_file_handler: bool = True
    file_handler_log_dir: str | os.PathLike[str] = "logs"
    file_handler_log_filename: str | None = None
    """In that folder; by default a new file, `events_<UTC time>.jsonl`."""

    def __post_init__(self) -> None:
        self.log_level = _level(self.log_level)

    @classmethod
    def load(cls, path: str | os.PathLike[str] = ".", /, **arguments: Any) -> Self:
        """Return settings from arguments, `LLMGINE_*` in the environment, `.env` and TOML; what comes first here wins.

        `load_settings` tells which files, and what is refused.

        Args:
            path: the folder of `.env`, and of `llmgine.toml` or `pyproject.toml`; or a TOML file.
            arguments: by the names of fields.

        Raises:
            ConfigurationError: a key is unknown, missing or of the wrong type, or a file cannot be read.
        """
        from llmgine.config import load_settings  # pydantic, for those who do not write their settings out

        return load_settings(cls, path, **arguments)


ConfigT = TypeVar("ConfigT", bound=ApplicationConfig, default=ApplicationConfig)


def setup_basic_logging(level: LogLevel = LogLevel.INFO) -> None:
    """Have everything from `level` on logged, to standard error unless the program logs to somewhere else already.

    Raises:
        ConfigurationError: there is no such level.
    """
    name = _level(level).name
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().setLevel(name)


def _level(level: str) -> LogLevel:
    try:
        return LogLevel(level)
    except ValueError:
        msg = f"{level!r} is no log level. There are {', '.join(LogLevel)}."
        raise ConfigurationError(msg) from None


class ApplicationBootstrap(Generic[ConfigT]):
    """An application on a message bus. Derive from it and register handlers in the two methods that are for that.

    `async with MyApplication() as app:` starts it and shuts it down; `await MyApplication().run()` also heeds signals.
    An `ApplicationBootstrap[MyConfig]` that is given no settings takes the defaults of `MyConfig`.
    """

    _config_type: type[ApplicationConfig] = ApplicationConfig
    _running = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, ApplicationConfig):
                    cls._config_type = argument

    def __init__(self, config: ConfigT | None = None, *, message_bus: MessageBus | None = None) -> None:
        """Make the application. Nothing is opened or started.

        Args:
            config: its settings.
            message_bus: starts and stops with it; by default the one that `MessageBus()` returns.
        """
        self.config = config if config is not None else cast("ConfigT", self._config_type())
        self.message_bus = message_bus if message_bus is not None else MessageBus()
        self.observability = ObservabilityManager()
        self._undo = ExitStack()
        """What has been done so far, to be taken back in the reverse order."""

    @property
    def obs_bus(self) -> ObservabilityManager:
        """The same as `observability`."""
        return self.observability

    setup_basic_logging = staticmethod(setup_basic_logging)

    # Who handles what

    def _register_command_handlers(self) -> None:
        """Register the application's command handlers; called by `bootstrap`."""

    def _register_event_handlers(self) -> None:
        """Register the application's event handlers; called by `bootstrap`."""

    def register_command_handler(self, command_type: type[Command[Any]], handler: CommandHandler) -> None:
        """Make `handler` answer commands of a type, until the application is shut down.

        Raises:
            ConfigurationError: the type is no command class, or the handler cannot be called with its commands.
            HandlerAlreadyRegisteredError: the type has a handler.
        """
        self.message_bus.register_command_handler(command_type, handler)
        self._undo.callback(self.message_bus.unregister_command_handler, command_type, handler)

    def register_event_handler(
        self, event_type: EventKey, handler: EventHandler, priority: int = HandlerPriority.NORMAL
    ) -> None:
        """Make `handler` hear events of a type, or of a dotted name, until the application is shut down.

        Raises:
            ConfigurationError: the type is no event class, the name is none, or the handler cannot be called with them.
        """
        self.message_bus.register_event_handler(event_type, handler, priority=priority)
        self._undo.callback(self.message_bus.unregister_event_handler, event_type, handler)

    def create_session(self, session_id: str | None = None) -> BusSession:
        """Return a session on the application's bus that has not begun; without an id it gets a new one."""
        return self.message_bus.create_session(session_id)

    # Life

    async def bootstrap(self) -> None:
        """Open the log, register the handlers and start the bus. Does nothing on an application that runs.

        Where this fails, what it had done is undone. A log that cannot be written is a warning.

        Raises:
            ConfigurationError: a setting or a handler makes no sense.
            HandlerAlreadyRegisteredError: a command has a handler already.
            BusNotRunningError: the bus runs on another event loop.
        """
        if self._running:
            return
        by_hand, self._undo = self._undo, ExitStack()
        try:
            self._open_sinks()
            self._watch_bus()
            self._register_command_handlers()
            self._register_event_handlers()
            await self.message_bus.start()
        except BaseException:
            self._undo.close()
            self._undo = by_hand
            raise
        by_hand.push(self._undo)
        self._undo = by_hand
        self._running = True

    async def shutdown(self, timeout: float | None = 30.0) -> StopReport:
        """Accept no more events, deliver those that were accepted, stop the bus, and close the log and other sinks.

        Handlers that were registered here, also those from before `bootstrap`, are unregistered. What could not be
        finished is in the report, and is logged. Does nothing the second time.

        Args:
            timeout: seconds after which what is still under way is cancelled; None waits without end. Handlers that are
                cancelled get a second more, and sinks that hold something two.

        Raises:
            DeadlockError: called by an event handler, which this would wait for. Nothing has been stopped.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        report = await self.message_bus.stop(timeout)
        try:
            close, limit = self.observability.close, None
            if timeout is not None:
                left = max(begun + timeout - clock(), _GRACE)
                close, limit = partial(close, left), left + _GRACE
            if not await _in_time(close, limit):
                _log.warning("A sink did not close in time; what it had yet to write may be lost")
        finally:
            self._undo.close()
            self._running = False
        return report

    async def run(
        self, main: Callable[[], Coroutine[Any, Any, int | None]] | None = None, *, timeout: float | None = 30.0
    ) -> int:
        """Start the application, keep it up until `main` has ended or a signal asks for the end, and shut it down.

        SIGTERM and SIGINT cancel `main`; a second one ends the process at once. Must be called in the main thread.

        Args:
            main: what the application does; by default it handles messages until a signal comes.
            timeout: seconds that `shutdown` gets.

        Returns:
            An exit code: what `main` returned, 0 for None; 128 and the number of the signal that cancelled it.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        ending = False

        def stop() -> None:
            if not ending:
                self.observability.log(LogLevel.INFO, "Shutting down; another signal ends it at once", timeout=timeout)
                task.cancel()

        with _on_signals(stop) as arrived:
            try:
                await self.bootstrap()
                code = await main() if main is not None else await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                if not arrived:
                    raise
                code = 128 + arrived[0]
            finally:
                ending = True
                if arrived:
                    task.uncancel()
                await self.shutdown(timeout)
        return code or 0

    async def __aenter__(self) -> Self:
        try:
            await self.bootstrap()
        except BaseException:
            await self.shutdown()  # where a subclass does more, it may have failed after the bus was started
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    # Inside

    def _open_sinks(self) -> None:
        config = self.config
        if config.enable_console_handler:
            if not logging.getLogger().handlers:
                setup_basic_logging(config.log_level)
            self._add_sink(ConsoleHandler(config.log_level))
        if config.enable_file_handler:
            sink = open_log(
                config.file_handler_log_dir,
                config.file_handler_log_filename,
                option="file_handler_log_dir",
                record_content=content_wanted(),
            )
            if sink is not None:
                self._undo.callback(sink.close)
                self._add_sink(sink)

    def _add_sink(self, sink: ObservabilityHandler) -> None:
        self.observability.register_handler(sink)
        self._undo.callback(self.observability.unregister_handler, sink)

    def _watch_bus(self) -> None:
        """Show the bus's events to the sinks, and have it make spans if there are any."""
        bus, observer = self.message_bus, self.observability.observe_event
        bus.add_observer(observer)
        self._undo.callback(bus.remove_observer, observer)
        if self.observability.handler_count > 0:
            self._undo.callback(bus.set_tracing, bus.set_tracing(True))


class CommandBootstrap(ApplicationBootstrap[ConfigT]):
    """An application that does one thing and ends, as a program at the command line does.

    `result = asyncio.run(MyProgram().run_command(Convert("notes.txt")))`
    """

    async def run_command(
        self, command: Command[R], *, timeout: float | None = None, shutdown_timeout: float | None = 30.0
    ) -> CommandResult[R]:
        """Start the application, execute a command, deliver the events it caused, and shut down.

        Args:
            command: what to do. SIGTERM and SIGINT cancel it, and then its result is a failure that names the signal.
            timeout: seconds that the command gets.
            shutdown_timeout: seconds that `shutdown` gets.
        """
        result: CommandResult[R] | None = None

        async def main() -> None:
            nonlocal result
            result = await self.message_bus.execute(command, timeout=timeout)

        code = await self.run(main, timeout=shutdown_timeout)
        if result is None:
            name = signal.Signals(code - 128).name
            error = f"CancelledError: {type(command).__name__} was cancelled by {name}"
            result = CommandResult.of(CommandResult(success=False, error=error), command)
        return result


async def _in_time(work: Callable[[], object], seconds: float | None) -> bool:
    """Do what may block, in a thread that the program does not wait for; return whether it was done in time."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(done.set)

    Thread(target=run, name="llmgine shutdown", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        return False
    return True


@contextmanager
def _on_signals(action: Callable[[], None]) -> Generator[list[int]]:
    """Have the running loop call `action` at the first SIGTERM or SIGINT; the second has its usual effect.

    Yields:
        The number of the signal, once one has come. One that whoever started the program had ignored stays so.
    """
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    heeded = [number for number, handler in previous.items() if handler is not signal.SIG_IGN]
    arrived: list[int] = []

    def arrive(number: int, _frame: object) -> None:
        arrived.append(number)
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)
        loop.call_soon_threadsafe(action)

    for number in heeded:
        signal.signal(number, arrive)
    try:
        yield arrived
    finally:
        for number in heeded:
            signal.signal(number, previous[number])
