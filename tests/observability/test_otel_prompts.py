"""A prompt is one span, with one below it for each request to the model and each tool; in either vocabulary."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmgine.bus import MessageBus
from llmgine.errors import ProviderUnavailableError
from llmgine.llm.engine import (
    LLMEngine,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PromptCancelledEvent,
    PromptCommand,
    PromptFailedEvent,
)
from llmgine.llm.engine.events import EngineStatusEvent
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import Usage
from llmgine.messages import Command, Event, SessionID
from llmgine.observability import ObservabilityManager, semconv
from llmgine.observability.otel_handler import OpenTelemetryHandler, OpenTelemetryMiddleware
from llmgine.observability.semconv import OPT_IN, Vocabulary


class Traces:
    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.handler = OpenTelemetryHandler(tracer_provider=provider, meter_provider=meters, **options)
        self.manager = ObservabilityManager()
        self.manager.register_handler(self.handler)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.spans(name)
        return span

    def tree(self) -> list[tuple[str, str | None]]:
        """Every span with its parent, by name, in the order in which they began."""
        spans = sorted(
            self.exporter.get_finished_spans(), key=lambda span: (span.start_time or 0, -(span.end_time or 0))
        )
        names = {span.context.span_id: span.name for span in spans if span.context is not None}
        return [(span.name, None if span.parent is None else names[span.parent.span_id]) for span in spans]

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """Each metric's points: attributes, and the sum."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], float]]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        assert isinstance(point, HistogramDataPoint | NumberDataPoint)
                        value = point.sum if isinstance(point, HistogramDataPoint) else point.value
                        found.setdefault(metric.name, []).append((dict(point.attributes or {}), value))
        return found


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


async def add(left: int, right: int) -> int:
    """Add."""
    return left + right


async def ask(traces: Traces, *replies: Reply, prompt: str = "2 + 3?") -> None:
    """Ask an engine in a session, on a bus of its own."""
    bus = MessageBus.isolated(observability=traces.manager)
    await bus.start()
    tools = ToolManager()
    tools.register_tool(add)
    async with bus.session("S") as session:
        LLMEngine(bus, ScriptedProvider(list(replies)), tools=tools, session_id=session.session_id)
        await session.execute_with_session(PromptCommand(prompt=prompt))
    await bus.stop()


ASKS = Reply(tool_calls=[ToolCall(id="1", name="add", arguments='{"left": 2, "right": 3}')], usage=Usage(10, 5))
ANSWERS = Reply("It is 5.", usage=Usage(20, 3))


