"""The thread that does the work: together where it can, one by one where it must, and in every life of a process."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, column, event, insert, table, text
from sqlalchemy.exc import IntegrityError

from llmgine.database.worker import Insert, Worker
from llmgine.errors import StoreError

ADD = insert(table("t", column("n")))


def prepare(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (n INTEGER UNIQUE)")
    connection.commit()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def worker(file: Path) -> Iterator[Worker]:
    worker = Worker(f"sqlite:///{file}?timeout=0.2", prepare)
    yield worker
    worker.close()


def numbers(file: Path) -> list[int]:
    with closing(sqlite3.connect(file)) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY rowid")]


def put(n: int) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})
        return n

    return work


@contextmanager
def busy(worker: Worker) -> Iterator[None]:
    """Keep the thread busy, so that what is submitted has to wait."""
    begun, go = threading.Event(), threading.Event()

    def occupy(_: Connection) -> None:
        begun.set()
        go.wait(10)

    job = worker.submit(occupy, reads=True)
    begun.wait(10)
    yield
    go.set()
    job.result(10)


class Statements:
    def __init__(self) -> None:
        self.executed: list[tuple[str, bool]] = []
        self.commits = 0

    @contextmanager
    def counted(self) -> Iterator[Statements]:
        event.listen(Engine, "before_cursor_execute", self._execute)
        event.listen(Engine, "commit", self._commit)
        yield self
        event.remove(Engine, "before_cursor_execute", self._execute)
        event.remove(Engine, "commit", self._commit)

    def _execute(self, _c: Any, _cu: Any, statement: str, _p: Any, _x: Any, many: bool) -> None:
        if not statement.startswith("BEGIN"):
            self.executed.append((statement, many))

    def _commit(self, _: Any) -> None:
        self.commits += 1


def test_what_waits_shares_a_commit_and_keeps_its_order(worker: Worker, file: Path) -> None:
    with Statements().counted() as statements:
        with busy(worker):
            jobs = [worker.submit(put(n)) for n in range(50)]
            statements.commits = 0
        assert [job.result(10) for job in jobs] == list(range(50))
    assert statements.commits == 2  # that of the job that kept it busy, and theirs
    assert numbers(file) == list(range(50))


def test_rows_for_one_table_are_inserted_together(worker: Worker, file: Path) -> None:
    with Statements().counted() as statements:
        with busy(worker):
            jobs = [worker.submit(Insert(ADD, [{"n": 3 * n}, {"n": 3 * n + 1}])) for n in range(20)]
            between = worker.submit(put(100))
            jobs += [worker.submit(Insert(ADD, [{"n": 200}]))]
        assert [job.result(10) for job in jobs] == [None] * 21
        between.result(10)
    assert [many for statement, many in statements.executed if statement.startswith("INSERT")] == [True, False, False]
    assert numbers(file)[-3:] == [58, 100, 200]


def test_one_that_fails_fails_alone(worker: Worker, file: Path) -> None:
    def refuse(connection: Connection) -> None:
        put(1000)(connection)
        raise LookupError

    with busy(worker):
        good = [worker.submit(put(n)) for n in range(3)]
        twice = worker.submit(Insert(ADD, [{"n": 50}, {"n": 1}]))
        wrong = worker.submit(refuse)
        good += [worker.submit(put(n)) for n in range(3, 6)]

    assert [job.result(10) for job in good] == list(range(6))
    error = twice.exception(10)
    assert isinstance(error, StoreError)
    assert isinstance(error.__cause__, IntegrityError)
    assert isinstance(wrong.exception(10), LookupError)
    assert numbers(file) == list(range(6))
    assert worker.health.outages == 0


async def test_a_cancelled_caller_leaves_nothing_half_done(worker: Worker, file: Path) -> None:
    with busy(worker):
        task = asyncio.create_task(worker.run(put(1)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await worker.run(put(2))
    assert numbers(file) == [1, 2]


def test_every_event_loop_may_use_it(worker: Worker, file: Path) -> None:
    async def several(first: int) -> None:
        await asyncio.gather(*(worker.run(put(n)) for n in range(first, first + 20)))

    threads = [threading.Thread(target=lambda first=first: asyncio.run(several(first))) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(file)) == [*range(20), *range(100, 120), *range(200, 220)]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmgine-database"]


async def test_the_thread_comes_with_the_first_job_and_goes_when_it_is_closed(worker: Worker, file: Path) -> None:
    before = len(threads())
    worker.close()
    assert len(threads()) == before

    with busy(worker):
        waiting = worker.submit(put(1))
        assert len(threads()) == before + 1
    await worker.aclose()
    assert waiting.done()
    assert len(threads()) == before
    assert not file.with_name("bus.db-wal").exists()  # the connection is closed

    assert await worker.run(put(2)) == 2
    worker.close()
    assert len(threads()) == before
    assert numbers(file) == [1, 2]


def test_while_somebody_else_writes_reading_goes_on(worker: Worker, file: Path, caplog: Any) -> None:
    worker.submit(put(1)).result(10)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(StoreError, match="locked"):
                worker.submit(put(2)).result(10)
            count = worker.submit(lambda connection: connection.scalar(text("SELECT count(*) FROM t")), reads=True)
            assert count.result(10) == 1
        assert worker.health.stats() == {"url": worker._url, "available": False, "outages": 1}
    worker.submit(put(3)).result(10)

    assert worker.health.stats()["available"] is True
    assert [record.getMessage().split(" ", 3)[3].split(":")[0] for record in caplog.records] == [
        "cannot be reached",
        "can be reached again",
    ]
    assert numbers(file) == [1, 3]


def test_all_that_wait_learn_of_an_outage_at_once(worker: Worker, file: Path) -> None:
    worker.submit(put(1)).result(10)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with busy(worker):
            jobs = [worker.submit(put(n)) for n in range(2, 100)]
        began = time.monotonic()
        assert all(isinstance(job.exception(30), StoreError) for job in jobs)
        assert time.monotonic() - began < 10  # each after 0.2 s would take 20 s


def test_a_file_that_may_only_be_read_can_be_read(worker: Worker, file: Path) -> None:
    worker.submit(put(1)).result(10)
    worker.close()
    reader = Worker(f"sqlite:///file:{file}?mode=ro&uri=true", lambda _: None)
    try:
        count = reader.submit(lambda connection: connection.scalar(text("SELECT count(*) FROM t")), reads=True)
        assert count.result(10) == 1
        with pytest.raises(StoreError, match="readonly"):
            reader.submit(put(2)).result(10)
    finally:
        reader.close()
    assert numbers(file) == [1]


def test_a_full_disk_loses_nothing_that_was_accepted(worker: Worker, file: Path) -> None:
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 4")
        connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": 2})
        connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": "x" * 100_000})

    worker.submit(put(1)).result(10)
    with pytest.raises(StoreError, match="full"):
        worker.submit(fill).result(10)
    assert not worker.health.available
    assert worker.submit(put(3)).result(10) == 3  # there is room again
    assert worker.health.stats()["available"]
    assert numbers(file) == [1, 3]


def test_a_file_that_was_taken_away_is_made_anew(worker: Worker, file: Path) -> None:
    worker.submit(put(1)).result(10)
    for each in file.parent.iterdir():
        each.unlink()
    worker.submit(put(2)).result(10)
    assert numbers(file) == [2]


def test_a_folder_that_is_gone_is_an_outage_until_it_is_back(worker: Worker, file: Path) -> None:
    home = file.parent / "home"
    worker = Worker(f"sqlite:///{home / 'bus.db'}", prepare)
    for _ in range(3):
        with pytest.raises(StoreError, match="cannot be reached: unable to open"):
            worker.submit(put(1)).result(10)
    assert worker.health.outages == 1
    home.mkdir()
    worker.submit(put(2)).result(10)
    worker.close()
    assert numbers(home / "bus.db") == [2]


SETUP = """
import asyncio, glob, os, sys, time
from sqlalchemy import text
from llmgine.database.worker import Worker

