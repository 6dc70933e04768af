"""Against servers that others wrote: the reference servers of the protocol's authors, in both of its eras.

Those from npm speak 2025-11-25, those from PyPI 2026-07-28.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp_servers import SERVERS, server_command

from llmgine.bus import MessageBus
from llmgine.errors import MCPConnectionError, MCPRequestError
from llmgine.llm.engine import LLMEngine, PromptCommand
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall
from llmgine.llm.tools.mcp import MCPServerConfig
from llmgine.llm.tools.mcp.connection import State
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_events import ToolProgressEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import SessionID

MARK = "LLMGINE_TEST_SERVER_OF"
PATIENCE_S = 30
"""For what should take a moment, on a machine that is busy."""

Connect = Callable[..., Awaitable[None]]


@pytest.fixture
async def tools() -> AsyncIterator[ToolManager]:
    manager = ToolManager(default_timeout_s=PATIENCE_S)
    yield manager
    await manager.cleanup_mcp_servers()


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """What tells the servers of this test from all other processes."""
    return str(tmp_path)


@pytest.fixture
def connect(tools: ToolManager, mark: str) -> Connect:
    async def connect(name: str, *more: str, env: dict[str, str] | None = None, **options: Any) -> None:
        command, *args = server_command(name)
        config = MCPServerConfig(
            command=command, args=(*args, *more), env={MARK: mark, **(env or {})}, connect_timeout=60, **options
        )
        await tools.mcp.connect(name, config)

    return connect


async def call(tools: ToolManager, name: str, context: ToolContext | None = None, /, **arguments: Any) -> ToolResult:
    return await tools.run(ToolCall(id="1", name=name, arguments=json.dumps(arguments)), context)


async def returned(tools: ToolManager, name: str, **arguments: Any) -> Any:
    result = await call(tools, name, **arguments)
    assert result.succeeded, result.content
    return result.value


def processes(mark: str) -> list[int]:
    """Return the processes that have the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def server_process(mark: str) -> int:
    """Return the process of the only server, not what looks after it."""
    (found,) = [pid for pid in processes(mark) if Path(f"/proc/{pid}/exe").resolve().name == "node"]
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.com"]
    try:
        subprocess.run([*git, "init", "--quiet", str(folder)], check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    subprocess.run([*git, "-C", str(folder), "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    (folder / "file.txt").write_text("text")
    return folder


async def until_none_is_left(mark: str) -> None:
    """Wait for what has been killed to be gone: the system takes a moment."""
    async with asyncio.timeout(PATIENCE_S):
        while processes(mark):  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)


# Every server


@pytest.mark.parametrize("name", SERVERS)
async def test_every_server_comes_up_and_goes_without_leaving_a_process(
    tools: ToolManager, connect: Connect, mark: str, tmp_path: Path, name: str
) -> None:
    await connect(name, *([str(tmp_path)] if name == "filesystem" else []))

    status = tools.mcp.status(name)
    assert status.state is State.READY
    assert status.protocol_version == ("2026-07-28" if name in {"git", "time"} else "2025-11-25")
    assert status.server_name
    assert status.tools == tuple(tool.name for tool in tools.tools)
    assert all(tools.is_mcp_tool(tool) and not tools.is_local_tool(tool) for tool in status.tools)
    assert all(schema["function"]["parameters"]["type"] == "object" for schema in tools.tool_schemas)
    assert processes(mark)

    await tools.cleanup_mcp_servers()

    assert tools.tools == ()
    await until_none_is_left(mark)


async def test_all_servers_at_once_have_their_tools_side_by_side(
    tools: ToolManager, connect: Connect, tmp_path: Path
) -> None:
    await asyncio.gather(
        *(
            connect(name, *([str(tmp_path)] if name == "filesystem" else []), prefix=f"{name}_")
            for name in ("everything", "filesystem", "memory", "git", "time")
        )
    )

    results = await tools.execute_tool_calls(
        [
            ToolCall(id="1", name="everything_get-sum", arguments='{"a": 1, "b": 2}'),
            ToolCall(id="2", name="filesystem_list_directory", arguments=json.dumps({"path": str(tmp_path)})),
            ToolCall(id="3", name="memory_read_graph", arguments="{}"),
            ToolCall(id="4", name="time_get_current_time", arguments='{"timezone": "UTC"}'),
        ]
    )

    assert "3" in results[0]
    assert results[2] == {"entities": [], "relations": []}
    assert results[3]["timezone"] == "UTC"


async def test_only_the_tools_that_are_wanted_are_there(tools: ToolManager, connect: Connect) -> None:
    await connect("everything", include=("get-*",), exclude=("get-env", "get-r*"))

    assert {tool.name for tool in tools.tools} == {
        "get-annotated-message",
        "get-structured-content",
        "get-sum",
        "get-tiny-image",
    }


# Results


async def test_a_text_is_a_text(tools: ToolManager, connect: Connect) -> None:
    await connect("everything")

    assert await returned(tools, "echo", message="åäö 🎈 \u2028") == "Echo: åäö 🎈 \u2028"


async def test_structured_content_is_data_for_the_application_and_text_for_the_model(
    tools: ToolManager, connect: Connect
) -> None:
    await connect("everything")

    result = await call(tools, "get-structured-content", location="Chicago")

    assert result.value == {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}
    assert json.loads(result.content) == result.value
    tool = next(tool for tool in tools.tools if tool.name == "get-structured-content")
    assert tool.output_schema is not None
    assert tool.output_schema["required"] == ["temperature", "conditions", "humidity"]


async def test_an_image_is_a_part_as_messages_have_it(tools: ToolManager, connect: Connect) -> None:
    await connect("everything")

    result = await call(tools, "get-tiny-image")

    kinds = [part["type"] for part in result.value]
    assert kinds == ["text", "image_url", "text"]
    header, _, data = result.value[1]["image_url"]["url"].partition(",")
    assert header == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "image/png" in result.content
    assert data[:20] not in result.content


@pytest.mark.parametrize("kind", ["Text", "Blob"])
async def test_a_resource_in_a_result_is_told_with_its_address(tools: ToolManager, connect: Connect, kind: str) -> None:
    await connect("everything")

    result = await call(tools, "get-resource-reference", resourceType=kind, resourceId=7)

    assert f"demo://resource/dynamic/{kind.lower()}/7" in result.content
    assert any(part["type"] == "resource" for part in result.value)


async def test_arguments_are_checked_here_before_the_server_sees_them(tools: ToolManager, connect: Connect) -> None:
    await connect("everything")

    wrong = await call(tools, "get-structured-content", location="Oslo")
    missing = await call(tools, "echo")
    text = await call(tools, "get-sum", a="one", b=2)

    assert not wrong.succeeded
    assert "Chicago" in wrong.content  # it says what would have been right
    assert not missing.succeeded
    assert "message" in missing.content
    assert not text.succeeded
    assert (wrong.attempts, missing.attempts, text.attempts) == (0, 0, 0)


async def test_what_fails_on_the_server_is_told_the_model_in_its_words(
    tools: ToolManager, connect: Connect, tmp_path: Path
) -> None:
    await connect("filesystem", str(tmp_path))
    await connect("time")

    outside = await call(tools, "read_text_file", path="/etc/hostname")
    nowhere = await call(tools, "get_current_time", timezone="Middle-earth/Shire")

    assert not outside.succeeded
    assert "outside allowed directories" in outside.content
    assert not nowhere.succeeded
    assert "Middle-earth/Shire" in nowhere.content


async def test_files_are_written_and_read(tools: ToolManager, connect: Connect, tmp_path: Path) -> None:
    await connect("filesystem", str(tmp_path))
    path = str(tmp_path / "notes.txt")

    await returned(tools, "write_file", path=path, content="one\ntwo\n")

    assert (tmp_path / "notes.txt").read_text() == "one\ntwo\n"
    assert (await returned(tools, "read_text_file", path=path, head=1))["content"] == "one"


async def test_what_a_server_remembers_is_there_for_the_next_one(
    tools: ToolManager, connect: Connect, tmp_path: Path
) -> None:
    memory = {"MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")}
    entity = {"name": "Ada", "entityType": "person", "observations": ["wrote the first program"]}
    await connect("memory", env=memory)
    await returned(tools, "create_entities", entities=[entity])
    await tools.cleanup_mcp_servers()

    await connect("memory", env=memory)

    assert (await returned(tools, "search_nodes", query="program"))["entities"] == [entity]


async def test_a_repository_is_looked_at_and_added_to(tools: ToolManager, connect: Connect, repository: Path) -> None:
    await connect("git")
    where = {"repo_path": str(repository)}

    before = await call(tools, "git_status", **where)
    await returned(tools, "git_add", files=["file.txt"], **where)
    staged = await call(tools, "git_diff_staged", **where)
    log = await call(tools, "git_log", max_count=1, **where)

    assert "Untracked files" in before.content
    assert "+text" in staged.content
    assert "first" in log.content


async def test_no_key_of_ours_reaches_a_server(
    tools: ToolManager, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")

    await connect("everything", env={"WANTED": "yes"})

    seen = json.loads(await returned(tools, "get-env"))
    assert seen["WANTED"] == "yes"
    assert "PATH" in seen
    assert "hunter2" not in json.dumps(seen)


# Resources and prompts


async def test_resources_are_listed_and_read(tools: ToolManager, connect: Connect) -> None:
    await connect("everything")

    uris = [resource.uri for resource in await tools.mcp.list_resources("everything")]
    templates = [each.uri_template for each in await tools.mcp.list_resource_templates("everything")]
    document, *rest = await tools.mcp.read_resource("everything", "demo://resource/static/document/features.md")
    blob = (await tools.mcp.read_resource("everything", "demo://resource/dynamic/blob/1"))[0]

    assert "demo://resource/static/document/features.md" in uris
    assert any("dynamic" in template for template in templates)
    assert not rest
    assert document.model_dump()["text"].startswith("# Everything")
    assert base64.b64decode(blob.model_dump()["blob"])
    with pytest.raises(MCPRequestError, match="demo://resource/none"):
        await tools.mcp.read_resource("everything", "demo://resource/none")


async def test_prompts_are_listed_and_filled_in(tools: ToolManager, connect: Connect) -> None:
    await connect("everything")

    prompts = {prompt.name: prompt for prompt in await tools.mcp.list_prompts("everything")}
    messages = await tools.mcp.get_prompt("everything", "args-prompt", {"city": "Oslo", "state": "Viken"})

    assert [argument.required for argument in prompts["args-prompt"].arguments or ()] == [True, False]
    assert messages == [{"role": "user", "content": "What's weather in Oslo, Viken?"}]
    with pytest.raises(MCPRequestError, match="city"):
        await tools.mcp.get_prompt("everything", "args-prompt")


async def test_a_server_without_resources_says_so(tools: ToolManager, connect: Connect, tmp_path: Path) -> None:
    await connect("filesystem", str(tmp_path))

    with pytest.raises(MCPRequestError):
        await tools.mcp.list_resources("filesystem")


# While a call runs


def long_call(seconds: float, steps: int = 5) -> ToolCall:
    arguments = json.dumps({"duration": seconds, "steps": steps})
    return ToolCall(id="long", name="trigger-long-running-operation", arguments=arguments)


class Watched:
    """A call, and the progress that is told of it."""

    def __init__(self, tools: ToolManager, bus: MessageBus, call: ToolCall) -> None:
        self.seen: list[tuple[float, float | None]] = []
        self.begun = asyncio.Event()
        bus.register_event_handler(ToolProgressEvent, self._note)
        context = ToolContext(bus=bus, session_id=SessionID("s"), tool_call_id=call.id)
        self.task = asyncio.ensure_future(tools.run(call, context))

    def _note(self, event: ToolProgressEvent) -> None:
        assert (event.tool_call_id, event.session_id) == ("long", "s")
        self.seen.append((event.progress, event.total))
        self.begun.set()

    async def until_begun(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.begun.wait()


async def test_progress_is_told_as_it_comes(tools: ToolManager, connect: Connect, bus: MessageBus) -> None:
    await connect("everything")

    watched = Watched(tools, bus, long_call(0.5))
    result = await watched.task

    assert result.succeeded
    assert "completed" in result.content
    assert watched.seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


async def test_a_cancelled_call_ends_at_once_and_the_next_one_works(
    tools: ToolManager, connect: Connect, bus: MessageBus
) -> None:
    await connect("everything")
    watched = Watched(tools, bus, long_call(600, 3000))
    await watched.until_begun()

    watched.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(watched.task, 5)

    assert await returned(tools, "echo", message="still here") == "Echo: still here"
    assert tools.mcp.status("everything").restarts == 0


async def test_a_call_that_takes_too_long_fails_and_the_next_one_works(tools: ToolManager, connect: Connect) -> None:
    await connect("everything", timeout=0.5)

    result = await tools.run(long_call(600))

    assert result.timed_out
    assert await returned(tools, "echo", message="still here") == "Echo: still here"


async def test_a_call_whose_server_is_killed_fails_and_the_next_one_finds_it_restarted(
    tools: ToolManager, connect: Connect, bus: MessageBus, mark: str
) -> None:
    await connect("everything")
    watched = Watched(tools, bus, long_call(600, 3000))
    await watched.until_begun()

    os.kill(server_process(mark), signal.SIGKILL)
    result = await watched.task

    assert not result.succeeded
    assert "everything" in result.content
    assert await returned(tools, "echo", message="again") == "Echo: again"
    status = tools.mcp.status("everything")
    assert (status.state, status.restarts) == (State.READY, 1)
    assert "SIGKILL" in status.last_error or "-9" in status.last_error


async def test_a_call_that_does_no_harm_twice_is_repeated_when_its_server_is_killed(
    tools: ToolManager, connect: Connect, bus: MessageBus, mark: str
) -> None:
    await connect("everything", trust_annotations=True)  # the operation is said to be read-only
    watched = Watched(tools, bus, long_call(2, 100))
    await watched.until_begun()

    os.kill(server_process(mark), signal.SIGKILL)
    result = await watched.task

    assert result.succeeded, result.content
    assert watched.seen[-1][0] == 100


async def test_nobody_waits_for_ever_for_a_server_that_stands_still(
    tools: ToolManager, connect: Connect, mark: str
) -> None:
    await connect("everything", timeout=1)
    process = server_process(mark)
    os.kill(process, signal.SIGSTOP)

    result = await call(tools, "echo", message="hello?")

    assert result.timed_out
    async with asyncio.timeout(PATIENCE_S):
        await tools.cleanup_mcp_servers()
    await until_none_is_left(mark)


async def test_an_engine_uses_a_servers_tool_beside_its_own(
    tools: ToolManager, connect: Connect, bus: MessageBus
) -> None:
    def double(n: int) -> int:
        return 2 * n

    tools.register_tool(double)
    await connect("everything", include=("get-sum",))
    calls = [
        ToolCall(id="1", name="get-sum", arguments='{"a": 20, "b": 1}'),
        ToolCall(id="2", name="double", arguments='{"n": 21}'),
    ]
    provider = ScriptedProvider([Reply(tool_calls=calls), Reply("Both say so.")])
    engine = LLMEngine(bus, provider, tools=tools)

    result = await bus.execute(PromptCommand(prompt="What is 21, doubled?", session_id=SessionID("a")))

    assert result.result == "Both say so."
    assert [tool["function"]["name"] for tool in provider.requests[0].tools] == ["double", "get-sum"]
    said = [message.get("content") for message in provider.requests[1].messages if message["role"] == "tool"]
    assert said == ["The sum of 20 and 1 is 21.", "42"]
    assert engine.tools is tools


# Over HTTP


class HTTPServer:
    """server-everything on a port of its own."""

    def __init__(self) -> None:
        self._command = server_command("everything")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/mcp"

    def start(self) -> None:
        environment = os.environ | {"PORT": str(self._port)}
        self.process = subprocess.Popen(
            [*self._command, "streamableHttp"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        assert b"listening" in self.process.stderr.readline()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()


@pytest.fixture
def http_server() -> Iterator[HTTPServer]:
    server = HTTPServer()
    server.start()
    yield server
    server.kill()


async def test_the_same_over_http(tools: ToolManager, bus: MessageBus, http_server: HTTPServer) -> None:
    assert await tools.register_mcp_server("everything", url=http_server.url)

    watched = Watched(tools, bus, long_call(0.5))
    structured = await returned(tools, "get-structured-content", location="Chicago")
    image = await returned(tools, "get-tiny-image")
    result = await watched.task

    assert structured["humidity"] == 82
    assert image[1]["type"] == "image_url"
    assert result.succeeded
    assert watched.seen[-1][0] == 5
    assert await tools.mcp.list_prompts("everything")


async def test_a_call_over_http_can_be_cancelled(tools: ToolManager, bus: MessageBus, http_server: HTTPServer) -> None:
    await tools.mcp.connect("everything", MCPServerConfig(url=http_server.url))
    watched = Watched(tools, bus, long_call(600, 3000))
    await watched.until_begun()

    watched.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(watched.task, 5)

    assert await returned(tools, "echo", message="still here") == "Echo: still here"


async def test_a_server_under_a_url_may_go_and_come_back(
    tools: ToolManager, bus: MessageBus, http_server: HTTPServer
) -> None:
    await tools.mcp.connect("everything", MCPServerConfig(url=http_server.url))
    watched = Watched(tools, bus, long_call(600, 3000))
    await watched.until_begun()

    http_server.kill()
    result = await watched.task
    http_server.start()

    assert not result.succeeded
    assert await returned(tools, "echo", message="again") == "Echo: again"


async def test_nobody_there_is_told_as_such(tools: ToolManager, http_server: HTTPServer) -> None:
    http_server.kill()

    with pytest.raises(MCPConnectionError, match="everything"):
        await tools.mcp.connect("everything", MCPServerConfig(url=http_server.url))

    assert not await tools.register_mcp_server("everything", url=http_server.url)
    assert tools.tools == ()
