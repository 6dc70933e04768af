"""Getting a very small model to choose a tool: asking it for nothing but a choice, and letting it write nothing else.

Left to itself a model of this size calls no tool. Here it completes `{"tool": "` under a grammar that allows the names
of the tools and of a few ways to talk, after an example of each; then it fills in the arguments under their schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llmgine.llm.types import LLMConversation, LLMMessage, ModelFormattedDictTool

__all__ = ["arguments_schema", "choice_grammar", "choice_prompt", "chosen_tool", "plain_conversation"]

# What the model may choose instead of a tool. It tells four ways to talk from tools more surely than one "answer".
_TALK = {
    "greet": "Greet the user",
    "explain": "Explain something",
    "tell": "Tell a story or a joke",
    "answer": "Answer a question of general knowledge",
}
_EXAMPLES: list[tuple[str, str, dict[str, str]]] = [
    ("Good morning", "greet", {"text": "Good morning! How can I help you?"}),
    ("Roll 2 dice", "roll", {"dice": "2d6"}),
    ("How many grams are 2 pounds?", "convert", {"value": "2 pounds", "unit": "grams"}),
]


def choice_prompt(question: str, tools: Sequence[ModelFormattedDictTool]) -> LLMConversation:
    """Return a conversation whose next message names a tool."""
    lines = [_line(tool["function"]) for tool in tools]
    lines += [f"- {name}(text: string): {does}" for name, does in _TALK.items()]
    system = "\n".join(["You can use these tools:", *lines, "Reply with one JSON object that names the tool to use."])
    prompt: LLMConversation = [{"role": "system", "content": system}]
    for asked, name, arguments in _EXAMPLES:
        prompt.append({"role": "user", "content": asked})
        prompt.append({"role": "assistant", "content": json.dumps({"tool": name, "arguments": arguments})})
    prompt.append({"role": "user", "content": question})
    return prompt


def choice_grammar(tools: Sequence[ModelFormattedDictTool]) -> str:
    """Return a grammar (GBNF) of one choice: a tool, or talking."""
    names = [*(tool["function"]["name"] for tool in tools), *_TALK]
    alternatives = " | ".join(json.dumps(f'{{"tool": "{name}"') for name in names)
    return f"root ::= {alternatives}"


def chosen_tool(text: str, tools: Sequence[ModelFormattedDictTool]) -> ModelFormattedDictTool | None:
    """Return the tool that a choice names; None if the model is to talk."""
    name = text.rpartition(': "')[2].rstrip('"')
    return next((tool for tool in tools if tool["function"]["name"] == name), None)


def arguments_schema(tool: ModelFormattedDictTool | None) -> dict[str, Any]:
    """Return the JSON schema of a whole choice of this tool; without a tool, of any object as arguments."""
    if tool is None:
        return {"type": "object", "properties": {"arguments": {"type": "object"}}, "required": ["arguments"]}
    function = tool["function"]
    parameters = {"type": "object", **function.get("parameters", {})}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"tool": {"const": function["name"]}, "arguments": parameters},
        "required": ["tool", "arguments"],
    }
    if definitions := parameters.pop("$defs", None):
        schema["$defs"] = definitions  # references name their place from the root
    return schema


def plain_conversation(messages: Sequence[LLMMessage]) -> LLMConversation:
    """Return a conversation without tool calls, which the model's template does not know: they become sentences."""
    plain: LLMConversation = []
    names: dict[str, str] = {}
    for message in messages:
        calls = message.get("tool_calls") or ()
        for call in calls:
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool":
            name = names.get(message.get("tool_call_id", ""), "The tool")
            content, role = f"{name} returned: {message['content']}", "user"
        elif calls:
            used = " and ".join(call["function"]["name"] for call in calls)
            content, role = f"I look it up with {used}.", "assistant"
        else:
            content, role = message.get("content") or "", message["role"]
        if plain and plain[-1]["role"] == role:
            content = f"{plain.pop()['content']}\n{content}"
        plain.append({"role": role, "content": content})
    return plain


def _line(function: dict[str, Any]) -> str:
    properties: dict[str, Any] = function.get("parameters", {}).get("properties", {})
    signature = ", ".join(f"{name}: {schema.get('type', 'string')}" for name, schema in properties.items())
    description = (function.get("description") or "").strip().split("\n")[0]
    return f"- {function['name']}({signature}): {description}"
