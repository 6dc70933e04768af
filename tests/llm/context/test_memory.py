"""A history stays within its bounds and in a form that every provider accepts."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.errors import ConfigurationError, ResourceNotFoundError
from llmgine.llm.context import ChatMessage, Role, SimpleChatHistory, conversation_faults
from llmgine.llm.context.message import IMAGE_TOKENS
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
    assert conversation_faults(conversation) == []


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


def test_a_message_survives_its_dict() -> None:
    message = ChatMessage(Role.ASSISTANT, None, (call("1"),))
    parts = ChatMessage(Role.USER, [{"type": "text", "text": "t"}, IMAGE])

    for each in (message, parts):
        assert ChatMessage.from_dict(each.to_dict()) == each
        stored = ChatMessage.from_dict(each.to_stored())
        assert (stored, stored.id) == (each, each.id)
    assert "id" not in message.to_dict()


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def test_contents_of_parts_work_like_texts() -> None:
    history = SimpleChatHistory(token_estimator=len)
    parts: list[dict[str, Any]] = [{"type": "text", "text": "what is this?"}, IMAGE]
    history.add_user_message(parts)
    history.add_assistant_message([{"type": "text", "text": "see"}], [call("1", "ab")])
    history.add_tool_message("1", [IMAGE])
    parts.clear()

    user, assistant, tool = history.get_messages()
    assert user["content"] == [{"type": "text", "text": "what is this?"}, IMAGE]
    assert assistant["content"] == [{"type": "text", "text": "see"}]
    assert tool["content"] == [IMAGE]
    assert history.estimated_tokens() == len("what is this?" + "see" + "ab" + '{"a":1}') + 2 * IMAGE_TOKENS


def test_an_image_counts_by_a_constant_when_trimming() -> None:
    history = SimpleChatHistory(max_chars=2 * 4 * IMAGE_TOKENS)
    for n in range(4):
        history.add_user_message([IMAGE])
        history.add_assistant_message(f"{n}")

    assert [m["content"] for m in history.get_messages()] == [[IMAGE], "3"]


def test_a_message_that_says_nothing_is_an_empty_text() -> None:
    history = SimpleChatHistory()
    history.add_user_message("u")
    history.add_assistant_message()

    assert history.get_messages()[-1] == {"role": "assistant", "content": ""}


def test_ids_that_a_server_uses_again_get_each_their_own_result() -> None:
    history = SimpleChatHistory()
    for n in range(3):
        history.add_user_message("u")
        history.add_assistant_message(None, [call("call_0")])
        if n != 1:
            history.add_tool_message("call_0", f"result {n}")

    results = [m["content"] for m in history.get_messages() if m["role"] == "tool"]
    assert results[::2] == ["result 0", "result 2"]
    assert "interrupted" in results[1]


def test_ids_that_are_used_again_within_one_turn_do_too() -> None:
    history = SimpleChatHistory()
    for n in range(2):
        history.add_assistant_message(None, [call("call_0")])
        history.add_tool_message("call_0", f"result {n}")

    assert [m["content"] for m in history.get_messages()] == [None, "result 0", None, "result 1"]


def test_a_result_that_comes_after_the_user_has_spoken_still_finds_its_call() -> None:
    history = SimpleChatHistory()
    history.add_assistant_message(None, [call("1")])
    history.add_user_message("hurry")
    history.add_tool_message("1", "done")

    assert [m["content"] for m in history.get_messages()] == [None, "done", "hurry"]


def test_a_fork_shares_what_was_said_up_to_a_message_and_then_goes_its_own_way() -> None:
    history = SimpleChatHistory("e", "s", max_messages=7)
    history.set_system_prompt("p")
    for n in range(3):
        history.add_user_message(f"q{n}")
        history.add_assistant_message(f"a{n}")

    fork = history.fork(at=history.messages[3].id)
    fork.add_user_message("another")
    assert [m["content"] for m in fork.get_messages()] == ["p", "q0", "a0", "q1", "a1", "another"]
    assert (fork.engine_id, fork.session_id) == ("e", "s")
    assert len(history) == 6
    assert [m.id for m in fork.messages[:4]] == [m.id for m in history.messages[:4]]
    for n in range(9):
        fork.add_user_message(f"{n}")
    assert len(fork) == 7

    assert len(history.fork()) == 6
    assert len(history.fork(at=0)) == 1


def test_a_fork_never_parts_a_call_from_its_results() -> None:
    history = SimpleChatHistory()
    history.add_user_message("q")
    history.add_assistant_message(None, [call("1"), call("2")])
    history.add_tool_message("1", "r1")
    history.add_tool_message("2", "r2")
    history.add_assistant_message("a")

    assert [len(history.fork(at=place)) for place in range(5)] == [1, 4, 4, 4, 5]


@pytest.mark.parametrize("at", [-1, 1, "nothing", ""])
def test_forking_at_what_is_not_there_is_an_error(at: Any) -> None:
    history = SimpleChatHistory()
    history.add_user_message("q")

    with pytest.raises(ResourceNotFoundError, match="no message"):
        history.fork(at=at)


def trimmed(messages: list[ChatMessage], max_messages: int, max_chars: int, *, keep_first: bool) -> list[ChatMessage]:
    """What trimming means, written down without regard to what it costs."""
    groups: list[list[ChatMessage]] = []
    for message in messages:
        if message.role is Role.TOOL and groups:
            groups[-1].append(message)
        else:
            groups.append([message])
    users = [number for number, group in enumerate(groups) if group[0].role is Role.USER]
    keep = {len(groups) - 1, *users[-1:], *(users[:1] if keep_first else ())}
    excess, excess_chars = len(messages) - max_messages, sum(message.size for message in messages) - max_chars
    if excess <= 0 and excess_chars <= 0:
        return messages
    for number, group in enumerate(groups):
        orphaned = number > 0 and group[0].role is not Role.USER and not any(groups[:number])
        if number not in keep and (excess > 0 or excess_chars > 0 or orphaned):
            excess -= len(group)
            excess_chars -= sum(message.size for message in group)
            groups[number] = []
    return [message for group in groups for message in group]


steps = st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool", "drop"]), st.text("x", max_size=9)))


@given(steps, st.integers(1, 9), st.integers(1, 40), strategies)
def test_trimming_in_constant_time_is_trimming(
    steps: list[tuple[str, str]],
    max_messages: int,
    max_chars: int,
    strategy: Literal["drop_oldest", "drop_middle"],
) -> None:
    history = SimpleChatHistory(max_messages=max_messages, max_chars=max_chars, trim_strategy=strategy)
    expected: list[ChatMessage] = []
    for step, text in steps:
        if step == "user":
            history.add_user_message(text)
        elif step == "assistant":
            history.add_assistant_message(text)
        elif step == "tool":
            history.add_tool_message("1", text)
        else:
            history.drop_unanswered()
            expected = expected[: -1 if expected and expected[-1].role is Role.USER else None]
            continue
        message = history.messages[-1]
        expected = trimmed([*expected, message], max_messages, max_chars, keep_first=strategy == "drop_middle")
        assert list(history.messages) == expected
        assert len(history) == len(expected)
        assert history.estimated_tokens() == sum(message.size for message in expected) // 4


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_middle"])
def test_adding_costs_the_same_however_long_the_conversation_is(
    strategy: Literal["drop_oldest", "drop_middle"],
) -> None:
    history = SimpleChatHistory(max_messages=10_000, max_chars=10**9, trim_strategy=strategy)
    began = perf_counter()
    for n in range(15_000):
        history.add_user_message(f"question {n}")
        history.add_assistant_message(f"answer {n}")

    # A sum over all of them at each addition would take minutes.
    assert perf_counter() - began < 5
    assert len(history) == 10_000
