"""A history stays within its bounds and in a form that every provider accepts."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.errors import ConfigurationError, StoreError
from llmgine.llm.context import ChatMessage, Role, SimpleChatHistory, StoredChatHistory
from llmgine.llm.tools.toolCall import ToolCall


def call(id_: str, name: str = "tool") -> ToolCall:
    return ToolCall(id=id_, name=name, arguments='{"a":1}')


def test_messages_come_out_in_the_form_of_openai() -> None:
    history = SimpleChatHistory(engine_id="e", session_id="s")
    history.set_system_prompt("be kind")
    history.add_user_message("hello")
    history.add_assistant_message(content="", tool_calls=[call("1")])
    history.add_tool_message(tool_call_id="1", content="42")
    history.add_assistant_message("it is 42")

    assert history.get_messages() == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "tool", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        {"role": "assistant", "content": "it is 42"},
    ]


def test_clear_keeps_the_prompt_and_reset_does_not() -> None:
    history = SimpleChatHistory()
    history.set_system_prompt("p")
    history.add_user_message("u")
    history.clear()
    assert history.get_messages() == [{"role": "system", "content": "p"}]

    history.reset()
    assert history.get_messages() == []


def test_the_guides_way_of_adding_calls_gives_each_its_result() -> None:
    """004 §13 adds the assistant's message once per result."""
    history = SimpleChatHistory()
    history.add_user_message("u")
    calls = [call("1"), call("2")]
    for one in calls:
        history.add_assistant_message("", tool_calls=calls)
        history.add_tool_message(one.id, f"result {one.id}")

    check_valid(history.get_messages())
    contents = [m["content"] for m in history.get_messages() if m["role"] == "tool"]
    assert contents == ["result 1", "result 2"] * 2


def test_tokens_are_estimated_by_characters_or_as_told() -> None:
    history = SimpleChatHistory()
    history.set_system_prompt("12345678")
    history.add_user_message("1234")
    assert history.estimated_tokens() == 3

    history = SimpleChatHistory(token_estimator=len)
    history.add_user_message("1234")
    history.add_assistant_message(None, [call("1", "ab")])
    assert history.estimated_tokens() == 4 + 2 + len('{"a":1}')


@pytest.mark.parametrize("bad", [{"max_messages": 0}, {"max_chars": 0}, {"trim_strategy": "newest"}])
def test_senseless_bounds_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SimpleChatHistory(**bad)


def check_valid(conversation: list[dict[str, Any]]) -> None:
    """What OpenAI's and Anthropic's servers check: every call is answered at once, and nothing else is."""
    expected: list[str] = []
    for message in conversation:
        if message["role"] == "tool":
            assert message["tool_call_id"] == expected.pop(0)
        else:
            assert expected == []
            expected = [one["id"] for one in message.get("tool_calls", [])]
    assert expected == []


turns = st.lists(
    st.tuples(
        st.text(max_size=30),
        st.lists(st.integers(1, 3), max_size=3),  # how many tools each further turn calls
        st.booleans(),  # whether the last tool call stays without a result, as after a kill
        st.booleans(),  # whether an answer follows
    ),
    max_size=12,
)
strategies: st.SearchStrategy[Literal["drop_oldest", "drop_middle"]] = st.sampled_from(["drop_oldest", "drop_middle"])


@given(turns, st.integers(1, 12), st.integers(1, 200), strategies)
def test_trimming_keeps_the_conversation_valid_and_the_last_question(
    turns: list[tuple[str, list[int], bool, bool]],
    max_messages: int,
    max_chars: int,
    strategy: Literal["drop_oldest", "drop_middle"],
) -> None:
    history = SimpleChatHistory(max_messages=max_messages, max_chars=max_chars, trim_strategy=strategy)
    number = 0
    for text, uses, interrupted, answered in turns:
        history.add_user_message(text)
        for use in uses:
            calls = [call(str(number := number + 1)) for _ in range(use)]
            history.add_assistant_message(None, calls)
            for one in calls[: -1 if interrupted else None]:
                history.add_tool_message(one.id, "result")
            check_valid(history.get_messages())
        if answered:
            history.add_assistant_message("answer")

        conversation = history.get_messages()
        check_valid(conversation)
        assert conversation[0]["role"] == "user"
        assert [m["content"] for m in conversation if m["role"] == "user"][-1] == text
        if strategy == "drop_middle":
            assert conversation[0]["content"] == turns[0][0]


@given(st.integers(1, 20), st.integers(0, 60))
def test_plain_conversations_stay_within_their_bound(bound: int, exchanges: int) -> None:
    history = SimpleChatHistory(max_messages=bound)
    for n in range(exchanges):
        history.add_user_message(f"q{n}")
        history.add_assistant_message(f"a{n}")

    assert len(history) <= max(bound, 2)
    assert history.get_messages()[-1:] == ([{"role": "assistant", "content": f"a{exchanges - 1}"}] if exchanges else [])


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


def test_a_message_survives_its_dict() -> None:
    message = ChatMessage(Role.ASSISTANT, None, (call("1"),))

    assert ChatMessage.from_dict(message.to_dict()) == message
