"""Identifiers: strings that sort by the time they were made and never repeat, across threads, forks and machines."""

import os
from random import Random
from time import time_ns
from typing import NewType

__all__ = ["BUS", "SessionID", "new_id"]

SessionID = NewType("SessionID", str)

BUS = SessionID("BUS")
"""The scope of the bus itself: its handlers hear every session."""

_random = Random()  # noqa: S311  # ids must be unique, not secret
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_random.seed)
_random_bits = _random.getrandbits


def new_id() -> str:
    """Return a new id: 32 hexadecimal digits, the nanoseconds since 1970 and then 64 random bits."""
    return "%032x" % (time_ns() << 64 | _random_bits(64))
