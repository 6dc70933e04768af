"""Law 18: what caused what."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar, copy_context
from copy import copy

from llmgine.bus import MessageBus, causality
from llmgine.messages import Command, Event


class Asked(Event):
    pass


class Answered(Event):
    pass


class Answer(Command[None]):
    pass


async def test_a_first_message_begins_its_own_chain(bus: MessageBus) -> None:
    event = Asked()
    await bus.publish(event)

    assert event.correlation_id == event.event_id
    assert event.causation_id is None


async def test_ids_follow_through_handlers_queues_and_commands(bus: MessageBus) -> None:
    sent: dict[str, Event | Command[None]] = {}

    async def on_asked(event: Asked) -> None:
        sent["command"] = command = Answer()
        await bus.execute(command)

    async def answer(command: Answer) -> None:
        sent["event"] = event = Answered()
        await bus.publish(event, await_processing=False)

    async def on_answered(event: Answered) -> None:
        sent["last"] = last = Event()
        await bus.publish(last)

    bus.register_event_handler(Asked, on_asked)
    bus.register_command_handler(Answer, answer)
    bus.register_event_handler(Answered, on_answered)
    first = Asked()
    first.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await bus.publish(first)
    await bus.wait_for_events()

    chain = [first, sent["command"], sent["event"], sent["last"]]
    assert {message.correlation_id for message in chain} == {first.event_id}
    assert [message.causation_id for message in chain] == [None, *(message.id for message in chain[:-1])]
    assert {message.traceparent for message in chain} == {first.traceparent}


async def test_a_message_that_names_its_cause_keeps_it(bus: MessageBus) -> None:
    sent: list[Event] = []

    async def on_asked(_: Asked) -> None:
        event = Answered()
        event.correlation_id, event.causation_id = "theirs", "cause"
        sent.append(event)
        await bus.publish(event)

    bus.register_event_handler(Asked, on_asked)
    await bus.publish(Asked())

    assert (sent[0].correlation_id, sent[0].causation_id) == ("theirs", "cause")


async def test_publishing_the_same_event_again_does_not_make_it_its_own_cause(bus: MessageBus) -> None:
    times = 0

    async def again(event: Asked) -> None:
        nonlocal times
        times += 1
        if times == 1:
            await bus.publish(event)

    bus.register_event_handler(Asked, again)
    event = Asked()
    await bus.publish(event)

    assert times == 2
    assert event.causation_id is None


async def test_a_copy_of_an_event_is_not_caused_by_it_either(bus: MessageBus) -> None:
    event = Asked()
    twin = copy(event)

    async def again(handled: Asked) -> None:
        if handled is event:
            await bus.publish(twin)

    bus.register_event_handler(Asked, again)
    assert event.event_id
    await bus.publish(event)

    assert (twin.event_id, twin.causation_id) == (event.event_id, None)


async def test_after_a_command_its_caller_is_in_its_own_chain_again(bus: MessageBus) -> None:
    bus.register_command_handler(Answer, lambda _: None)
    await bus.execute(Answer())

    assert causality.current.get() is None


async def test_a_context_that_outlives_the_handler_keeps_no_message_alive(bus: MessageBus) -> None:
    contexts = []
    messages: list[weakref.ref[Event]] = []

    async def handle(event: Asked) -> None:
        contexts.append(copy_context())
        messages.append(weakref.ref(event))

    bus.register_event_handler(Asked, handle)
    await bus.publish(Asked())
    await bus.publish(Asked(), await_processing=False)
    await bus.wait_for_events()
    await asyncio.sleep(0)
    gc.collect()

    assert len(contexts) == 2
    assert [message() for message in messages] == [None, None]


async def test_handlers_see_the_publishers_context_and_keep_theirs_to_themselves(bus: MessageBus) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []

    async def handle(_: Asked) -> None:
        seen.append(request.get())
        token = request.set("handler's")
        await asyncio.sleep(0)
        request.reset(token)
        request.set("left behind")

    bus.register_event_handler(Asked, handle)
    bus.register_event_handler(Asked, handle)
    request.set("first")
    await bus.publish(Asked(), await_processing=False)
    request.set("second")
    await bus.publish(Asked(), await_processing=False)
    await bus.publish(Asked())

    assert seen == ["first", "first", "second", "second", "second", "second"]
    assert bus.event_handler_errors == []
    assert request.get() == "second"
