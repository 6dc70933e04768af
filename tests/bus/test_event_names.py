"""Events by name: every class has one, and a subscription by name hears what a subscription by class would."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.bus.event_names import hears
from llmgine.errors import ConfigurationError
from llmgine.messages import Event


class OrderEvent(Event):
    pass


class OrderPlacedEvent(OrderEvent):
    pass


class OrderLinePlacedEvent(OrderEvent):
    pass


class UrgentOrderPlaced(OrderPlacedEvent):
    pass


class Renamed(Event):
    event_name = "shop.order.moved"


class RenamedChild(Renamed):
    pass


@dataclass
class WithAField(Event):
    event_name: str = "mine"  # type: ignore[misc]  # a field of its own


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Event, "event"),
        (OrderEvent, "order"),
        (OrderPlacedEvent, "order.placed"),
        (UrgentOrderPlaced, "urgent.order.placed"),
        (Renamed, "shop.order.moved"),
        (RenamedChild, "renamed.child"),
        (WithAField, "mine"),
        (type("LLMResponseEvent", (Event,), {}), "llm.response"),
        (type("HTTPServer2Started", (Event,), {}), "http.server2.started"),
        (type("Order_Placed", (Event,), {}), "order.placed"),
        (type("Event", (Event,), {}), "event"),
    ],
)
def test_a_class_is_called_by_its_words(kind: type[Event], name: str) -> None:
    assert kind.event_name == name


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("order.placed", {OrderPlacedEvent, UrgentOrderPlaced}),
        ("order", {OrderEvent, OrderPlacedEvent, OrderLinePlacedEvent, UrgentOrderPlaced}),
        ("order.*", {OrderPlacedEvent, UrgentOrderPlaced}),
        ("*.placed", {OrderPlacedEvent, UrgentOrderPlaced}),
        ("order.*.placed", {OrderLinePlacedEvent}),
        ("shop.**", {Renamed, RenamedChild}),
        ("shop.order.moved.**", {Renamed, RenamedChild}),
        ("nobody.**", set()),
        ("**", {Event, OrderEvent, OrderPlacedEvent, OrderLinePlacedEvent, UrgentOrderPlaced, Renamed, RenamedChild}),
    ],
)
def test_a_name_stands_for_classes_and_their_subclasses(pattern: str, heard: set[type[Event]]) -> None:
    kinds = [Event, OrderEvent, OrderPlacedEvent, OrderLinePlacedEvent, UrgentOrderPlaced, Renamed, RenamedChild]

    assert {kind for kind in kinds if hears(pattern, kind)} == heard


parts = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@given(parts, st.data())
def test_wildcards_match_as_they_say(name: list[str], data: st.DataObject) -> None:
    kind = type("Named", (Event,), {"event_name": ".".join(name)})
    pattern = data.draw(st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=4))
    rest = data.draw(st.booleans())

    expected = all(want in {"*", part} for want, part in zip(pattern, name, strict=False)) and (
        len(pattern) <= len(name) if rest else len(pattern) == len(name)
    )
    assert hears(".".join([*pattern, "**"] if rest else pattern), kind) is expected


async def test_handlers_are_registered_and_unregistered_by_name(bus: MessageBus) -> None:
    heard: list[str] = []

    @bus.on("order.*")
    def first(event: OrderPlacedEvent) -> None:
        heard.append(f"first {type(event).__name__}")

    def second(event: Event) -> None:
        heard.append(f"second {type(event).__name__}")

    bus.register_event_handler("**", second, priority=100)
    await bus.publish(UrgentOrderPlaced())
    await bus.publish(Renamed())
    assert heard == ["first UrgentOrderPlaced", "second UrgentOrderPlaced", "second Renamed"]

    assert bus.unregister_event_handler("order.*", first)
    assert not bus.unregister_event_handler("order.*", first)
    assert bus.unregister_event_handler("**", second)
    await bus.publish(UrgentOrderPlaced())
    assert len(heard) == 3


async def test_a_handler_that_several_bases_match_hears_an_event_once(bus: MessageBus) -> None:
    heard: list[Event] = []
    bus.register_event_handler("**", heard.append)
    await bus.publish(UrgentOrderPlaced())

    assert len(heard) == 1


async def test_only_one_registration_is_undone(bus: MessageBus) -> None:
    heard: list[Event] = []
    for _ in range(2):
        bus.register_event_handler(OrderEvent, heard.append)
    assert bus.unregister_event_handler(OrderEvent, heard.append)
    assert not bus.unregister_event_handler(OrderPlacedEvent, heard.append)
    assert not bus.unregister_event_handler(OrderEvent, heard.append, session_id="elsewhere")  # type: ignore[arg-type]
    await bus.publish(OrderPlacedEvent())

    assert len(heard) == 1


@pytest.mark.parametrize("name", ["", ".", "order.", ".placed", "order..placed", "ord*", "**.placed", "order.***"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name of events"):
        MessageBus.isolated().register_event_handler(name, print)


async def test_lifecycle_events_are_made_for_who_hears_them_by_name(bus: MessageBus) -> None:
    from llmgine.messages import Command

    heard: list[str] = []

    def note(event: Event) -> None:
        heard.append(event.event_name)

    bus.register_event_handler("command.*", note)
    await bus.execute(Command())
    await bus.wait_for_events()
    assert heard == ["command.started", "command.error"]

    bus.unregister_event_handler("command.*", note)
    await bus.execute(Command())
    await bus.wait_for_events()
    assert len(heard) == 2
