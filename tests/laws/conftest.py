"""What the property tests share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

TURNS = 3000


@pytest.fixture(scope="session")
def run_to_end() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine on a loop of its own; what has not ended after some turns of that loop hangs."""

    async def within_budget(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        for _ in range(TURNS):
            if task.done():
                return await task
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        pytest.fail("it hangs")

    return lambda work: asyncio.run(within_budget(work))


@pytest.fixture(scope="module")
def quiet() -> Iterator[None]:
    """Nothing is logged: where hundreds of failures are meant, writing them down takes longer than all the rest."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
