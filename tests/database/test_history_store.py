"""Conversations survive the process, also one that is killed; a database that cannot be used says so."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmgine.database.history_store import DatabaseHistoryStore
from llmgine.errors import ConfigurationError, StoreError

USER = {"role": "user", "content": "hello \N{SNOWMAN}"}
ANSWER = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chat.db'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[DatabaseHistoryStore]:
    store = DatabaseHistoryStore(url)
    yield store
    await store.aclose()


async def test_messages_come_back_in_order_by_conversation(store: DatabaseHistoryStore) -> None:
    await store.append("a", [USER])
    await store.append("b", [USER])
    await store.append("a", [ANSWER, USER])

    assert await store.load("a") == [USER, ANSWER, USER]
    assert await store.load("b") == [USER]
    assert await store.load("nobody") == []

    await store.clear("a")
    assert await store.load("a") == []
    assert await store.load("b") == [USER]


async def test_another_process_sees_what_was_appended(store: DatabaseHistoryStore, url: str) -> None:
    await store.append("a", [USER])
    again = DatabaseHistoryStore(url)

    assert await again.load("a") == [USER]
    await again.aclose()


WRITER = """
import asyncio, sys
from llmgine.database.history_store import DatabaseHistoryStore

async def main():
    store = DatabaseHistoryStore(sys.argv[1])
    n = 0
    while True:
        await store.append("a", [{"n": n}, {"n": n + 1}])
        n += 2
        print(n, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("kill_after", [1, 3, 10])
async def test_a_killed_writer_loses_nothing_it_was_told_is_written(
    store: DatabaseHistoryStore, url: str, kill_after: int
) -> None:
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, url, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    written = [int(await writer.stdout.readline()) for _ in range(kill_after)][-1]
    writer.kill()
    await writer.wait()

    numbers = [message["n"] for message in await store.load("a")]
    assert numbers[:written] == list(range(written))
    assert len(numbers) % 2 == 0


async def test_a_cancelled_append_is_carried_out(store: DatabaseHistoryStore) -> None:
    await store.load("a")
    task = asyncio.create_task(store.append("a", [USER]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await store.load("a") == [USER]


async def test_many_writers_wait_for_each_other(store: DatabaseHistoryStore) -> None:
    await asyncio.gather(*(store.append("a", [{"n": n}]) for n in range(50)))

    assert sorted(message["n"] for message in await store.load("a")) == list(range(50))


@pytest.mark.parametrize("bad", ["nonsense", "unknown://x", "sqlite:///{folder}/missing/chat.db"])
async def test_a_database_that_cannot_be_used_is_one_clear_error(bad: str, tmp_path: Path) -> None:
    store = DatabaseHistoryStore(bad.format(folder=tmp_path))

    with pytest.raises((ConfigurationError, StoreError), match=r"not a usable database URL|cannot be reached"):
        await store.load("a")


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, and rather a lot of them" * 100)
    store = DatabaseHistoryStore(f"sqlite:///{path}")

    with pytest.raises(StoreError, match="not a database"):
        await store.append("a", [USER])
    assert path.read_text().startswith("my notes")