async def test_a_prompt_is_a_tree_of_requests_and_tools() -> None:
    traces = Traces()
    await ask(traces, ASKS, ANSWERS)

    assert traces.tree() == [
        ("session_S", None),
        ("command_PromptCommand", "session_S"),
        ("invoke_agent", "command_PromptCommand"),
        ("chat script", "invoke_agent"),
        ("execute_tool add", "invoke_agent"),
        ("chat script", "invoke_agent"),
    ]
    first, second = traces.spans("chat script")
    assert attributes(first)["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert attributes(second)["gen_ai.response.finish_reasons"] == ("stop",)
    assert (first.end_time or 0) <= (traces.one("execute_tool add").start_time or 0) <= (second.start_time or 0)
    agent = attributes(traces.one("invoke_agent"))
    assert (agent["gen_ai.usage.input_tokens"], agent["gen_ai.usage.output_tokens"]) == (30, 8)
    assert agent["gen_ai.conversation.id"] == "S"
    tool = attributes(traces.one("execute_tool add"))
    assert (tool["gen_ai.tool.call.id"], tool["gen_ai.operation.name"]) == ("1", "execute_tool")


async def test_each_request_has_its_own_usage() -> None:
    traces = Traces()
    await ask(traces, ASKS, ANSWERS)
    used = [
        (attributes(span)["gen_ai.usage.input_tokens"], attributes(span)["gen_ai.usage.output_tokens"])
        for span in traces.spans("chat script")
    ]
    assert used == [(10, 5), (20, 3)]
    assert all("gen_ai.response.time_to_first_chunk" in attributes(span) for span in traces.spans("chat script"))


async def test_what_nobody_has_counted_is_not_said_to_be_nothing() -> None:
    traces = Traces()
    await ask(traces, Reply("Hm.", usage=Usage()))
    assert "gen_ai.usage.input_tokens" not in attributes(traces.one("chat script"))
    assert "gen_ai.usage.input_tokens" not in attributes(traces.one("invoke_agent"))
    assert "gen_ai.client.token.usage" not in traces.metrics()


async def test_one_request_has_the_whole_usage() -> None:
    traces = Traces()
    await ask(traces, ANSWERS)
    chat = traces.one("chat script")
    assert (attributes(chat)["gen_ai.usage.input_tokens"], attributes(chat)["gen_ai.usage.output_tokens"]) == (20, 3)
    assert attributes(chat)["gen_ai.response.time_to_first_chunk"] >= 0
    assert attributes(chat)["gen_ai.provider.name"] == "scripted"
    assert attributes(chat)["gen_ai.request.model"] == "script"
    assert chat.kind is SpanKind.INTERNAL


def test_a_model_elsewhere_is_asked_as_a_client() -> None:
    traces = Traces()
    traces.handler.handle(EngineStatusEvent(engine_id="e", status="calling model"))
    traces.handler.handle(LLMResponseEvent(engine_id="e", provider="openai", model="gpt"))
    assert traces.one("chat gpt").kind is SpanKind.CLIENT


async def test_content_is_recorded_only_when_asked_for_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "my key is sk-abcdefghijklmnop1234 2 + 3?"
    plain, telling = Traces(), Traces(record_content=True)
    monkeypatch.setenv("LLMGINE_RECORD_CONTENT", "1")
    by_environment = Traces()
    for traces in (plain, telling, by_environment):
        await ask(traces, ASKS, ANSWERS, prompt=secret)

    everything = str([dict(attributes(span)) for span in plain.exporter.get_finished_spans()])
    assert "2 + 3" not in everything
    assert "It is 5" not in everything
    assert '"left"' not in everything
    for traces in (telling, by_environment):
        agent = attributes(traces.one("invoke_agent"))
        assert json.loads(agent["gen_ai.input.messages"]) == [
            {"role": "user", "parts": [{"type": "text", "content": "my key is <redacted> 2 + 3?"}]}
        ]
        [reply] = json.loads(agent["gen_ai.output.messages"])
        assert reply["parts"] == [{"type": "text", "content": "It is 5."}]
        tool = attributes(traces.one("execute_tool add"))
        assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"left": 2, "right": 3}
        assert tool["gen_ai.tool.call.result"] == "5"


