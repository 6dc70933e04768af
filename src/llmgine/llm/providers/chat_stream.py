"""From what a chat completions server streams to chunks, forgiving what compatible servers and models do wrong.

What is repaired here, so that nobody behind has to know of it: calls without an index or with one index for all, names
sent again with each piece, calls without an id or with an id that another one has, arguments that are an object and not
its text, text in parts. What cannot be repaired is passed on: arguments that are no JSON, or are cut short, go to the
tool manager, which tells the model so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmgine.llm.types import Chunk, Finish, FinishReason, TextDelta, ToolCallDelta, Usage
from llmgine.messages import new_id

__all__ = ["Reading"]

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_CUT_SHORT = {FinishReason.LENGTH, FinishReason.CONTENT_FILTER}


class _Call:
    """A tool call of which pieces have come."""

    __slots__ = ("arguments", "given", "id", "named")

    def __init__(self, given: str | None, call_id: str) -> None:
        self.given = given
        """The server's id for it."""
        self.id = call_id
        self.named = False
        self.arguments = ""


class Reading:
    """One reply. `add` turns each part of it into chunks; the end is kept for `finish`, as the usage comes after it."""

    def __init__(self) -> None:
        self.text: list[str] = []
        """What has been said."""
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._model = ""
        self._calls: list[_Call] = []
        self._places: dict[int, int] = {}

    @property
    def visible(self) -> bool:
        """Whether text or a tool call has come."""
        return bool(self.text or self._calls)

    @property
    def finish(self) -> Finish | None:
        """How the reply ended, once the server has said so."""
        if self._reason is None:
            return None
        reason = _REASONS.get(self._reason, FinishReason.STOP)
        # Some servers say "stop" after calls. A reply that was cut short stays so: its last call may lack its end.
        if self._calls and reason not in _CUT_SHORT:
            reason = FinishReason.TOOL_CALLS
        elif not self._calls and reason is FinishReason.TOOL_CALLS:
            reason = FinishReason.STOP
        return Finish(reason, self._usage, self._model)

    def add(self, part: Any) -> list[Chunk]:
        """Return what a part of the stream says."""
        if model := getattr(part, "model", None):
            self._model = model
        if (counted := getattr(part, "usage", None)) is not None:
            self._usage = read_usage(counted)
        chunks: list[Chunk] = []
        for choice in getattr(part, "choices", None) or ():
            if reason := getattr(choice, "finish_reason", None):
                self._reason = reason
            delta = getattr(choice, "delta", None)
            if delta is None:
                continue
            for said in (getattr(delta, "content", None), getattr(delta, "refusal", None)):
                if said and (text := said if isinstance(said, str) else _joined(said)):
                    self.text.append(text)
                    chunks.append(TextDelta(text))
            if pieces := getattr(delta, "tool_calls", None):
                chunks += map(self._tool_call, pieces)
        return chunks

    def _tool_call(self, piece: Any) -> ToolCallDelta:
        function = getattr(piece, "function", None)
        name = str(getattr(function, "name", None) or "")
        written = getattr(function, "arguments", None) or ""
        arguments = written if isinstance(written, str) else json.dumps(written)
        place = self._place(piece, name, arguments)
        begins = place == len(self._calls)
        if begins:
            given = getattr(piece, "id", None)
            self._calls.append(_Call(given, self._unused(given)))
        call = self._calls[place]
        call.arguments += arguments
        if call.named:
            name = ""
        call.named = call.named or bool(name)
        return ToolCallDelta(place, call.id if begins else "", name, arguments)

    def _place(self, piece: Any, name: str, arguments: str) -> int:
        """Find the call that a piece belongs to: by its index, unless the server gives none or one index to all."""
        index: int | None = getattr(piece, "index", None)
        call_id: str | None = getattr(piece, "id", None)
        place = len(self._calls) - 1 if index is None else self._places.get(index, -1)
        if place >= 0:
            call = self._calls[place]
            another = call_id != call.given if call_id else index is None and bool(name)
            whole = bool(name and call.named and arguments) and _is_object(call.arguments)
            if not another and not whole:
                return place
        place = len(self._calls)
        if index is not None:
            self._places[index] = place
        return place

    def _unused(self, call_id: str | None) -> str:
        """Return an id that no other call of this reply has, because a result can name one call only."""
        if call_id and all(call.id != call_id for call in self._calls):
            return str(call_id)
        return f"call_{new_id()}"


def read_usage(counted: Any) -> Usage:
    """Return what a server has counted, leaving out what it has not."""
    return Usage(
        _number(counted, "prompt_tokens"),
        _number(counted, "completion_tokens"),
        _number(getattr(counted, "prompt_tokens_details", None), "cached_tokens"),
        _number(getattr(counted, "completion_tokens_details", None), "reasoning_tokens"),
    )


def _number(counted: Any, name: str) -> int:
    number = counted.get(name) if isinstance(counted, Mapping) else getattr(counted, name, None)
    return number if isinstance(number, int) and number > 0 else 0


def _joined(parts: Any) -> str:
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
