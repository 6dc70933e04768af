"""Spans of what engines do for a prompt: one for the prompt, below it one for each request to the model and each tool.

Which model answers a request is known only when the reply is complete; so the request's span is made then, with the
times at which it began and ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time_ns
from typing import Any, TypeAlias

import orjson
from opentelemetry.trace import Span, SpanKind

from llmgine.llm.context.message import texts
from llmgine.llm.engine.commands import PromptCommand
from llmgine.llm.engine.events import (
    EngineEvent,
    EngineStatusEvent,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
)
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent, ToolManagerEvent
from llmgine.llm.types import Usage
from llmgine.messages.ids import BUS
from llmgine.observability import semconv
from llmgine.observability.otel.bounded import Bounded
from llmgine.observability.otel.bus_spans import kind_of_error
from llmgine.observability.otel.metrics import Metrics
from llmgine.observability.otel.open_spans import OpenSpans
from llmgine.observability.otel.spans import Spans, context_of, fail, give_up
from llmgine.observability.redact import redact

__all__ = ["PromptSpans"]

_Key: TypeAlias = tuple[str, str | None]
"""An engine's id, and that of the command which it answers."""

_CANCELLED = "the prompt was cancelled"
_LOCAL = frozenset({"local", "scripted"})
"""Providers that are in this process."""


@dataclass(slots=True)
class _Prompt:
    """A prompt that is being answered."""

    span: Span
    calls: set[str] = field(default_factory=set[str])
    """Of tools that have not ended."""
    has_requests: bool = False
    """Whether the requests to the model have told of themselves."""


