"""blinker: signals, whose async receivers `send_async` awaits one after another. A sender stands for a session."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counter
from contestants.message import Message

blinker: Any = import_module("blinker")

NO_COMMANDS = "no commands"
NO_QUEUE = "no queue: the publisher waits for the handlers"
SENDER = "bus"


def receiver() -> Any:
    async def handle(sender: str, message: Message) -> None:  # noqa: ARG001  # the shape of a receiver
        counter.handled += 1

    return handle


class Blinker(Contestant):
    module = "blinker"
    cannot = (
        left_out(NO_COMMANDS, "execute", "execute-built", "concurrency")
        | left_out(NO_QUEUE, "burst", "queued-memory", "idle")
        | left_out("no log of events", "log")
    )

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:  # noqa: ARG002  # no commands
        self.pinged = blinker.Signal()
        self.in_session = blinker.Signal()
        self.session_receiver = receiver()
        self.receivers = [receiver() for _ in range(handlers)]  # a signal holds them weakly
        for handle in self.receivers:
            self.pinged.connect(handle)

    async def publish(self, count: int) -> None:
        send = self.pinged.send_async
        for n in range(count):
            await send(SENDER, message=Message(n=n))

    async def register_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            self.in_session.connect(self.session_receiver, sender=session)

    async def publish_in(self, sessions: Sequence[str], count: int) -> None:
        send = self.in_session.send_async
        for n in range(count):
            await send(sessions[n % len(sessions)], message=Message(n=n))

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            self.in_session.disconnect(self.session_receiver, sender=session)


contestant = Blinker
