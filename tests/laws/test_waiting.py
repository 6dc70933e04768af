"""Laws 7, 8, 10: whatever handlers do to each other, all of it ends, and only what would never end is refused.

Generated programs run on a real bus and, in the same steps, on a model that knows every handler, every child task and
what each of them waits for. The model says before each waiting publish what must become of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from unittest.mock import patch

import pytest
from hypothesis import event as note
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.bus.waits import Waits
from llmgine.errors import DeadlockError
from llmgine.messages import Command, Event, SessionID

SESSIONS = [SessionID(name) for name in ("a", "b", "BUS")]
HANDLERS = 3
"""How many handlers each event has: two of one priority, and one that comes after them."""
TURNS = 3000
"""After so many turns of the loop, what has not ended hangs; the largest program needs a few hundred."""


# What a program is made of.


@dataclass(frozen=True)
class Sleep:
    turns: int


@dataclass(frozen=True)
class Publish:
    session: SessionID
    wait: bool
    scripts: tuple[Script, ...]
    """What each of its handlers does; the rest of them do nothing."""


@dataclass(frozen=True)
class Execute:
    script: Script


@dataclass(frozen=True)
class Together:
    branches: tuple[Script, ...]
    """Child tasks that are awaited together."""


Step: TypeAlias = Sleep | Publish | Execute | Together
Script: TypeAlias = tuple[Step, ...]


@st.composite
def programs(draw: st.DrawFn) -> list[Script]:
    """What callers from outside do, at the same time."""

    def upto(most: int) -> int:
        return draw(st.integers(0, most))

    def several(depth: int, least: int, most: int) -> tuple[Script, ...]:
        return tuple(script(depth) for _ in range(least + upto(most - least)))

    def script(depth: int) -> Script:
        return tuple(step(depth) for _ in range(1 + upto(2))) if depth else (Sleep(upto(3)),)

    def step(depth: int) -> Step:
        match upto(6):
            case 0:
                return Sleep(upto(3))
            case 1:
                return Execute(script(depth - 1))
            case 2:
                return Together(several(depth - 1, 1, 3))
            case _:
                wait = upto(4) > 0
                return Publish(SESSIONS[upto(len(SESSIONS) - 1)], wait, several(depth - 1, 1, HANDLERS))

    return list(several(3, 2, 4))


# The model.


@dataclass(eq=False)
class Delivery:
    session: SessionID
    publisher: Frame | None
    """Who waits for it."""
    nested: bool
    begun: bool = False
    handlers: list[Frame] = field(default_factory=list)
    ended: int = 0

    @property
    def over(self) -> bool:
        return self.ended == HANDLERS


@dataclass(eq=False)
class Frame:
    """A handler, a child task, or one of the callers from outside."""

    parent: Frame | None = None
    delivery: Delivery | None = None
    children: list[Frame] = field(default_factory=list)
    waits_for: Delivery | None = None
    over: bool = False

    def held(self) -> Iterator[Delivery]:
        """The deliveries that cannot end before this frame has."""
        if self.parent is not None:
            yield from self.parent.held()
        if self.delivery is not None:
            yield self.delivery
            if self.delivery.publisher is not None:
                yield from self.delivery.publisher.held()


@dataclass
class Asked(Event):
    delivery: Delivery | None = None
    scripts: tuple[Script, ...] = ()


@dataclass
class Do(Command[None]):
    frame: Frame | None = None
    script: Script = ()


class Run:
    """A program on a bus and on the model, step by step."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.current: dict[SessionID, Delivery] = {}
        self.queues: defaultdict[SessionID, list[Delivery]] = defaultdict(list)
        self.frames: list[Frame] = []
        self.last: Delivery | None = None
        """What was published in the last step, if that was to be delivered at once."""
        self.published = 0
        self.nested = 0
        self.refused = 0
        self.handled: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        for index, priority in enumerate((10, 10, 20)):
            bus.register_event_handler(Asked, self._handler(index), priority=priority)
        bus.register_command_handler(Do, self._do)

    def frame(self, **kwargs: Any) -> Frame:
        self.frames.append(Frame(**kwargs))
        return self.frames[-1]

    async def perform(self, script: Script, frame: Frame) -> None:
        for step in script:
            self.last = None
            match step:
                case Sleep(turns):
                    for _ in range(turns):
                        await asyncio.sleep(0)
                case Publish():
                    await self._publish(step, frame)
                case Execute(inner):
                    result = await self.bus.execute(Do(frame=frame, script=inner))
                    self._check(result.success, f"a command failed: {result.error}")
                case Together(branches):
                    frame.children = [self.frame(parent=frame) for _ in branches]
                    await asyncio.gather(*map(self.branch, branches, frame.children))
                    frame.children = []

    async def branch(self, script: Script, frame: Frame) -> None:
        await self.perform(script, frame)
        frame.over = True

    async def _publish(self, step: Publish, frame: Frame) -> None:
        held = list(frame.held())
        lane = self.current.get(step.session)
        nested = step.wait and lane is not None and lane in held
        must_be_refused = step.wait and not nested and lane is not None and self._reaches(lane, frame)
        delivery = Delivery(step.session, frame if step.wait else None, nested)
        event = Asked(session_id=step.session, delivery=delivery, scripts=step.scripts)
        if nested:
            self.last = delivery
            self.nested += 1
        elif not must_be_refused:
            self.queues[step.session].append(delivery)
        if step.wait:
            frame.waits_for = delivery
        try:
            await self.bus.publish(event, await_processing=step.wait)
        except DeadlockError as error:
            self._check(must_be_refused, f"{error} But it would have ended.")
            self._check_cycle(error, frame, held)
            self.refused += 1
        else:
            self._check(not must_be_refused, "a wait for itself was not refused")
            self._check(delivery.over or not step.wait, "publish returned before the handlers had ended")
            self.published += 1
        frame.waits_for = None

    def _handler(self, index: int) -> Any:
        async def handle(event: Asked) -> None:
            delivery = event.delivery
            assert delivery is not None
            if not delivery.begun:
                self._begin(delivery)
            self._check(index < 2 or delivery.ended == 2, "a group began before the one before it had ended")
            self.handled[event.event_id, index] += 1
            frame = self.frame(delivery=delivery)
            delivery.handlers.append(frame)
            if index < len(event.scripts):
                await self.perform(event.scripts[index], frame)
            frame.over = True
            delivery.ended += 1

        handle.__qualname__ = f"handle{index}"
        return handle

    def _begin(self, delivery: Delivery) -> None:
        delivery.begun = True
        if delivery.nested:
            self._check(self.last is delivery, "something happened before a nested event was delivered")
            return
        before = self.current.get(delivery.session)
        queue = self.queues[delivery.session]
        self._check(before is None or before.over, "two events of one session were delivered at a time")
        self._check(queue.pop(0) is delivery, "an event overtook another one of its session")
        self.current[delivery.session] = delivery

    async def _do(self, command: Do) -> None:
        assert command.frame is not None
        await self.perform(command.script, command.frame)

    def _reaches(self, start: Delivery, goal: Frame) -> bool:
        """Whether `start` cannot end before `goal` has."""
        seen: set[int] = set()
        look_at: list[Delivery | Frame] = [start]
        while look_at:
            node = look_at.pop()
            if node is goal:
                return True
            if node.over or id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, Frame):
                look_at += [*node.children, *([node.waits_for] if node.waits_for else [])]
            elif node.begun:
                look_at += node.handlers
            elif node.session in self.current:
                look_at.append(self.current[node.session])
        return False

    def _check_cycle(self, error: DeadlockError, frame: Frame, held: list[Delivery]) -> None:
        """Each session that the error names holds a delivery that waits for an event of the next."""
        self._check(error.cycle[0] == error.cycle[-1], "the cycle ends elsewhere")
        waits = {(holder.session, frame.waits_for.session) for holder in held if frame.waits_for}
        for other in self.frames:
            if not other.over and other.waits_for is not None and not other.waits_for.over:
                waits |= {(holder.session, other.waits_for.session) for holder in other.held()}
        links = set(zip(error.cycle, error.cycle[1:], strict=False))
        self._check(links <= waits, f"{error.cycle} is no cycle of {waits}")

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)


