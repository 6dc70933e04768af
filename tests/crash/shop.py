"""An application that is killed: it schedules, cancels, fails, tries again, and writes down what it was told."""

from __future__ import annotations

import asyncio
import random
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmgine import Command, MessageBus
from llmgine.bus import release
from llmgine.bus.resilience import Policy
from llmgine.database.stores import Database
from llmgine.database.tables import microseconds
from llmgine.messages import SessionID
from llmgine.messages.scheduled_events import ScheduledEvent

from .journal import Journal
from .steps import ASKED, TOLD, Step, Steps

FAR = timedelta(hours=1)
SLOW_S = 0.6
SESSIONS = 4

_works: ContextVar[bool] = ContextVar("works", default=False)
"""Whether what usually fails does not."""


def text_of(number: int) -> str:
    """Return what an event says, by its number, so that what comes back can be seen to be what was given."""
    return f"no. {number}: “{chr(0x1F600 + number % 50)}\t'\\{number:x}”"


@dataclass
class Due(ScheduledEvent):
    """Something that has to be done at its time."""

    number: int = 0
    text: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    takes: float = 0.0


@dataclass
class Beat(ScheduledEvent):
    """Comes again and again."""


@dataclass
class Charge(Command[str]):
    """Fails, unless it is tried again."""

    number: int = 0
    text: str = ""


class Shop:
    """One process of the application."""

    def __init__(self, journal: Journal, steps: Steps, database: Database, *, chance: random.Random) -> None:
        """Take what `main` is told."""
        self._journal = journal
        self._steps = steps
        self._random = chance
        self._awaited = ""
        self._begun = asyncio.Event()
        self._beats = 0
        self._number = 0
        self._failed = ""
        # What is a minute in earnest.
        release.LOOK_EVERY = 0.2
        self._database = database
        self._bus = MessageBus.isolated(
            database=self._database, policy=Policy(dead_letters=True), max_dead_letters=100_000
        )
        assert self._bus.dead_letters is not None
        self._letters = self._bus.dead_letters
        self._bus.register_event_handler(Due, self._handle)
        self._bus.register_event_handler(Beat, self._beat)
        self._bus.register_command_handler(Charge, self._charge)

    async def run(self, *, slow: bool, stuck: bool) -> None:
        """Work until somebody kills us; if something is `stuck`, until the bus has stopped all the same."""
        await self._bus.start()
        if slow or stuck:
            await self._publish(takes=1000 if stuck else SLOW_S)
        while True:
            await asyncio.gather(
                *(self._publish() for _ in range(4)), self._publish_and_cancel(), self._fail(), self._try_again()
            )
            if stuck:
                await self._begun.wait()
                await self._bus.stop(timeout=0.01)
                return
            await asyncio.sleep(0.01)

    async def open(self) -> None:
        """Use the database, so that its tables are made."""
        await self._letters.refresh()
        await self._database.aclose()

    async def schedule(self) -> None:
        """Begin what repeats."""
        await self._bus.start()
        await self._bus.schedule(Beat(session_id=SessionID("beats")), every=0.5, after=0.1)
        await self._bus.stop()

    async def drain(self) -> None:
        """See to all that is left to do, and write down what is left then."""
        await self._bus.start()
        while True:
            held = await self._database.schedule.list()  # also what is under way
            now = datetime.now(UTC)
            if self._beats >= 2 and not any(each.due <= now for each in held if each.recurrence is None):
                break
            await asyncio.sleep(0.05)
        letters = await self._letters.entries()
        await self._bus.stop()
        self._journal.write(
            "left",
            far=[each.id for each in held if each.recurrence is None and each.error is None],
            repeated=sum(each.recurrence is not None for each in held),
            letters={
                each.command.command_id: each.command.text == text_of(each.command.number)
                for each in letters
                if isinstance(each.command, Charge)
            },
        )

    async def _publish(self, *, far: bool = False, takes: float = 0.0) -> str:
        self._number += 1
        wait = FAR if far else timedelta(seconds=self._random.choice([-5, 0, 0.03, 0.1, 0.2]))
        due = datetime.now(UTC) + wait
        event = Due(
            number=self._number, text=text_of(self._number), more={"n": [self._number, None]}, takes=takes,
            session_id=SessionID(f"session {takes or self._random.randrange(SESSIONS)}"), scheduled_time=due,
        )  # fmt: skip
        if takes:
            self._awaited = event.event_id
        about = {"id": event.event_id, "due": microseconds(due)}
        self._journal.write("offered", **about)
        if takes or self._random.random() < 0.5:
            await self._bus.schedule(event, at=due)
            self._journal.write("kept", far=far, **about)
        else:
            await self._bus.publish(event)
            if datetime.now(UTC) < due:  # what is due when it is published is an event like any other
                self._journal.write("kept", far=far, **about)
        return event.event_id

    async def _publish_and_cancel(self) -> None:
        event_id = await self._publish(far=True)
        if self._random.random() < 0.5:
            self._journal.write("cancelling", id=event_id)
            count = await self._bus.cancel_scheduled(event_id)
            self._journal.write("cancelled", id=event_id, count=count)

    async def _fail(self) -> None:
        self._number += 1
        command = Charge(self._number, text_of(self._number))
        result = await self._bus.execute(command)
        self._journal.write("failed", id=command.command_id, written="dead_letter_error" not in result.metadata)
        self._failed = command.command_id

    async def _try_again(self) -> None:
        command_id, self._failed = self._failed, ""
        if not command_id:
            return
        self._journal.write("trying", id=command_id)
        token = _works.set(True)
        try:
            result = await self._letters.retry(command_id, self._bus.execute)
        finally:
            _works.reset(token)
        if result is not None and result.success:
            self._journal.write("succeeded", id=command_id)

    async def _handle(self, event: Due) -> None:
        self._steps.at("handler", ASKED)
        if event.takes and event.event_id == self._awaited:
            self._begun.set()
            await asyncio.sleep(event.takes)
        intact = event.text == text_of(event.number) and event.more == {"n": [event.number, None]}
        self._journal.write("handled", id=event.event_id, due=microseconds(event.scheduled_time), intact=intact)
        self._steps.at("handler", TOLD)

    def _beat(self, event: Beat) -> None:
        self._beats += 1
        self._journal.write("beat", due=microseconds(event.scheduled_time))

    @staticmethod
    def _charge(command: Charge) -> str:
        if not _works.get():
            msg = "the bank does not answer"
            raise ConnectionError(msg)
        return command.text


def main(
    task: str,
    *,
    journal: str,
    child: int,
    url: str,
    schema: str,
    lease: float,
    seed: str,
    step: Step | None = None,
    nth: int = 1,
) -> None:
    """Do a task: "work" until we are killed, "schedule" what repeats, "drain" what there is, or only "open" it."""
    log = Journal(Path(journal), child)
    steps = Steps(log, step and (step[0], step[1]), nth)
    steps.install()
    steps.install_migration()
    database = Database(url, schema, lease=lease)
    shop = Shop(log, steps, database, chance=random.Random(seed))  # noqa: S311  # a test's
    if task == "work":
        asyncio.run(
            shop.run(slow=step is not None and step[0] == "renew", stuck=step is not None and step[0] == "release")
        )
    else:
        asyncio.run(getattr(shop, task)())
