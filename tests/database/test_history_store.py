"""Conversations survive the process, also one that is killed; a database that cannot be used says so."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from llmgine.database.history_store import DatabaseHistoryStore
from llmgine.errors import ConfigurationError, ResourceConflictError, ResourceNotFoundError, StoreError
from llmgine.llm.context import ContextWindow, StoredChatHistory, Summarise, conversation_faults

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


def said(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "role": "user", "content": name} for name in names]


async def names(store: DatabaseHistoryStore, conversation: str) -> str:
    return " ".join(message["id"] for message in await store.load(conversation))


@pytest.fixture(params=["sqlite", "postgres"])
async def anywhere(request: pytest.FixtureRequest, url: str) -> AsyncIterator[DatabaseHistoryStore]:
    """A store in either database, with nothing in it."""
    store = DatabaseHistoryStore(url if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
    for conversation in await store.conversations():
        await store.clear(conversation.name)
    yield store
    await store.aclose()


async def test_a_fork_shares_what_was_said_up_to_a_message(anywhere: DatabaseHistoryStore) -> None:
    store = anywhere
    await store.append("a", said("a0", "a1", "a2"))
    await store.fork("a", "b", at="a1")
    await store.append("a", said("a3"))
    await store.append("b", said("b2"))
    await store.fork("b", "c", at=0)
    await store.fork("b", "d")
    await store.append("d", said("d3"))

    assert await names(store, "a") == "a0 a1 a2 a3"
    assert await names(store, "b") == "a0 a1 b2"
    assert await names(store, "c") == "a0"
    assert await names(store, "d") == "a0 a1 b2 d3"


async def test_clearing_takes_nothing_from_those_who_share(anywhere: DatabaseHistoryStore) -> None:
    store = anywhere
    await store.append("a", said("a0", "a1", "a2"))
    for name, at in [("b", 0), ("c", 1), ("d", 0)]:
        await store.fork("a", name, at=at)
        await store.append(name, said(f"{name}-own"))
    await store.fork("c", "e")
    for cleared in ["a", "c"]:
        await store.clear(cleared)
        await store.append(cleared, said("anew"))

    assert [await names(store, name) for name in "abcde"] == [
        *("anew", "a0 b-own", "anew", "a0 d-own", "a0 a1 c-own"),
    ]


async def test_a_fork_never_parts_a_call_from_its_results(store: DatabaseHistoryStore) -> None:
    call = {"id": "call", "role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    results = [{"id": f"r{n}", "role": "tool", "content": "r"} for n in range(2)]
    await store.append("a", [*said("q"), call, *results, *said("more")])
    for number, at in enumerate(["q", "call", "r0", "r1", "more"]):
        await store.fork("a", f"f{number}", at=at)

    assert [len(await store.load(f"f{number}")) for number in range(5)] == [1, 4, 4, 4, 5]


async def test_a_fork_copies_nothing(store: DatabaseHistoryStore, tmp_path: Path) -> None:
    await store.append("a", [{"id": f"{n}", "role": "user", "content": "x" * 10_000} for n in range(200)])
    for n in range(20):
        await store.fork("a", f"f{n}")

    await store.aclose()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3_000_000


async def test_messages_of_older_versions_can_be_forked_at_by_place(store: DatabaseHistoryStore) -> None:
    await store.append("a", [USER, ANSWER, USER])
    await store.fork("a", "b", at="#1")
    await store.fork("a", "c", at=1)

    assert await store.load("b") == await store.load("c") == [USER, ANSWER]


async def test_forking_what_is_not_there_or_onto_what_is_is_an_error(store: DatabaseHistoryStore) -> None:
    await store.append("a", said("a0"))
    await store.fork("a", "b")

    for source, at in [("nobody", None), ("a", "a1"), ("a", 1), ("a", -1)]:
        with pytest.raises(ResourceNotFoundError):
            await store.fork(source, "c", at=at)
    for target in ["a", "b"]:
        with pytest.raises(ResourceConflictError, match="already"):
            await store.fork("a", target)
    assert await store.load("c") == []


async def test_conversations_are_listed_the_last_used_first(anywhere: DatabaseHistoryStore) -> None:
    store = anywhere
    began = datetime.now(UTC)
    await store.append("a", said("a0", "a1"))
    await store.append("b", said("b0"))
    await store.fork("a", "c", at=0)
    await store.append("a", said("a2"))
    await store.fork("a", "d")
    await store.append("d", said("d3"))

    listed = await store.conversations()
    assert [(each.name, each.messages) for each in listed] == [("d", 4), ("a", 3), ("c", 1), ("b", 1)]
    assert all(began <= each.created <= each.last_used <= datetime.now(UTC) for each in listed)
    assert [each.name for each in await store.conversations(limit=1)] == ["d"]

    await store.clear("a")
    assert {(each.name, each.messages) for each in await store.conversations()} == {("d", 4), ("c", 1), ("b", 1)}


async def test_a_database_of_an_older_version_goes_on_working(store: DatabaseHistoryStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "chat.db")) as old:
        old.execute(
            "CREATE TABLE chat_messages (id INTEGER NOT NULL, conversation VARCHAR NOT NULL, created_at VARCHAR "
            "NOT NULL, message JSON NOT NULL, PRIMARY KEY (id))"
        )
        old.execute("CREATE INDEX ix_chat_messages_conversation ON chat_messages (conversation)")
        message = '{"role": "user", "content": "from before"}'
        old.execute("INSERT INTO chat_messages VALUES (1, 'a', '2026-01-01T00:00:00+00:00', ?)", (message,))
        old.commit()

    history = StoredChatHistory(store, "a")
    await history.load()
    history.add_assistant_message("from now")
    fork = await history.fork_to("b", at="#0")

    assert [message["content"] for message in history.get_messages()] == ["from before", "from now"]
    assert [message["content"] for message in fork.get_messages()] == ["from before"]
    assert [each.messages for each in await store.conversations()] == [1, 2]


async def test_summaries_are_kept_beside_the_messages_and_follow_a_fork(anywhere: DatabaseHistoryStore) -> None:
    async def write(request: list[dict[str, Any]]) -> str:
        return "in short \N{SNOWMAN}"

    store = anywhere
    history = StoredChatHistory(store, "a")
    for n in range(6):
        history.add_user_message(f"question {n} " + "x" * 400)
        history.add_assistant_message(f"answer {n}")
    window = ContextWindow(500, reserve_tokens=0, strategy=Summarise(write, keep_last=2, max_chars=100))
    await window.fit(history)
    fork = await history.fork_to("b")
    early = await history.fork_to("c", at=1)
    assert history.summary is not None
    assert (fork.summary, early.summary) == (history.summary, None)
    assert len(await store.load("a")) == 12

    history.clear()
    await history.save()
    assert await store.load_summaries("a") == []
    await fork.load()
    assert (fork.summary is not None, len(fork)) == (True, 12)


class Forks(RuleBasedStateMachine):
    """Conversations that fork, grow and are cleared; each is what it would be if forks were copies."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = DatabaseHistoryStore("sqlite://")
        self.expected: dict[str, list[str]] = {}
        self.number = 0

    @rule(name=st.sampled_from("abcdef"), count=st.integers(1, 3))
    def append(self, name: str, count: int) -> None:
        added = [f"m{self.number + n}" for n in range(count)]
        self.number += count
        self.loop.run_until_complete(self.store.append(name, said(*added)))
        self.expected.setdefault(name, []).extend(added)

    @precondition(lambda self: bool(self.expected))
    @rule(new=st.sampled_from("abcdef"), data=st.data())
    def fork(self, new: str, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(sorted(self.expected)))
        place = data.draw(st.integers(0, len(self.expected[source]) - 1))
        at: str | int = self.expected[source][place] if data.draw(st.booleans()) else place
        forking = self.store.fork(source, new, at=at)
        if new in self.expected:
            with pytest.raises(ResourceConflictError):
                self.loop.run_until_complete(forking)
        else:
            self.loop.run_until_complete(forking)
            self.expected[new] = self.expected[source][: place + 1]

    @rule(name=st.sampled_from("abcdef"))
    def clear(self, name: str) -> None:
        self.loop.run_until_complete(self.store.clear(name))
        self.expected.pop(name, None)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for name in "abcdef":
            loaded = self.loop.run_until_complete(names(self.store, name))
            assert loaded == " ".join(self.expected.get(name, []))
        listed = self.loop.run_until_complete(self.store.conversations())
        assert {each.name: each.messages for each in listed} == {n: len(m) for n, m in self.expected.items()}
        self.loop.run_until_complete(self.store.aclose())
        self.loop.close()


