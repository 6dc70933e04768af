"""Has a model that was never taught to use tools choose one: it is shown examples, and bound to their format.

Asked freely, a very small model never calls a tool; bound to "a tool or an answer", it calls one for every greeting.
What tells the two apart is a choice of equals: so there are tools that stand for talking, and whoever chooses one of
them is then asked without any tools at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmgine.llm.providers.tool_grammar import tool_call_grammar
from llmgine.llm.types import LLMMessage, ModelFormattedDictTool, ToolCallDelta
from llmgine.messages import new_id

__all__ = ["ToolChoice"]

_TALK = {
    "greet": "Greet the user",
    "explain": "Explain something",
    "tell": "Tell a story or a joke",
    "answer": "Answer a question of general knowledge",
}
# Names of tools that nobody has: what is learnt from the examples is the format, not what to choose.
_EXAMPLES = (
    ("Good morning", "greet", {"text": "Good morning! How can I help you?"}),
    ("Roll 2 dice", "roll", {"dice": "2d6"}),
    ("How many grams are 2 pounds?", "convert", {"value": "2 pounds", "unit": "grams"}),
)
_BEFORE_NAME = '{"tool": '
_BEFORE_ARGUMENTS = ', "arguments": '


class ToolChoice:
    """The question which of these tools to use, if any."""

    def __init__(self, tools: Sequence[ModelFormattedDictTool]) -> None:
        self._tools = tools
        self._names = {tool["function"]["name"] for tool in tools}
        self._talk = {name: description for name, description in _TALK.items() if name not in self._names}

    @property
    def grammar(self) -> str:
        """What the answer must look like."""
        return tool_call_grammar(self._tools, [*self._talk] or ["talk"])

    def messages(self, request: str) -> list[LLMMessage]:
        """Ask what to use for a user's request. The question is the same for every request, except at its end."""
        lines = [_signature(tool["function"]) for tool in self._tools]
        lines += [f"- {name}(text: string): {description}" for name, description in self._talk.items()]
        listing = "\n".join(lines)
        system = f"You can use these tools:\n{listing}\nReply with one JSON object that names the tool to use."
        messages = [{"role": "system", "content": system}]
        for user, tool, arguments in _EXAMPLES:
            call = json.dumps({"tool": tool, "arguments": arguments})
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": call}]
        return [*messages, {"role": "user", "content": request}]

    def read(self, answer: str, *, whole: bool) -> ToolCallDelta | None:
        """Return the call that was chosen, or None to talk. An answer that was cut short gives what it has."""
        try:
            name, end = json.JSONDecoder().raw_decode(answer, len(_BEFORE_NAME))
        except ValueError:
            return None
        if name not in self._names:
            return None
        arguments = answer[end + len(_BEFORE_ARGUMENTS) :]
        return ToolCallDelta(0, f"call_{new_id()}", name, arguments[:-1] if whole else arguments)


def _signature(function: Mapping[str, Any]) -> str:
    properties: Mapping[str, Any] = (function.get("parameters") or {}).get("properties") or {}
    parameters = ", ".join(f"{name}: {_kind(schema)}" for name, schema in properties.items())
    description = str(function.get("description") or "").partition("\n")[0]
    return f"- {function['name']}({parameters}): {description}"


def _kind(schema: Any) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return kind if isinstance(kind, str) else "value"
