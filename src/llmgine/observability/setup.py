"""What `MessageBus(log_dir=…, enable_console_traces=…)` stands for."""

from __future__ import annotations

from os import PathLike

from llmgine.observability.handlers.console_lines import ConsoleMetricsHandler, ConsoleTracesHandler
from llmgine.observability.handlers.file_sync import SyncFileEventHandler
from llmgine.observability.manager import ObservabilityManager

__all__ = ["from_options"]


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

    Raises:
        ConfigurationError: the file would be outside the folder.
        OSError: the file cannot be made or opened.
    """
    manager = ObservabilityManager()
    logs = log_dir is not None or log_filename is not None
    if logs:
        manager.register_handler(SyncFileEventHandler("logs" if log_dir is None else log_dir, log_filename))
    if logs if enable_console_metrics is None else enable_console_metrics:
        manager.register_handler(ConsoleMetricsHandler())
    if logs if enable_console_traces is None else enable_console_traces:
        manager.register_handler(ConsoleTracesHandler())
    return manager
