"""aiopubsub: a hub that puts messages into one queue per async listener. It offers no way to wait for the listeners."""

from importlib import import_module
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counter
from contestants.message import Message

aiopubsub: Any = import_module("aiopubsub")

NO_COMMANDS = "no commands"
NO_WAITING = "no way to wait for the handlers"


def listener() -> Any:
    async def handle(key: Any, message: Message) -> None:  # noqa: ARG001  # the shape of a listener
        counter.handled += 1
        if counter.handled == counter.expected:
            counter.reached.set()

    return handle


class AioPubSub(Contestant):
    module = "aiopubsub"
    cannot = (
        left_out(NO_COMMANDS, "execute", "execute-built", "concurrency")
        | left_out(NO_WAITING, "publish", "fan-out", "growth", "sessions")
        | left_out("no log of events", "log")
    )

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:  # noqa: ARG002  # no commands
        hub = aiopubsub.Hub()
        self.published = 0
        self.publisher = aiopubsub.Publisher(hub, prefix=aiopubsub.Key("bench"))
        self.subscriber = aiopubsub.Subscriber(hub, "bench")
        for _ in range(handlers):
            self.subscriber.add_async_listener(aiopubsub.Key("bench", "pinged"), listener())

    async def queue(self, count: int) -> None:
        publish, key = self.publisher.publish, aiopubsub.Key("pinged")
        for n in range(count):
            publish(key, Message(n=n))
        self.published += count

    async def drain(self) -> None:
        await counter.reach(self.published)


contestant = AioPubSub
