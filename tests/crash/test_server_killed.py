"""A PostgreSQL server that is killed under a running bus, and comes back: the bus goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from postgres_server import PostgresServer, UnavailableError

from llmgine.bus import release, scheduling

from .application import FAR, Application, Noted, running, until


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that nobody else uses."""
    try:
        server = PostgresServer()
    except UnavailableError as error:
        pytest.skip(str(error))
    yield server
    server.close()


def kill(server: PostgresServer, number: signal.Signals) -> None:
    """Kill a server as it stands: with SIGQUIT all of it, with SIGKILL the process that the others belong to."""
    folder = parse_qs(urlsplit(server.url).query)["host"][0]
    process = Path(folder, "data", "postmaster.pid").read_text().split()[0]
    os.kill(int(process), number)
    server.stop()  # which sees that it has ended


def start(server: PostgresServer) -> None:
    """Start a server that has been killed, whose other processes may not have noticed that yet."""
    deadline = time.monotonic() + 20
    while True:
        try:
            server.start()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


async def works_without(application: Application, outage: int) -> None:
    """See that a bus goes on while its database is away."""
    await application.remind(f"meanwhile {outage}", 0.05)
    await application.remind(f"later {outage}", FAR)
    assert "dead_letter_error" in (await application.fail()).metadata
    await application.bus.publish(Noted(f"at once {outage}"))
    await until(lambda: {f"meanwhile {outage}", f"at once {outage}"} <= {*application.handled})
    stats = await application.stats()
    assert (stats["available"], stats["outages"]) == (False, outage)


async def works_again(application: Application, outage: int) -> None:
    """See that it finds out when its database is back, and writes what it could not."""
    await until(lambda: not application.bus._open_scheduler().unsaved)
    assert (await application.stats())["available"] is True
    assert "dead_letter_error" not in (await application.fail()).metadata
    await application.remind(f"after {outage}", 0.02)
    await until(lambda: f"after {outage}" in application.handled)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT], ids=lambda number: number.name)
async def test_a_server_that_is_killed_under_a_bus_stops_nothing_and_loses_nothing(
    number: signal.Signals,
    server: PostgresServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_FIRST_RETRY", 0.1)
    monkeypatch.setattr(release, "LOOK_EVERY", 0.2)

    async with running(server.url) as application:
        bus, door = application.bus, asyncio.Event()
        application.doors["under way"] = door
        await application.remind("under way", session="slow")
        await until(lambda: bus._open_scheduler().under_way)
        await application.remind("before", FAR)
        assert "dead_letter_error" not in (await application.fail()).metadata

        for outage in (1, 2):
            await asyncio.to_thread(kill, server, number)
            await works_without(application, outage)
            door.set()
            await until(lambda: "under way" in application.handled)
            await asyncio.to_thread(start, server)
            await works_again(application, outage)

        assert await application.held() == ["before", "later 1", "later 2"]
        assert bus.dead_letters is not None
        assert len(await bus.dead_letters.entries()) == 5
        await until(lambda: not bus._open_scheduler().under_way)

    assert sorted(application.handled) == sorted(
        ["under way", *(f"{name} {n}" for n in (1, 2) for name in ("meanwhile", "at once", "after"))]
    )
    told = ["cannot be reached" in line or "can be reached again" in line for line in caplog.messages]
    assert told == [True] * 4, "an outage is one line, and its end another"
    async with running(server.url) as application:
        assert await application.held() == ["before", "later 1", "later 2"]
