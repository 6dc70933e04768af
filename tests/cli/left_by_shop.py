"""What `failing_shop.py` leaves behind: made once, and given to whoever wants it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from llmgine.cli.app import run

if TYPE_CHECKING:
    from .conftest import Program

_APPLICATION = Path(__file__).with_name("failing_shop.py")


@dataclass(frozen=True)
class Left:
    """A folder with a database, a log, and the application; and the ids of some messages."""

    folder: Path
    gold: list[str]
    """Of the dead letters of session alice, by age."""
    other: str
    """Of the dead letter of session bob."""
    soon: str
    later: str

    def to(self, program: Program) -> Left:
        """Put it into the program's working folder."""
        shutil.copytree(self.folder, program.folder, dirs_exist_ok=True)
        return self


@cache
def left_by_shop() -> Left:
    """Return what the shop leaves."""
    folder = Path(tempfile.mkdtemp(prefix="llmgine-shop-"))
    atexit.register(shutil.rmtree, folder)
    application = folder / "shop.py"
    shutil.copy(_APPLICATION, application)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMGINE_")}
    result = subprocess.run(
        [sys.executable, str(application)],
        cwd=folder,
        env=environment | {"LLMGINE_PERSIST_EVENTS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return Left(folder, **json.loads(result.stderr))


def lines(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the JSON objects that a program has written, one on each line."""
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def cells(result: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return what a program has written in lines with tabs."""
    assert (result.returncode, result.stderr) == (0, "")
    return [line.split("\t") for line in result.stdout.splitlines()]


def run_here(program: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in this process, in the same surroundings: much faster, for what imports no application."""
    out, err = (TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        chdir(program.folder),
        patch.dict(os.environ, program.environment, clear=True),
        patch.object(sys, "argv", ["llmgine", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = run()
    written = []
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
        written.append(stream.read())
    return subprocess.CompletedProcess(arguments, code, *written)
