"""Where processes are started, killed and buried: from the side of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Nursery:
    """Children of a zygote. Whatever becomes of the tests, none is left when this is closed."""

    def __init__(self, *programs: str) -> None:
        """Prepare programs of this package."""
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote", *programs],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, program: str, **told: Any) -> int:
        """Start a program. Return the process id."""
        return self._ask("start", program, told)

    def kill(self, process: int) -> int:
        """Kill a process, if it has not ended yet. Return how it did: an exit code, or a signal, negative."""
        return self._ask("kill", process)

    def wait(self, process: int) -> int:
        """Wait until a process has ended. Return how it did."""
        return self._ask("wait", process)

    def close(self) -> None:
        """Leave nothing behind."""
        with self._zygote:
            pass

    def _ask(self, *request: Any) -> int:
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps(request) + "\n")
        self._zygote.stdin.flush()
        return int(self._zygote.stdout.readline())