async def test_a_prompt_that_fails_ends_its_request_in_error() -> None:
    traces = Traces()
    await ask(traces, ASKS, Reply(error=ProviderUnavailableError("no network")))
    first, second = traces.spans("chat script")
    assert (first.status.status_code, second.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert attributes(second)["error.type"] == "ProviderUnavailableError"
    assert "gen_ai.response.finish_reasons" not in attributes(second)
    assert sum(total for _, total in traces.metrics()["gen_ai.client.token.usage"]) == 15
    agent = traces.one("invoke_agent")
    assert agent.status.description == "ProviderUnavailableError: no network"
    assert attributes(agent)["error.type"] == "ProviderUnavailableError"


async def test_a_tool_that_fails_says_so_without_quoting_what_the_model_was_told() -> None:
    traces = Traces()
    call = ToolCall(id="1", name="add", arguments='{"left": "private"}')
    await ask(traces, Reply(tool_calls=[call]), ANSWERS)
    tool = traces.one("execute_tool add")
    assert (tool.status.status_code, attributes(tool)["error.type"]) == (StatusCode.ERROR, "tool_error")
    assert "private" not in str(tool.status.description)


async def test_cancelling_a_prompt_ends_the_tools_that_run() -> None:
    traces = Traces()
    running = asyncio.Event()

    async def wait() -> None:
        """Wait."""
        running.set()
        await asyncio.Event().wait()

    bus = MessageBus.isolated(observability=traces.manager)
    await bus.start()
    tools = ToolManager()
    tools.register_tool(wait)
    LLMEngine(bus, ScriptedProvider([Reply(tool_calls=[ToolCall(id="1", name="wait")])]), tools=tools)
    task = asyncio.create_task(bus.execute(PromptCommand(prompt="go")))
    await running.wait()
    task.cancel()
    await asyncio.wait([task])
    await bus.stop()

    assert traces.tree() == [
        ("command_PromptCommand", None),
        ("invoke_agent", "command_PromptCommand"),
        ("chat script", "invoke_agent"),
        ("execute_tool wait", "invoke_agent"),
    ]
    for name in ("invoke_agent", "execute_tool wait"):
        assert attributes(traces.one(name))["error.type"] == "CancelledError"
    assert traces.one("chat script").status.status_code is StatusCode.UNSET


async def test_a_request_that_is_cancelled_has_an_end() -> None:
    traces = Traces()
    traces.handler.handle(EngineStatusEvent(engine_id="e", status="calling model"))
    traces.handler.handle(ModelCallEndedEvent(engine_id="e", model="m", duration=0.5))
    traces.handler.handle(PromptCancelledEvent(engine_id="e"))
    chat = traces.one("chat m")
    assert attributes(chat)["error.type"] == attributes(traces.one("invoke_agent"))["error.type"] == "CancelledError"
    assert (chat.end_time or 0) - (chat.start_time or 0) == 500_000_000


def test_tools_and_replies_of_an_engine_that_announces_nothing_have_spans_too() -> None:
    traces = Traces()
    traces.handler.handle(
        ToolExecuteResultEvent(tool_name="add", tool_call_id="1", execution_succeed=True, duration=2.0)
    )
    traces.handler.handle(LLMResponseEvent(model="m", duration=3.0))
    traces.handler.handle(PromptFailedEvent(error="OSError: x"))
    tool, chat = traces.one("execute_tool add"), traces.one("chat m")
    assert (tool.end_time or 0) - (tool.start_time or 0) == 2_000_000_000
    assert (chat.end_time or 0) - (chat.start_time or 0) == 3_000_000_000
    assert len(traces.spans("invoke_agent")) == 2


def test_a_tools_span_is_as_long_as_the_tool_took() -> None:
    traces = Traces()
    traces.handler.handle(ToolCallEvent(tool_name="add", tool_call_id="1"))
    traces.handler.handle(ToolExecuteResultEvent(tool_name="add", tool_call_id="1", duration=1e-9))
    span = traces.one("execute_tool add")
    assert (span.end_time or 0) - (span.start_time or 0) == 1


def test_what_never_ends_is_given_up_and_counted() -> None:
    traces = Traces(max_open_spans=1)
    for number in range(3):
        engine_id = str(number)
        traces.handler.handle(EngineStatusEvent(engine_id=engine_id, status="calling model"))
        traces.handler.handle(ToolCallEvent(engine_id=engine_id, tool_name="add", tool_call_id="1"))
    assert traces.handler.evicted == 4
    traces.handler.close()
    assert len(traces.spans("invoke_agent")) == len(traces.spans("execute_tool add")) == 3


# Vocabularies


class Ping(Command[None]):
    pass


class Pong(Event):
    pass


async def everything(traces: Traces) -> None:
    """Cause every kind of span and metric."""
    await ask(traces, ASKS, ANSWERS)
    await ask(traces, Reply(error=ProviderUnavailableError("no network")))
    bus = MessageBus.isolated(observability=traces.manager)
    bus.add_event_middleware(OpenTelemetryMiddleware(traces.handler))
    await bus.start()

    def hear(_: Pong) -> None:
        raise ValueError("boom")

    bus.register_event_handler(Pong, hear)
    await bus.execute(Ping())
    await bus.publish(Pong(session_id=SessionID("S")))
    await bus.stop()


def table() -> set[str]:
    """Every name that the module has."""
    values = [value for name, value in vars(semconv).items() if name.isupper()]
    for names in (semconv.MESSAGING_OLD, semconv.MESSAGING_NEW, semconv.GEN_AI_OLD, semconv.GEN_AI_NEW):
        values += [getattr(names, each.name) for each in dataclasses.fields(names)]
    return {value for value in values if isinstance(value, str)}


@pytest.mark.parametrize("asked", ["", "messaging", "messaging/dup", "gen_ai_latest_experimental,messaging"])
async def test_every_name_that_is_written_is_in_the_table(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPT_IN, asked)
    traces = Traces(record_content=True)
    await everything(traces)

    spans = traces.exporter.get_finished_spans()
    names = {name for span in spans for name in attributes(span)}
    names |= {name for span in spans for event in span.events for name in event.attributes or {}}
    metrics = traces.metrics()
    names |= metrics.keys() | {name for points in metrics.values() for about, _ in points for name in about}
    assert names <= table()
    assert len(names) > 25


@pytest.mark.parametrize(
    ("asked", "there", "missing"),
    [
        (
            "",
            {"messaging.operation": "deliver"},
            ["messaging.operation.type", "messaging.operation.name"],
        ),
        (
            "messaging",
            {"messaging.operation.type": "process", "messaging.operation.name": "execute"},
            ["messaging.operation"],
        ),
        (
            "http/dup, messaging/dup ,messaging",
            {"messaging.operation": "deliver", "messaging.operation.type": "process"},
            [],
        ),
    ],
)
async def test_messaging_has_the_names_that_were_asked_for(
    asked: str, there: dict[str, str], missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPT_IN, asked)
    traces = Traces()
    monkeypatch.delenv(OPT_IN)
    await everything(traces)
    span = attributes(traces.one("command_Ping"))
    assert {name: span.get(name) for name in there} == there
    assert not any(name in span for name in missing)
    assert span["messaging.system"] == "llmgine"
    assert span["messaging.destination.name"] == "Ping"
    assert span["error.type"] == "HandlerNotFoundError"


async def test_generative_ai_has_the_metrics_of_the_vocabulary_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = Traces()
    monkeypatch.setenv(OPT_IN, "gen_ai_latest_experimental")
    new = Traces()
    for traces in (old, new):
        await ask(traces, ASKS, ANSWERS)

    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "script",
        "gen_ai.response.model": "script",
    }
    before, after = old.metrics(), new.metrics()
    assert before.keys() == {
        "messaging.deliver.duration",
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
    }
    assert sorted((point["gen_ai.token.type"], total) for point, total in before["gen_ai.client.token.usage"]) == [
        ("input", 30),
        ("output", 8),
    ]
    assert after.keys() == {
        "messaging.deliver.duration",
        "gen_ai.client.inference.duration",
        "gen_ai.client.inference.usage.input_tokens",
        "gen_ai.client.inference.usage.output_tokens",
        "gen_ai.execute_tool.duration",
    }
    assert after["gen_ai.client.inference.usage.input_tokens"] == [(about, 30)]
    assert "gen_ai.agent.id" in attributes(old.one("invoke_agent"))
    assert "gen_ai.agent.id" not in attributes(new.one("invoke_agent"))
    assert "gen_ai.provider.name" not in attributes(new.one("invoke_agent"))


def test_without_the_variable_the_vocabulary_is_the_old_one() -> None:
    assert Vocabulary.asked_for({}) == Vocabulary((semconv.MESSAGING_OLD,), semconv.GEN_AI_OLD)


def test_nothing_is_measured_unless_a_meter_provider_is_given() -> None:
    exporter = InMemorySpanExporter()
    handler = OpenTelemetryHandler(exporter=exporter)
    handler.handle(LLMResponseEvent(model="m", duration=3.0))
    handler.handle(Event())
    handler.close()
    assert [span.name for span in exporter.get_finished_spans()] == ["chat m", "invoke_agent"]
