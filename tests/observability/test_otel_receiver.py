"""What is exported arrives: at a receiver that is another process, over HTTP, as OTLP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from llmgine.bus import MessageBus
from llmgine.messages import Command, Event
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers.adapters import create_sync_file_handler
from llmgine.observability.otel_handler import OpenTelemetryHandler, OpenTelemetryMiddleware


class Order(Command[None]):
    pass


class Charge(Command[None]):
    pass


class Charged(Event):
    pass


class Receiver:
    def __init__(self) -> None:
        program = Path(__file__).with_name("otlp_receiver.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1/traces"

    def spans(self) -> list[dict[str, Any]]:
        """End the receiver, and return what it has got."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=30)
        assert err == ""
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    if receiver.process.poll() is None:
        receiver.process.kill()
        receiver.process.communicate()


async def run(bus: MessageBus, otel: OpenTelemetryHandler) -> None:
    """A session with a command, one inside, an event of it, and what its handler executes."""
    middleware = OpenTelemetryMiddleware(otel)
    bus.add_command_middleware(middleware)
    bus.add_event_middleware(middleware)

    async def order(_: Order) -> None:
        await asyncio.create_task(bus.execute(Charge()))
        await bus.publish(Charged(), await_processing=False)

    async def charged(_: Charged) -> None:
        await bus.execute(Charge())
        raise ValueError("boom")

    bus.register_command_handler(Order, order)
    bus.register_command_handler(Charge, lambda _: None)
    bus.register_event_handler(Charged, charged)
    await bus.start()
    async with bus.session("S") as session:
        await session.execute_with_session(Order())
        await bus.wait_for_events()
    await bus.stop()


async def test_a_receiver_gets_one_trace_with_the_right_parents(receiver: Receiver) -> None:
    otel = OpenTelemetryHandler("shop", exporter=OTLPSpanExporter(receiver.endpoint))
    manager = ObservabilityManager()
    manager.register_handler(otel)
    bus = MessageBus.isolated(observability=manager)
    await run(bus, otel)
    manager.close()

    spans = receiver.spans()
    names = {span["span_id"]: span["name"] for span in spans}
    assert sorted((span["name"], names.get(span["parent_span_id"])) for span in spans) == [
        ("command_Charge", "command_Order"),
        ("command_Charge", "event_Charged"),
        ("command_Order", "session_S"),
        ("event_Charged", "command_Order"),
        ("session_S", None),
    ]
    assert len({span["trace_id"] for span in spans}) == 1
    assert {(span["path"], span["service"], span["scope"]) for span in spans} == {("/v1/traces", "shop", "llmgine")}
    assert {span["name"]: span["status"] for span in spans}["event_Charged"] == 2
    assert all(span["nanoseconds"] > 0 for span in spans)
    [order] = [span for span in spans if span["name"] == "command_Order"]
    assert order["attributes"]["messaging.system"] == "llmgine"
    assert order["attributes"]["session.id"] == "S"


async def test_the_receiver_and_the_log_of_a_bus_that_traces_agree(receiver: Receiver, tmp_path: Path) -> None:
    otel = OpenTelemetryHandler("shop", exporter=OTLPSpanExporter(receiver.endpoint))
    bus = MessageBus.isolated(enable_console_traces=True)
    manager = ObservabilityManager()
    manager.register_handler(create_sync_file_handler(log_dir=tmp_path, filename="log.jsonl"))
    manager.register_handler(otel)
    bus.set_observability_manager(manager)
    await run(bus, otel)
    manager.close()

    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = {
        (line["span_context"]["trace_id"], line["span_context"]["span_id"], line["span_context"]["parent_span_id"])
        for line in log
        if line["event_type"] == "TraceEvent"
    }
    commands = [span for span in receiver.spans() if span["name"].startswith("command_")]
    assert {(span["trace_id"], span["span_id"], span["parent_span_id"] or None) for span in commands} == logged
    assert len(logged) == 3


async def test_a_receiver_that_is_away_disturbs_nothing(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    assert receiver.spans() == []
    exporter = OTLPSpanExporter(receiver.endpoint, timeout=1)
    otel = OpenTelemetryHandler("shop", exporter=exporter)
    manager = ObservabilityManager()
    manager.register_handler(otel)
    bus = MessageBus.isolated(observability=manager)
    await run(bus, otel)
    manager.close()
    assert [record for record in caplog.records if record.name == "llmgine.observability"] == []
