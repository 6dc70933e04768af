"""A program that dies: it answers a prompt with tools, is killed at a point, and is taken up by another process.

`python resumed_program.py FOLDER POINT…` does that for each point and prints a line of JSON for it. Where the point
begins with "again ", the other process is not told to resume: it is given the same command once more, and so is
another one after it. Each process is a fork of this one, which has no threads and no loop. Nothing of the product knows
of this: its methods are wrapped.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from llmgine.bus import MessageBus
from llmgine.bus.effect_records import EffectRecord
from llmgine.database.effect_ledger import DatabaseEffectLedger
from llmgine.database.history_store import DatabaseHistoryStore
from llmgine.database.stores import Database
from llmgine.llm.context import StoredChatHistory, conversation_faults
from llmgine.llm.engine import LLMEngine, PromptCommand, ResumeCommand
from llmgine.llm.tools import ToolContext, ToolManager
from llmgine.llm.types import Chunk, Finish, FinishReason, LLMMessage, TextDelta, ToolCallDelta
from llmgine.messages import Command, SessionID
from llmgine.messages.codec import decode, encode

SESSION = SessionID("s")
TURNS: list[list[tuple[str, dict[str, Any]]]] = [
    [("read_book", {}), ("set_row", {"row": 1}), ("send_mail", {"to": "ann"})],
    [("send_mail", {"to": "bob"})],
]


class Process:
    """One process in a folder, which may be killed at a point."""

    def __init__(self, folder: Path, point: str | None) -> None:
        self.folder = folder
        self._point = point
        self._times: dict[str, int] = {}

    def write(self, name: str, line: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(line + "\n")

    def reach(self, name: str) -> None:
        """Note that a point has been reached, with how often it was before; die there if it is the one."""
        self._times[name] = self._times.get(name, 0) + 1
        point = f"{name} {self._times[name]}"
        self.write("points", point)
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner: Any, method: str, label: Callable[..., str]) -> None:
        """Make points of the beginning and the end of a method."""
        original: Callable[..., Awaitable[Any]] = getattr(owner, method)

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.reach(f"before {label(*args)}")
            result = await original(*args, **kwargs)
            self.reach(f"after {label(*args)}")
            return result

        setattr(owner, method, wrapped)

    def watch(self) -> None:
        """Make points of everything that is written."""
        tools: dict[str, str] = {}

        def intended(_: Any, record: EffectRecord) -> str:
            tools[record.key] = record.tool
            return f"intend {record.tool}"

        def finished(_: Any, key: str, __: Any) -> str:
            return f"finish {tools.get(key, 'again')}"

        ledger = DatabaseEffectLedger
        self.wrap(ledger, "begin_run", lambda *_: "begin_run")
        self.wrap(ledger, "begin_turn", lambda *_: "begin_turn")
        self.wrap(ledger, "intend", intended)
        self.wrap(ledger, "finish", finished)
        self.wrap(ledger, "end_run", lambda *_: "end_run")
        self.wrap(StoredChatHistory, "save", lambda *_: "save")


class Model:
    """Asks for the tools of each turn, and then answers with what it was told last."""

    name = "model"
    model = "model"

    def __init__(self, process: Process) -> None:
        self._process = process

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
    ) -> AsyncGenerator[Chunk, None]:
        turn = sum(bool(message.get("tool_calls")) for message in messages)
        self._process.write("asked", str(turn))
        self._process.reach(f"asked {turn}")
        if turn == len(TURNS):
            yield TextDelta(f"Told: {messages[-1]['content']}")
            yield Finish(FinishReason.STOP)
            return
        for index, (name, arguments) in enumerate(TURNS[turn]):
            yield ToolCallDelta(index, uuid.uuid4().hex, name, json.dumps(arguments))
        yield Finish(FinishReason.TOOL_CALLS)

    async def aclose(self) -> None:
        """Nothing is held."""


def tools_of(process: Process) -> ToolManager:
    async def read_book() -> str:
        """Read."""
        process.write("reads", "read")
        process.reach("done read_book")
        return "a book"

    async def set_row(row: int, context: ToolContext) -> str:
        """Set."""
        process.write("rows", f"{row} {context.idempotency_key}")
        process.reach("done set_row")
        return "set"

    async def send_mail(to: str) -> str:
        """Send."""
        process.write("mails", to)
        process.reach("done send_mail")
        return f"sent to {to}"

    manager = ToolManager()
    manager.register_tool(read_book, effect="read")
    manager.register_tool(set_row, effect="idempotent")
    manager.register_tool(send_mail)
    return manager


async def live(process: Process, command: Command[Any]) -> None:
    process.watch()
    url = f"sqlite:///{process.folder / 'all.db'}"
    database, store = Database(url), DatabaseHistoryStore(url)
    bus = MessageBus.isolated()
    await bus.start()
    history = StoredChatHistory(store, SESSION)
    engine = LLMEngine(
        bus, Model(process), session_id=SESSION, tools=tools_of(process), history=history, ledger=database.ledger
    )
    result: Any = await bus.execute(command)
    stored = await store.load(SESSION)
    facts = {
        "answer": result.result,
        "error": result.error,
        "faults": conversation_faults(engine.history.get_messages()),
        "stored": [message["role"] for message in stored],
        "told": [message["content"] for message in stored if message["role"] == "tool"],
        "ids": len({message["id"] for message in stored}),
        "open": await database.ledger.open_run(SESSION) is not None,
    }
    (process.folder / "end.json").write_text(json.dumps(facts))
    await bus.stop()
    await database.aclose()
    await store.aclose()


def process_of(folder: Path, point: str | None, command: Command[Any]) -> int:
    """Have a process of its own do it. Return the signal that killed it, or 0."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(live(Process(folder, point), command))
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a process failed: {point} {command}")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def report(folder: Path, points: str) -> dict[str, Any]:
    """Have the prompt answered, by processes that are killed at points in turn, and then by one that is not."""
    folder.mkdir()
    prompt: Command[Any] = PromptCommand(prompt="Do it all.", session_id=SESSION)
    again = points.startswith("again ")
    later: Any = decode(encode(prompt)) if again else ResumeCommand(session_id=SESSION)
    killed = [
        process_of(folder, point, later if number else prompt) == signal.SIGKILL
        for number, point in enumerate(points.removeprefix("again ").split(" + "))
    ]
    process_of(folder, None, later)
    if again:
        before = json.loads((folder / "end.json").read_text())
        process_of(folder, None, later)
        assert json.loads((folder / "end.json").read_text()) == before
    files = {name: lines(folder / name) for name in ("points", "asked", "reads", "rows", "mails")}
    return {"point": points, "killed": killed, **files, **json.loads((folder / "end.json").read_text())}


if __name__ == "__main__":
    for number, points in enumerate(sys.argv[2:]):
        sys.stdout.write(json.dumps(report(Path(sys.argv[1]) / str(number), points)) + "\n")
