"""What an application finds ready: commands on resources, and events of resources, workflows and the system.

The three families are `resource.**`, `workflow.**` and `system.**` to subscribers by name, and a base class each to
subscribers by class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmgine.messages.commands import Command
from llmgine.messages.events import Event

__all__ = [
    "CreateResourceCommand",
    "DeleteResourceCommand",
    "ResourceCreatedEvent",
    "ResourceDeletedEvent",
    "ResourceEvent",
    "ResourceUpdatedEvent",
    "SystemErrorEvent",
    "SystemEvent",
    "SystemStartedEvent",
    "SystemStoppedEvent",
    "UpdateResourceCommand",
    "WorkflowCompletedEvent",
    "WorkflowEvent",
    "WorkflowFailedEvent",
    "WorkflowStartedEvent",
    "WorkflowStepCompletedEvent",
]

# Resources


@dataclass
class CreateResourceCommand(Command[str]):
    """Create a resource; the result is its id."""

    resource_type: str
    resource_data: dict[str, Any] = field(default_factory=dict[str, Any])
    resource_id: str | None = None
    """None for a new one."""


@dataclass
class UpdateResourceCommand(Command[None]):
    """Replace a resource's data."""

    resource_id: str
    resource_type: str
    resource_data: dict[str, Any]


@dataclass
class DeleteResourceCommand(Command[None]):
    """Delete a resource."""

    resource_id: str
    resource_type: str


@dataclass
class ResourceEvent(Event):
    """Something happened to a resource."""

    resource_id: str
    resource_type: str


@dataclass
class ResourceCreatedEvent(ResourceEvent):
    """A resource has been created."""

    resource_data: dict[str, Any]


@dataclass
class ResourceUpdatedEvent(ResourceEvent):
    """A resource's data has been replaced."""

    resource_data: dict[str, Any]
    """All of the new data."""


@dataclass
class ResourceDeletedEvent(ResourceEvent):
    """A resource has been deleted."""


# Workflows


@dataclass
class WorkflowEvent(Event):
    """Something happened in a workflow."""

    workflow_id: str


@dataclass
class WorkflowStartedEvent(WorkflowEvent):
    """A workflow has begun."""

    workflow_type: str = ""


@dataclass
class WorkflowStepCompletedEvent(WorkflowEvent):
    """One step of a workflow has been done."""

    step: str
    result: Any = None


@dataclass
class WorkflowCompletedEvent(WorkflowEvent):
    """A workflow has come to its end."""

    result: Any = None


@dataclass
class WorkflowFailedEvent(WorkflowEvent):
    """A workflow has ended in failure."""

    error: str


# The system


@dataclass
class SystemEvent(Event):
    """Something happened to the application, or to a part of it."""

    component: str = field(default="", kw_only=True)
    """The part; empty for the whole."""


@dataclass
class SystemStartedEvent(SystemEvent):
    """It has begun its work."""


@dataclass
class SystemStoppedEvent(SystemEvent):
    """It has ended its work."""

    reason: str = ""


@dataclass
class SystemErrorEvent(SystemEvent):
    """Something went wrong in it."""

    error: str
