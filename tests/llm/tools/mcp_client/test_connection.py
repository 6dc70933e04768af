"""A connection has one owner; whatever a server does, calls end, and say what happened."""

import asyncio
import gc
import json
import logging
import os
import resource
import sys
import time
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from raw_mcp import Connect, config, run

from llmgine.bus import MessageBus
from llmgine.errors import MCPConnectionError, MCPConnectionLostError, MCPError, MCPRequestError
from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.tools.mcp import MCPServerConfig, server_process
from llmgine.llm.tools.mcp.connection import RESTARTS, State
from llmgine.llm.tools.mcp.events import (
    MCPServerConnectedEvent,
    MCPServerEvent,
    MCPServerFailedEvent,
    MCPServerLostEvent,
)
from llmgine.llm.tools.mcp.life import Life, Request

# Calls


async def test_a_tool_of_a_server_is_called_like_any_other(raw: Connect) -> None:
    tools = await raw()
    assert await tools.execute_tool_call(ToolCall(id="1", name="echo", arguments='{"n": 3}')) == "3"


async def test_calls_run_at_the_same_time(raw: Connect) -> None:
    tools = await raw()
    began = time.monotonic()
    results = await asyncio.gather(*(run(tools, "late", n=300) for _ in range(20)))
    assert time.monotonic() - began < 2
    assert [result.content for result in results] == ["late"] * 20


async def test_a_call_that_is_cancelled_is_cancelled_on_the_server(raw: Connect) -> None:
    tools = await raw()
    call = asyncio.create_task(run(tools, "hang"))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(json.loads((await run(tools, "cancelled")).content)) == 1
    assert tools.mcp._server("raw").connection.contexts() == []


async def test_a_call_that_times_out_is_cancelled_on_the_server(raw: Connect) -> None:
    tools = await raw(timeout=0.1)
    result = await run(tools, "hang")
    assert result.timed_out
    assert "timed out after 0.1 seconds" in result.content
    assert len(json.loads((await run(tools, "cancelled")).content)) == 1


async def test_a_request_that_is_cancelled_before_it_is_sent_is_never_sent(raw: Connect) -> None:
    tools = await raw()
    sent: list[object] = []

    async def work(client: object) -> None:
        sent.append(client)

    request = asyncio.create_task(tools.mcp._server("raw").connection.request(work))
    await asyncio.sleep(0)  # it has been handed over, and has not begun
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await run(tools, "echo", n=1)
    assert not sent


async def test_a_server_may_be_ended_while_it_is_being_connected(
    manager: ToolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "_GRACE", 0.1)
    connecting = asyncio.create_task(
        manager.mcp.connect("mute", MCPServerConfig(command="sleep", args=("60",), connect_timeout=60))
    )
    while "mute" not in manager.mcp.names:  # noqa: ASYNC110  # a moment that nobody tells of
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await manager.cleanup_mcp_servers()
    with pytest.raises(MCPConnectionError, match="has been closed"):
        await connecting


async def test_closing_fails_what_is_under_way(raw: Connect) -> None:
    tools = await raw()
    call = asyncio.create_task(run(tools, "hang"))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await tools.cleanup_mcp_servers()
    assert time.monotonic() - began < 1
    assert (await call).content == "Error executing hang: The connection to MCP server 'raw' has been closed."
    assert tools.tools == ()
    await tools.cleanup_mcp_servers()


async def test_a_connection_that_has_been_closed_takes_no_requests(raw: Connect) -> None:
    tools = await raw()
    connection = tools.mcp._server("raw").connection
    await tools.mcp.disconnect("raw")
    with pytest.raises(MCPConnectionError, match="has been closed"):
        await connection.request(lambda client: client.list_tools())


async def test_another_event_loop_gets_an_error_and_does_not_hang(raw: Connect) -> None:
    tools = await raw()
    result = await asyncio.to_thread(asyncio.run, run(tools, "echo", n=1))
    assert "The connection to MCP server 'raw' has been closed" in result.content


def test_a_server_ends_with_its_event_loop_and_can_be_registered_in_another() -> None:
    tools = ToolManager()

    async def register() -> None:
        assert await tools.register_mcp_server("time", sys.executable, config().args)
        assert (await run(tools, "echo", n=1)).content == "1"

    asyncio.run(register())
    assert "has been closed" in asyncio.run(run(tools, "echo", n=1)).content
    asyncio.run(register())
    asyncio.run(tools.cleanup_mcp_servers())
    assert tools.tools == ()


