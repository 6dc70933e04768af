"""However this process ends, the servers that it has started end too, and what those have started."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_mcp import config, run

from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.mcp import leash, server_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups are of POSIX")

PROGRAM = """
import asyncio, json, os, signal, sys
sys.path[:0] = {path!r}
from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.mcp import server_process
from raw_mcp import config, run

server_process._GRACE = 0.3

async def main():
    tools = ToolManager()
    await tools.mcp.connect("raw", config("--child", "--stubborn"))
    print((await run(tools, "pids")).content, flush=True)
    {end}

{start}
"""
ASYNC = "asyncio.run(main())"

ENDS = {
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", ASYNC),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); await asyncio.sleep(60)", ASYNC),
    "SIGKILL in mid-call": (
        "asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGKILL); await run(tools, 'hang')",
        ASYNC,
    ),
    "normal": ("pass", ASYNC),
    "exception": ("raise RuntimeError", ASYNC),
    "sys.exit": ("sys.exit(3)", ASYNC),
    "os._exit": ("os._exit(3)", ASYNC),
    "a loop that is stopped": ("pass", "loop = asyncio.new_event_loop(); loop.run_until_complete(main())"),
    "cleaned up": ("await tools.cleanup_mcp_servers()", ASYNC),
}


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One program for each end, all at the same time."""
    path = [str(Path(__file__).parents[2]), *sys.path]
    running = {
        end: subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(path=path, end=last, start=start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for end, (last, start) in ENDS.items()
    }
    yield running
    for program in running.values():
        program.kill()
        program.communicate()


@pytest.mark.parametrize("end", ENDS)
def test_no_process_is_left(end: str, programs: dict[str, subprocess.Popen[str]]) -> None:
    told, _ = programs[end].communicate(timeout=60)
    server, child = json.loads(told)
    deadline = time.monotonic() + leash.GRACE + 5
    while alive(server) or alive(child):
        assert time.monotonic() < deadline, f"alive: server {alive(server)}, child {alive(child)}"
        time.sleep(0.02)


async def test_what_a_server_has_started_ends_when_the_server_dies(manager: ToolManager) -> None:
    await manager.mcp.connect("raw", config("--child"))
    server, child = json.loads((await run(manager, "pids")).content)
    os.kill(server, signal.SIGKILL)
    while manager.mcp.status("raw").restarts == 0:  # noqa: ASYNC110  # the bus would tell
        await asyncio.sleep(0.01)
    assert not alive(child)


async def test_a_server_that_does_not_come_up_leaves_nothing(
    manager: ToolManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server_process, "_GRACE", 0.1)
    pid = tmp_path / "pid"
    program = f"echo $$ > {pid}; trap '' TERM; while true; do sleep 60; done"
    assert not await manager.register_mcp_server("mute", "sh", ["-c", program], connect_timeout=0.3)
    assert not alive(int(pid.read_text()))


async def test_a_server_has_no_child_that_it_does_not_know_of(manager: ToolManager) -> None:
    await manager.mcp.connect("raw", config())
    server, _ = json.loads((await run(manager, "pids")).content)
    assert Path(f"/proc/{server}/task/{server}/children").read_text() == ""


async def test_nothing_of_a_server_that_has_ended_is_left_open(manager: ToolManager) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    await manager.mcp.connect("raw", config())
    await manager.cleanup_mcp_servers()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