class PromptSpans:
    """Keeps the prompts and the tool calls that are under way."""

    def __init__(
        self,
        spans: Spans,
        opened: OpenSpans,
        vocabulary: semconv.Vocabulary,
        metrics: Metrics | None,
        limit: int,
        *,
        count_evicted: Callable[[], None],
        record_content: bool,
    ) -> None:
        self._spans = spans
        self._open = opened
        self._names = vocabulary.gen_ai
        self._metrics = metrics
        self._count_evicted = count_evicted
        self._record_content = record_content
        self._prompts: Bounded[_Key, _Prompt] = Bounded(limit, self._evict_prompt)
        self._calls: Bounded[tuple[_Key, str], tuple[Span, int]] = Bounded(limit, self._evict_call)

    def status(self, event: EngineStatusEvent) -> None:
        """Begin a prompt with its first request to the model."""
        key = _key(event)
        if event.status == "calling model" and self._prompts.get(key) is None:
            self._begin(event, key, time_ns())

    def inferred(self, event: ModelCallEndedEvent) -> None:
        """Record a request to the model, and what it took."""
        now = time_ns()
        began = now - round(event.duration * 1e9)
        key = _key(event)
        prompt = self._prompts.get(key) or self._begin(event, key, began)
        prompt.has_requests = True
        about = _known(event)
        more: dict[str, Any] = {}
        if event.finish_reason is not None:
            more = {semconv.FINISH_REASONS: [str(event.finish_reason)], **_tokens(event.usage)}
        if event.time_to_first_token is not None:
            more[semconv.TIME_TO_FIRST_CHUNK] = event.time_to_first_token
        problem: tuple[str, str] | None = None
        if event.error:
            problem = kind_of_error(event.error), event.error
        elif event.finish_reason is None:
            problem = "CancelledError", _CANCELLED
        self._request(prompt, (began, now), about, more, problem)
        if self._metrics is not None and event.finish_reason is not None:
            self._metrics.used(event.usage, about)

    def answered(self, event: LLMResponseEvent) -> None:
        """End a prompt that has its reply."""
        now = time_ns()
        began = now - round(event.duration * 1e9)
        prompt = self._prompts.pop(_key(event)) or self._begin(event, None, began)
        about, usage = _known(event), _tokens(event.usage)
        end: dict[str, Any] = {semconv.FINISH_REASONS: [str(event.finish_reason)]}
        if not prompt.has_requests:  # somebody else's engine, which tells of the prompt alone
            more = {**usage, **end}
            if event.time_to_first_token is not None:
                more[semconv.TIME_TO_FIRST_CHUNK] = event.time_to_first_token
            self._request(prompt, (began, now), about, more, None)
            if self._metrics is not None:
                self._metrics.used(event.usage, about)
        agent = {**about, **usage, **end}
        if self._names.agent_provider is None:
            agent.pop(semconv.PROVIDER, None)
        prompt.span.set_attributes(agent)
        if self._record_content:
            reply = {**_message("assistant", event.text), "finish_reason": str(event.finish_reason)}
            prompt.span.set_attribute(semconv.OUTPUT_MESSAGES, _json([reply]))
        self._end_calls(_key(event), prompt)
        prompt.span.end(now)

    def broken_off(self, event: PromptCancelledEvent | PromptFailedEvent) -> None:
        """End a prompt that was cancelled or has failed."""
        now = time_ns()
        prompt = self._prompts.pop(_key(event)) or self._begin(event, None, now)
        text = event.error if isinstance(event, PromptFailedEvent) else f"CancelledError: {_CANCELLED}"
        self._end_calls(_key(event), prompt)
        fail(prompt.span, kind_of_error(text), text)
        prompt.span.end(now)

    def called(self, event: ToolCallEvent) -> None:
        """Begin the span of a tool that the model has asked for."""
        now = time_ns()
        prompt = self._prompts.get(_key(event))
        if prompt is not None:
            prompt.calls.add(event.tool_call_id)
        span = self._tool(event, event.tool_name, event.tool_call_id, now)
        if self._record_content:
            span.set_attribute(semconv.TOOL_ARGUMENTS, redact.text(event.arguments))
        self._calls.put((_key(event), event.tool_call_id), (span, now))
        own = context_of(span)
        if own is not None:
            event.traceparent = own.traceparent  # so that what the tool does is below it

    def ran(self, event: ToolExecuteResultEvent) -> None:
        """End the span of a tool that has run; it is as long as the tool took."""
        now = time_ns()
        took = round(event.duration * 1e9)
        key = _key(event)
        span, began = self._calls.pop((key, event.tool_call_id)) or (None, now - took)
        prompt = self._prompts.get(key)
        if prompt is not None:
            prompt.calls.discard(event.tool_call_id)
        if span is None:
            span = self._tool(event, event.tool_name, event.tool_call_id, began)
            if self._record_content:
                span.set_attribute(semconv.TOOL_ARGUMENTS, _json(redact(event.tool_args)))
        span.set_attributes(_remote(event.tool_info))
        if self._record_content:
            span.set_attribute(semconv.TOOL_RESULT, redact.text(event.tool_result))
        problem = None if event.execution_succeed else semconv.TOOL_ERROR
        if problem is not None:
            # What the model was told may quote anything; it is content.
            fail(span, problem, event.tool_result if self._record_content else "The tool failed.")
        if self._metrics is not None:
            self._metrics.ran_tool(event.duration, event.tool_name, problem)
        span.end(min(began + took, now))

    def close(self) -> None:
        """End what is open."""
        for span, _ in self._calls.drain():
            give_up(span, "closed")
        for prompt in self._prompts.drain():
            give_up(prompt.span, "closed")

    # Inside

    def _begin(self, event: EngineEvent, key: _Key | None, began: int) -> _Prompt:
        attributes = {semconv.OPERATION: semconv.INVOKE_AGENT, **_conversation(event)}
        if self._names.agent_id is not None and event.engine_id:
            attributes[self._names.agent_id] = event.engine_id
        command = self._open.sender_of(event)
        if self._record_content and isinstance(command, PromptCommand):
            attributes[semconv.INPUT_MESSAGES] = _json([_message("user", "\n".join(texts(command.prompt)))])
        parent = self._open.parent_of(event)
        prompt = _Prompt(self._spans.start(semconv.AGENT_SPAN, parent, attributes=attributes, begun=began))
        if key is not None:
            self._prompts.put(key, prompt)
        return prompt

    def _request(
        self,
        prompt: _Prompt,
        times: tuple[int, int],
        about: dict[str, str],
        more: dict[str, Any],
        problem: tuple[str, str] | None,
    ) -> None:
        began, ended = times
        kind = SpanKind.INTERNAL if about.get(semconv.PROVIDER) in _LOCAL else SpanKind.CLIENT
        attributes = {semconv.OPERATION: semconv.CHAT, **about, **more}
        name = semconv.CHAT_SPAN.format(about.get(semconv.REQUEST_MODEL, "")).strip()
        span = self._spans.start(name, prompt.span, kind=kind, attributes=attributes, begun=began)
        if problem is not None:
            fail(span, *problem)
        span.end(ended)
        if self._metrics is not None:
            self._metrics.inferred((ended - began) / 1e9, about, problem and problem[0])

    def _tool(self, event: ToolManagerEvent, name: str, call_id: str, began: int) -> Span:
        attributes = {
            semconv.OPERATION: semconv.EXECUTE_TOOL,
            semconv.TOOL_NAME: name,
            semconv.TOOL_CALL_ID: call_id,
            semconv.TOOL_TYPE: "function",
            **_conversation(event),
        }
        prompt = self._prompts.get(_key(event))
        parent = self._open.parent_of(event) if prompt is None else prompt.span
        return self._spans.start(semconv.TOOL_SPAN.format(name).strip(), parent, attributes=attributes, begun=began)

    def _end_calls(self, key: _Key, prompt: _Prompt) -> None:
        """End the spans of tools that have been cancelled with their prompt."""
        for call_id in prompt.calls:
            left = self._calls.pop((key, call_id))
            if left is not None:
                fail(left[0], "CancelledError", "The prompt ended before the tool did.")
                left[0].end()

    def _evict_prompt(self, _: _Key, prompt: _Prompt) -> None:
        self._count_evicted()
        give_up(prompt.span, "too many open spans")

    def _evict_call(self, _: tuple[_Key, str], call: tuple[Span, int]) -> None:
        self._count_evicted()
        give_up(call[0], "too many open spans")


