"""A stored conversation goes on where it was, whatever of it is trimmed, summarised or forked."""

from __future__ import annotations

from typing import Any

import pytest

from llmgine.errors import ResourceConflictError, ResourceNotFoundError, StoreError
from llmgine.llm.context import ContextWindow, StoredChatHistory, Summarise, conversation_faults
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import LLMConversation


def call(id_: str) -> ToolCall:
    return ToolCall(id=id_, name="tool")


class MemoryStore:
    """A store that can be made to fail."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.broken = False

    async def load(self, conversation: str) -> list[dict[str, Any]]:
        return list(self.rows.get(conversation, []))

    async def append(self, conversation: str, messages: Any) -> None:
        if self.broken:
            raise StoreError("away")
        self.rows.setdefault(conversation, []).extend(messages)

    async def clear(self, conversation: str) -> None:
        self.rows.pop(conversation, None)


async def test_a_stored_conversation_goes_on_where_it_was() -> None:
    store = MemoryStore()
    first = StoredChatHistory(store, "c")
    first.add_user_message("q")
    first.add_assistant_message(None, [call("1")])
    first.add_tool_message("1", "r")
    await first.save()
    first.add_assistant_message("a")
    await first.save()
    await first.save()

    second = StoredChatHistory(store, "c")
    await second.load()
    assert second.get_messages() == first.get_messages()
    assert len(store.rows["c"]) == 4


async def test_what_is_trimmed_stays_in_the_store() -> None:
    store = MemoryStore()
    history = StoredChatHistory(store, "c", max_messages=2)
    for n in range(10):
        history.add_user_message(f"q{n}")
        history.add_assistant_message(f"a{n}")
    await history.save()

    assert len(history) == 2
    assert len(store.rows["c"]) == 20


async def test_what_could_not_be_saved_is_saved_next_time_in_order() -> None:
    store = MemoryStore()
    history = StoredChatHistory(store, "c")
    history.add_user_message("1")
    store.broken = True
    with pytest.raises(StoreError):
        await history.save()
    history.add_assistant_message("2")
    store.broken = False
    await history.save()

    assert [message["content"] for message in store.rows["c"]] == ["1", "2"]


async def test_clearing_reaches_the_store_with_the_next_save() -> None:
    store = MemoryStore()
    history = StoredChatHistory(store, "c")
    history.add_user_message("old")
    await history.save()
    history.clear()
    history.add_user_message("new")
    await history.save()

    assert [message["content"] for message in store.rows["c"]] == ["new"]


async def test_a_question_without_an_answer_can_be_dropped() -> None:
    store = MemoryStore()
    history = StoredChatHistory(store, "c")
    history.add_user_message("q")
    history.drop_unanswered()
    history.drop_unanswered()
    await history.save()
    assert store.rows == {}

    await history.store_assistant_message("a")
    history.drop_unanswered()
    assert await history.retrieve() == [{"role": "assistant", "content": "a"}]


class SummaryMemoryStore(MemoryStore):
    """A store that keeps summaries too."""

    def __init__(self) -> None:
        super().__init__()
        self.summaries: list[dict[str, Any]] = []

    async def load_summaries(self, conversation: str) -> list[dict[str, Any]]:
        return self.summaries[::-1]

    async def append_summary(self, conversation: str, summary: dict[str, Any]) -> None:
        if self.broken:
            raise StoreError("away")
        self.summaries.append(summary)


async def summarise(request: LLMConversation) -> str:
    return "in short"


async def long_one(store: MemoryStore, conversation: str = "c") -> StoredChatHistory:
    """A conversation of which the first messages are summarised."""
    history = StoredChatHistory(store, conversation)
    for n in range(6):
        history.add_user_message(f"question {n} " + "x" * 400)
        history.add_assistant_message(f"answer {n}")
    await ContextWindow(500, reserve_tokens=0, strategy=Summarise(summarise, keep_last=2, max_chars=100)).fit(history)
    return history


async def test_messages_keep_their_ids_and_old_ones_without_go_by_their_place() -> None:
    store = MemoryStore()
    store.rows["c"] = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "older version"}]
    history = StoredChatHistory(store, "c")
    await history.load()
    history.add_user_message("new")
    await history.save()
    again = StoredChatHistory(store, "c")
    await again.load()

    assert [message.id for message in again.messages] == ["#0", "#1", history.messages[2].id]
    assert len((await history.fork_to("d", at="#1")).messages) == 2


async def test_what_was_written_twice_is_read_once() -> None:
    """A connection that is lost during a commit leaves open whether it took place, and so it is written again."""
    store = MemoryStore()
    history = StoredChatHistory(store, "c")
    history.add_user_message("q")
    await history.save()
    store.rows["c"] *= 2
    await history.load()

    assert len(history) == 1


async def test_what_is_no_message_is_one_clear_error() -> None:
    store = MemoryStore()
    store.rows["c"] = [{"role": "nobody"}]

    with pytest.raises(StoreError, match="no message"):
        await StoredChatHistory(store, "c").load()


async def test_a_summary_is_kept_beside_the_messages_and_used_again() -> None:
    store = SummaryMemoryStore()
    history = await long_one(store)
    assert history.summary is not None
    await history.save()
    await history.save()
    assert len(store.rows["c"]) == 12
    assert len(store.summaries) == 1

    again = StoredChatHistory(store, "c")
    await again.load()
    assert again.summary == history.summary
    view = await ContextWindow(500, reserve_tokens=0).fit(again)
    assert view.compaction is None
    assert "in short" in view.messages[1]["content"]


async def test_a_summary_that_could_not_be_saved_is_saved_next_time() -> None:
    store = SummaryMemoryStore()
    history = await long_one(store)
    store.broken = True
    with pytest.raises(StoreError):
        await history.save()
    store.broken = False
    await history.save()

    assert len(store.rows["c"]) == 12
    assert len(store.summaries) == 1


async def test_clearing_forgets_the_summary() -> None:
    store = SummaryMemoryStore()
    history = await long_one(store)
    history.clear()
    await history.save()

    assert (history.summary, store.summaries) == (None, [])


async def test_a_fork_has_a_summary_of_what_is_shared_only() -> None:
    store = SummaryMemoryStore()
    history = await long_one(store)
    assert history.summary is not None
    end = [message.id for message in history.messages].index(history.summary.last)

    assert history.fork(at=end).summary == history.summary
    assert history.fork(at=end - 2).summary is None
    assert (await history.fork_to("after", at=end)).summary == history.summary
    assert (await history.fork_to("before", at=end - 2)).summary is None


async def test_a_fork_in_a_store_that_only_keeps_is_a_copy() -> None:
    store = MemoryStore()
    history = StoredChatHistory(store, "c", max_messages=4)
    history.set_system_prompt("p")
    for n in range(5):
        history.add_user_message(f"q{n}")
        history.add_assistant_message(None, [call(f"{n}")])
        history.add_tool_message(f"{n}", "r")

    fork = await history.fork_to("d", at=4)
    fork.add_assistant_message("another way")
    await fork.save()

    assert conversation_faults(fork.get_messages()) == []
    assert [m["content"] for m in store.rows["d"]] == ["q0", None, "r", "q1", None, "r", "another way"]
    assert len(store.rows["c"]) == 15
    assert fork.system_prompt == "p"
    assert len(fork) == 4
    with pytest.raises(ResourceConflictError, match="already"):
        await history.fork_to("d")
    with pytest.raises(ResourceNotFoundError):
        await history.fork_to("e", at=99)
