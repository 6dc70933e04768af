"""The outbox: committed means delivered, rolled back means never seen, whoever is killed when."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from llmgine.bus import MessageBus
from llmgine.database.outbox import Outbox, outbox_metadata
from llmgine.database.outbox_table import OutboxTable
from llmgine.errors import CodecError, ConfigurationError, StoreError
from llmgine.messages import Event, SessionID

from .conftest import Clock, made


@dataclass
class OrderPlaced(Event):
    order: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class OrderNoticed(Event):
    order: str = ""


def order(number: object, session: str = "shop") -> OrderPlaced:
    return OrderPlaced(order=str(number), session_id=SessionID(session))


def begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def file_engine(folder: Path) -> Engine:
    """One with transactions as SQLAlchemy recommends them for SQLite: otherwise the driver commits at savepoints."""
    engine = create_engine(f"sqlite:///{folder / 'shop.db'}", connect_args={"timeout": 20, "isolation_level": None})
    sqlalchemy_event.listen(engine, "begin", begin)
    return engine


@dataclass
class Shop:
    """An application with a database of its own."""

    engine: Any
    """Of either kind."""
    plain: Engine
    """For the test itself."""
    bus: MessageBus
    seen: list[Event] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def outbox(self, bus: MessageBus | None = None, **options: Any) -> Outbox:
        return Outbox(bus or self.bus, self.engine, **options)

    async def transact(self, work: Callable[[Any], None]) -> None:
        """Do work in a transaction of the application."""
        if isinstance(self.engine, Engine):
            with Session(self.engine) as session, session.begin():
                work(session)
            return
        from sqlalchemy.ext.asyncio import AsyncSession

        async with AsyncSession(self.engine) as opened, opened.begin():
            work(opened)

    async def publish(self, outbox: Outbox, *events: Event) -> None:
        """Publish events in one transaction, and commit it."""

        def work(session: Any) -> None:
            for event in events:
                outbox.publish(session, event)

        await self.transact(work)

    def execute(self, statement: str, value: object = None) -> list[Any]:
        with self.plain.begin() as connection:
            result = connection.execute(text(statement), {"value": value})
            return list(result.all()) if result.returns_rows else []

    @property
    def orders(self) -> list[str]:
        return [event.order for event in self.seen if isinstance(event, OrderPlaced)]

    def note(self, event: Event) -> None:
        self.seen.append(event)
        self.arrived.set()

    async def until(self, count: int) -> list[str]:
        """Wait until so many events have been seen, and the outbox is empty."""
        async with asyncio.timeout(20):
            while len(self.seen) < count or self.execute("SELECT 1 FROM llmgine_outbox WHERE error IS NULL"):
                self.arrived.clear()
                with_timeout = asyncio.wait_for(self.arrived.wait(), 0.05)
                await asyncio.gather(with_timeout, return_exceptions=True)
        return self.orders


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, clock: Clock, bus: MessageBus) -> AsyncGenerator[Shop]:
    kind, _, is_async = request.param.partition(" ")
    with made(kind, request, clock) as place:
        if kind == "sqlite":
            plain = file_engine(Path(place.url.removeprefix("sqlite:///")).parent)
            async_url = f"sqlite+aiosqlite:///{plain.url.database}"
        else:
            place.do(lambda connection: connection.exec_driver_sql(f"CREATE SCHEMA {place.schema}"))
            async_url = place.url.replace("postgresql://", "postgresql+psycopg://")
            async_url += ("&" if "?" in async_url else "?") + f"options=-csearch_path%3D{place.schema}"
            plain = create_engine(async_url)
        outbox_metadata.create_all(plain)
        shop = Shop(plain, plain, bus)
        if is_async:
            from sqlalchemy.ext.asyncio import create_async_engine

            shop.engine = create_async_engine(async_url)
        bus.register_event_handler(OrderPlaced, shop.note)
        yield shop
        plain.dispose()
        if is_async:
            await shop.engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
async def shop(request: pytest.FixtureRequest, clock: Clock, bus: MessageBus) -> AsyncIterator[Shop]:
    async with opened(request, clock, bus) as shop:
        yield shop


@pytest.fixture(params=["sqlite async", "postgres async"])
async def async_shop(request: pytest.FixtureRequest, clock: Clock, bus: MessageBus) -> AsyncIterator[Shop]:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asynchronous engines need greenlet")
    async with opened(request, clock, bus) as shop:
        yield shop


class TestTransactions:
    async def test_what_is_committed_is_delivered_and_what_is_rolled_back_is_not(self, shop: Shop) -> None:
        def fail(session: Any) -> None:
            outbox.publish(session, order("failed"))
            raise KeyError

        async with shop.outbox() as outbox:
            await shop.publish(outbox, order("1"))
            with pytest.raises(KeyError):
                await shop.transact(fail)
            await shop.publish(outbox, *(order(n) for n in ("2", "3")))
            assert await shop.until(3) == ["1", "2", "3"]
            assert outbox.stats() == {"delivered": 3, "unreadable": 0}
        assert shop.execute("SELECT * FROM llmgine_outbox") == []

    async def test_nothing_is_delivered_before_the_commit(self, shop: Shop) -> None:
        async with shop.outbox() as outbox:
            with Session(shop.engine) as session:
                outbox.publish(session, order("1"))
                outbox.look()
                await asyncio.sleep(0.05)
                assert shop.seen == []
                session.commit()
                await shop.until(1)
                outbox.publish(session, order("2"))  # once more, in the same session
                session.commit()
            assert await shop.until(2) == ["1", "2"]

    async def test_what_a_savepoint_took_back_is_not_published(self, shop: Shop) -> None:
        async with shop.outbox() as outbox:
            with Session(shop.engine) as session, session.begin():
                with session.begin_nested() as savepoint:
                    outbox.publish(session, order("taken back"))
                    savepoint.rollback()
                with session.begin_nested():
                    outbox.publish(session, order("kept"))
                await asyncio.sleep(0.05)
                assert shop.seen == []
            assert await shop.until(1) == ["kept"]

    async def test_connections_and_scoped_sessions_publish_too(self, shop: Shop) -> None:
        async with shop.outbox() as outbox:
            with shop.plain.begin() as connection:
                outbox.publish(connection, order("1"))
            outbox.look()
            await shop.until(1)
            scoped = scoped_session(sessionmaker(shop.plain))
            outbox.publish(scoped, order("2"))
            scoped.commit()
            scoped.remove()
            assert await shop.until(2) == ["1", "2"]

    async def test_an_event_keeps_its_identity_and_says_what_caused_it(self, shop: Shop) -> None:
        outbox = shop.outbox()
        noticed = asyncio.Event()
        kept: list[Event] = []

        async def notice(event: OrderPlaced) -> None:
            await shop.publish(outbox, OrderNoticed(order=event.order))

        def keep(event: OrderNoticed) -> None:
            kept.append(event)
            noticed.set()

        shop.bus.register_event_handler(OrderPlaced, notice)
        shop.bus.register_event_handler(OrderNoticed, keep)
        async with outbox, asyncio.timeout(20):
            first = order("1")
            await shop.publish(outbox, first)
            await noticed.wait()
        assert shop.seen[0].event_id == first.event_id
        assert (kept[0].causation_id, kept[0].correlation_id) == (first.event_id, first.correlation_id)

    async def test_what_is_published_is_what_the_event_was_then(self, shop: Shop) -> None:
        def publish(session: Any) -> None:
            placed = order("1")
            outbox.publish(session, placed)
            placed.order = "changed"

        async with shop.outbox() as outbox:
            await shop.transact(publish)
            assert await shop.until(1) == ["1"]

    async def test_what_cannot_be_stored_or_is_no_event_is_refused_at_once(self, shop: Shop) -> None:
        outbox = shop.outbox()
        with Session(shop.plain) as session:
            with pytest.raises(CodecError, match="notes"):
                outbox.publish(session, OrderPlaced(notes={"lock": asyncio.Lock()}))
            with pytest.raises(ConfigurationError, match="events"):
                outbox.publish(session, "order")  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match="Session"):
                outbox.publish(shop.engine, order("1"))
            assert not session.new
        with pytest.raises(ConfigurationError, match="lease"):
            shop.outbox(lease=0)
        with pytest.raises(ConfigurationError, match="Engine"):
            Outbox(shop.bus, object())  # type: ignore[arg-type]
        await outbox.stop()


class TestRelay:
    async def test_what_an_earlier_process_left_is_relayed_at_the_start(self, shop: Shop) -> None:
        await shop.publish(shop.outbox(), order("1"))
        async with shop.outbox():
            assert await shop.until(1) == ["1"]

    async def test_many_events_arrive_in_the_order_of_their_sessions(self, shop: Shop) -> None:
        async with shop.outbox() as outbox:
            for part in range(3):
                await shop.publish(outbox, *(order(part * 100 + n, f"s{n % 3}") for n in range(100)))
            await shop.until(300)
        for number in range(3):
            mine = [
                int(event.order)
                for event in shop.seen
                if isinstance(event, OrderPlaced) and event.session_id == f"s{number}"
            ]
            assert mine == sorted(mine)
            assert len(mine) in {99, 102}

    async def test_a_slow_session_holds_up_no_other(self, shop: Shop) -> None:
        go_on = asyncio.Event()

        async def slow(event: OrderPlaced) -> None:
            if event.session_id == "slow":
                await go_on.wait()

        shop.bus.register_event_handler(OrderPlaced, slow)
        async with shop.outbox() as outbox:
            await shop.publish(outbox, order("slow 1", "slow"))
            await shop.publish(outbox, order("slow 2", "slow"))
            await shop.publish(outbox, order("quick", "quick"))
            async with asyncio.timeout(20):
                while outbox.stats()["delivered"] < 1:
                    shop.arrived.clear()
                    await shop.arrived.wait()
                    await asyncio.sleep(0.01)
            assert sorted(shop.orders) == ["quick", "slow 1"]
            go_on.set()
            await shop.until(3)
            assert [each for each in shop.orders if each != "quick"] == ["slow 1", "slow 2"]

    async def test_two_processes_deliver_each_row_once_and_keep_the_order(self, shop: Shop) -> None:
        other = MessageBus.isolated()
        await other.start()
        other.register_event_handler(OrderPlaced, shop.note)
        async with shop.outbox() as one, shop.outbox(other) as two:
            for number in range(60):
                outbox = (one, two)[number % 2]
                await shop.publish(outbox, order(number, f"s{number % 4}"))
                two.look()
                one.look()
            await shop.until(60)
        await other.stop()
        assert sorted(map(int, shop.orders)) == list(range(60))
        for rest in range(4):
            mine = [int(each) for each in shop.orders if int(each) % 4 == rest]
            assert mine == sorted(mine)

    async def test_claims_come_one_after_another(self, shop: Shop) -> None:
        """Or else two processes could each have a part of one session."""
        await shop.publish(shop.outbox(), *(order(n) for n in range(3)))

        def claim(connection: Connection, name: str, limit: int) -> list[int]:
            return [row.position for row in OutboxTable.claim(connection, name, 1, 2, limit)]

        def claim_second() -> list[int]:
            with shop.plain.begin() as connection:
                return claim(connection, "second", 100)

        with shop.plain.connect() as connection:
            with connection.begin():
                assert claim(connection, "first", 1) == [1]
                second = asyncio.ensure_future(asyncio.to_thread(claim_second))
                await asyncio.wait((second,), timeout=0.2)
                assert not second.done()
            assert await second == []

    async def test_what_a_dead_process_has_claimed_goes_out_when_its_lease_ends(self, shop: Shop) -> None:
        await shop.publish(shop.outbox(), *(order(n) for n in range(3)))
        until = time.time_ns() // 1000 + 1_200_000
        shop.execute("UPDATE llmgine_outbox SET claim = 'dead', claimable_at = :value WHERE position = 1", until)
        async with shop.outbox() as outbox:
            await shop.publish(outbox, order("other", "other"))
            await asyncio.sleep(0.3)
            assert shop.orders == ["other"]  # the later rows of that session wait for the first
            assert (await shop.until(4))[1:] == ["0", "1", "2"]
            assert time.time_ns() // 1000 >= until

    async def test_what_takes_longer_than_the_lease_is_not_delivered_again(self, shop: Shop) -> None:
        async def slow(event: OrderPlaced) -> None:
            await asyncio.sleep(1.6)

        shop.bus.register_event_handler(OrderPlaced, slow)
        async with shop.outbox(lease=1.0) as one, shop.outbox(lease=1.0):
            await shop.publish(one, order("1"))
            assert await shop.until(1) == ["1"]
        assert shop.orders == ["1"]

    async def test_what_cannot_be_decoded_is_kept_and_told_and_gets_another_chance(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        await shop.publish(shop.outbox(), *(order(n) for n in range(3)))
        stored = shop.execute("SELECT type_name FROM llmgine_outbox WHERE position = 2")[0][0]
        shop.execute("UPDATE llmgine_outbox SET type_name = 'gone:Gone' WHERE position = 2")
        async with shop.outbox() as outbox:
            assert await shop.until(2) == ["0", "2"]
            assert outbox.stats()["unreadable"] == 1
        assert len([text for text in caplog.messages if "gone:Gone" in text]) == 1
        assert "gone:Gone" in shop.execute("SELECT error FROM llmgine_outbox")[0][0]
        shop.execute("UPDATE llmgine_outbox SET type_name = :value", stored)
        async with shop.outbox():
            assert await shop.until(3) == ["0", "2", "1"]

    async def test_a_bus_that_does_not_run_gets_nothing_until_it_does(self, shop: Shop) -> None:
        await shop.bus.stop()
        async with shop.outbox() as outbox:
            await shop.publish(outbox, order("1"))
            await asyncio.sleep(0.1)
            assert shop.seen == []
            await shop.bus.start()
            assert await shop.until(1) == ["1"]

    async def test_stopping_leaves_what_is_not_done_to_the_next(self, shop: Shop) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def endless(event: OrderPlaced) -> None:
            begun.set()
            await go_on.wait()

        shop.bus.register_event_handler(OrderPlaced, endless)
        outbox = shop.outbox()
        await outbox.start()
        await shop.publish(outbox, *(order(n) for n in range(3)))
        await begun.wait()
        await outbox.stop(timeout=0.05)
        go_on.set()
        await shop.bus.wait_for_events()
        assert len(shop.execute("SELECT * FROM llmgine_outbox")) == 3
        async with shop.outbox():  # at once: the leases were given back
            assert await shop.until(4) == ["0", "0", "1", "2"]

    async def test_a_handler_that_fails_is_the_business_of_the_bus(self, shop: Shop) -> None:
        def fail(event: OrderPlaced) -> None:
            raise KeyError(event.order)

        shop.bus.register_event_handler(OrderPlaced, fail)
        shop.bus.unsuppress_event_errors()
        async with shop.outbox() as outbox:
            await shop.publish(outbox, order("1"))
            assert await shop.until(1) == ["1"]

    async def test_a_database_that_is_away_is_told_once_and_tried_again(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def told() -> int:
            return len([text for text in caplog.messages if "cannot be relayed" in text])

        await shop.publish(shop.outbox(), order("1"))
        outbox = shop.outbox(create_tables=False)
        shop.execute("ALTER TABLE llmgine_outbox RENAME TO elsewhere")
        with pytest.raises(StoreError):
            await outbox.start()
        shop.execute("ALTER TABLE elsewhere RENAME TO llmgine_outbox")
        await outbox.start()
        await shop.until(1)
        shop.execute("ALTER TABLE llmgine_outbox RENAME TO elsewhere")
        outbox.look()
        while not told():  # noqa: ASYNC110  # a log record sets no event
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)  # it is tried again meanwhile, and not told again
        shop.execute("ALTER TABLE elsewhere RENAME TO llmgine_outbox")
        await shop.publish(outbox, order("2"))
        assert await shop.until(2) == ["1", "2"]
        await outbox.stop()
        assert told() == 1

    async def test_nothing_is_asked_while_nothing_waits(self, shop: Shop) -> None:
        statements: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        async with shop.outbox() as outbox:
            await shop.publish(outbox, order("1"))
            await shop.until(1)
            sqlalchemy_event.listen(shop.engine, "before_cursor_execute", note)
            for _ in range(5):  # what it still asks when it has delivered is over soon
                statements.clear()
                await asyncio.sleep(0.5)
                if not statements:
                    break
            assert statements == []

    async def test_asynchronous_engines_do_the_same(self, async_shop: Shop) -> None:
        from sqlalchemy.ext.asyncio import AsyncSession

        await async_shop.publish(async_shop.outbox(), *(order(n) for n in range(150)))
        async with async_shop.outbox() as outbox:
            async with AsyncSession(async_shop.engine) as session:
                outbox.publish(session, order("rolled back"))
                await session.flush()
                await session.rollback()
                outbox.publish(session, order(150))
                await session.commit()
            async with async_shop.engine.begin() as connection:
                await connection.run_sync(outbox.publish, order(151))
            outbox.look()
            assert await async_shop.until(152) == [str(number) for number in range(152)]

    async def test_an_asynchronous_url_will_do(self, async_shop: Shop) -> None:
        url = async_shop.engine.url.render_as_string(hide_password=False)
        async with Outbox(async_shop.bus, url) as outbox:
            await async_shop.publish(outbox, order("1"))
            assert await async_shop.until(1) == ["1"]

    async def test_a_url_will_do(self, tmp_path: Path, bus: MessageBus) -> None:
        engine = file_engine(tmp_path)
        shop = Shop(engine, engine, bus)
        bus.register_event_handler(OrderPlaced, shop.note)
        async with Outbox(bus, f"sqlite:///{tmp_path / 'shop.db'}") as outbox:
            await shop.publish(outbox, order("1"))
            assert await shop.until(1) == ["1"]
        engine.dispose()


STEPS = st.lists(
    st.tuples(
        st.booleans(),  # whether the transaction is committed
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["plain", "savepoint", "taken back"])), max_size=4),
    ),
    max_size=6,
)


@given(transactions=STEPS)
@settings(max_examples=25)
def test_what_is_delivered_is_what_was_committed_in_the_order_of_each_session(
    transactions: Sequence[tuple[bool, Sequence[tuple[str, str]]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        bus = MessageBus.isolated()
        await bus.start()
        engine = file_engine(tmp_path_factory.mktemp("shop"))
        outbox_metadata.create_all(engine)
        shop = Shop(engine, engine, bus)
        bus.register_event_handler(OrderPlaced, shop.note)
        expected: dict[str, list[str]] = {}
        number = 0
        async with shop.outbox() as outbox:
            for commits, events in transactions:
                with Session(engine) as session:
                    for name, way in events:
                        number += 1
                        if way == "plain":
                            outbox.publish(session, order(number, name))
                        else:
                            with session.begin_nested() as savepoint:
                                outbox.publish(session, order(number, name))
                                if way == "taken back":
                                    savepoint.rollback()
                        if commits and way != "taken back":
                            expected.setdefault(name, []).append(str(number))
                    if commits:
                        session.commit()
                    else:
                        session.rollback()
                await asyncio.sleep(0)
            await shop.until(sum(map(len, expected.values())))
        await bus.stop()
        engine.dispose()
        delivered: dict[str, list[str]] = {}
        for event in shop.seen:
            assert isinstance(event, OrderPlaced)
            delivered.setdefault(event.session_id, []).append(event.order)
        assert delivered == expected

    asyncio.run(run())


PROGRAM = """
import asyncio, os, signal, sys
from dataclasses import dataclass
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from llmgine.bus import MessageBus
from llmgine.database.inbox import Inbox
from llmgine.database.outbox import Outbox
from llmgine.database.outbox_table import OutboxTable
from llmgine.messages import Event

