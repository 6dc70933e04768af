"""What a server returns, for the application and, as a text, for the model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llmgine.llm.tools.result import ToolReturn

if TYPE_CHECKING:
    from mcp_types import CallToolResult

__all__ = ["failure_of", "part_of", "returned", "text_of"]


def returned(result: CallToolResult) -> ToolReturn:
    """Return the structured content as the value where there is one, else the text, else the parts of the content.

    Where there is a picture or the like beside structured content, the value is the parts, and that the first of them.
    """
    parts = [part_of(block) for block in result.content]
    text = text_of(parts)
    only_text = all(part["type"] == "text" for part in parts)
    structured = result.structured_content
    if structured is None:
        return ToolReturn(text if only_text else parts, text)
    value = structured if only_text else [{"type": "structured_content", "structured_content": structured}, *parts]
    return ToolReturn(value, text or json.dumps(structured, ensure_ascii=False))


def failure_of(result: CallToolResult, name: str) -> str:
    """Return what the model reads about a tool that says that it has failed.

    Args:
        result: of the tool.
        name: of the tool, on the server. That it is an error is said here, and need not be said by the server as well.
    """
    text = text_of(map(part_of, result.content))
    for beginning in (f"Error executing {name}: ", f"Error executing tool {name}: ", "Error: "):
        text = text.removeprefix(beginning)
    return text or "it failed, and the server does not say why"


def part_of(block: Any) -> dict[str, Any]:
    """Return a content block as a part of a message: text and pictures as conversations hold them, else as it is."""
    if block.type == "text":
        return {"type": "text", "text": block.text}
    part: dict[str, Any] = block.model_dump(mode="json", by_alias=True, exclude_none=True)
    if part["type"] == "image":
        url = f"data:{part['mimeType']};base64,{part['data']}"
        return {"type": "image_url", "image_url": {"url": url}}
    return part


def text_of(parts: Iterable[dict[str, Any]]) -> str:
    """Return what a model reads of parts of a content: of what is no text, that it is there."""
    return "\n".join(filter(None, map(_told, parts)))


def _told(part: dict[str, Any]) -> str:  # noqa: PLR0911  # a sentence for each kind
    match part:
        case {"type": "text", "text": text}:
            return str(text)
        case {"type": "image_url", "image_url": {"url": url}}:
            kind, _, data = url.removeprefix("data:").partition(";base64,")
            return f"[an image, {kind}, {_bytes(data)}, which cannot be shown here]"
        case {"type": "audio"}:
            return f"[a recording, {part['mimeType']}, {_bytes(part['data'])}, which cannot be played here]"
        case {"type": "resource_link"}:
            about = f": {part['description']}" if "description" in part else ""
            return f"[the resource {part['uri']}, {part.get('title') or part['name']}{about}]"
        case {"type": "resource", "resource": {"text": text, "uri": uri}}:
            return f"[the resource {uri}]\n{text}"
        case {"type": "resource", "resource": {"blob": data, "uri": uri, **more}}:
            return f"[the resource {uri}, {more.get('mimeType', 'binary')}, {_bytes(data)}]"
        case _:
            return f"[{part['type']}]"


def _bytes(data: str) -> str:
    return f"{len(data) * 3 // 4 - data[-2:].count('='):,} bytes"
