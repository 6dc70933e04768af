"""What a client gets of a tool's result: text, data, pictures, of bounded size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import mcp_types as types
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from llmgine.llm.tools.mcp.serving.listing import OfferedTool
from llmgine.llm.tools.result import ToolResult, as_data, as_text, bounded

__all__ = ["Reply", "failure", "reply_of"]

Reply = types.CallToolResult | types.InputRequiredResult | types.ErrorData

_block_types: TypeAdapter[types.ContentBlock] = TypeAdapter(types.ContentBlock)
_PARTS = ("text", "image", "audio", "resource", "resource_link")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_MAX_BLOCKS = 28_000_000
"""Bytes of all content as JSON: as much as one picture of the largest size that providers take."""


def failure(text: str) -> types.CallToolResult:
    """Return a result that tells the model what went wrong."""
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)


def reply_of(result: ToolResult, offered: OfferedTool, max_chars: int) -> Reply:
    """Return the answer to a call.

    A tool may return what the protocol says itself: content blocks, alone or in a list with other values, or a whole
    `CallToolResult`, `InputRequiredResult` or `ErrorData`. A part of a message as `image_part` makes it is a picture.

    Args:
        result: of the tool.
        offered: what clients were told of it.
        max_chars: the longest text, and the largest data as JSON.
    """
    if not result.succeeded:
        return failure(result.content)
    value = result.value
    if isinstance(value, types.InputRequiredResult | types.ErrorData):
        return value
    whole = isinstance(value, types.CallToolResult)
    blocks = value.content if isinstance(value, types.CallToolResult) else _blocks(value)
    if blocks is None:
        return _data(result, offered, max_chars)
    bounds = [_bounded(block, max_chars) for block in blocks]
    reply = value.model_copy(update={"content": bounds}) if whole else types.CallToolResult(content=bounds)
    return reply if len(reply.model_dump_json()) <= _MAX_BLOCKS else _too_large(offered, _MAX_BLOCKS)


def _data(result: ToolResult, offered: OfferedTool, max_chars: int) -> types.CallToolResult:
    """Return a result with its data beside the text, if it is an object: where one is promised, clients insist."""
    value: Any = result.value
    promised = offered.described.output_schema is not None
    try:
        if offered.output is not None:
            value = offered.output.dump_python(offered.output.validate_python(value), mode="json", by_alias=True)
        is_object = isinstance(value, Mapping | BaseModel) or (is_dataclass(value) and not isinstance(value, type))
        data = to_json(as_data(value)) if is_object else b""
    except Exception:  # noqa: BLE001  # the form, and the value, may hold code of the application's
        data = b""
    if len(data) > max_chars and promised:
        return _too_large(offered, max_chars)
    if not data.startswith(b"{") and promised:
        return failure(
            f"Error executing {offered.tool.name}: it returned {type(value).__name__}, which is not of the form that "
            "it promises. It may have had its effect."
        )
    structured = from_json(data) if data.startswith(b"{") and len(data) <= max_chars else None
    return types.CallToolResult(content=[types.TextContent(text=result.content)], structured_content=structured)


def _blocks(value: Any) -> list[types.ContentBlock] | None:
    """Return the content blocks that a value stands for; None if it is for a text."""
    values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    found = [(each, _block(each)) for each in values]
    # A dict with a text in it is a block only beside others.
    if all(block is None or (isinstance(each, dict) and each["type"] == "text") for each, block in found):
        return None
    return [types.TextContent(text=as_text(each)) if block is None else block for each, block in found]


def _block(value: Any) -> types.ContentBlock | None:
    if isinstance(value, types.ContentBlock):
        return value
    part = value if isinstance(value, dict) else {}
    if part.get("type") == "image_url":
        part = _picture(part.get("image_url"))
    if part.get("type") not in _PARTS:
        return None
    try:
        return _block_types.validate_python(part)
    except ValidationError:
        return None


def _picture(described: Any) -> dict[str, Any]:
    url = described.get("url") if isinstance(described, dict) else None
    data = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    return {} if data is None else {"type": "image", "mimeType": data[1], "data": data[2]}


def _bounded(block: types.ContentBlock, max_chars: int) -> types.ContentBlock:
    if isinstance(block, types.TextContent):
        return block.model_copy(update={"text": bounded(block.text, max_chars)})
    return block


def _too_large(offered: OfferedTool, limit: int) -> types.CallToolResult:
    return failure(
        f"Error executing {offered.tool.name}: its result is larger than the {limit:,} bytes that are allowed. "
        "It may have had its effect. Ask for less."
    )
