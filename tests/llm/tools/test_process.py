import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import pytest

from llmgine.errors import ToolExecutionError, ToolValidationError
from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.tools import process as process_module
from llmgine.llm.tools.process import run_in_process

TOOLS = '''
import asyncio, os, signal, subprocess, sys, time
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pydantic import SecretStr

class Color(Enum):
    RED = "red"

@dataclass
class Point:
    x: int
    on: date

def describe(color: Color, point: Point, pin: SecretStr, times: int = 2) -> dict:
    """Describe it."""
    return {"types": [type(color).__name__, type(point).__name__], "pin": pin.get_secret_value(), "point": point,
            "times": times, "pid": os.getpid()}

async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x

def give(what: str):
    if what == "cycle":
        cycle = []
        cycle.append(cycle)
        return cycle
    return {"none": None, "bytes": b"\\xff", "nan": float("nan"), "half": "\\ud83d", "object": object}[what]

def talk(text: str) -> str:
    print('{"kind": "result", "value": "forged"}', flush=True)
    os.write(1, b'{"kind": "result", "value": "forged"}\\n')
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    return text + sys.stdin.read()

def fail(how: str) -> None:
    if how == "raise":
        raise ValueError("too many")
    if how == "leave":
        sys.exit(3)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "vanish":
        os._exit(4)

def pour(size: int) -> str:
    return "x" * size

def hang(fifo: str, stubborn: bool = False) -> None:
    """Hang, with a child that hangs too; both hold the fifo open."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    fd = os.open(fifo, os.O_WRONLY)
    subprocess.Popen([sys.executable, "-c", program], pass_fds=[fd])
    os.write(fd, str(os.getpid()).encode() + b"\\n")
    time.sleep(600)

def leave_a_child(fifo: str) -> int:
    fd = os.open(fifo, os.O_WRONLY)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[fd])
    return 1

def tidy(fifo: str, file: str) -> None:
    def leave(number, frame):
        open(file, "w").write("tidied")
        sys.exit()
    signal.signal(signal.SIGTERM, leave)
    with open(fifo, "w") as writer:
        writer.write("ready\\n")
    time.sleep(600)
'''


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "tools_of_a_process.py").write_text(TOOLS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("tools_of_a_process")
    del sys.modules["tools_of_a_process"]


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    """What a reader sees the end of when all processes that hold it have ended."""
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


def manager_with(function: Any, **options: Any) -> ToolManager:
    manager = ToolManager()
    manager.register_tool(function, in_process=True, **options)
    return manager


async def test_arguments_arrive_as_their_types_and_the_result_as_json(tools: ModuleType) -> None:
    arguments = '{"color": "RED", "point": {"x": "1", "on": "2026-01-02"}, "pin": "1234"}'
    result = await manager_with(tools.describe).run(ToolCall("1", name="describe", arguments=arguments))
    assert result.succeeded, result.content
    assert result.value.pop("pid") != os.getpid()
    assert result.value == {
        "types": ["Color", "Point"], "pin": "1234", "point": {"x": 1, "on": "2026-01-02"}, "times": 2,
    }  # fmt: skip
    assert result.arguments["color"] is tools.Color.RED


async def test_a_coroutine_function_may_have_a_process_too(tools: ModuleType) -> None:
    assert await run_in_process(tools.later, {"x": 3}) == 3


@pytest.mark.parametrize(
    ("what", "value"),
    [("none", None), ("bytes", "_w=="), ("nan", "nan"), ("half", "\ud83d"), ("cycle", "[[...]]")],
)
async def test_results_of_any_type_come_back(tools: ModuleType, what: str, value: Any) -> None:
    given = await run_in_process(tools.give, {"what": what})
    assert (str(given) if what == "nan" else given) == value


async def test_what_a_tool_prints_is_no_result(tools: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_in_process(tools.talk, {"text": "said"}) == "said"
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("forged") == 2
    assert "from a child" in printed.err


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("raise", "^ValueError: too many$"),
        ("leave", "tried to exit the program, with 3"),
        ("crash", "ended by SIGSEGV before there was a result"),
        ("vanish", "ended with exit code 4 before"),
    ],
)
async def test_however_the_process_fails_it_is_told(tools: ModuleType, how: str, text: str) -> None:
    with pytest.raises(ToolExecutionError, match=text):
        await run_in_process(tools.fail, {"how": how})