async def test_a_request_that_has_not_begun_when_the_connection_ends_is_answered() -> None:
    client: Any = None
    life = Life("raw", client, lambda: None, str)
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work(_: object) -> None:
        raise AssertionError

    life.send(Request(work, answer, copy_context()))
    await life.end(MCPConnectionLostError("gone"))
    with pytest.raises(MCPConnectionLostError, match="gone"):
        await answer
    assert life.contexts() == []


# Servers that die


async def test_a_server_that_dies_in_mid_call_fails_the_call_with_what_happened_and_is_there_for_the_next(
    raw: Connect, tmp_path: Path
) -> None:
    tools = await raw("--state", str(tmp_path / "starts"))
    result = await run(tools, "die")
    assert not result.succeeded
    assert "MCP server 'raw'" in result.content
    assert "has ended with exit code 7" in result.content
    assert "hunter2" not in result.content  # what it wrote is for the log, not for models
    assert "It wrote: password=hunter2 and then the roof fell in" in tools.mcp.status("raw").last_error
    assert (await run(tools, "starts")).content == "2"
    assert tools.mcp.status("raw").restarts == 1


async def test_all_calls_under_way_fail_when_the_server_dies(raw: Connect) -> None:
    tools = await raw()
    calls = [asyncio.create_task(run(tools, "hang")) for _ in range(5)]
    await asyncio.sleep(0.05)
    await run(tools, "die")
    assert ["exit code 7" in (await call).content for call in calls] == [True] * 5


async def test_a_call_under_way_raises_a_typed_error(raw: Connect) -> None:
    tools = await raw()
    connection = tools.mcp._server("raw").connection
    with pytest.raises(MCPConnectionLostError, match="exit code 7") as caught:
        await connection.request(lambda client: client.call_tool("die"))
    assert caught.value.server == "raw"
    with pytest.raises(MCPRequestError, match="no such thing") as refused:
        await connection.request(lambda client: client.call_tool("refuse"))
    assert refused.value.code == -32602
    with pytest.raises(MCPRequestError, match="Connection closed"):  # of the server's database, not of ours
        await connection.request(lambda client: client.call_tool("refuse", {"n": 1}))
    assert tools.mcp.status("raw").restarts == 1


@pytest.mark.parametrize(("effect", "repeated"), [("read", True), ("idempotent", True), ("unsafe", False)])
async def test_a_call_that_broke_off_is_repeated_only_where_it_does_no_harm(
    raw: Connect, tmp_path: Path, effect: str, repeated: bool
) -> None:
    tools = await raw("--state", str(tmp_path / "starts"), effects={"die_once": effect})
    result = await run(tools, "die_once")
    assert result.succeeded is repeated
    assert result.content == "alive in life 2" if repeated else "exit code 7" in result.content


async def test_a_call_is_repeated_once_and_not_for_ever(raw: Connect, tmp_path: Path) -> None:
    tools = await raw("--state", str(tmp_path / "starts"), effects={"die": "read"})
    assert "exit code 7" in (await run(tools, "die")).content
    assert (await run(tools, "starts")).content == "3"


async def test_a_server_that_dies_while_nobody_calls_is_there_again(raw: Connect, tmp_path: Path) -> None:
    tools = await raw("--state", str(tmp_path / "starts"))
    [pid, _] = json.loads((await run(tools, "pids")).content)
    os.kill(pid, 9)
    while tools.mcp.status("raw").restarts == 0:  # noqa: ASYNC110  # the bus would tell
        await asyncio.sleep(0.01)
    assert "has ended by SIGKILL" in tools.mcp.status("raw").last_error
    assert (await run(tools, "starts")).content == "2"


async def test_calls_wait_for_the_restart_and_there_is_only_one(tmp_path: Path) -> None:
    restart, delays = asyncio.Event(), []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        await restart.wait()

    tools = ToolManager(max_concurrency=100, sleep=sleep, random=lambda _, most: most)
    await tools.mcp.connect("raw", config("--state", str(tmp_path / "starts")))
    await run(tools, "die")
    calls = [asyncio.create_task(run(tools, "starts")) for _ in range(10)]
    await asyncio.sleep(0.05)
    assert tools.mcp.status("raw").state is State.RESTARTING
    assert not any(call.done() for call in calls)
    assert delays == [RESTARTS.initial_delay]
    restart.set()
    assert {(await call).content for call in calls} == {"2"}
    await tools.cleanup_mcp_servers()


