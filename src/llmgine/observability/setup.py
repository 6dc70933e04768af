"""What `MessageBus(log_dir=…, enable_console_traces=…)` stands for."""

from __future__ import annotations

import logging
from os import PathLike, fspath

from llmgine.observability.handlers.console_lines import ConsoleMetricsHandler, ConsoleTracesHandler
from llmgine.observability.handlers.file_sync import SyncFileEventHandler
from llmgine.observability.manager import ObservabilityManager

__all__ = ["from_options", "open_log"]

_log = logging.getLogger("llmgine.observability")


def from_options(
    *,
    log_dir: str | PathLike[str] | None = None,
    log_filename: str | None = None,
    enable_console_metrics: bool | None = None,
    enable_console_traces: bool | None = None,
) -> ObservabilityManager:
    """Return a manager that keeps the log and writes the lines that the options ask for.

    Args:
        log_dir: the folder of the JSONL log; "logs" if only `log_filename` is given. With neither there is no log.
        log_filename: the log's file in that folder; by default a new one, `events_<UTC time>.jsonl`.
        enable_console_metrics: write every metric to standard error; by default if there is a log.
        enable_console_traces: write every span to standard error; by default if there is a log.

    A log that cannot be written is a warning; then there is none.

    Raises:
        ConfigurationError: the file would be outside the folder.
    """
    manager = ObservabilityManager()
    logs = log_dir is not None or log_filename is not None
    if logs and (log := open_log("logs" if log_dir is None else log_dir, log_filename, option="log_dir")) is not None:
        manager.register_handler(log)
    if logs if enable_console_metrics is None else enable_console_metrics:
        manager.register_handler(ConsoleMetricsHandler())
    if logs if enable_console_traces is None else enable_console_traces:
        manager.register_handler(ConsoleTracesHandler())
    return manager


def open_log(
    log_dir: str | PathLike[str], filename: str | None, *, option: str, record_content: bool = True
) -> SyncFileEventHandler | None:
    """Return the handler of a log; None, with a warning, if it cannot be written: an application can do without.

    Args:
        log_dir: the folder.
        filename: the file in it; by default a new one.
        option: where the folder was named, for the warning.
        record_content: record what people and models say.

    Raises:
        ConfigurationError: the file would be outside the folder.
    """
    try:
        return SyncFileEventHandler(log_dir, filename, record_content=record_content)
    except OSError as error:
        _log.warning(
            "Events are not logged, because %r cannot be written: %s. The application runs on without. Name another "
            "folder in %s.",
            fspath(log_dir),
            error.strerror or error,
            option,
        )
        return None