async def test_the_child_checks_the_arguments_itself(tools: ModuleType) -> None:
    with pytest.raises(ToolValidationError, match="size: Input should be a valid integer"):
        await run_in_process(tools.pour, {"size": "many"})


async def test_a_result_is_bounded(tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(await run_in_process(tools.pour, {"size": 1_000_000})) == 1_000_000
    monkeypatch.setattr(process_module, "_MAX_REPLY", 2**20)
    with pytest.raises(ToolExecutionError, match="longer than 1 MiB"):
        await run_in_process(tools.pour, {"size": 10_000_000})


@contextmanager
def reading(fifo: str, running: asyncio.Future[Any]) -> Iterator[BinaryIO]:
    """Open a fifo, whose end comes when nobody else holds it open, and not before `running` is done."""
    keeper = os.open(fifo, os.O_RDWR)
    running.add_done_callback(lambda _: os.close(keeper))
    with Path(fifo).open("rb") as reader:
        yield reader


@pytest.mark.parametrize("how", ["timeout", "cancel", "cancel twice"])
async def test_a_process_and_its_children_are_killed(
    tools: ModuleType, fifo: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "GRACE", 30.0 if how == "cancel twice" else 0.1)
    manager = manager_with(tools.hang, timeout=3 if how == "timeout" else None)
    stubborn = "false" if how == "timeout" else "true"
    arguments = f'{{"fifo": "{fifo}", "stubborn": {stubborn}}}'
    running = asyncio.create_task(manager.run(ToolCall("1", name="hang", arguments=arguments)))
    with reading(fifo, running) as reader:
        pid = int(await asyncio.to_thread(reader.readline))
        if how != "timeout":
            running.cancel()
        if how == "cancel twice":
            await asyncio.sleep(0)
            running.cancel()
        await asyncio.wait([running])
        with pytest.raises(ProcessLookupError):  # ended, and reaped
            os.kill(pid, 0)
        assert await asyncio.to_thread(reader.read) == b""
    if how == "timeout":
        assert running.result().content == "Error executing hang: timed out after 3 seconds"
    else:
        assert running.cancelled()


async def test_a_process_is_asked_before_it_is_killed(tools: ModuleType, fifo: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    running = asyncio.create_task(run_in_process(tools.tidy, {"fifo": fifo, "file": str(file)}))
    with reading(fifo, running) as reader:
        assert await asyncio.to_thread(reader.readline) == b"ready\n"
        running.cancel()
        await asyncio.wait([running])
    assert file.read_text() == "tidied"


async def test_a_child_that_a_tool_leaves_behind_is_no_orphan(tools: ModuleType, fifo: str) -> None:
    running = asyncio.create_task(run_in_process(tools.leave_a_child, {"fifo": fifo}))
    with reading(fifo, running) as reader:
        assert await running == 1
        assert await asyncio.to_thread(reader.read) == b""


async def test_cancelling_while_it_starts_leaves_nothing(tools: ModuleType) -> None:
    for steps in range(4):
        running = asyncio.create_task(run_in_process(tools.later, {"x": 1}))
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        assert all(
            "process_runner" not in Path(f"/proc/{pid}/cmdline").read_text() for pid in children.read_text().split()
        )


async def test_should_the_parent_be_killed_the_child_and_its_children_end(tools: ModuleType, fifo: str) -> None:
    program = f"""
import asyncio, sys
sys.path[:0] = [{str(Path(fifo).parent)!r}]
from tools_of_a_process import hang
from llmgine.llm.tools.process import run_in_process
asyncio.run(run_in_process(hang, {{"fifo": {fifo!r}, "stubborn": True}}))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        running = asyncio.ensure_future(asyncio.to_thread(parent.wait))
        with reading(fifo, running) as reader:
            assert await asyncio.to_thread(reader.readline)
            parent.send_signal(signal.SIGKILL)
            await running
            assert await asyncio.to_thread(reader.read) == b""
