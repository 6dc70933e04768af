"""What is said besides the answer, on standard error: notices where somebody reads them, warnings in any case."""

from __future__ import annotations

import logging
import re
import sys

__all__ = ["forward_log", "notice", "printable", "say", "warn"]

_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return the text without what a terminal would obey: no model or tool may move the cursor or ring the bell."""
    return _CONTROLS.sub("", text)


def notice(text: str) -> None:
    """Write a line for a person, if one is watching."""
    if sys.stderr is not None and sys.stderr.isatty():
        _write(text, "dim")


def say(text: str) -> None:
    """Write a line that was asked for."""
    _write(f"llmgine: {text}", "dim")


def warn(text: str) -> None:
    """Write a line about something that went wrong."""
    _write(f"llmgine: {text}", "red")


def forward_log(*, verbose: bool) -> None:
    """Have what is logged as a warning or worse written as such a line; in full, and more of it, if `verbose`."""
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        logging.getLogger("llmgine").setLevel(logging.DEBUG)
    else:
        logging.basicConfig(level=logging.WARNING, handlers=[_Lines()])


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(" ".join(record.getMessage().split()))


def _write(text: str, style: str) -> None:
    try:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.text import Text

            Console(stderr=True).print(Text(printable(text), style))
        else:
            print(printable(text), file=sys.stderr, flush=True)  # noqa: T201
    except (AttributeError, OSError, ValueError):
        return  # it is closed: nobody is left to tell
