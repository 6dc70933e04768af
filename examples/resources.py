"""The message system from synchronous code: no `async`, no event loop to take care of.

python examples/resources.py
"""

from __future__ import annotations

from dataclasses import dataclass

from llmgine.errors import ResourceNotFoundError
from llmgine.messages.bus import message_bus
from llmgine.messages.commands import Command, CreateResourceCommand, UpdateResourceCommand
from llmgine.messages.events import Event, ResourceCreatedEvent, ResourceEvent
from llmgine.messages.handlers import register_handlers

# The commands on resources have handlers, which work on a store in memory.
store = register_handlers()


# Events are subscribed to by name or by class; one name may stand for many.
def on_created(event: ResourceCreatedEvent) -> None:
    print("created:", event.resource_type, event.resource_data)


def on_any_change(event: ResourceEvent) -> None:
    print("heard:", event.event_name)


message_bus.subscribe_event("resource.created", on_created)
message_bus.subscribe_event("resource.*", on_any_change)


# A command of one's own. Its handler returns a value, and leaves an event for when it has succeeded.
@dataclass
class RenameCommand(Command[str]):
    resource_id: str
    name: str


@dataclass
class RenamedEvent(Event):
    before: str
    after: str


def rename(command: RenameCommand) -> str:
    resource = store.get(command.resource_id)
    before = resource.resource_data["name"]
    message_bus.add_pending_event(RenamedEvent(before, command.name))
    store.update(resource.resource_id, resource.resource_type, {"name": command.name})
    return f"{before} is now {command.name}"


message_bus.register_command(RenameCommand, rename)
message_bus.subscribe_event("renamed", lambda event: print("renamed:", event.before, "to", event.after))


if __name__ == "__main__":
    resource_id = message_bus.dispatch(CreateResourceCommand("example", {"name": "First"}))
    message_bus.dispatch(UpdateResourceCommand(resource_id, "example", {"name": "Second"}))
    print(message_bus.dispatch(RenameCommand(resource_id, "Third")))
    print("stored:", store.get(resource_id).resource_data)

    # What a handler raises is raised here.
    try:
        message_bus.dispatch(RenameCommand("res_123", "Fourth"))
    except ResourceNotFoundError as error:
        print("refused:", error)

# prints: created: example {'name': 'First'}
# prints: heard: resource.created
# prints: heard: resource.updated
# prints: renamed: Second to Third
# prints: Second is now Third
# prints: stored: {'name': 'Third'}
# prints: refused: There is no resource 'res_123': it was never created, or has been deleted.