async def test_a_call_that_waits_for_the_restart_keeps_to_its_deadline_and_is_not_sent_later() -> None:
    restart = asyncio.Event()
    tools = ToolManager(sleep=lambda _: restart.wait(), default_timeout_s=0.2)
    await tools.mcp.connect("raw", config())
    await run(tools, "die")
    assert "timed out after 0.2 seconds" in (await run(tools, "hang")).content
    restart.set()
    while tools.mcp.status("raw").state is not State.READY:  # noqa: ASYNC110  # the bus would tell
        await asyncio.sleep(0.01)
    assert json.loads((await run(tools, "called")).content) == ["called"]
    await tools.cleanup_mcp_servers()


async def test_closing_does_not_wait_for_the_restart() -> None:
    tools = ToolManager(sleep=lambda _: asyncio.Event().wait())
    await tools.mcp.connect("raw", config())
    await run(tools, "die")
    waiting = asyncio.create_task(run(tools, "echo", n=1))
    await asyncio.sleep(0.05)
    await tools.cleanup_mcp_servers()
    assert "has been closed" in (await waiting).content


async def test_a_server_that_dies_again_and_again_is_given_up_and_tried_once_for_the_next_call(
    raw: Connect, tmp_path: Path
) -> None:
    state = tmp_path / "starts"
    tools = await raw("--state", str(state), "--until", "2")
    assert "exit code 7" in (await run(tools, "die")).content
    result = await run(tools, "echo", n=1)
    assert "has ended with exit code 3 before it answered" in result.content
    assert "It wrote: I cannot go on" in tools.mcp.status("raw").last_error
    assert tools.mcp.status("raw").state is State.FAILED
    assert state.read_text() == str(1 + RESTARTS.max_retries)

    both = await asyncio.gather(run(tools, "echo", n=1), run(tools, "echo", n=2))
    assert all("exit code 3" in result.content for result in both)
    assert state.read_text() == str(2 + RESTARTS.max_retries)

    state.write_text("-1000")
    assert (await run(tools, "echo", n=1)).content == "1"
    assert tools.mcp.status("raw").state is State.READY


async def test_a_server_that_has_lived_for_long_may_die_as_often_as_a_new_one(tmp_path: Path) -> None:
    now = 0.0
    state = tmp_path / "starts"
    tools = ToolManager(sleep=lambda _: asyncio.sleep(0))
    tools.mcp._clock = lambda: now
    await tools.mcp.connect("raw", config("--state", str(state)))
    for _ in range(RESTARTS.max_retries + 1):
        assert (await run(tools, "echo", n=1)).content == "1"
        now += 61
        await run(tools, "die")
        assert tools.mcp.status("raw").state is not State.FAILED
    await tools.cleanup_mcp_servers()


async def test_what_happens_to_a_server_is_published(raw: Connect, tmp_path: Path, manager: ToolManager) -> None:
    seen: list[MCPServerEvent] = []
    bus = MessageBus()
    await bus.start()
    manager.mcp.bus = bus
    bus.register_event_handler(MCPServerEvent, seen.append)
    tools = await raw("--state", str(tmp_path / "starts"), "--until", "3")
    await run(tools, "die")
    await run(tools, "echo", n=1)
    await run(tools, "die")
    await run(tools, "echo", n=1)
    await tools.cleanup_mcp_servers()
    await bus.wait_for_events()
    await bus.stop()
    kinds = [type(event) for event in seen]
    assert kinds[:3] == [MCPServerConnectedEvent, MCPServerLostEvent, MCPServerConnectedEvent]
    assert kinds[-1] is MCPServerFailedEvent
    assert {event.server for event in seen} == {"raw"}
    assert isinstance(seen[2], MCPServerConnectedEvent)
    assert (seen[2].restarts, seen[2].server_info, seen[2].protocol_version) == (1, "raw 1", "2025-11-25")


# Servers that do not come up


async def test_a_server_that_never_comes_up_is_told_with_what_it_wrote(caplog: pytest.LogCaptureFixture) -> None:
    tools = ToolManager()
    program = "import sys; sys.stderr.write('ModuleNotFoundError: no module named that'); sys.exit(1)"
    assert not await tools.register_mcp_server("broken", sys.executable, ["-S", "-c", program])
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "MCP server 'broken'" in record.message
    assert sys.executable in record.message
    assert (
        "has ended with exit code 1 before it answered. It wrote: ModuleNotFoundError: no module named that"
        in record.message
    )
    assert tools.tools == ()
    assert tools.mcp.names == ()


