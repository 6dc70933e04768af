"""The description of a bus's routing: it says what the bus does, no more and no less."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import EventFilter, HandlerMiddleware, HandlerPriority, MessageBus
from llmgine.bus.filters import SessionFilter
from llmgine.bus.routing import CommandHandlerRoute, EventHandlerRoute, Part, Routing, describe_routing
from llmgine.errors import HandlerAlreadyRegisteredError
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandStartedEvent

BUS, A, B = SessionID("BUS"), SessionID("a"), SessionID("b")


class Shop(Command[None]):
    pass


class Buy(Shop):
    pass


class BuyGift(Buy):
    pass


class Leave(Command[None]):
    pass


class Order(Event):
    event_name = "order"


class OrderPlaced(Order):
    event_name = "order.placed"


class GiftPlaced(OrderPlaced):
    event_name = "order.placed.gift"


class Bell(Event):
    pass


class Abstract(Event, ABC):
    @abstractmethod
    def text(self) -> str: ...


@dataclasses.dataclass(slots=True)
class Slotted(Event):
    """The decorator makes a second class of this name, and the first lives on until it is collected."""


UNDECORATED = [kind for kind in Event.__subclasses__() if kind.__name__ == "Slotted" and kind is not Slotted]


@pytest.fixture
def bus() -> MessageBus:
    return MessageBus.isolated()


def handle(message: Any) -> None: ...


def answers(routing: Routing, kind: type) -> tuple[CommandHandlerRoute, ...]:
    return next((route.handlers for route in routing.commands if route.command.name == name(kind)), ())


def hearers(routing: Routing, kind: type) -> tuple[EventHandlerRoute, ...]:
    return next((route.handlers for route in routing.events if route.event.name == name(kind)), ())


def name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def mine(parts: tuple[Part, ...]) -> list[str]:
    """The message classes of this file, among those of all tests that have been imported."""
    return [part.name.removeprefix(f"{__name__}.") for part in parts if part.module == __name__]


def line_of(text: str) -> int:
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123
        return 1 + next(number for number, line in enumerate(file) if line.startswith(text))


# Commands


def test_a_command_is_answered_for_the_bus_and_then_in_the_sessions_that_have_an_answer_of_their_own(
    bus: MessageBus,
) -> None:
    bus.register_event_handler(Bell, handle, session_id=B)
    bus.register_command_handler(Buy, handle, session_id=A)
    bus.register_command_handler(Buy, handle)
    assert [(each.scope, each.registered_for) for each in answers(describe_routing(bus), Buy)] == [
        (BUS, name(Buy)),
        (A, name(Buy)),
    ]


def test_the_handler_of_a_base_class_answers_for_subclasses_the_nearest_first(bus: MessageBus) -> None:
    bus.register_command_handler(Shop, handle)
    bus.register_command_handler(Buy, print, session_id=A)
    routing = describe_routing(bus)
    assert [each.registered_for for each in answers(routing, Shop)] == [name(Shop)]
    assert [each.registered_for for each in answers(routing, Buy)] == [name(Shop), name(Buy)]
    assert [each.registered_for for each in answers(routing, BuyGift)] == [name(Shop), name(Buy)]
    assert answers(routing, Leave) == ()


# Events


def test_handlers_stand_in_the_order_in_which_they_run_whatever_they_are_registered_for(bus: MessageBus) -> None:
    bus.register_event_handler(OrderPlaced, handle, priority=HandlerPriority.LOW)
    bus.register_event_handler("order.*", handle, session_id=A)
    bus.register_event_handler(Order, handle)
    bus.register_event_handler(Event, handle, session_id=A, priority=7)
    [first, *rest] = hearers(describe_routing(bus), OrderPlaced)
    assert (first.scope, first.priority, first.priority_name, first.registered_for) == (A, 7, None, name(Event))
    assert [(each.scope, each.priority, each.priority_name, each.registered_for) for each in rest] == [
        (BUS, 50, "NORMAL", name(Order)),
        (A, 50, "NORMAL", "order.*"),
        (BUS, 90, "LOW", name(OrderPlaced)),
    ]


KEYS: st.SearchStrategy[type[Event] | str] = st.sampled_from(
    [Event, Order, OrderPlaced, GiftPlaced, Bell, "order", "order.*", "order.**", "**", "bell", "*.placed"]
)
SCOPES = st.sampled_from([BUS, A, B])


@given(st.lists(st.tuples(KEYS, SCOPES, st.sampled_from([0, 5, 50, 90]))))
def test_what_stands_there_for_a_session_is_what_its_events_go_through(
    registrations: list[tuple[type[Event] | str, SessionID, int]],
) -> None:
    bus = MessageBus.isolated()
    for number, (key, scope, priority) in enumerate(registrations):
        bus.register_event_handler(key, numbered(number), scope, priority)
    routing = describe_routing(bus)
    for kind in (Order, OrderPlaced, GiftPlaced, Bell, Slotted):
        for session in (BUS, A, B):
            said = [each.handler.name for each in hearers(routing, kind) if each.scope in {BUS, session}]
            runs = [f"{__name__}.{each.__qualname__}" for each in bus._registry.get_event_handlers(kind, session)]
            assert said == runs
    unheard = [kind for kind in (Bell, GiftPlaced, Outside.Bell, Slotted) if not hearers(routing, kind)]
    assert mine(routing.unheard_events) == [kind.__qualname__ for kind in unheard]
    assert {each for each in (A, B) if any(scope == each for _, scope, _ in registrations)} == {*routing.sessions}


@given(st.lists(st.tuples(st.sampled_from([Command, Shop, Buy, BuyGift, Leave]), SCOPES), unique=True))
def test_what_stands_there_for_a_session_is_who_answers_its_commands(
    registrations: list[tuple[type[Command[Any]], SessionID]],
) -> None:
    bus = MessageBus.isolated()
    for number, (kind, scope) in enumerate(registrations):
        bus.register_command_handler(kind, numbered(number), scope)
    routing = describe_routing(bus)
    for kind in (Shop, Buy, BuyGift, Leave):
        said = {each.scope: each.handler.name for each in answers(routing, kind)}
        for session in (BUS, A, B):
            handler = bus._registry.get_command_handler(kind, session)
            runs = None if handler is None else f"{__name__}.{handler.__qualname__}"
            assert said.get(session, said.get(BUS)) == runs
    unhandled = [kind.__name__ for kind in (BuyGift, Leave) if not answers(routing, kind)]
    assert mine(routing.unhandled_commands) == unhandled


def numbered(number: int) -> Callable[[Any], None]:
    def handler(message: Any) -> None: ...

    handler.__qualname__ = f"handler{number}"
    return handler


def test_a_name_with_wildcards_tells_which_events_it_stands_for(bus: MessageBus) -> None:
    bus.register_event_handler("order.placed.*", handle)
    bus.register_event_handler("order.plcaed", handle, session_id=A, priority=HandlerPriority.HIGH)
    bus.register_event_handler("order.placed.*", print, priority=1)
    [right, wrong] = describe_routing(bus).patterns
    assert (right.pattern, right.stands_for) == ("order.placed.*", (name(GiftPlaced),))
    assert [each.handler.name for each in right.handlers] == ["builtins.print", f"{__name__}.handle"]
    assert (wrong.pattern, wrong.stands_for) == ("order.plcaed", ())
    assert [(each.scope, each.priority_name) for each in wrong.handlers] == [(A, "HIGH")]


# What nobody handles


def test_what_nobody_handles_is_missed_unless_it_is_abstract_or_others_derive_from_it(bus: MessageBus) -> None:
    routing = describe_routing(bus)
    assert mine(routing.unhandled_commands) == ["BuyGift", "Leave"]
    assert mine(routing.unheard_events) == ["Bell", "GiftPlaced", "Outside.Bell", "Slotted"]
    assert (routing.commands, routing.events, routing.patterns, routing.sessions) == ((), (), (), ())


def test_a_handler_in_any_scope_of_a_base_class_or_by_name_is_enough(bus: MessageBus) -> None:
    bus.register_command_handler(Shop, handle, session_id=A)
    bus.register_event_handler(Order, handle, session_id=A)
    bus.register_event_handler("bell", handle)
    routing = describe_routing(bus)
    assert mine(routing.unhandled_commands) == ["Leave"]
    assert mine(routing.unheard_events) == ["Slotted"]


def test_a_class_that_cannot_be_found_by_its_name_is_not_missed(bus: MessageBus) -> None:
    class Local(Bell):
        pass

    assert UNDECORATED
    assert mine(describe_routing(bus).unheard_events) == ["Bell", "GiftPlaced", "Outside.Bell", "Slotted"]
    bus.register_event_handler(Local, handle)
    [route] = [each for each in describe_routing(bus).events if each.event.name == name(Local)]
    assert route.event.line == line_of("    class Local")


def test_the_packages_own_classes_stand_there_only_if_they_are_registered_and_are_never_missed(
    bus: MessageBus,
) -> None:
    bus.register_event_handler(Event, handle)
    bus.register_event_handler(CommandStartedEvent, handle)
    routing = describe_routing(bus)
    own = [route.event.name for route in routing.events if route.event.module.startswith("llmgine")]
    assert own == ["llmgine.messages.events.CommandStartedEvent", "llmgine.messages.events.Event"]
    missed = (*routing.unhandled_commands, *routing.unheard_events)
    assert not [part for part in missed if part.module.partition(".")[0] == "llmgine"]


def test_what_has_been_unregistered_is_gone(bus: MessageBus) -> None:
    bus.register_event_handler(Bell, handle, session_id=A)
    bus.unregister_event_handler(Bell, handle, session_id=A)
    bus.register_event_handler(Bell, handle, session_id=B)
    bus.unregister_session_handlers(B)
    routing = describe_routing(bus)
    assert (routing.events, routing.sessions) == ((), ())


# Names and places


class Box:
    def method(self, message: Any) -> None: ...

    def __call__(self, message: Any) -> None: ...


def logged(function: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(function)
    def wrapper(event: Any) -> None:
        function(event)

    return wrapper


@logged
def decorated(event: Any) -> None: ...


def with_prefix(prefix: str, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "known_as", "begins"),
    [
        (handle, "handle", "def handle"),
        (functools.partial(functools.partial(with_prefix), "x"), "with_prefix", "def with_prefix"),
        (Box().method, "Box.method", "    def method"),
        (functools.partial(Box().method), "Box.method", "    def method"),
        (Box(), "Box", "class Box"),
        (decorated, "decorated", "@logged"),
    ],
)
def test_a_handler_is_known_by_its_name_and_by_the_place_where_it_is_written(
    bus: MessageBus, handler: Callable[[Any], Any], known_as: str, begins: str
) -> None:
    bus.register_event_handler(Bell, handler)
    bus.register_command_handler(Leave, handler)
    [[heard], [answered]] = hearers(describe_routing(bus), Bell), answers(describe_routing(bus), Leave)
    assert heard.handler == answered.handler == Part(f"{__name__}.{known_as}", __name__, __file__, line_of(begins))


class Outside:
    class Bell(Event):
        pass


def test_a_message_class_is_known_by_its_name_and_by_the_place_where_it_is_written(bus: MessageBus) -> None:
    places = {part.name: (part.file, part.line) for part in describe_routing(bus).unheard_events}
    assert places[name(Slotted)] == (__file__, line_of("@dataclasses.dataclass(slots=True)"))
    assert places[name(Bell)] == (__file__, line_of("class Bell"))
    assert places[name(Outside.Bell)] == (__file__, line_of("    class Bell"))


def test_what_has_no_source_has_no_place(bus: MessageBus) -> None:
    bus.register_event_handler(Bell, print)
    made: dict[str, Any] = {"__name__": "made"}
    exec("def handler(event): ...", made)  # noqa: S102
    bus.register_event_handler(Bell, made["handler"])
    assert [each.handler for each in hearers(describe_routing(bus), Bell)] == [
        Part("builtins.print", "builtins", None, None),
        Part("made.handler", "made", None, None),
    ]


class Outer(HandlerMiddleware):
    pass


class Inner(HandlerMiddleware):
    pass


class Everything(EventFilter):
    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        return True


def test_middleware_and_filters_stand_in_their_order_and_observers_are_counted(bus: MessageBus) -> None:
    bus.add_command_middleware(Outer())
    bus.add_command_middleware(Inner())
    bus.add_event_middleware(Inner())
    bus.add_event_filter(SessionFilter(exclude_sessions=["a"]))
    bus.add_event_filter(Everything())
    bus.add_observer(print)
    routing = describe_routing(bus)
    outer, inner = (
        Part(f"{__name__}.{kind}", __name__, __file__, line_of(f"class {kind}")) for kind in ("Outer", "Inner")
    )
    assert routing.command_middleware == (outer, inner)
    assert routing.event_middleware == (inner,)
    assert [part.name for part in routing.filters] == ["llmgine.bus.filters.SessionFilter", f"{__name__}.Everything"]
    assert routing.observers == 1


# Data


def test_a_description_is_plain_data_that_does_not_change_with_the_bus(bus: MessageBus) -> None:
    bus.register_command_handler(Buy, handle)
    bus.register_event_handler("order.*", Box(), session_id=A)
    routing = describe_routing(bus)
    said = json.dumps(dataclasses.asdict(routing))
    bus.register_command_handler(Leave, handle)
    assert json.dumps(dataclasses.asdict(routing)) == said != json.dumps(dataclasses.asdict(describe_routing(bus)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        routing.observers = 1  # type: ignore[misc]


def test_describing_changes_nothing(bus: MessageBus) -> None:
    bus.register_command_handler(Buy, handle)
    assert describe_routing(bus) == describe_routing(bus)
    with pytest.raises(HandlerAlreadyRegisteredError):
        bus.register_command_handler(Buy, handle)


def test_a_bus_is_loaded_without_it() -> None:
    check = "import llmgine.bus, sys; sys.exit('llmgine.bus.routing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
