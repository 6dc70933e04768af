"""What models get wrong in a turn's tool calls, put right as far as nobody has to guess what they meant."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace

from llmgine.errors import ToolValidationError
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.tools.validation import decode_arguments
from llmgine.messages import new_id

__all__ = ["readable_call", "unique_calls"]

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


def unique_calls(calls: Iterable[ToolCall], taken: Collection[str] = ()) -> tuple[ToolCall, ...]:
    """Return the calls with an id each that is not empty and no other call has. A good id is kept.

    Args:
        calls: of one turn.
        taken: ids that the conversation has already.
    """
    seen = set(taken)
    unique: list[ToolCall] = []
    for call in calls:
        if not call.id.strip() or call.id in seen:
            call = replace(call, id=f"call_{new_id()}")  # noqa: PLW2901  # the same call, with another id
        seen.add(call.id)
        unique.append(call)
    return tuple(unique)


def readable_call(call: ToolCall) -> ToolCall:
    """Return a call as a conversation can hold it: providers refuse the whole of one with a name or arguments broken.

    The arguments become the JSON text of an object, `{"__raw__": text}` where they are none; the name keeps its
    letters, digits, `_` and `-`.
    """
    name = _NOT_IN_NAMES.sub("_", call.name)[:64] or "unnamed"
    return replace(call, name=name, arguments=_object_text(call.arguments))


def _object_text(arguments: str) -> str:
    with suppress(ValueError, RecursionError):
        arguments.encode()  # half of a surrogate pair cannot be sent
        if isinstance(json.loads(arguments, parse_constant=_refuse), dict):
            return arguments
    with suppress(ToolValidationError, ValueError, RecursionError):
        return json.dumps(decode_arguments(arguments), allow_nan=False)
    return json.dumps({"__raw__": arguments})


def _refuse(constant: str) -> None:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)
