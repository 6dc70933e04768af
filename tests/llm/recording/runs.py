"""Runs of the engine, and what can be seen of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from llmgine.bus import MessageBus
from llmgine.llm.engine import EngineEvent, LLMEngine, PromptCommand
from llmgine.llm.providers import Provider
from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.tool_events import ToolManagerEvent
from llmgine.llm.types import Chunk, Finish, FinishReason, LLMMessage, TextDelta, ToolCallDelta, Usage
from llmgine.messages import Event

__all__ = ["Pieces", "calls", "lines", "mutated", "run", "said", "tools_of"]

Step = Chunk | Exception


class Pieces:
    """A provider that plays replies, one a request: chunks, and errors to raise."""

    name, model = "pieces", "test"
    supports_json_schema = True

    def __init__(self, *replies: Sequence[Step]) -> None:
        self.replies = list(replies)
        self.options: list[dict[str, Any]] = []
        self.closed = 0

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = (), **options: Any
    ) -> AsyncGenerator[Chunk, None]:
        self.options.append(options)
        for step in self.replies.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step

    async def aclose(self) -> None:
        self.closed += 1


def said(*pieces: str) -> list[Step]:
    """A reply of text."""
    return [*map(TextDelta, pieces), Finish(FinishReason.STOP, Usage(3, len(pieces)))]


def calls(*names_and_arguments: tuple[str, str], before: str = "") -> list[Step]:
    """A reply that calls tools."""
    deltas: list[Step] = [TextDelta(before)] if before else []
    for index, (name, arguments) in enumerate(names_and_arguments):
        half = len(arguments) // 2
        deltas.append(ToolCallDelta(index, f"call-{index}", name, arguments[:half]))
        deltas.append(ToolCallDelta(index, arguments=arguments[half:]))
    return [*deltas, Finish(FinishReason.TOOL_CALLS, Usage(5, 2))]


def tools_of(temperature: int = 12) -> tuple[ToolManager, list[str]]:
    """Two tools, and the list of what they were called with."""
    called: list[str] = []
    manager = ToolManager()

    async def weather(city: str) -> dict[str, Any]:
        called.append(city)
        return {"city": city, "degrees": temperature}

    async def fail(why: str) -> str:
        called.append(why)
        raise ValueError(why)

    manager.register_tool(weather)
    manager.register_tool(fail)
    return manager, called


async def run(provider: Provider, tools: ToolManager, *prompts: str) -> list[dict[str, Any]]:
    """Ask an engine; return everything that could be seen of it, without ids and times."""
    seen: list[dict[str, Any]] = []
    bus = MessageBus.isolated()
    await bus.start()

    def note(event: Event) -> None:
        if isinstance(event, EngineEvent | ToolManagerEvent):
            volatile = {"event_id", "timestamp", "metadata", "session_id", "engine_id", "tool_info"}
            volatile |= {"duration", "time_to_first_token", "tokens_per_second", "correlation_id", "causation_id"}
            volatile |= {"run_id", "tool_call_id"}
            fields = {key: value for key, value in vars(event).items() if key.lstrip("_") not in volatile}
            public = {key: value for key, value in fields.items() if not key.startswith("_")}
            seen.append({"event": type(event).__name__, **public})

    bus.register_event_handler(Event, note)
    LLMEngine(bus, provider, tools=tools)
    for prompt in prompts:
        result = await bus.execute(PromptCommand(prompt=prompt))
        seen.append({"result": result.result, "error": result.error})
    await bus.wait_for_events()
    await bus.stop()
    return seen


def lines(file: Path) -> list[dict[str, Any]]:
    """What is in a recording."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def mutated(file: Path, number: int, change: Any) -> None:
    """Change one line of a recording."""
    data = lines(file)
    change(data[number])
    file.write_text("".join(json.dumps(line) + "\n" for line in data))
