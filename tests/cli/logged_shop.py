"""An application that writes a log: `python logged_shop.py FOLDER`. Prints the ids of some of its messages as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass

from llmgine.bus import MessageBus
from llmgine.llm.engine import LLMEngine, PromptCommand
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.messages import Command, Event
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers.file_sync import SyncFileEventHandler


@dataclass
class PlaceOrderCommand(Command[str]):
    item: str = ""


@dataclass
class ReserveStockCommand(Command[int]):
    item: str = ""


@dataclass
class OrderPlacedEvent(Event):
    item: str = ""


@dataclass
class StockCountedEvent(Event):
    shelf: int = 0


async def main(folder: str) -> None:
    manager = ObservabilityManager()
    manager.register_handler(SyncFileEventHandler(folder))
    bus = MessageBus.isolated(observability=manager)
    await bus.start()

    async def place(command: PlaceOrderCommand) -> str:
        with manager.span("look into the store", session_id=command.session_id, shelves=4):
            for shelf in range(4):
                await bus.publish(StockCountedEvent(shelf, session_id=command.session_id))
        reserved = await bus.execute(ReserveStockCommand(command.item, session_id=command.session_id))
        await bus.publish(OrderPlacedEvent(command.item, session_id=command.session_id))
        reserved.unwrap()
        return "placed"

    async def reserve(command: ReserveStockCommand) -> int:
        await asyncio.sleep(0.02)
        if command.item == "gold":
            msg = "there is no gold \x1b[31mleft\x1b[0m <b>&"
            raise LookupError(msg)
        return 1

    async def send_mail(event: OrderPlacedEvent) -> None:
        if event.item == "gold":
            msg = "no mail today"
            raise ConnectionError(msg)

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    bus.register_command_handler(PlaceOrderCommand, place)
    bus.register_command_handler(ReserveStockCommand, reserve)
    bus.register_event_handler(OrderPlacedEvent, send_mail)
    tools = ToolManager()
    tools.register_tool(add)
    call = ToolCall(id="1", name="add", arguments='{"a": 1, "b": 2}')
    LLMEngine(bus, ScriptedProvider([Reply("let me see", [call]), Reply("It is three.")]), tools=tools)

    good, bad, prompt = PlaceOrderCommand("tea"), PlaceOrderCommand("gold"), PromptCommand(prompt="1 + 2?")
    async with bus.session("alice") as session:
        await session.execute_with_session(good)
    await bus.execute(bad)
    await bus.execute(prompt)
    await bus.stop()
    manager.close()
    print(json.dumps({"good": good.id, "bad": bad.id, "prompt": prompt.id}))  # noqa: T201


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # the failures are meant
    asyncio.run(main(sys.argv[1]))
