"""What processes that are killed have told: each line is written at once, or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Record: TypeAlias = "dict[str, Any]"


class Journal:
    """A file that several processes append to."""

    def __init__(self, path: Path, child: int = 0) -> None:
        """Write to a file, as this child."""
        self.path = path
        self._child = child
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, what: str, **more: Any) -> None:
        """Write down what has happened, now. It survives us, though not the machine."""
        record = {"what": what, "child": self._child, "time": time.time_ns() // 1000, **more}
        os.write(self._file, json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        """Write nothing more."""
        os.close(self._file)


def read(path: Path) -> Iterator[Record]:
    """Yield what was written, in the order in which it was."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)
