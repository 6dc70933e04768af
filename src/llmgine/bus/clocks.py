"""The clocks that are read where none is given."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

__all__ = ["loop_time", "utc_now"]


def loop_time() -> float:
    """Return the seconds of the running loop's clock, which deadlines are told by."""
    return asyncio.get_running_loop().time()


def utc_now() -> datetime:
    """Return the date, aware and UTC."""
    return datetime.now(UTC)
