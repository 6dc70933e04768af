"""The bus keeps its promises on uvloop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvloop", reason="uvloop is not installed")

TESTS = [
    "test_events.py",
    "test_commands.py",
    "test_nesting.py",
    "test_handler_task.py",
    "test_session.py",
    "test_stream.py",
]


if os.environ.get("LLMGINE_TEST_LOOP") == "uvloop":

    async def test_the_loop_is_uvloop() -> None:
        assert type(asyncio.get_running_loop()).__module__ == "uvloop"


def test_the_tests_of_the_bus_pass_on_uvloop() -> None:
    here = Path(__file__).parent
    tests = [f"{__file__}::test_the_loop_is_uvloop", *(str(here / name) for name in TESTS)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=here.parents[1],
        env={**os.environ, "LLMGINE_TEST_LOOP": "uvloop"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:]