async def settled(tasks: list[asyncio.Task[None]], bus: MessageBus) -> bool:
    for _ in range(TURNS):
        if all(task.done() for task in tasks) and not bus.unfinished:
            return True
        await asyncio.sleep(0)
    return False


async def run(program: list[Script]) -> tuple[Run, bool]:
    bus = MessageBus.isolated()
    await bus.start()
    this = Run(bus)
    callers = [asyncio.create_task(this.branch(script, this.frame())) for script in program]
    ended = await settled(callers, bus)
    if ended:
        assert await asyncio.gather(*callers) == [None] * len(program)
        assert bus.event_handler_errors == []
    for caller in callers:
        caller.cancel()
    await bus.stop(timeout=None if ended else 0)
    await asyncio.wait(callers)
    return this, ended


def crossing(*path: str, by: str = "handler") -> Script:
    """A handler in the first session that waits for the second, whose handler waits for the third, and so on."""
    script: Script = ()
    for name in reversed(path):
        script = (Publish(SessionID(name), True, ((Sleep(2), *script),)),)
        if by == "command":
            script = (Execute(script),)
        elif by == "child":
            script = (Together((script,)),)
        elif by == "children":
            script = (Together(((Sleep(1),), script)),)
    return script


@settings(max_examples=150)
@given(programs())
@example([crossing("a", "b"), crossing("b", "a")])
@example([crossing("a", "b", by="children"), crossing("b", "c", by="command"), crossing("c", "a", by="child")])
@example([crossing("a", "b", "c"), crossing("c", "BUS", "a"), crossing("BUS", "b")])
def test_everything_ends_in_order_and_only_a_true_cycle_is_refused(program: list[Script]) -> None:
    this, ended = asyncio.run(run(program))
    note(f"refused: {min(this.refused, 2)}")
    note(f"nested: {min(this.nested, 2)}")

    assert this.wrong == []
    assert ended, "what would never end was not refused"
    assert set(this.handled.values()) <= {1}
    assert len(this.handled) == HANDLERS * this.published


@settings(max_examples=60)
@given(programs())
@example([crossing("a", "b"), crossing("b", "a")])
@example([crossing("a", "b", by="children"), crossing("b", "c", by="command"), crossing("c", "a", by="child")])
def test_what_is_refused_would_never_have_ended(program: list[Script]) -> None:
    """The same programs on a bus that refuses nothing: those with a refusal hang, the others end."""
    refusing, _ = asyncio.run(run(program))
    with patch.object(Waits, "refuse_cycle", lambda *_: None):
        _, ended = asyncio.run(run(program))
    note(f"refused: {min(refusing.refused, 2)}")

    assert ended == (refusing.refused == 0)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("by", ["handler", "command", "child", "children"])
def test_a_session_that_waits_for_itself_is_no_cycle(depth: int, by: str) -> None:
    this, ended = asyncio.run(run([crossing(*["a", "b"] * depth, by=by)]))

    assert (this.wrong, this.refused, ended) == ([], 0, True)
    assert this.nested == 2 * depth - 2
