"""A request as chat completions servers take it. What a model got wrong earlier in the conversation is put right.

Servers refuse a whole conversation for one call in it whose name or arguments are not well-formed, and would refuse it
with every further request. The model has been told of its mistake by the tool message that answers the call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmgine.llm.providers.json_schema import response_format
from llmgine.llm.types import JSONSchema, LLMMessage, ModelFormattedDictTool

__all__ = ["chat_request"]

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME = 64


def chat_request(
    model: str,
    messages: Sequence[LLMMessage],
    tools: Sequence[ModelFormattedDictTool],
    form: JSONSchema | None = None,
    **limits: int | None,
) -> dict[str, Any]:
    """Return the body of a streaming request.

    Args:
        model: the server's name for it.
        messages: the conversation.
        tools: what the model may call.
        form: what the text of the reply must fit.
        limits: as the server calls them; those that are None are left out.
    """
    request: dict[str, Any] = {
        "model": model,
        "messages": [_well_formed(message) if message.get("tool_calls") else message for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: limit for name, limit in limits.items() if limit is not None},
    }
    if tools:
        request["tools"] = list(tools)
    if form is not None:
        request["response_format"] = response_format(form)
    return request


def _well_formed(message: LLMMessage) -> LLMMessage:
    return {**message, "tool_calls": [_call(call) for call in message["tool_calls"]]}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    name, arguments = str(function.get("name") or ""), function.get("arguments")
    if _NOT_IN_NAMES.search(name) or not 0 < len(name) <= _LONGEST_NAME:
        name = _NOT_IN_NAMES.sub("_", name)[:_LONGEST_NAME] or "unknown"
    if not _is_object(arguments):
        arguments = json.dumps({"not_valid_json": arguments})
    return {**call, "function": {**function, "name": name, "arguments": arguments}}


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (TypeError, ValueError):
        return False
