"""A process that has imported everything and opened nothing, so that its children start at once.

It reads requests, lines of JSON, and answers each with a number:

    ["start", program, {what it is told}]: the child's process id
    ["kill", process id]: how it ended, at the latest now
    ["wait", process id]: how it ended by itself

When there are no more requests it kills what is left, and ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

IMPORTED = (
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlalchemy.orm",
    "llmgine",
    "llmgine.bus.resilience.dead_letters",
    "llmgine.bus.resilience.memory_dead_letters",
    "llmgine.bus.scheduling",
    "llmgine.cron",
    "llmgine.database.outbox",
    "llmgine.database.stores",
)
PATIENCE_S = 60
"""After so long a child ends, whatever it is at."""


def start(program: str, told: dict[str, Any]) -> int:
    """Run a program of this package in a child."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        signal.alarm(PATIENCE_S)
        importlib.import_module(f"tests.crash.{program}").main(**told)
        status = 0
    except BaseException:  # noqa: BLE001  # the end of the process, which whoever reads the test's output is to understand
        traceback.print_exc()
    finally:
        os._exit(status)


def end(child: int, *, kill: bool) -> int:
    """Wait for the end of a child. Return its exit code, or the signal that ended it, negative."""
    if kill:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(*programs: str) -> None:
    """Answer requests."""
    for module in (*IMPORTED, *(f"tests.crash.{program}" for program in programs)):
        importlib.import_module(module)
    gc.freeze()
    children: set[int] = set()
    try:
        for line in sys.stdin:
            what, *rest = json.loads(line)
            if what == "start":
                answer = start(*rest)
                children.add(answer)
            else:
                answer = end(*rest, kill=what == "kill")
                children.discard(*rest)
            print(answer, flush=True)  # noqa: T201  # whoever asked reads it
    finally:
        for child in children:
            end(child, kill=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
