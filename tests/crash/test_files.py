"""SQLite files in trouble: full disk, read-only, locked, damaged. Nothing is deleted, and the bus goes on."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from llmgine.bus import release, scheduling
from llmgine.errors import StoreError

from .application import FAR, Application, Noted, running, until

ROWS = "SELECT id, payload, type_name, version, recurrence FROM crash_scheduled_events ORDER BY id"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a second or a minute in earnest."""
    monkeypatch.setattr(scheduling, "_FIRST_RETRY", 0.1)
    monkeypatch.setattr(release, "LOOK_EVERY", 0.2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


def url_of(file: Path, **options: object) -> str:
    return f"sqlite:///{file}?" + "&".join(f"{name}={value}" for name, value in options.items())


def execute(file: Path, *statement: object) -> list[tuple[object, ...]]:
    """Do something to a database as somebody else would."""
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(*statement).fetchall()  # type: ignore[arg-type]


async def goes_on(application: Application, name: str) -> None:
    """See that the bus works though its database does not: what is due is delivered, what is not is kept in memory."""
    await application.bus.publish(Noted(f"{name}, at once"))
    await application.remind(f"{name}, soon", 0.02)
    await application.remind(f"{name}, far", FAR)
    assert "dead_letter_error" in (await application.fail()).metadata
    await until(lambda: {f"{name}, at once", f"{name}, soon"} <= {*application.handled})
    stats = await application.stats()
    assert (stats["available"], stats["outages"]) == (False, 1)


async def recovers(application: Application, name: str) -> None:
    """See that what could not be written is, once it can be."""
    await until(lambda: not application.bus._open_scheduler().unsaved)
    assert (await application.stats())["available"] is True
    assert f"{name}, far" in await application.held()
    assert "dead_letter_error" not in (await application.fail()).metadata
    assert application.bus.dead_letters is not None
    assert application.bus.dead_letters.unwritten == 0
    await application.remind("after", 0.02)
    await until(lambda: "after" in application.handled)
    assert sorted(application.handled) == sorted([f"{name}, at once", f"{name}, soon", "after"])


async def test_a_full_disk_stops_nothing_and_what_could_not_be_written_is_when_there_is_room(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pages = 1_000_000

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    async with running(url_of(file)) as application:
        await application.remind("before", FAR)
        event.listen(Engine, "connect", limit)
        try:
            pages = 1  # as many as there are
            await application.database.aclose()  # the next connection is told
            await goes_on(application, "full")
            assert "disk is full" in caplog.text
            pages = 1_000_000
            await recovers(application, "full")
        finally:
            event.remove(Engine, "connect", limit)
    assert len(caplog.messages) == 2
    assert len(execute(file, "SELECT id FROM crash_scheduled_events")) == 2


async def test_a_file_that_may_not_grow_stops_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same, told by the operating system."""
    async with running(url_of(file)) as application:
        await application.remind("before", FAR)
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, most[1]))
        try:
            await goes_on(application, "no room")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)
        await recovers(application, "no room")
    assert len(caplog.messages) == 2


async def test_a_database_that_somebody_has_locked_holds_nothing_up(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(url_of(file, timeout=0.05)) as application:
        await application.remind("before", FAR)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await goes_on(application, "locked")
            assert "locked" in caplog.text
            other.execute("ROLLBACK")
        await recovers(application, "locked")
    assert len(caplog.messages) == 2


@pytest.fixture
def of_somebody_else() -> Iterator[Path]:
    """A folder and a file in it, which we may make read-only: for root, who may do anything, we are somebody else."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        folder.chmod(0o777)
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    yield folder / "bus.db"
    os.seteuid(user)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_what_may_only_be_read_is_read_and_what_is_new_is_kept_in_memory(
    what: str, of_somebody_else: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = of_somebody_else
    async with running(url_of(file)) as application:
        await application.remind("before", FAR)
    owner = os.geteuid()
    os.seteuid(os.getuid())
    for path in [file.parent] if what == "folder" else [file]:
        os.chown(path, os.getuid(), os.getgid())
        path.chmod(0o555)
    os.seteuid(owner)

    async with running(url_of(file)) as application:
        await goes_on(application, "read-only")
        assert "readonly" in caplog.text or "unable to open" in caplog.text
        os.seteuid(os.getuid())
        for path in (
            file.parent,
            *file.parent.iterdir(),
        ):  # SQLite's other files have taken over what the first allowed
            path.chmod(0o777)
        os.seteuid(owner)
        await recovers(application, "read-only")
    assert len(caplog.messages) == 2
    assert len(execute(file, "SELECT id FROM crash_scheduled_events")) == 2


@pytest.mark.parametrize("damage", ["header", "middle", "truncated", "emptied of tables"])
async def test_a_damaged_file_is_a_clear_error_and_nothing_is_deleted(
    damage: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(url_of(file)) as application:
        for number in range(50):
            await application.remind(f"{number}", FAR)
    content = file.read_bytes()
    assert len(content) > 3 * 4096
    if damage == "header":
        content = b"My notes. " * 10 + content[100:]
    elif damage == "middle":
        content = content[:4096] + b"\xa5" * (len(content) - 4096)
    elif damage == "truncated":
        content = content[: len(content) // 2]
    file.write_bytes(content)
    if damage == "emptied of tables":
        execute(file, "DROP TABLE crash_dead_letters")
        execute(file, "DROP TABLE crash_scheduled_events")
        content = file.read_bytes()

    async with running(url_of(file)) as application:
        with pytest.raises(StoreError, match=r"not a database|malformed|no such table"):
            await application.bus.scheduled()
        await application.bus.publish(Noted("at once"))
        await application.remind("soon", 0.02)
        assert "dead_letter_error" in (await application.fail()).metadata
        await until(lambda: sorted(application.handled) == ["at once", "soon"])
    assert str(file) in caplog.text
    assert file.read_bytes() == content
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_row_that_cannot_be_read_is_kept_and_told_and_holds_up_no_other(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {
        "no JSON": "payload = '{oops'",
        "other JSON": "payload = '[1]'",
        "binary": "payload = x'00ff00'",
        "unknown": "type_name = 'gone.Away', event_type = 'Away'",
        "no event": "type_name = replace(type_name, 'Reminder', 'Charge')",
        "from the future": "version = 99",
        "no recurrence": "recurrence = 'now and then'",
    }
    async with running(url_of(file)) as application:
        for name in (*changes, "good"):
            await application.remind(name, FAR)
        ids = {name: each.id for name, each in zip((*changes, "good"), await application.bus.scheduled(), strict=True)}
    for name, change in changes.items():
        execute(file, f"UPDATE crash_scheduled_events SET {change} WHERE id = ?", (ids[name],))  # noqa: S608  # ours
    execute(file, "UPDATE crash_scheduled_events SET due_at = 0, claimable_at = 0")
    before = execute(file, ROWS)

    async with running(url_of(file)) as application:
        await until(lambda: application.handled == ["good"])
        application.early.clear()  # its time was changed behind its back
        await application.remind("new", 0.02)
        await until(lambda: application.handled == ["good", "new"])
        held = await application.bus.scheduled()
        assert {each.id for each in held} == {ids[name] for name in changes}
        assert all(each.event is None and each.error for each in held)
    after = execute(file, ROWS)
    assert after == [row for row in before if row[0] != ids["good"]]
    for name in changes:
        assert sum(ids[name] in line for line in caplog.messages) == 1
