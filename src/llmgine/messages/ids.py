"""Identifiers: strings that sort by the time they were made and never repeat, across threads, forks and machines."""

import os
from itertools import repeat
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

# Every message pays for its id. Chained built-in iterators take half the time of a function.
_parts = zip(iter(time_ns, None), map(_random.getrandbits, repeat(64)), strict=False)
new_id = map("%016x%016x".__mod__, _parts).__next__
"""Return a new id: 32 hexadecimal digits, the nanoseconds since 1970 and then 64 random bits."""
