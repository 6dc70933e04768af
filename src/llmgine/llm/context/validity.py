"""What providers demand of a conversation, as a check: for tests of whoever makes or stores conversations."""

from __future__ import annotations

from collections.abc import Sequence

from llmgine.llm.types import LLMMessage

__all__ = ["conversation_faults"]


def conversation_faults(messages: Sequence[LLMMessage]) -> list[str]:
    """Return what OpenAI's and Anthropic's servers would refuse a conversation for; nothing if it is valid.

    A system message is the first; each tool call is answered right after it, by a message of its own and in order, and
    nothing else is; whoever says nothing calls a tool.
    """
    faults: list[str] = []
    expected: list[str] = []
    for number, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            answered = message.get("tool_call_id")
            if not expected or answered != expected.pop(0):
                faults.append(f"message {number} is the result of {answered!r}, which was not called there")
            continue
        if expected:
            faults.append(f"the calls {expected} before message {number} have no result")
        expected = [call["id"] for call in message.get("tool_calls") or ()]
        if role == "system" and number > 0:
            faults.append(f"message {number} is a system message, and not the first")
        if message.get("content") is None and not expected:
            faults.append(f"message {number} neither says anything nor calls a tool")
    if expected:
        faults.append(f"the calls {expected} at the end have no result")
    return faults
