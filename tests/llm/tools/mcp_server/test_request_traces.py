"""The spans of OpenTelemetry, where an application has it: the SDK makes them, and what LLMgine runs is below them."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("opentelemetry.sdk")

PROGRAM = """
import asyncio, json
from dataclasses import dataclass
from mcp import Client
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from llmgine.bus import MessageBus
from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.mcp.server import create_llmgine_mcp_server, expose
from llmgine.messages import Command

@dataclass
class Ping(Command[str]):
    pass

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
parents = []
bus = MessageBus()
bus.register_command_handler(Ping, lambda command: parents.append(command.traceparent))
tools = ToolManager()
tools.register_tool(expose(Ping))

async def main():
    async with Client(create_llmgine_mcp_server(tools, bus=bus).sdk, mode="legacy") as client:
        with trace.get_tracer("application").start_as_current_span("prompt"):
            await client.call_tool("ping")

asyncio.run(main())
spans = [
    {
        "name": span.name,
        "kind": span.kind.name,
        "trace": format(span.context.trace_id, "032x"),
        "id": format(span.context.span_id, "016x"),
        "parent": span.parent and format(span.parent.span_id, "016x"),
        "attributes": dict(span.attributes),
    }
    for span in exporter.get_finished_spans()
]
print(json.dumps([parents, spans]))
"""


def test_a_command_is_below_the_span_of_the_request_which_is_below_the_clients() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    [traceparent], spans = json.loads(done.stdout)
    [prompt] = [span for span in spans if span["name"] == "prompt"]
    [answered] = [span for span in spans if span["name"] == "tools/call ping" and span["kind"] == "SERVER"]
    [asked] = [span for span in spans if span["id"] == answered["parent"]]
    assert (asked["kind"], asked["parent"]) == ("CLIENT", prompt["id"])
    assert traceparent.startswith(f"00-{prompt['trace']}-{answered['id']}-")
    assert answered["attributes"]["gen_ai.tool.name"] == "ping"
    assert answered["attributes"]["mcp.method.name"] == "tools/call"
