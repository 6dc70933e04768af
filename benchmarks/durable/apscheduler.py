"""APScheduler 3 with its SQLAlchemy job store: a job is added in a transaction of its own, on the event loop."""

from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from contestants.contestant import left_out
from contestants.counter import counter, signalling_handler

from durable import sqlite
from durable.contestant import Durable

asyncio_scheduler: Any = import_module("apscheduler.schedulers.asyncio")
sqlalchemy_store: Any = import_module("apscheduler.jobstores.sqlalchemy")


class APScheduler(Durable):
    cannot = left_out("schedules, and nothing else", "policies", "event-log", "dead-letter", "outbox") | left_out(
        "each job is committed alone", "schedule-gathered", "schedule-tasks"
    )

    def begin(self, folder: Path) -> None:
        self.path = folder / "apscheduler.db"
        store = sqlalchemy_store.SQLAlchemyJobStore(engine=sqlite.engine(self.path))
        self.scheduler = asyncio_scheduler.AsyncIOScheduler(jobstores={"default": store}, timezone=UTC)

    async def open_schedule(self, folder: Path) -> None:
        self.begin(folder)
        self.scheduler.start()

    async def store(self, count: int, tasks: int) -> None:  # noqa: ARG002  # they would not share a commit
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        for n in range(count):
            self.add(n, tomorrow)

    def add(self, n: int, when: datetime) -> None:
        self.scheduler.add_job(signalling_handler, "date", run_date=when, args=(n,), misfire_grace_time=None)

    def stored(self) -> int:
        return sqlite.count(self.path, "apscheduler_jobs")

    async def fill(self, folder: Path, count: int) -> None:
        self.begin(folder)
        self.scheduler.start(paused=True)
        await self.store(1, 1)
        sqlite.copy(self.path, "apscheduler_jobs", count - 1)
        self.add(0, datetime.now(UTC))
        self.scheduler.shutdown()
        self.begin(folder)

    async def start_filled(self) -> None:
        self.scheduler.start()
        await counter.reach(1)


contestant = APScheduler
