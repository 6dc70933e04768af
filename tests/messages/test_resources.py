"""Resource commands, their store, and the families of events."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.errors import (
    HandlerAlreadyRegisteredError,
    LLMgineError,
    ResourceConflictError,
    ResourceError,
    ResourceNotFoundError,
)
from llmgine.messages import Command, Event, SessionID, resources
from llmgine.messages.commands import CreateResourceCommand, DeleteResourceCommand, UpdateResourceCommand
from llmgine.messages.events import (
    ResourceCreatedEvent,
    ResourceDeletedEvent,
    ResourceEvent,
    ResourceUpdatedEvent,
    SystemEvent,
    WorkflowEvent,
)
from llmgine.messages.handlers import Resource, ResourceStore, register_handlers


@pytest.fixture
def store(bus: MessageBus) -> ResourceStore:
    return register_handlers(bus)


@pytest.fixture
def heard(bus: MessageBus) -> list[Event]:
    events: list[Event] = []
    bus.register_event_handler("resource.**", events.append)
    return events


async def create(bus: MessageBus, **fields: Any) -> str:
    return (await bus.execute(CreateResourceCommand(**{"resource_type": "note", **fields}))).unwrap()


# Commands


async def test_create_returns_a_new_id_each_time(bus: MessageBus, store: ResourceStore) -> None:
    command = CreateResourceCommand("note", {"text": "hello"})

    ids = [(await bus.execute(command)).unwrap() for _ in range(2)]

    assert len(set(ids)) == 2
    assert all(each.startswith("res_") for each in ids)
    assert store.find() == [Resource(each, "note", {"text": "hello"}) for each in ids]


async def test_create_takes_the_id_that_it_is_given_once(bus: MessageBus, store: ResourceStore) -> None:
    assert await create(bus, resource_id="mine", resource_data={"a": 1}) == "mine"

    with pytest.raises(ResourceConflictError, match="'mine' exists already") as raised:
        await create(bus, resource_id="mine", resource_data={"a": 2})
    assert raised.value.resource_id == "mine"
    assert store.get("mine").resource_data == {"a": 1}


async def test_update_replaces_the_data(bus: MessageBus, store: ResourceStore) -> None:
    resource_id = await create(bus, resource_data={"a": 1, "b": 2})

    (await bus.execute(UpdateResourceCommand(resource_id, "note", {"b": 3}))).unwrap()

    assert store.get(resource_id) == Resource(resource_id, "note", {"b": 3})


async def test_delete_forgets(bus: MessageBus, store: ResourceStore) -> None:
    resource_id = await create(bus)

    (await bus.execute(DeleteResourceCommand(resource_id, "note"))).unwrap()

    assert len(store) == 0


@pytest.mark.parametrize(
    "command", [UpdateResourceCommand("res_123", "note", {}), DeleteResourceCommand("res_123", "note")]
)
async def test_an_unknown_id_is_an_error_that_names_it(
    bus: MessageBus, store: ResourceStore, heard: list[Event], command: Command[None]
) -> None:
    with pytest.raises(ResourceNotFoundError, match="no resource 'res_123'") as raised:
        (await bus.execute(command)).unwrap()

    assert raised.value.resource_id == "res_123"
    assert isinstance(raised.value, LookupError)
    assert isinstance(raised.value, LLMgineError)
    assert heard == []


@pytest.mark.parametrize("command", [UpdateResourceCommand("r", "image", {}), DeleteResourceCommand("r", "image")])
async def test_another_type_is_an_error_that_names_both(
    bus: MessageBus, store: ResourceStore, heard: list[Event], command: Command[None]
) -> None:
    await create(bus, resource_id="r", resource_data={"a": 1})

    with pytest.raises(ResourceConflictError, match="type 'note', not 'image'"):
        (await bus.execute(command)).unwrap()

    assert store.get("r").resource_data == {"a": 1}
    assert len(heard) == 1


async def test_what_goes_in_and_what_comes_out_are_copies(
    bus: MessageBus, store: ResourceStore, heard: list[Any]
) -> None:
    data = {"tags": ["a"]}
    resource_id = await create(bus, resource_data=data)
    copies = [data, store.get(resource_id).resource_data, store.find()[0].resource_data, heard[0].resource_data]
    for copy in copies:
        copy["tags"].append("changed")

    assert store.get(resource_id).resource_data == {"tags": ["a"]}
    assert all(copy == {"tags": ["a", "changed"]} for copy in copies)


async def test_data_that_cannot_be_copied_changes_nothing(
    bus: MessageBus, store: ResourceStore, heard: list[Event]
) -> None:
    await create(bus, resource_id="r")
    uncopied: dict[str, Any] = {"generator": (number for number in range(1))}

    with pytest.raises(TypeError):
        await create(bus, resource_data=uncopied)
    with pytest.raises(TypeError):
        (await bus.execute(UpdateResourceCommand("r", "note", uncopied))).unwrap()

    assert store.find() == [Resource("r", "note", {})]
    assert len(heard) == 1


def test_find_returns_one_type_or_all_in_the_order_of_creation() -> None:
    store = ResourceStore()
    first, second, third = (store.create(kind, {}) for kind in ("b", "a", "b"))
    store.update(first.resource_id, "b", {"new": True})

    assert [each.resource_id for each in store.find()] == [each.resource_id for each in (first, second, third)]
    assert [each.resource_id for each in store.find("b")] == [first.resource_id, third.resource_id]
    assert store.find("c") == []


async def test_each_success_is_an_event_in_the_commands_session(
    bus: MessageBus, store: ResourceStore, heard: list[Any]
) -> None:
    session = SessionID("a")
    resource_id = await create(bus, resource_data={"a": 1}, session_id=session)
    await bus.execute(UpdateResourceCommand(resource_id, "note", {"a": 2}, session_id=session))
    await bus.execute(DeleteResourceCommand(resource_id, "note", session_id=session))

    assert [(type(event), event.resource_id, event.resource_type, event.session_id) for event in heard] == [
        (kind, resource_id, "note", session)
        for kind in (ResourceCreatedEvent, ResourceUpdatedEvent, ResourceDeletedEvent)
    ]
    assert [event.resource_data for event in heard[:2]] == [{"a": 1}, {"a": 2}]


# register_handlers


async def test_registering_twice_is_harmless(bus: MessageBus, store: ResourceStore, heard: list[Event]) -> None:
    assert register_handlers(bus) is store
    await create(bus)
    assert len(heard) == 1


def test_a_second_thread_waits_until_the_first_has_registered_all(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = MessageBus.isolated()
    register = bus.register_command_handler
    others: list[Future[ResourceStore]] = []

    def register_and_let_the_other_try(command_type: type[Command[Any]], handler: Any) -> None:
        register(command_type, handler)
        if not others:
            others.append(pool.submit(register_handlers, bus))
            wait(others, timeout=0.1)  # it cannot end before this does

    monkeypatch.setattr(bus, "register_command_handler", register_and_let_the_other_try)
    with ThreadPoolExecutor(1) as pool:
        store = register_handlers(bus)

    assert others[0].result() is store


async def test_after_a_reset_handlers_are_registered_again_over_a_new_store(
    bus: MessageBus, store: ResourceStore
) -> None:
    await create(bus)
    await bus.reset()
    await bus.start()

    fresh = register_handlers(bus)
    await create(bus)

    assert register_handlers(bus) is fresh
    assert (len(store), len(fresh)) == (1, 1)


async def test_each_bus_has_a_store_of_its_own(bus: MessageBus, store: ResourceStore) -> None:
    other = MessageBus.isolated()
    assert register_handlers(other) is not store

    await create(other)
    assert len(store) == 0


async def test_without_a_bus_the_applications_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MessageBus, "_application", None)
    store = register_handlers()

    assert register_handlers(MessageBus()) is store
    assert store.get(await create(MessageBus())).resource_type == "note"


async def test_the_applications_own_handler_is_not_replaced(bus: MessageBus) -> None:
    bus.register_command_handler(CreateResourceCommand, lambda _: "own")

    with pytest.raises(HandlerAlreadyRegisteredError):
        register_handlers(bus)
    assert await create(bus) == "own"


def test_a_bus_with_resources_is_freed_when_nobody_holds_it() -> None:
    bus = MessageBus.isolated()
    store = register_handlers(bus)
    gone = weakref.ref(store), weakref.ref(bus)
    del bus, store
    gc.collect()

    assert [ref() for ref in gone] == [None, None]


# Families


@pytest.mark.parametrize(
    ("family", "prefix"), [(ResourceEvent, "resource"), (WorkflowEvent, "workflow"), (SystemEvent, "system")]
)
def test_the_names_of_a_family_begin_alike(family: type[Event], prefix: str) -> None:
    members = [
        kind
        for name in resources.__all__
        if isinstance(kind := getattr(resources, name), type) and issubclass(kind, family)
    ]

    assert len(members) > 2
    assert {kind.event_name.partition(".")[0] for kind in members} == {prefix}


def test_dotted_names() -> None:
    names = {
        kind.event_name
        for name in resources.__all__
        if isinstance(kind := getattr(resources, name), type) and issubclass(kind, Event)
    }
    assert names == {
        *("resource", "resource.created", "resource.updated", "resource.deleted"),
        *("workflow", "workflow.started", "workflow.step.completed", "workflow.completed", "workflow.failed"),
        *("system", "system.started", "system.stopped", "system.error"),
    }


# Against a model


@dataclass
class Step:
    verb: str
    which: int
    kind: str
    data: dict[str, int]

    @property
    def name(self) -> str:
        return f"r{self.which}"

    def command(self) -> Command[Any]:
        if self.verb == "create":
            return CreateResourceCommand(self.kind, self.data, self.name)
        if self.verb == "update":
            return UpdateResourceCommand(self.name, self.kind, self.data)
        return DeleteResourceCommand(self.name, self.kind)

    def refusal(self, model: dict[str, tuple[str, dict[str, int]]]) -> type[ResourceError] | None:
        known = model.get(self.name)
        if self.verb == "create":
            return ResourceConflictError if known else None
        if known is None:
            return ResourceNotFoundError
        return None if known[0] == self.kind else ResourceConflictError


steps = st.builds(
    Step,
    st.sampled_from(["create", "update", "delete"]),
    st.integers(0, 3),
    st.sampled_from(["note", "image"]),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=2),
)


@given(st.lists(steps, max_size=30))
def test_any_sequence_of_commands_agrees_with_a_dict_and_its_events_replay_to_the_same(sequence: list[Step]) -> None:
    model: dict[str, tuple[str, dict[str, int]]] = {}
    replayed: dict[str, tuple[str, dict[str, int]]] = {}

    def replay(event: ResourceEvent) -> None:
        match event:
            case ResourceDeletedEvent():
                del replayed[event.resource_id]
            case ResourceCreatedEvent() | ResourceUpdatedEvent():
                replayed[event.resource_id] = event.resource_type, event.resource_data

    async def play() -> ResourceStore:
        bus = MessageBus.isolated()
        store = register_handlers(bus)
        bus.register_event_handler(ResourceEvent, replay)
        await bus.start()
        for step in sequence:
            refusal = step.refusal(model)
            with contextlib.nullcontext() if refusal is None else pytest.raises(refusal):
                (await bus.execute(step.command())).unwrap()
            if refusal is None and step.verb == "delete":
                del model[step.name]
            elif refusal is None:
                model[step.name] = step.kind, step.data
            assert replayed == model
        await bus.stop()
        return store

    store = asyncio.run(play())
    assert {each.resource_id: (each.resource_type, each.resource_data) for each in store.find()} == model
