"""What all tests share."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from postgres_server import PostgresServer, UnavailableError

from llmgine.bus import MessageBus
from llmgine.errors import ProviderUnavailableError
from llmgine.llm.providers.local import LocalProvider
from llmgine.llm.providers.model_store import fetch_weights

# A slow machine fails no property; where a change is judged, the examples are the same each time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# In the background, or under nohup, these are ignored, and what the tests start would inherit that.
for _signal in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)


if os.environ.get("LLMGINE_TEST_LOOP") == "uvloop":
    import uvloop

    def pytest_asyncio_loop_factories(config: object, item: object) -> dict[str, Callable[[], uvloop.Loop]]:
        """Run every asynchronous test on uvloop."""
        return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def bus() -> AsyncIterator[MessageBus]:
    """A bus of the test's own, running."""
    bus = MessageBus.isolated()
    await bus.start()
    yield bus
    await bus.stop()


@pytest.fixture(scope="session")
def weights() -> Path:
    """The file of the weights, from the user's cache or the package index."""
    try:
        with ThreadPoolExecutor(1) as elsewhere:  # a loop may be running here already
            return elsewhere.submit(lambda: asyncio.run(fetch_weights())).result()
    except ProviderUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def local_model(weights: Path) -> LocalProvider:
    """The provider with the embedded model."""
    return LocalProvider()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    try:
        server = PostgresServer()
    except UnavailableError as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of a PostgreSQL database. Who uses it, uses a schema of its own."""
    return postgres.url
