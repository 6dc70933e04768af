"""Identifiers: strings that sort by the time they were made and never repeat, across threads, forks and machines.

Few ids are ever read, and writing one out costs more than the rest of a message. So a message keeps what its id is
written from, and so does whatever passes ids on.
"""

import os
from itertools import count
from time import time_ns
from typing import NewType, TypeAlias

__all__ = ["BUS", "Id", "SessionID", "new_id", "next_number", "write"]

SessionID = NewType("SessionID", str)

BUS = SessionID("BUS")
"""The scope of the bus itself: its handlers hear every session."""

Id: TypeAlias = str | tuple[object, int]
"""An id, or what it is written from: when it was made, in nanoseconds since 1970, and its number in this process."""

next_number = count(1).__next__
"""Return a number that no other caller in this process gets. A C function, and atomic."""

_process = 0
"""What this process adds to its numbers, so that no other process has the same."""
_imported = time_ns()


def _draw() -> None:
    global _process  # noqa: PLW0603  # a child of a fork must not go on with its parent's
    _process = int.from_bytes(os.urandom(8)) >> 1


_draw()
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_draw)


def write(id_: Id) -> str:
    """Return an id as text: 32 hexadecimal digits, the nanoseconds and then the number."""
    if isinstance(id_, str):
        return id_
    made, number = id_
    nanoseconds = made if isinstance(made, int) else _imported
    return f"{nanoseconds:016x}{_process + number:016x}"


def new_id() -> str:
    """Return a new id."""
    return write((time_ns(), next_number()))
