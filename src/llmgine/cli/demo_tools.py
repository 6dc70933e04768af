"""The tools that the chat brings along: a calculator, a clock, and a reader of the working folder's files."""

from __future__ import annotations

from codecs import getincrementaldecoder
from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from llmgine.cli.calculator import evaluate
from llmgine.errors import ToolError
from llmgine.llm.tools.tool_options import tool

__all__ = ["DEMO_TOOLS", "calculate", "current_time", "read_file"]

_MAX_BYTES = 60_000
_MAX_NAMES = 200


@tool(effect="read")
def calculate(expression: str) -> str:
    """Calculate an arithmetic expression, such as 12 * (3 + 4) / 5.

    Args:
        expression: numbers, + - * / // % **, parentheses, sqrt, abs, min, max, pi, e
    """
    return str(evaluate(expression))


@tool(effect="read")
def current_time(zone: str = "local") -> str:
    """Get the current date and time in a time zone.

    Args:
        zone: an IANA time zone such as Europe/Paris or Asia/Tokyo, or "local"
    """
    name = zone.strip()
    there = datetime.now(UTC).astimezone(None if name.lower() in {"", "local"} else _time_zone(name))
    return f"{there:%A} {there.isoformat(' ', 'seconds')} ({there.tzname()})"


@tool(effect="read")
def read_file(path: str) -> str:
    """Read a text file of the working folder, or list what is in a folder.

    Args:
        path: relative to the working folder; "." is the working folder itself
    """
    root = Path.cwd().resolve()
    try:
        target = (root / path).resolve()
        if not target.is_relative_to(root):
            msg = f"{path!r} is outside the working folder; only what is inside it can be read"
            raise ToolError(msg)
        if target.is_dir():
            return _listing(target)
        if target.exists() and not target.is_file():
            msg = f"{path!r} is neither a file nor a folder"
            raise ToolError(msg)
        with target.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        return _text(path, data, target.stat().st_size)
    except FileNotFoundError as error:
        msg = f'there is no {path!r} in the working folder; "." lists what there is'
        raise ToolError(msg) from error
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        msg = f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ToolError(msg) from error


DEMO_TOOLS = (calculate, current_time, read_file)


def _time_zone(name: str) -> tzinfo:
    if name.upper() in {"UTC", "GMT", "Z"}:
        return UTC  # also where there is no time zone database
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zones = {zone.lower(): zone for zone in sorted(available_timezones(), reverse=True)}
    wanted = name.lower().replace(" ", "_")
    cities = {zone.rpartition("/")[2]: zone for zone in zones}
    if found := zones.get(wanted) or zones.get(cities.get(wanted, "")):
        return ZoneInfo(found)
    near = [zones[cities[city]] for city in get_close_matches(wanted.rpartition("/")[2], cities)]
    hint = f"Did you mean {' or '.join(near)}?" if near else "Expected a name like Europe/Paris or America/New_York."
    msg = f"there is no time zone {name!r}. {hint}"
    raise ToolError(msg)


def _listing(folder: Path) -> str:
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    if len(names) > _MAX_NAMES:
        names[_MAX_NAMES:] = [f"[and {len(names) - _MAX_NAMES:,} more]"]
    return "\n".join(names) or "[the folder is empty]"


def _text(path: str, data: bytes, size: int) -> str:
    whole = len(data) <= _MAX_BYTES
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(data[:_MAX_BYTES], final=whole)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        msg = f"{path!r} is not a text file (its {size:,} bytes are not UTF-8)"
        raise ToolError(msg)
    return text if whole else f"{text}\n[the first {_MAX_BYTES:,} of {size:,} bytes]"
