"""What is published about tools. Fields marked `content` hold what models and tools say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmgine.messages import Event

__all__ = [
    "ToolCallEvent",
    "ToolCompiledEvent",
    "ToolExecuteResultEvent",
    "ToolManagerEvent",
    "ToolProgressEvent",
    "ToolRegisterEvent",
]


@dataclass
class ToolManagerEvent(Event):
    """Something happened to a tool."""

    engine_id: str = ""


@dataclass
class ToolRegisterEvent(ToolManagerEvent):
    """A tool has been registered."""

    tool_info: dict[str, Any] = field(default_factory=dict[str, Any])
    """`{"name", "description", "effect", …}`, as `Tool.info` returns it."""


@dataclass
class ToolCompiledEvent(ToolManagerEvent):
    """The tools have been written down for a model."""

    tool_compiled_list: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """In the provider's format."""


@dataclass
class ToolCallEvent(ToolManagerEvent):
    """A model has asked for a tool; it is about to run.

    Once it is published, its `traceparent` is the span of the call, where somebody who has seen it traces that.
    """

    tool_call_id: str = ""
    tool_name: str = ""
    arguments: str = field(default="{}", metadata={"content": True})
    """As the model wrote them, unchecked."""


@dataclass
class ToolProgressEvent(ToolManagerEvent):
    """A tool that is running has got further."""

    tool_call_id: str = ""
    tool_name: str = ""
    progress: float = 0.0
    total: float | None = None
    """What `progress` will be in the end; None if that is not known."""
    message: str = field(default="", metadata={"content": True})


@dataclass
class ToolExecuteResultEvent(ToolManagerEvent):
    """A tool has run, or has failed to."""

    execution_succeed: bool = False
    tool_info: dict[str, Any] = field(default_factory=dict[str, Any])
    """`{"name"}`; of a tool of an MCP server also what `MCPServers.about` tells of the server."""
    tool_args: dict[str, Any] = field(default_factory=dict[str, Any], metadata={"content": True})
    """The arguments that the tool got; `{"__raw__": text}` where the model's text was no JSON object."""
    tool_result: str = field(default="", metadata={"content": True})
    """What the model is told."""
    tool_name: str = ""
    tool_call_id: str = ""
    duration: float = 0.0
    """Seconds."""
