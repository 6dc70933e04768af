"""Laws 1, 8, 15, 17: who is registered when a message is sent is called, and nobody else, whatever came before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmgine.bus import HandlerMiddleware, MessageBus
from llmgine.errors import HandlerAlreadyRegisteredError, HandlerNotFoundError
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandErrorEvent, CommandResultEvent, CommandStartedEvent


@dataclass
class FileChanged(Event):
    pass


@dataclass
class TextFileChanged(FileChanged):
    pass


@dataclass
class Open(Command[int]):
    pass


@dataclass
class OpenText(Open):
    pass


@dataclass
class OpenLog(OpenText):
    pass


SESSIONS = [SessionID(name) for name in ("BUS", "a", "b")]
COMMANDS = [Open, OpenText, OpenLog]
EVENTS = [FileChanged, TextFileChanged]
# What each key hears, said by hand.
HEARD: dict[type[Event] | str, set[type[Event]]] = {
    Event: {FileChanged, TextFileChanged, CommandStartedEvent, CommandResultEvent, CommandErrorEvent},
    "**": {FileChanged, TextFileChanged, CommandStartedEvent, CommandResultEvent, CommandErrorEvent},
    FileChanged: {FileChanged, TextFileChanged},
    "file.changed": {FileChanged, TextFileChanged},
    TextFileChanged: {TextFileChanged},
    "text.**": {TextFileChanged},
    "*.file.*": {TextFileChanged},
    "command.*": {CommandStartedEvent, CommandResultEvent, CommandErrorEvent},
    CommandStartedEvent: {CommandStartedEvent},
    CommandResultEvent: {CommandResultEvent, CommandErrorEvent},
    "command.result": {CommandResultEvent, CommandErrorEvent},
    CommandErrorEvent: {CommandErrorEvent},
}
keys = st.sampled_from(list(HEARD))
sessions = st.sampled_from(SESSIONS)
Call = tuple[object, ...]
Log = list[Call]


@dataclass(frozen=True)
class Registered:
    key: type[Event] | str
    session: SessionID
    priority: int
    handler: int


class Layer(HandlerMiddleware):
    def __init__(self, number: int, log: Log) -> None:
        self.number, self.log = number, log

    async def process_command(
        self, command: Command[Any], handler: Any, next_middleware: Callable[..., Awaitable[Any]]
    ) -> Any:
        self.log.append(("layer", self.number))
        return await next_middleware(command, handler)

    async def process_event(self, event: Event, handler: Any, next_middleware: Callable[..., Awaitable[Any]]) -> Any:
        self.log.append(("layer", self.number))
        return await next_middleware(event, handler)


class Registering(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bus = MessageBus.isolated()
        self.run(self.bus.start())
        self.log: Log = []
        self.handlers = [self._make(number) for number in range(3)]
        self.registered: list[Registered] = []
        self.commands: dict[tuple[type, SessionID], int] = {}
        self.scopes = {SESSIONS[0]}
        self.event_layers: list[int] = []
        self.command_layers: list[int] = []

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.bus.stop())
        self.loop.close()

    def _make(self, number: int) -> Callable[[Event], object]:
        async def suspending(event: Event) -> None:
            self.log.append(("event", type(event), number))
            await asyncio.sleep(0)

        def plain(event: Event) -> None:
            self.log.append(("event", type(event), number))

        return suspending if number % 2 else plain

    # What changes who is called.

    @rule(key=keys, session=sessions, priority=st.sampled_from([0, 50, 50, 90]), handler=st.integers(0, 2))
    def register(self, key: type[Event] | str, session: SessionID, priority: int, handler: int) -> None:
        self.bus.register_event_handler(key, self.handlers[handler], session, priority)
        self.registered.append(Registered(key, session, priority, handler))
        self.scopes.add(session)

    @rule(which=st.integers(0, 30), priority=st.sampled_from([0, 50]), handler=st.integers(0, 2))
    def register_beside(self, which: int, priority: int, handler: int) -> None:
        if self.registered:
            one = self.registered[which % len(self.registered)]
            self.register(one.key, one.session, priority, handler)

    @rule(key=keys, session=sessions, handler=st.integers(0, 2))
    def unregister(self, key: type[Event] | str, session: SessionID, handler: int) -> None:
        found = [r for r in self.registered if (r.key, r.session, r.handler) == (key, session, handler)]
        assert self.bus.unregister_event_handler(key, self.handlers[handler], session) == bool(found)
        if found:
            self.registered.remove(found[0])

    @rule(which=st.integers(0, 30))
    def unregister_one_that_is_there(self, which: int) -> None:
        if self.registered:
            one = self.registered[which % len(self.registered)]
            self.unregister(one.key, one.session, one.handler)

    @rule(kind=st.sampled_from(COMMANDS), session=sessions, number=st.integers(0, 99))
    def register_command(self, kind: type[Command[int]], session: SessionID, number: int) -> None:
        def answer(_: Command[int]) -> int:
            self.log.append(("command", number))
            return number

        if (kind, session) in self.commands:
            with pytest.raises(HandlerAlreadyRegisteredError):
                self.bus.register_command_handler(kind, answer, session)
        else:
            self.bus.register_command_handler(kind, answer, session)
            self.commands[kind, session] = number
            self.scopes.add(session)

    @rule(session=sessions)
    def unregister_session(self, session: SessionID) -> None:
        self.bus.unregister_session_handlers(session)
        if session != "BUS":
            self.registered = [each for each in self.registered if each.session != session]
            self.commands = {key: number for key, number in self.commands.items() if key[1] != session}
            self.scopes.discard(session)

    @rule(of_events=st.booleans())
    def add_layer(self, of_events: bool) -> None:
        layers = self.event_layers if of_events else self.command_layers
        if len(layers) < 3:
            layers.append(len(layers))
            add = self.bus.add_event_middleware if of_events else self.bus.add_command_middleware
            add(Layer(layers[-1], self.log))

    # Who is called.

    def take(self, calls: int, layers: list[int]) -> Log:
        """Return the next calls from the log, each of which comes in all of the layers."""
        taken: Log = []
        for _ in range(calls):
            part, self.log[: len(layers) + 1] = self.log[: len(layers) + 1], []
            assert part[:-1] == [("layer", number) for number in layers]
            taken += part[-1:]
        return taken

    def expect(self, kind: type[Event], session: SessionID) -> None:
        heard = [each for each in self.registered if kind in HEARD[each.key] and each.session in {"BUS", session}]
        for priority in sorted({each.priority for each in heard}):
            for own in (False, True):  # the bus's before the session's
                group = [each for each in heard if each.priority == priority and (each.session != "BUS") == own]
                called = self.take(len(group), self.event_layers)
                assert sorted(map(str, called)) == sorted(str(("event", kind, each.handler)) for each in group)

    @rule(kind=st.sampled_from(EVENTS), session=sessions, wait=st.booleans())
    def publish(self, kind: type[Event], session: SessionID, wait: bool) -> None:
        self.log.clear()
        self.run(self.bus.publish(kind(session_id=session), await_processing=wait))
        self.run(self.bus.wait_for_events())
        self.expect(kind, session)
        assert self.log == []

    @rule(kind=st.sampled_from(COMMANDS), session=sessions)
    def execute(self, kind: type[Command[int]], session: SessionID) -> None:
        self.log.clear()
        answers = [
            self.commands[base, scope]
            for scope in (session, SESSIONS[0])
            for base in kind.__mro__
            if (base, scope) in self.commands
        ]
        result = self.run(self.bus.execute(kind(session_id=session)))
        if answers:
            assert result.unwrap() == answers[0]
            assert self.take(1, self.command_layers) == [("command", answers[0])]
        else:
            assert isinstance(result.exception, HandlerNotFoundError)
        self.run(self.bus.wait_for_events())
        self.expect(CommandStartedEvent, session)
        self.expect(CommandResultEvent if answers else CommandErrorEvent, session)
        assert self.log == []

    @invariant()
    def a_change_tells_at_once(self) -> None:
        """What has been worked out for a message before is not what is done after a change."""
        self.publish(TextFileChanged, SESSIONS[1], wait=True)
        self.execute(OpenText, SESSIONS[1])

    @invariant()
    def the_figures_are_those_of_the_model(self) -> None:
        stats = self.run(self.bus.get_stats())
        assert stats["total_event_handlers"] == len(self.registered)
        assert stats["bus_event_handlers"] == sum(each.session == "BUS" for each in self.registered)
        assert stats["total_command_handlers"] == len(self.commands)
        assert stats["total_sessions"] == len(self.scopes)
        assert self.bus.metrics.gauges["registered_handlers"].value == len(self.registered) + len(self.commands)


TestRegistering = Registering.TestCase
TestRegistering.settings = settings(max_examples=200, stateful_step_count=40)
