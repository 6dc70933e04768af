"""Locks on open files, between processes and between openings. Where files cannot be locked, every file is free."""

from __future__ import annotations

import sys
from contextlib import suppress
from time import monotonic, sleep

if sys.platform != "win32":
    import fcntl

__all__ = ["lock", "unlock"]


def lock(fd: int, patience: float) -> bool:
    """Lock a file, which others may have locked for so many seconds; return whether that succeeded.

    It stays locked until `unlock`, or until it is closed.
    """
    deadline = monotonic() + patience
    while sys.platform != "win32":
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= deadline:
                return False
            sleep(0.001)
        except OSError:  # not every network file system can
            break
        else:
            break
    return True


def unlock(fd: int) -> None:
    """Let others lock a file."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