def test_forks_are_what_copies_would_be() -> None:
    run_state_machine_as_test(Forks, settings=settings(max_examples=30, stateful_step_count=20))


CRASHES = """
import asyncio, os, signal, sys
from itertools import count
from sqlalchemy import Engine, event
from llmgine.database.history_store import DatabaseHistoryStore
from llmgine.llm.context import StoredChatHistory

async def converse(folder, number):
    store = DatabaseHistoryStore(f"sqlite:///{folder}/{number}.db")
    history = StoredChatHistory(store, "a")
    saved = open(f"{folder}/{number}.txt", "w")
    def is_saved(what):
        print(what, file=saved, flush=True)
    calls = [{"id": n, "function": {"name": "f", "arguments": "{}"}} for n in "12"]
    history.add_user_message("question")
    await history.store_assistant_message(None, calls)
    is_saved("a a")
    for n in "12":
        await history.store_tool_result(n, "result")
        is_saved("a")
    await history.store_assistant_message("answer")
    is_saved("a")
    fork = await history.fork_to("b", at=2)
    await fork.store_assistant_message("another")
    is_saved("b")
    history.clear()
    history.add_user_message("anew")
    await history.save()
    is_saved("cleared")
    await store.aclose()

def die_at(number):
    steps = count(1)
    def step(connection, cursor=None, statement="COMMIT", *_):
        if statement.split()[0] not in {"PRAGMA", "SELECT"} and next(steps) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    for name in ["after_cursor_execute", "commit"]:
        event.listen(Engine, name, step)

for number in count(1):
    child = os.fork()
    if child == 0:
        die_at(number)
        asyncio.run(converse(sys.argv[1], number))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(number)
        break
"""


async def test_killed_at_any_step_a_conversation_is_valid_and_has_all_that_was_saved(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CRASHES, tmp_path, stdout=subprocess.PIPE)
    steps = int((await process.communicate())[0])
    assert steps > 30
    for number in range(1, steps + 1):
        store = DatabaseHistoryStore(f"sqlite:///{tmp_path / f'{number}.db'}")
        saved = (tmp_path / f"{number}.txt").read_text().split()
        history, fork = StoredChatHistory(store, "a"), StoredChatHistory(store, "b")
        await history.load()
        await fork.load()
        for each in (history, fork):
            assert conversation_faults(each.get_messages()) == []
            each.add_user_message("and now?")
            assert conversation_faults(each.get_messages()) == []
        cleared = "b" in saved and len(history) in {1, 2}  # with the question of this test
        assert cleared or len(history) - 1 >= saved.count("a")
        assert len(fork) - 1 in ({5} if "b" in saved else {0, 4, 5})
        await store.aclose()
