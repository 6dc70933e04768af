"""The handlers of the resource commands, over a store in memory; each success is an event."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from threading import Lock
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

from llmgine.errors import HandlerAlreadyRegisteredError, ResourceConflictError, ResourceNotFoundError
from llmgine.messages.commands import Command
from llmgine.messages.events import Event
from llmgine.messages.ids import new_id
from llmgine.messages.resources import (
    CreateResourceCommand,
    DeleteResourceCommand,
    ResourceCreatedEvent,
    ResourceDeletedEvent,
    ResourceUpdatedEvent,
    UpdateResourceCommand,
)

__all__ = ["Resource", "ResourceStore", "register_handlers"]


class _Bus(Protocol):
    def register_command_handler(self, command_type: type[Command[Any]], handler: Callable[[Any], Any], /) -> None: ...
    def add_pending_event(self, event: Event, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as it was when it was read."""

    resource_id: str
    resource_type: str
    resource_data: dict[str, Any]


class ResourceStore:
    """Resources by id, in memory. What goes in and what comes out are copies."""

    def __init__(self) -> None:
        self._resources: dict[str, Resource] = {}

    def __len__(self) -> int:
        return len(self._resources)

    def get(self, resource_id: str) -> Resource:
        """Return a resource.

        Raises:
            ResourceNotFoundError: no resource has this id.
        """
        try:
            return deepcopy(self._resources[resource_id])
        except KeyError:
            msg = f"There is no resource {resource_id!r}: it was never created, or has been deleted."
            raise ResourceNotFoundError(msg, resource_id=resource_id) from None

    def find(self, resource_type: str | None = None) -> list[Resource]:
        """Return all resources, or those of a type, in the order in which they were created."""
        resources = [*self._resources.values()]  # at once, because handlers may be at work in another thread
        return [deepcopy(each) for each in resources if resource_type is None or each.resource_type == resource_type]

    def create(self, resource_type: str, resource_data: dict[str, Any], resource_id: str | None = None) -> Resource:
        """Store a new resource.

        Raises:
            ResourceConflictError: another resource has this id.
        """
        resource_id = resource_id or f"res_{new_id()}"
        if resource_id in self._resources:
            msg = f"Resource {resource_id!r} exists already. Update it, or leave the id out to get a new one."
            raise ResourceConflictError(msg, resource_id=resource_id)
        return self._put(Resource(resource_id, resource_type, resource_data))

    def update(self, resource_id: str, resource_type: str, resource_data: dict[str, Any]) -> Resource:
        """Replace a resource's data.

        Raises:
            ResourceConflictError: the resource is of another type.
            ResourceNotFoundError: no resource has this id.
        """
        self._check_type(resource_id, resource_type)
        return self._put(Resource(resource_id, resource_type, resource_data))

    def delete(self, resource_id: str, resource_type: str) -> None:
        """Forget a resource.

        Raises:
            ResourceConflictError: the resource is of another type.
            ResourceNotFoundError: no resource has this id.
        """
        self._check_type(resource_id, resource_type)
        del self._resources[resource_id]

    def _put(self, resource: Resource) -> Resource:
        self._resources[resource.resource_id] = deepcopy(resource)
        return self.get(resource.resource_id)

    def _check_type(self, resource_id: str, resource_type: str) -> None:
        is_type = self.get(resource_id).resource_type
        if is_type != resource_type:
            msg = f"Resource {resource_id!r} is of type {is_type!r}, not {resource_type!r}."
            raise ResourceConflictError(msg, resource_id=resource_id)


_stores: WeakKeyDictionary[_Bus, ResourceStore] = WeakKeyDictionary()
_registering = Lock()


def register_handlers(bus: _Bus | None = None) -> ResourceStore:
    """Register the handlers of the resource commands, once for each bus, and return the store that they work on.

    Args:
        bus: the application's, if it is left out. After its `reset`, the handlers get a new store.

    Raises:
        HandlerAlreadyRegisteredError: the application has handlers of its own for these commands.
    """
    # Messages stand below the bus, so they look for it only when they are asked to.
    bus = bus or cast("_Bus", import_module("llmgine.bus").MessageBus())
    with _registering:
        store = ResourceStore()
        try:
            bus.register_command_handler(CreateResourceCommand, partial(_create, store, bus))
        except HandlerAlreadyRegisteredError:
            if bus not in _stores:
                raise
            return _stores[bus]
        bus.register_command_handler(UpdateResourceCommand, partial(_update, store, bus))
        bus.register_command_handler(DeleteResourceCommand, partial(_delete, store, bus))
        _stores[bus] = store
        return store


def _create(store: ResourceStore, bus: _Bus, command: CreateResourceCommand) -> str:
    resource = store.create(command.resource_type, command.resource_data, command.resource_id)
    bus.add_pending_event(
        ResourceCreatedEvent(
            resource.resource_id, resource.resource_type, resource.resource_data, session_id=command.session_id
        )
    )
    return resource.resource_id


def _update(store: ResourceStore, bus: _Bus, command: UpdateResourceCommand) -> None:
    resource = store.update(command.resource_id, command.resource_type, command.resource_data)
    bus.add_pending_event(
        ResourceUpdatedEvent(
            resource.resource_id, resource.resource_type, resource.resource_data, session_id=command.session_id
        )
    )


def _delete(store: ResourceStore, bus: _Bus, command: DeleteResourceCommand) -> None:
    store.delete(command.resource_id, command.resource_type)
    bus.add_pending_event(
        ResourceDeletedEvent(command.resource_id, command.resource_type, session_id=command.session_id)
    )
