"""Every event as a line of JSON, written in batches: what costs a system call for each line costs one for hundreds."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import sys
from importlib import import_module
from threading import Timer
from typing import Any
from weakref import WeakSet

from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.observability.content import content_wanted
from llmgine.observability.handlers.archive import Archive
from llmgine.observability.handlers.file_sync import files_lock, log_path
from llmgine.observability.handlers.rotating_file import RotatingFile
from llmgine.observability.redact import Redactor, redactor_of
from llmgine.observability.serialize import to_line
from llmgine.observability.sink import ObservabilityHandler

__all__ = ["JsonlHandler"]

_log = logging.getLogger("llmgine.observability")

_BUFFER = 65_536
"""Bytes of lines that wait at most."""


class JsonlHandler(ObservabilityHandler):
    """Appends events to a JSON Lines file, a little later: when 64 KiB have come together, or after `flush_after`.

    A process that is killed loses what had not been written, which is no more than that; one that ends, also by an
    exception or `sys.exit`, loses nothing. `SyncFileEventHandler` loses nothing at all, and is slower.

    Processes may share a file: their lines do not mix, and no line is lost when one of them begins a new file. A log
    that cannot be written, because the disk is full or the folder read-only, is reported once, and then the events that
    are lost are counted, until it can be written again. Nothing of that reaches whoever publishes.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        filename: str | None = None,
        *,
        flush_after: float = 0.2,
        max_bytes: int | None = None,
        daily: bool = False,
        compress: bool = False,
        keep: int | None = None,
        keep_days: float | None = None,
        record_content: bool | None = None,
        redact: bool | Redactor = True,
    ) -> None:
        """Open the file, and make the folders on its way.

        A file that is full or of a former day becomes `name.<UTC time>.jsonl`; these names sort by time.

        Args:
            log_dir: the folder.
            filename: the file in it, which may exist already; by default a new one, `events_<UTC time>.jsonl`.
            flush_after: seconds that an event waits at most.
            max_bytes: how large a file may become; by default as large as it will.
            daily: begin a new file with each day of UTC.
            compress: compress former files with gzip, in a thread.
            keep: how many former files of this log to keep; by default all.
            keep_days: how many days to keep them; by default for ever.
            record_content: record what people and models say; by default if `LLMGINE_RECORD_CONTENT` is 1.
            redact: leave secrets out; or what leaves them out.

        Raises:
            ConfigurationError: the file would be outside the folder, or a number is negative.
        """
        _check("flush_after", flush_after, least=0)
        _check("max_bytes", max_bytes, least=1)
        _check("keep", keep, least=0)
        _check("keep_days", keep_days, least=0)
        self.written = 0
        """Events that have been written to the file."""
        self.dropped = 0
        """Events that could not be."""
        self._flush_after = flush_after
        self._record_content = content_wanted(record_content)
        self._redactor = redactor_of(redact)
        self._lines: list[bytes] = []
        self._size = 0
        self._limit = _BUFFER
        self._timer: Timer | None = None
        self._closed = False
        self._failing = False
        try:
            self.log_file, path = log_path(log_dir, filename)
        except OSError:  # no new file can be made; opening it will say why
            self.log_file, path = log_path(log_dir, f"events_{os.getpid()}.jsonl")
        self._archive = Archive(path, compress=compress, keep=keep, keep_days=keep_days)
        self._file = RotatingFile(path, self._archive, max_bytes=max_bytes, daily=daily)
        try:
            self._file.open()
            self._archive.tidy()
        except OSError as error:
            self._failed(error)
        _open_handlers.add(self)
        _register_exit()

    def handle(self, event: Event) -> None:
        """Take an event to be written. In the thread that fills the buffer, this writes it.

        Raises:
            OSError: the handler is closed.
        """
        if self._closed:
            raise OSError(errno.EBADF, "The log is closed", str(self.log_file))
        line = to_line(event, record_content=self._record_content, redactor=self._redactor)
        # No lock: appending to a list is atomic, and whoever writes takes no more than it has seen. That the size is
        # not exact between threads only makes a batch larger.
        self._lines.append(line)
        self._size += len(line)
        if self._size >= self._limit:
            self.flush()
        elif self._timer is None:
            self._start_timer()

    def flush(self) -> None:
        """Write what waits to the file."""
        with files_lock:
            self._size = 0
            lines = self._lines[:]
            del self._lines[: len(lines)]
            if lines:
                written, error = self._file.append(lines)
                self.written += written
                self.dropped += len(lines) - written
                if error is not None:
                    self._failed(error)
                elif self._failing:
                    self._failing = False
                    _log.warning("The log %s is written again; %d events were lost so far", self.log_file, self.dropped)

    def close(self) -> None:
        """Write what waits and close the file. Does nothing the second time."""
        self._closed = True
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self.flush()
        with files_lock:
            self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # or else it was never complete
            self.close()

    def _start_timer(self) -> None:
        # A thread for each fifth of a second in which there is something to write, and none while there is not.
        _register_exit()
        self._timer = timer = Timer(self._flush_after, self._on_timer)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # the interpreter ends, or the system has no more threads
            self._on_timer()

    def _on_timer(self) -> None:
        self._timer = None  # first: what comes from now on may be too late for this one
        self.flush()

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            text = "The log %s cannot be written: %s. Events are lost, and counted, until it can."
            _log.warning(text, self.log_file, error)

    def _after_fork(self) -> None:
        """Leave what waits to the parent, which goes on with it; the child opens the file for itself."""
        self._lines.clear()
        self._size = 0
        self._timer = None
        self.written = self.dropped = 0
        self._file.close()
        self._archive.after_fork()


_open_handlers: WeakSet[JsonlHandler] = WeakSet()
_registered = 0
"""The process whose end has been provided for."""
_finalizer: Any = None


def _after_fork() -> None:
    for handler in _open_handlers:
        handler._after_fork()


if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_after_fork)  # after the lock, which was registered before


def _at_exit() -> None:
    for handler in _open_handlers:
        handler._limit = 0  # for what is published by those that exit later
        handler._archive.at_exit = True
        if not handler._closed:
            handler.flush()


def _register_exit() -> None:
    global _registered, _finalizer  # noqa: PLW0603  # a fork is another process, with an end of its own
    if _registered != os.getpid():
        _registered = os.getpid()
        atexit.register(_at_exit)
    # The processes of multiprocessing end without calling what `atexit` knows, and begin by forgetting what they knew.
    if "multiprocessing.util" in sys.modules and not (_finalizer is not None and _finalizer.still_active()):
        _finalizer = import_module("multiprocessing.util").Finalize(None, _at_exit, exitpriority=0)


def _check(name: str, value: float | None, *, least: int) -> None:
    if value is not None and not value >= least:
        msg = f"{name} is {value}; expected a number of at least {least}."
        raise ConfigurationError(msg)