url, way, log = sys.argv[1:]
engine = create_engine(url)
inbox = Inbox()

@dataclass
class Sold(Event):
    order: int = 0

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def deliver(event):
    with Session(engine) as session, session.begin():
        is_new = inbox.accept(session, event)
        if is_new:
            session.execute(text("INSERT INTO billed VALUES (:number)"), {"number": event.order})
    with open(log, "a") as file:
        file.write(f"{event.event_id} {is_new}\\n")

async def main():
    bus = MessageBus.isolated()
    await bus.start()
    bus.register_event_handler(Sold, deliver)
    outbox = Outbox(bus, engine, lease=1.0)
    if way == "before the deletion":
        OutboxTable.remove = staticmethod(die)
    if way != "before the relay":
        await outbox.start()
    print("ready", flush=True)
    number = 0
    while way != "relay only":
        with Session(engine) as session, session.begin():
            number += 1
            session.execute(text("INSERT INTO sold VALUES (:number)"), {"number": number})
            outbox.publish(session, Sold(order=number))
            session.flush()
            if way == "before the commit":
                die()
        if way == "before the relay":
            die()
        await asyncio.sleep(0)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class TestKills:
    """In each case the process is killed, and another takes its place."""

    def _prepare(self, shop: Shop) -> str:
        with shop.plain.begin() as connection:
            OutboxTable.create(connection)
            from llmgine.database.inbox import Inbox

            Inbox.create_tables(connection)
            connection.execute(text("CREATE TABLE sold (number INTEGER)"))
            connection.execute(text("CREATE TABLE billed (number INTEGER)"))
        return shop.plain.url.render_as_string(hide_password=False)

    async def _run(self, *arguments: str, kill_after: float | None = None) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(30):
            if kill_after is not None:
                assert await process.stdout.readline() == b"ready\n", await process.stderr.read()
                await asyncio.sleep(kill_after)
                process.kill()
            output = await process.communicate()
        assert process.returncode == -signal.SIGKILL, output

    async def _catch_up(self, shop: Shop, url: str, log: Path) -> None:
        """Let another process relay what is left, until nothing is."""
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, url, "relay only", str(log))
        async with asyncio.timeout(30):
            while shop.execute("SELECT 1 FROM llmgine_outbox"):  # noqa: ASYNC110  # of another process
                await asyncio.sleep(0.05)
        process.kill()
        await process.wait()

    @pytest.mark.parametrize(
        ("way", "sold", "deliveries"),
        [("before the commit", 0, 0), ("before the relay", 1, 1), ("before the deletion", None, None)],
    )
    async def test_committed_is_delivered_and_billed_once(
        self, shop: Shop, tmp_path: Path, way: str, sold: int | None, deliveries: int | None
    ) -> None:
        url, log = self._prepare(shop), tmp_path / "log"
        log.touch()
        await self._run(url, way, str(log))
        before = Counter(line.split()[0] for line in log.read_text().splitlines())
        await self._catch_up(shop, url, log)
        numbers = sorted(row[0] for row in shop.execute("SELECT number FROM sold"))
        assert sorted(row[0] for row in shop.execute("SELECT number FROM billed")) == numbers
        lines = [line.split() for line in log.read_text().splitlines()]
        assert len({event_id for event_id, _ in lines}) == len(numbers)
        if sold is not None:
            assert (len(numbers), len(lines)) == (sold, deliveries)
        else:  # what had been delivered and not deleted is delivered again, and seen to be a repetition
            again = [event_id for event_id, is_new in lines if is_new == "False"]
            assert again
            assert set(again) == set(before)

    async def test_killed_at_any_time_nothing_is_lost_and_nothing_seen_that_was_not_committed(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        url, log = self._prepare(shop), tmp_path / "log"
        log.touch()
        for delay in (0.05, 0.3):
            await self._run(url, "at any time", str(log), kill_after=delay)
        await self._catch_up(shop, url, log)
        sold = sorted(row[0] for row in shop.execute("SELECT number FROM sold"))
        assert sold
        assert sorted(row[0] for row in shop.execute("SELECT number FROM billed")) == sold
        lines = [line.split() for line in log.read_text().splitlines()]
        assert len({event_id for event_id, _ in lines}) == len(sold)
        assert len(lines) - len(sold) <= 2 * 101  # at most what was under way when it was killed