async def test_a_program_that_is_not_there_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tools = ToolManager()
    assert not await tools.register_mcp_server("absent", "no-such-program-anywhere")
    assert "cannot be started: there is no program 'no-such-program-anywhere'." in caplog.text
    assert not await tools.register_mcp_server("nowhere", "true", cwd="/no/such/folder")
    assert "cannot be started: there is no folder '/no/such/folder'." in caplog.text


async def test_programs_are_looked_for_where_the_server_would(manager: ToolManager, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "theirs"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 3\n")

    async def tried(command: str, **options: Any) -> str:
        with pytest.raises(MCPConnectionError) as caught:
            await manager.mcp.connect("x", MCPServerConfig(command=command, **options))
        return str(caught.value).partition(") ")[2]

    assert await tried("bin/theirs", cwd=str(tmp_path)) == "cannot be started: 'bin/theirs' is not executable."
    program.chmod(0o755)
    ran = "has ended with exit code 3 before it answered."
    assert await tried("theirs") == "cannot be started: there is no program 'theirs'."
    assert await tried("./theirs", cwd=str(tmp_path)) == "cannot be started: there is no program './theirs'."
    assert await tried("theirs", env={"PATH": str(program.parent)}) == ran
    assert await tried("theirs", env={"PATH": "bin"}, cwd=str(tmp_path)) == ran
    assert await tried("bin/theirs", cwd=str(tmp_path)) == ran
    assert await tried(str(program)) == ran


async def test_a_server_that_does_not_answer_is_given_as_long_as_it_may_take(caplog: pytest.LogCaptureFixture) -> None:
    tools = ToolManager()
    tools.register_tool(_local)
    began = time.monotonic()
    assert not await tools.register_mcp_server(
        "mute", sys.executable, ["-S", "-c", "import sys; sys.stdin.read()"], connect_timeout=0.2
    )
    assert time.monotonic() - began < 2
    assert "has not answered within 0.2 seconds" in caplog.text
    assert await tools.execute_tool_call(ToolCall(id="1", name="_local")) == "here"


async def test_connecting_can_be_cancelled(manager: ToolManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "_GRACE", 0.1)
    connecting = asyncio.create_task(
        manager.mcp.connect("mute", MCPServerConfig(command="sleep", args=("600",), connect_timeout=60))
    )
    await asyncio.sleep(0.2)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert manager.mcp.names == ()


async def test_an_address_where_nobody_answers_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tools = ToolManager()
    assert not await tools.register_mcp_server("remote", url="http://127.0.0.1:9/mcp?key=secret")
    assert "MCP server 'remote' (http://127.0.0.1:9/mcp) cannot be reached" in caplog.text
    assert "secret" not in caplog.text


def _local() -> str:
    """Be here."""
    return "here"


# What comes that should not


@pytest.mark.parametrize(
    ("tool", "content"),
    [
        ("garbage", "after the garbage"),
        ("invalid_utf8", "after the bytes"),
        ("half", "in two halves"),
        ("twice", "first"),
        ("say", "said"),
    ],
)
async def test_what_is_no_message_is_passed_over(raw: Connect, tool: str, content: str) -> None:
    tools = await raw()
    assert (await run(tools, tool, n=100)).content == content
    assert (await run(tools, "echo", n=1)).content == "1"
    assert tools.mcp.status("raw").restarts == 0


async def test_of_what_is_no_message_only_the_first_is_a_warning(
    raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    tools = await raw()
    await run(tools, "garbage")
    await run(tools, "garbage")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "this is no JSON" in record.message


async def test_standard_error_goes_to_the_log_and_not_to_the_terminal(
    raw: Connect, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, "llmgine.mcp"):
        tools = await raw()
        await run(tools, "say", n=3)
        while len([record for record in caplog.records if "something" in record.message]) < 3:  # noqa: ASYNC110  # a log
            await asyncio.sleep(0.01)
    assert all(len(record.message) < 400 for record in caplog.records)
    assert capfd.readouterr().err == ""


async def test_an_answer_that_comes_too_late_disturbs_nobody(raw: Connect) -> None:
    tools = await raw(timeout=0.1)
    assert (await run(tools, "late", n=200)).timed_out
    await asyncio.sleep(0.2)
    assert (await run(tools, "echo", n=1)).content == "1"
    assert tools.mcp.status("raw").restarts == 0


async def test_a_line_without_end_ends_the_connection_and_takes_no_memory(raw: Connect) -> None:
    tools = await raw()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await run(tools, "huge", n=500)
    assert "it sent a line of more than 32 MiB" in result.content
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000
    assert (await run(tools, "echo", n=1)).content == "1"


async def test_a_flood_of_notifications_holds_up_neither_the_loop_nor_the_memory(raw: Connect) -> None:
    tools = await raw()
    target: Any = tools.mcp._server("raw").connection.target
    turns = most = 0

    async def watch() -> None:
        nonlocal turns, most
        while True:
            await asyncio.sleep(0)
            turns += 1
            most = max(most, target._process._pipes._waiting)

    watching = asyncio.create_task(watch())
    assert (await run(tools, "flood", n=100_000)).content == "after the flood"
    assert (await run(tools, "blank", n=1_000_000)).content == "after the blank lines"
    watching.cancel()
    assert turns > 1000
    assert most < 2**21


async def test_a_server_that_closes_its_input_is_started_again(
    raw: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "_GRACE", 0.1)
    tools = await raw("--state", str(tmp_path / "starts"))
    assert "has ended" in (await run(tools, "shut")).content
    assert (await run(tools, "starts")).content == "2"


async def test_a_server_that_reads_no_more_holds_up_only_its_own_calls(
    raw: Connect, manager: ToolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "_GRACE", 0.1)
    tools = await raw(timeout=0.5)
    manager.register_tool(_local)
    deaf = asyncio.create_task(run(tools, "deaf"))
    much = [asyncio.create_task(run(tools, "echo", n=1, more="x" * 1_000_000)) for _ in range(5)]
    assert await tools.execute_tool_call(ToolCall(id="1", name="_local")) == "here"
    assert all(result.timed_out for result in await asyncio.gather(deaf, *much))
    began = time.monotonic()
    await tools.cleanup_mcp_servers()
    assert time.monotonic() - began < 6


# Resources and prompts


async def test_resources_and_prompts_can_be_read_from_all_pages(raw: Connect) -> None:
    servers = (await raw()).mcp
    assert [str(each.uri) for each in await servers.list_resources("raw")] == [f"mem://{at}" for at in range(5)]
    assert [getattr(each, "text", "") for each in await servers.read_resource("raw", "mem://1")] == ["what is there"]
    assert [each.name for each in await servers.list_prompts("raw")] == ["hello"]
    assert await servers.get_prompt("raw", "hello", {"who": "Ada"}) == [{"role": "user", "content": "Greet Ada."}]


async def test_what_a_server_does_not_have_is_told(raw: Connect) -> None:
    servers = (await raw()).mcp
    with pytest.raises(MCPRequestError, match="Method not found"):
        await servers.list_resource_templates("raw")
    with pytest.raises(ValueError, match="There is no MCP server 'other'; there are: raw"):
        await servers.list_prompts("other")
    with pytest.raises(ValueError, match="There is an MCP server 'raw' already"):
        await servers.connect("raw", config())


async def test_what_is_asked_of_a_server_that_does_not_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "_GRACE", 0.1)
    tools = ToolManager(default_timeout_s=0.2)
    await tools.mcp.connect("raw", config())
    deaf = asyncio.create_task(run(tools, "deaf"))
    await asyncio.sleep(0.05)
    with pytest.raises(MCPError, match=r"has not answered within 0\.2 seconds"):
        await tools.mcp.list_prompts("raw")
    await deaf
    await tools.cleanup_mcp_servers()


def test_it_works_on_another_event_loop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work() -> None:
        tools = ToolManager(sleep=lambda _: asyncio.sleep(0))
        await tools.mcp.connect("raw", config())
        assert (await run(tools, "half")).content == "in two halves"
        assert "exit code 7" in (await run(tools, "die")).content
        assert (await run(tools, "echo", n=1, more="x" * 10_000_000)).content == "1"
        assert "more than 32 MiB" in (await run(tools, "huge", n=40)).content
        assert (await run(tools, "say", n=100)).content == "said"
        await tools.cleanup_mcp_servers()

    uvloop.run(work())
