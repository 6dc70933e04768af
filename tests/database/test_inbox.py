"""The inbox: of each message, one transaction that is committed sees it as new, for a stated time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from llmgine.database.inbox import Inbox
from llmgine.errors import ConfigurationError
from llmgine.messages import Event

from .conftest import Clock, Place, made


def url_of(place: Place) -> str:
    if place.is_sqlite:
        return place.url
    place.do(lambda connection: connection.exec_driver_sql(f"CREATE SCHEMA {place.schema}"))
    url = place.url.replace("postgresql://", "postgresql+psycopg://")
    return url + ("&" if "?" in url else "?") + f"options=-csearch_path%3D{place.schema}"


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Engine]:
    with made(request.param, request, clock) as place:
        engine = create_engine(url_of(place))
        with engine.begin() as connection:
            Inbox.create_tables(connection)
            Inbox.create_tables(connection)  # which are there then
        yield engine
        engine.dispose()


@pytest.fixture
def inbox(clock: Clock) -> Inbox:
    return Inbox(keep=60.0, clock=clock)


def accept(engine: Engine, inbox: Inbox, message: Event | str, consumer: str = "default") -> bool:
    with Session(engine) as session, session.begin():
        return inbox.accept(session, message, consumer)


def test_a_message_is_accepted_once_by_each_consumer(engine: Engine, inbox: Inbox) -> None:
    event = Event()
    assert accept(engine, inbox, event, "billing")
    assert not accept(engine, inbox, event, "billing")
    assert not accept(engine, inbox, event.event_id, "billing")
    assert accept(engine, inbox, event, "shipping")
    assert accept(engine, inbox, Event(), "billing")


def test_what_is_rolled_back_was_not_accepted(engine: Engine, inbox: Inbox) -> None:
    with Session(engine) as session:
        assert inbox.accept(session, "1")
        assert not inbox.accept(session, "1")
        session.rollback()
    assert accept(engine, inbox, "1")


def test_connections_and_scoped_sessions_accept_too(engine: Engine, inbox: Inbox) -> None:
    with engine.begin() as connection:
        assert inbox.accept(connection, "1")
    scoped = scoped_session(sessionmaker(engine))
    assert not inbox.accept(scoped, "1")
    scoped.remove()


def test_a_repetition_is_new_again_when_its_time_has_passed(engine: Engine, inbox: Inbox, clock: Clock) -> None:
    assert accept(engine, inbox, "1")
    clock.advance(59.9)
    assert not accept(engine, inbox, "1")
    clock.advance(0.1)
    assert accept(engine, inbox, "1")
    assert not accept(engine, inbox, "1")


@pytest.mark.parametrize("commits", [True, False])
def test_of_two_transactions_at_once_one_accepts(engine: Engine, inbox: Inbox, commits: bool) -> None:
    began = threading.Event()

    def second() -> bool:
        began.set()
        return accept(engine, inbox, "1")

    with ThreadPoolExecutor(1) as pool, Session(engine) as session:
        assert inbox.accept(session, "1")
        other = pool.submit(second)
        began.wait()
        with pytest.raises(TimeoutError):  # it waits for us
            other.result(0.2)
        if commits:
            session.commit()
        else:
            session.rollback()
        assert other.result(10) is not commits


def test_of_many_transactions_at_once_one_accepts(engine: Engine, inbox: Inbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            accepted = list(pool.map(partial(accept, engine, inbox), [str(number)] * 8))
            assert accepted.count(True) == 1


def test_what_has_expired_is_removed_a_little_at_a_time(engine: Engine, inbox: Inbox, clock: Clock) -> None:
    def rows() -> int:
        with engine.begin() as connection:
            return connection.scalar(text("SELECT count(*) FROM llmgine_inbox")) or 0

    with Session(engine) as session, session.begin():
        for number in range(250):
            inbox.accept(session, str(number))
    clock.advance(30)
    accept(engine, inbox, "young")
    clock.advance(30)
    for number in range(60):
        accept(engine, inbox, f"new {number}")
    assert rows() == 250 - 200 + 1 + 60
    for number in range(100):
        accept(engine, inbox, f"newer {number}")
    assert rows() == 1 + 160
    assert not accept(engine, inbox, "new 0")


async def test_asynchronous_sessions_accept_too(tmp_path: Path, inbox: Inbox) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asynchronous engines need greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(Inbox.create_tables)
        assert await inbox.accept_async(connection, "0")

    async def once() -> bool:
        async with AsyncSession(engine) as session, session.begin():
            return await inbox.accept_async(session, "1", consumer="billing")

    assert sorted(await asyncio.gather(once(), once(), once())) == [False, False, True]
    await engine.dispose()


def test_options_and_databases_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="keep"):
        Inbox(keep=0)
