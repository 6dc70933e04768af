"""A chat engine with tools and without a user interface: commands in, events and results out.

    python examples/tool_chat_engine_headless.py                                  # offline, with a script
    python examples/tool_chat_engine_headless.py --model local:smollm2 "Hello!"   # offline, with a small model
    python examples/tool_chat_engine_headless.py --model litellm:gpt-4o-mini "Is it sunny in Kyoto?"

Messages of the application, an engine of its own on the base that LLMgine has, tools, and somebody who listens.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
from dataclasses import dataclass
from typing import Literal

from llmgine.bus import MessageBus
from llmgine.llm.engine import Engine, EngineEvent, EngineStatusEvent, PromptCommand
from llmgine.llm.providers.base import Provider
from llmgine.llm.providers.choice import create_provider
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall
from llmgine.llm.tools.tool_events import ToolExecuteResultEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import Event

QUESTION = "What's the weather in Kyoto? And what is 12 times 12?"


# What the application says to its engine, and hears from it.


@dataclass
class AssistCommand(PromptCommand):
    """Ask the assistant."""


@dataclass
class AssistantStatusEvent(EngineStatusEvent):
    """The assistant has begun something else."""


@dataclass
class AnsweredEvent(EngineEvent):
    """The assistant has answered."""

    question: str = ""


# What the model may use. Names, types and docstrings are what it is told.


def get_weather(city: str) -> str:
    """Tell how the weather is in a city.

    Args:
        city: its name, such as Kyoto.
    """
    return f"It is sunny in {city}, 22 degrees."


def calculate(left: float, operation: Literal["+", "-", "*", "/"], right: float) -> float:
    """Calculate with two numbers."""
    operations = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    result: float = operations[operation](left, right)
    return result


async def search_web(query: str) -> list[str]:
    """Search the web; here, a list of things that are always found."""
    await asyncio.sleep(0.01)
    return [f"{query}: an introduction", f"{query} in ten minutes"]


class Assistant(Engine):
    """An engine: the base keeps conversations, asks the model and runs tools until there is an answer."""

    system_prompt = "You are a helpful assistant. Use tools where they help."
    status_event = AssistantStatusEvent

    async def handle(self, command: AssistCommand) -> str:
        """Answer, and say so."""
        answer = await self.respond(command.prompt, command.session_id)
        await self.publish(AnsweredEvent(question=command.prompt), command.session_id)
        return answer


def show(event: Event) -> None:
    """Print what happens."""
    if isinstance(event, ToolExecuteResultEvent):
        print(f"  {event.tool_name} -> {event.tool_result}")
    elif isinstance(event, AssistantStatusEvent):
        print(f"[{event.status}]")


async def main(provider: Provider, question: str) -> None:
    bus = MessageBus()
    tools = ToolManager()
    for function in (get_weather, calculate, search_web):
        tools.register_tool(function)
    assistant = Assistant(bus, provider, tools=tools)
    bus.register_command_handler(AssistCommand, assistant.handle)
    bus.register_event_handler(AssistantStatusEvent, show)
    bus.register_event_handler(ToolExecuteResultEvent, show)

    await bus.start()
    async with bus.session() as session:
        result = await session.execute_with_session(AssistCommand(question))
    print(result.result if result.success else result.error)
    await bus.stop()
    await provider.aclose()


def script() -> ScriptedProvider:
    """What a model would say, so that the example needs none."""
    calls = [
        ToolCall("1", name="get_weather", arguments='{"city": "Kyoto"}'),
        ToolCall("2", name="calculate", arguments='{"left": 12, "operation": "*", "right": 12}'),
    ]
    return ScriptedProvider([Reply(tool_calls=calls), Reply("It is sunny in Kyoto, and 12 times 12 is 144.")])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ask an assistant that has tools.")
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--model", help="such as litellm:gpt-4o-mini, openai:gpt-4o-mini, local:smollm2")
    options = parser.parse_args()
    asyncio.run(main(create_provider(options.model) if options.model else script(), options.question))

# Without a model named, it
# prints: [calling model]
# prints: [running tools]
# prints:   get_weather -> It is sunny in Kyoto, 22 degrees.
# prints:   calculate -> 144.0
# prints: [calling model]
# prints: It is sunny in Kyoto, and 12 times 12 is 144.