def _key(event: EngineEvent | ToolManagerEvent) -> _Key:
    return event.engine_id, event.causation_id


def _known(event: LLMResponseEvent | ModelCallEndedEvent) -> dict[str, str]:
    """Return the provider and the model, as far as the event names them."""
    # The event names one model: the one that answered, which is the one that was asked, unless that was an alias.
    about = {
        semconv.PROVIDER: event.provider,
        semconv.REQUEST_MODEL: event.model,
        semconv.RESPONSE_MODEL: event.model,
    }
    return {name: value for name, value in about.items() if value}


def _tokens(usage: Usage) -> dict[str, int]:
    """Return the attributes of a usage; none where nobody has counted."""
    if not usage.total_tokens:
        return {}
    return {semconv.INPUT_TOKENS: usage.input_tokens, semconv.OUTPUT_TOKENS: usage.output_tokens}


def _conversation(event: EngineEvent | ToolManagerEvent) -> dict[str, str]:
    return {} if event.session_id == BUS else {semconv.CONVERSATION: event.session_id}


def _remote(tool_info: Mapping[str, Any]) -> dict[str, str]:
    """Return the attributes of a tool of an MCP server, which the conventions want on the tool's own span."""
    if "server" not in tool_info:
        return {}
    about = {
        semconv.MCP_METHOD: semconv.MCP_CALL,
        semconv.MCP_SERVER: tool_info["server"],
        semconv.MCP_VERSION: tool_info.get("protocol_version"),
        semconv.TRANSPORT: tool_info.get("transport"),
    }
    return {name: str(value) for name, value in about.items() if value}


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": redact.text(text)}]}


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode("utf-8", "replace")
