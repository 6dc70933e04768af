"""Handlers and message classes that cannot work are refused when they are registered, with what is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.handler_check import name_of
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, Event

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


@dataclass
class Pay(Command[str]):
    amount: int = 0


@dataclass
class PayTwice(Pay):
    pass


@dataclass
class Refund(Command[None]):
    pass


@dataclass
class Paid(Event):
    pass


class HasAmount(Protocol):
    amount: int


class Handlers:
    def pay(self, command: Pay) -> None: ...
    def pay_base(self, command: Command[Any]) -> None: ...
    def refund(self, command: Refund) -> None: ...
    def nothing(self) -> None: ...

    @classmethod
    def of_class(cls, command: Pay) -> None: ...
    @staticmethod
    def static(command: Pay) -> None: ...
    def __call__(self, command: Pay) -> None: ...


class Wrong:
    def __call__(self, command: Refund) -> None: ...


def pay(command: Pay) -> None: ...
def pay_or_refund(command: Pay | Refund) -> None: ...
def pay_twice(command: PayTwice) -> None: ...
def refund(command: Refund) -> None: ...
def plain(command) -> None: ...  # type: ignore[no-untyped-def]
def anything(command: Any) -> None: ...
def structural(command: HasAmount) -> None: ...
def unknown(command: Unknown) -> None: ...
def with_default(command: Pay, times: int = 1) -> None: ...
def with_rest(*messages: Any) -> None: ...
def with_keyword(command: Pay, *, times: int) -> None: ...
def with_two(command: Pay, times: int) -> None: ...
def with_none() -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        pay,
        pay_or_refund,
        plain,
        anything,
        structural,
        unknown,
        with_default,
        with_rest,
        Handlers().pay,
        Handlers().pay_base,
        Handlers.of_class,
        Handlers.static,
        Handlers(),
        lambda command: None,
        functools.partial(with_keyword, times=2),
        functools.partial(with_two, times=2),
        [].append,
        print,
    ],
)
def test_what_can_be_called_with_the_message_is_registered(handler: Callable[..., Any]) -> None:
    MessageBus.isolated().register_command_handler(Pay, handler)


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (refund, r"refund takes Refund, and cannot handle Pay\. Register it"),
        (pay_twice, r"pay_twice takes PayTwice, and cannot handle Pay"),
        (Handlers().refund, r"Handlers\.refund takes Refund"),
        (Wrong(), r"Wrong takes Refund"),
        (with_two, r"with_two.* cannot handle Pay: a handler is called with one argument"),
        (with_none, r"one argument, the message"),
        (with_keyword, r"one argument, the message"),
        (Handlers().nothing, r"one argument, the message"),
        (Handlers, r"is a class: register an instance, or a function"),
        (None, r"must be a callable .* None is not callable"),
        ("pay", r"'pay' is not callable"),
    ],
)
def test_what_cannot_is_refused_with_what_is_wrong(handler: Any, says: str) -> None:
    bus = MessageBus.isolated()

    with pytest.raises(ConfigurationError, match=says):
        bus.register_command_handler(Pay, handler)
    with pytest.raises(ConfigurationError):
        bus.register_event_handler(Paid, pay)


def test_a_handler_of_a_base_class_may_be_registered_for_a_subclass_but_not_the_reverse() -> None:
    bus = MessageBus.isolated()
    bus.register_command_handler(PayTwice, pay)

    with pytest.raises(ConfigurationError, match="takes PayTwice, and cannot handle Pay"):
        bus.register_command_handler(Pay, pay_twice)


class Undecorated(Command[None]):
    amount: int
    currency: str = "EUR"


class WithInit(Command[None]):
    amount: int

    def __init__(self, amount: int) -> None:
        self.amount = amount


class ChildOfInit(WithInit):
    note: str


class Constant(Event):
    kind: ClassVar[str]
    colour: str = "red"


@pytest.mark.parametrize("kind", [Undecorated, type("Child", (Undecorated,), {})])
def test_a_class_whose_fields_nothing_sets_is_refused(kind: type[Command[None]]) -> None:
    with pytest.raises(ConfigurationError, match=r"Undecorated declares amount, but nothing sets .*@dataclass"):
        MessageBus.isolated().register_command_handler(kind, plain)


async def test_it_is_refused_also_where_nobody_registered_it(bus: MessageBus) -> None:
    with pytest.raises(ConfigurationError, match="@dataclass"):
        await bus.execute(Undecorated())


def test_a_class_that_sets_its_own_is_not() -> None:
    bus = MessageBus.isolated()
    bus.register_command_handler(WithInit, plain)
    bus.register_event_handler(Constant, plain)

    with pytest.raises(ConfigurationError, match="ChildOfInit declares note"):
        bus.register_command_handler(ChildOfInit, plain)


@pytest.mark.parametrize("wrong", [Paid, Paid(), Pay(), int, "pay", None])
def test_what_is_no_command_class_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="subclass of Command, not for"):
        MessageBus.isolated().register_command_handler(wrong, plain)


@pytest.mark.parametrize("wrong", [Pay, Pay(), Paid(), int, 3, None])
def test_what_is_no_event_class_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="subclass of Event, not for"):
        MessageBus.isolated().register_event_handler(wrong, plain)


@pytest.mark.parametrize("wrong", [Pay(), Pay, "paid", None])
@pytest.mark.parametrize("awaited", [True, False])
async def test_what_is_no_event_cannot_be_published(bus: MessageBus, wrong: Any, awaited: bool) -> None:
    bus.register_command_handler(Pay, pay)
    with pytest.raises(ConfigurationError, match="Event"):
        await bus.publish(wrong, await_processing=awaited)


@pytest.mark.parametrize("wrong", [Paid(), Paid, "pay", None])
async def test_what_is_no_command_cannot_be_executed(bus: MessageBus, wrong: Any) -> None:
    bus.register_event_handler(Paid, plain)
    with pytest.raises(ConfigurationError, match="Command"):
        await bus.execute(wrong)


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (pay, "pay"),
        (Handlers().pay, "Handlers.pay"),
        (Handlers(), "Handlers"),
        (functools.partial(with_two, times=2), "with_two"),
    ],
)
def test_a_handler_is_known_by_its_qualified_name(handler: Any, name: str) -> None:
    assert name_of(handler) == f"{__name__}.{name}"
    assert name_of([].append) == "list.append"


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda bus: bus.register_event_handler(Paid, plain, "BUS", "high"), "priority must be a whole number.*'high'"),
        (lambda bus: bus.add_observer(3), "An observer is a function"),
        (lambda bus: bus.set_observability_manager(3), r"has a method observe_event\(event\); 3 has none"),
        (lambda bus: bus.set_error_history_limit(-1), "how many errors to keep"),
        (lambda bus: bus.set_error_history_limit("x"), "how many errors to keep"),
        (lambda bus: bus.set_batch_processing("x", 1), "batch_size must be a whole number, at least 1"),
        (lambda bus: MessageBus.isolated(registry=3), "registry is a HandlerRegistry; got 3"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(use: Callable[[MessageBus], Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        use(MessageBus.isolated())


async def test_a_timeout_that_is_no_number_is_refused(bus: MessageBus) -> None:
    with pytest.raises(ConfigurationError, match="timeout must be a number of seconds"):
        await bus.execute(Pay(), timeout="soon")  # type: ignore[arg-type]