def prepare(connection):
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (n INTEGER UNIQUE)")
    connection.commit()

def put(n, wait=0.0):
    def work(connection):
        connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})
        time.sleep(wait)
    return work

worker = Worker(f"sqlite:///{sys.argv[1]}", prepare)
"""


def run(script: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SETUP + script, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def test_what_waits_when_the_program_ends_is_done(file: Path) -> None:
    run("worker.submit(put(-1, 0.2))\nfor n in range(100): worker.submit(put(n))", file)
    assert numbers(file) == [*range(-1, 100)]
    assert not file.with_name("bus.db-wal").exists()


def test_a_child_begins_afresh_and_the_parent_goes_on(file: Path) -> None:
    script = """
worker.submit(put(1)).result()
worker.submit(put(2, 0.2))
waits = [worker.submit(put(n)) for n in range(10, 20)]  # of the parent alone
child = os.fork()
if not child:
    open_here = [os.readlink(each) for each in glob.glob("/proc/self/fd/*") if os.path.islink(each)]
    assert not [each for each in open_here if each.startswith(sys.argv[1])], open_here
    worker.submit(put(3)).result(10)
    asyncio.run(worker.run(put(4)))
    sys.exit()
worker.submit(put(5)).result(10)
assert os.waitpid(child, 0)[1] == 0
worker.submit(put(6)).result(10)
"""
    run(script, file)
    assert sorted(numbers(file)) == [1, 2, 3, 4, 5, 6, *range(10, 20)]


def test_a_child_that_never_uses_it_disturbs_nobody(file: Path) -> None:
    script = """
worker.submit(put(1)).result()
for _ in range(3):
    if not (child := os.fork()):
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
worker.submit(put(2)).result(10)
"""
    run(script, file)
    assert numbers(file) == [1, 2]
