"""What two runs may differ in without being different: ids, times, spelling. Both sides are compared in this form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmgine.errors import ToolValidationError
from llmgine.llm.tools.result import as_data
from llmgine.llm.tools.validation import decode_arguments

__all__ = ["normal_data", "normal_request", "plain"]

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?"
_VOLATILE = re.compile(
    rf"(?<![0-9A-Za-z])(?:(?P<id>{_UUID}|[0-9a-f]{{32}})|(?P<time>{_TIME}))(?![0-9A-Za-z])", re.ASCII
)


def plain(data: Any) -> Any:
    """Return a copy of data as it is once it has been written down and read again: JSON, whatever it was before."""
    return json.loads(json.dumps(data, default=as_data))


def normal_request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a provider is asked, as it is compared.

    Args:
        asked: `messages`, `tools` and whatever options there are, in plain form. None is the same as no such option.
    """
    ids = _Ids()
    normal = {name: ids.data(value) for name, value in sorted(asked.items()) if name not in {"messages", "tools"}}
    return {
        "messages": ids.data(_messages(asked["messages"])),
        "tools": _by_name(asked["tools"]),
        **{name: value for name, value in normal.items() if value is not None},
    }


def normal_data(data: Any) -> Any:
    """Return plain data as it is compared."""
    return _Ids().data(data)


class _Ids:
    """Names ids in the order in which they are seen, and removes times."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def data(self, data: Any) -> Any:
        if isinstance(data, str):
            return _VOLATILE.sub(self._name, data)
        if isinstance(data, list):
            return [self.data(item) for item in data]
        if isinstance(data, dict):
            return {key: self.data(data[key]) for key in sorted(data)}
        return data

    def _name(self, match: re.Match[str]) -> str:
        identity = match["id"]
        if identity is None:
            return "<time>"
        return self._names.setdefault(identity.lower(), f"<id {len(self._names) + 1}>")


def _messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Number the tool calls, whatever their ids: models use one id twice, and engines give out others."""
    numbers: dict[Any, str] = {}
    count = 0
    normal: list[dict[str, Any]] = []
    for message in messages:
        fields = {name: value for name, value in message.items() if value is not None}
        calls: list[dict[str, Any]] = []
        for call in fields.get("tool_calls", ()):
            count += 1
            numbers[call.get("id")] = f"<call {count}>"
            function = call.get("function", {})
            calls.append({**call, "id": numbers[call.get("id")], "function": {**function, **_arguments(function)}})
        if calls:
            fields["tool_calls"] = calls
        if "tool_call_id" in fields:
            fields["tool_call_id"] = numbers.get(fields["tool_call_id"], fields["tool_call_id"])
        normal.append(fields)
    return normal


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    text = function.get("arguments", "")
    try:
        return {"arguments": decode_arguments(text)}
    except (ToolValidationError, UnicodeError):
        return {"arguments": text}


def _by_name(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(tool.get("function", tool).get("name", number)): tool for number, tool in enumerate(tools)}
