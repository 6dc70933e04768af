"""A manager on a real bus sees each event once: what is published, and what the bus itself reports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.messages import Command, Event
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers.adapters import create_sync_console_handler, create_sync_file_handler


@dataclass
class Greet(Command[str]):
    name: str = ""


@dataclass
class Greeted(Event):
    name: str = ""


async def test_every_event_of_a_bus_is_logged_once_with_its_chain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llmgine.observability")
    manager = ObservabilityManager()
    manager.register_handler(create_sync_console_handler())
    manager.register_handler(create_sync_file_handler(log_dir=tmp_path, filename="log.jsonl"))
    bus = MessageBus.isolated(observability=manager)
    await bus.start()

    async def greet(command: Greet) -> str:
        await bus.publish(Greeted(name=command.name))
        return f"Hello, {command.name}"

    async def fail(event: Greeted) -> None:
        raise ValueError(event.name)

    bus.register_command_handler(Greet, greet)
    bus.register_event_handler(Greeted, fail)
    command = Greet(name="Ada")
    await bus.execute(command)
    await bus.stop()
    manager.close()

    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    types = [line["event_type"] for line in lines]
    assert types == ["CommandStartedEvent", "Greeted", "EventHandlerFailedEvent", "CommandResultEvent"]
    assert {line["correlation_id"] for line in lines} == {command.command_id}
    started, greeted, failed, ended = lines
    assert started["command"]["name"] == "Ada"
    assert greeted["causation_id"] == command.command_id
    assert failed["exception"] == "ValueError: Ada"
    assert failed["event"]["event_id"] == greeted["event_id"]
    assert ended["command_result"]["result"] == "Hello, Ada"
    shown = [record.getMessage() for record in caplog.records if record.name == "llmgine.observability"]
    assert [line.split(",")[0] for line in shown] == [f"[EVENT] {name}" for name in types]
