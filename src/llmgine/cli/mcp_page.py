"""What an MCP server offers, laid out for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmgine.cli.stderr import printable

__all__ = ["page"]

_Data: TypeAlias = Mapping[str, Any]

_WIDEST = 40
"""Characters that what a parameter takes is given, before it is broken into lines."""

_HINTS = {
    "readOnlyHint": "says that it only reads",
    "destructiveHint": "says that it may destroy something",
    "idempotentHint": "says that it does no harm twice",
}
"""What a server says of its tools, of which the first that it says is shown."""


def page(offer: _Data) -> Iterator[RenderableType]:
    """Give one part after the other of what `inspect --json` prints."""
    server = offer["server"]
    title = " ".join(filter(None, (server.get("title") or server.get("name"), server.get("version"))))
    can = ", ".join(_capabilities(offer["capabilities"])) or "nothing"
    yield Text.assemble((printable(title) or "A server without a name", "bold"))
    yield Text(printable(f"MCP {offer['protocolVersion']} · it can do: {can}"), "dim")
    if offer["instructions"]:
        yield Text("\nInstructions for the model\n", "bold")
        yield Padding(Text(printable(offer["instructions"].strip())), (0, 0, 0, 2), expand=False)
    yield from _section("Tools", offer["tools"], _tool)
    yield from _section("Resources", offer["resources"], _resource)
    yield from _section("Resource templates", offer["resourceTemplates"], _resource)
    yield from _section("Prompts", offer["prompts"], _prompt)


def _capabilities(capabilities: _Data) -> Iterator[str]:
    for name, details in capabilities.items():
        own = details if isinstance(details, Mapping) else {}
        more = [key for key, value in own.items() if value is True]
        yield name + (f" ({', '.join(more)})" if more else "")


def _section(
    title: str, things: Sequence[_Data], show: Callable[[_Data], Iterator[RenderableType]]
) -> Iterator[RenderableType]:
    if things:
        yield Text(f"\n{title} ({len(things)})", "bold")
    for thing in things:
        yield Text()
        yield from show(thing)


def _tool(tool: _Data) -> Iterator[RenderableType]:
    hints = [text for key, text in _HINTS.items() if tool.get("annotations", {}).get(key)]
    left_out = [] if tool["used"] else ["left out here, by include or exclude"]
    yield _heading(tool["name"], ", ".join([*hints[:1], *left_out]))
    yield from _description(tool)
    schema = tool["inputSchema"]
    required = schema.get("required", ())
    yield from _parameters(
        (name, _kind(each), name in required, each.get("description", "") if isinstance(each, Mapping) else "")
        for name, each in schema.get("properties", {}).items()
    )
    if "outputSchema" in tool:
        yield _indented(Text(f"returns {_kind(tool['outputSchema'])}", "dim"))


def _resource(resource: _Data) -> Iterator[RenderableType]:
    yield _heading(resource.get("uri") or resource["uriTemplate"], resource.get("mimeType", ""))
    yield from _description({"description": resource.get("description") or resource.get("title") or resource["name"]})


def _prompt(prompt: _Data) -> Iterator[RenderableType]:
    yield _heading(prompt["name"], "")
    yield from _description(prompt)
    yield from _parameters(
        (each["name"], "string", each.get("required", False), each.get("description", ""))
        for each in prompt.get("arguments", ())
    )


def _heading(name: str, note: str) -> RenderableType:
    return Padding(
        Text.assemble((printable(name), "bold cyan"), (f"  {printable(note)}", "dim")), (0, 0, 0, 2), expand=False
    )


def _description(thing: _Data) -> Iterator[RenderableType]:
    text = thing.get("description") or thing.get("title") or ""
    if text.strip():
        yield _indented(Text(printable(text.strip())))


def _parameters(rows: Iterable[tuple[str, str, bool, str]]) -> Iterator[RenderableType]:
    told = [
        (printable(name), printable(kind if required else f"{kind}, optional"), printable(description.strip()))
        for name, kind, required, description in rows
    ]
    if not told:
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="cyan", min_width=max(cell_len(name) for name, *_ in told))
    grid.add_column(style="dim", min_width=min(_WIDEST, max(cell_len(kind) for _, kind, _ in told)))
    grid.add_column()
    for row in told:
        grid.add_row(*map(Text, row))
    yield Padding(grid, (0, 0, 0, 6), expand=False)


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 4), expand=False)


def _kind(schema: Any) -> str:
    """Return in words what a JSON schema takes."""
    if not isinstance(schema, Mapping):
        return "anything"
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return " | ".join(map(json.dumps, values))
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(map(_kind, choices)))
    kind = schema.get("type", "anything")
    if kind == "array" and "items" in schema:
        return f"array of {_kind(schema['items'])}"
    return " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind)
