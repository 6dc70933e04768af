"""Where a process is killed: at a named step, which it has reached and not passed.

Nothing of the product knows of this. In the process that is to die its functions are wrapped, and the wrapping kills.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeAlias

from sqlalchemy import Engine, event

from llmgine.bus.release import Release
from llmgine.bus.stores import Claim
from llmgine.database import access, worker
from llmgine.database.access import Access
from llmgine.database.dead_letter_store import DatabaseDeadLetterStore
from llmgine.database.link import Link
from llmgine.database.migrations import migrate
from llmgine.database.schedule_store import DatabaseScheduleStore
from llmgine.database.tables import microseconds
from llmgine.database.user_engine import UserEngine

from .journal import Journal

Step: TypeAlias = "tuple[str, str]"
"""What is done, and how far it has come."""

ASKED, MIDDLE, BEFORE, AFTER, TOLD = "asked", "in the middle", "before the commit", "after the commit", "told"
STAGES = (ASKED, BEFORE, AFTER, TOLD)
"""Of everything that is written."""

_OPERATIONS: dict[str, tuple[Any, str]] = {
    "add": (DatabaseScheduleStore, "add"),
    "claim": (DatabaseScheduleStore, "claim"),
    "renew": (DatabaseScheduleStore, "renew"),
    "settle": (DatabaseScheduleStore, "settle"),
    "release": (DatabaseScheduleStore, "release"),
    "cancel": (DatabaseScheduleStore, "cancel"),
    "letter": (DatabaseDeadLetterStore, "add"),
    "forget letter": (DatabaseDeadLetterStore, "remove"),
}


class Steps:
    """Kills this process when it reaches a step for the n-th time."""

    def __init__(self, journal: Journal, step: Step | None, nth: int = 1) -> None:
        """Kill at a step; at none if it is None."""
        self._journal = journal
        self._step = step
        self._left = nth
        self._operations: list[str] = []
        """What the transaction that is under way is about."""
        self._statements = 0
        """How many it has begun."""

    def at(self, operation: str, stage: str) -> None:
        """Note that a step has been reached."""
        if (operation, stage) != self._step:
            return
        self._left -= 1
        if not self._left:
            self.die()

    def die(self) -> None:
        """Kill this process."""
        self._journal.write("killed", step=self._step)
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # a thread that is not the main one may go on for a moment

    def install(self) -> None:
        """Watch whatever a bus does with its database."""
        operation: ContextVar[str] = ContextVar("operation", default="")
        marks: dict[int, tuple[object, str]] = {}

        for name, (owner, method) in _OPERATIONS.items():
            setattr(owner, method, self._watched(name, getattr(owner, method), operation))

        run = Access.run

        @wraps(run)
        async def marked(self_: Access, work: Any, **more: Any) -> Any:
            marks[id(work)] = work, operation.get()
            return await run(self_, work, **more)

        Access.run = marked  # type: ignore[method-assign,assignment]
        do = worker._do

        @wraps(do)
        def done(jobs: Any, connection: Any) -> Any:
            several = list(jobs)
            self._operations = [marks.get(id(job.work), (None, ""))[1] for job in several]
            if len(several) > 1:
                self._operations.append("batch")
            self._statements = 0
            results = do(several, connection)
            self._reach(BEFORE)
            return results

        worker._do = done
        transact = Link.transact

        @wraps(transact)
        def committed(self_: Link, *args: Any, **more: Any) -> Any:
            self._operations = []
            result = transact(self_, *args, **more)
            self._reach(AFTER)
            self._operations = []
            return result

        Link.transact = committed  # type: ignore[method-assign,assignment]

        @event.listens_for(Engine, "before_cursor_execute")
        def executed(*_: Any) -> None:
            self._statements += 1
            if self._statements == 2:
                self._reach(MIDDLE)

        begin = Release._begin

        @wraps(begin)
        def delivered(*args: Any) -> None:
            self.at("delivery", ASKED)
            begin(*args)

        Release._begin = delivered  # type: ignore[method-assign,assignment]

    def install_migration(self) -> None:
        """Watch how tables are made: statements that change something, and the commits."""

        @wraps(migrate)
        def migrated(*args: Any) -> None:
            event.listen(Engine, "before_cursor_execute", self._execute_step)
            event.listen(Engine, "commit", self._commit_step)
            migrate(*args)

        access.migrate = migrated  # type: ignore[attr-defined,assignment]

    def install_outbox(self) -> None:
        """Watch a relay."""
        run = UserEngine.run

        @wraps(run)
        async def watched(self_: UserEngine, work: Any) -> Any:
            name = getattr(work, "func", work).__name__

            def worked(connection: Any) -> Any:
                result = work(connection)
                self.at(name, BEFORE)
                return result

            self.at(name, ASKED)
            result = await run(self_, worked)
            if result is None or result:  # a claim of something
                self.at(name, TOLD)
            return result

        UserEngine.run = watched  # type: ignore[method-assign,assignment]

    def _execute_step(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith(("CREATE", "INSERT")):
            self.at("migration", "statement")

    def _commit_step(self, _: object) -> None:
        self.at("migration", BEFORE)

    def _watched(self, name: str, method: Callable[..., Any], operation: ContextVar[str]) -> Callable[..., Any]:
        @wraps(method)
        async def watched(*args: Any, **more: Any) -> Any:
            self.at(name, ASKED)
            if name == "release":
                self._journal.write("releasing", ids=_once(args[1]))
            token = operation.set(name)
            try:
                result = await method(*args, **more)
            finally:
                operation.reset(token)
            if name == "claim" and result:
                self._journal.write("claimed", ids=_once(result), now=microseconds(args[1]))
            if name != "claim" or result:
                self.at(name, TOLD)
            if name == "settle":
                self._journal.write("settled", ids=_once(args[1]))
            return result

        return watched

    def _reach(self, stage: str) -> None:
        for operation in self._operations:
            self.at(operation, stage)


def _once(claims: Sequence[Claim]) -> list[str]:
    """Return the ids of events that come once."""
    return [claim.held.id for claim in claims if claim.held.recurrence is None]
