"""The window: what does not fit is left out or summarised, in groups; what must stay stays; and it is announced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from llmgine.errors import ConfigurationError, ContextLengthError, ProviderUnavailableError
from llmgine.llm.context import ContextWindow, SimpleChatHistory, Summarise, conversation_faults
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import LLMConversation, LLMMessage, Usage
from llmgine.messages.codec import decode, encode


def count_words(messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()) -> int:
    """A tokenizer whose tokens are words; a call is one too."""
    return len(tools) + sum(
        len(str(message["content"] or "").split()) + len(message.get("tool_calls", ())) for message in messages
    )


class Counting(ScriptedProvider):
    """A provider with a tokenizer."""

    def __init__(self) -> None:
        super().__init__([])
        self.counted = 0
        self.broken = False

    async def count_tokens(self, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()) -> int:
        self.counted += 1
        if self.broken:
            raise ProviderUnavailableError("away")
        return count_words(messages, tools=tools)


def wide() -> SimpleChatHistory:
    return SimpleChatHistory(max_messages=100_000, max_chars=10**9)


def talk(turns: int, *, uses: int = 0) -> SimpleChatHistory:
    """Turns of a question, tool calls and an answer, each message of four words."""
    history = wide()
    for n in range(turns):
        history.add_user_message(f"question number {n} ?")
        for use in range(uses):
            add_use(history, f"{n}.{use}")
        history.add_assistant_message(f"answer number {n} .")
    return history


def add_use(history: SimpleChatHistory, name: str) -> None:
    history.add_assistant_message(None, [ToolCall(name, name="tool")])
    history.add_tool_message(name, f"result of {name} .")


def window(size: int, strategy: Any = "drop_oldest") -> ContextWindow:
    return ContextWindow(size, strategy=strategy, reserve_tokens=0, count=count_words)


def said(messages: LLMConversation) -> list[str]:
    """What is said, with the calls' ids."""
    return [str(m["content"] or [call["id"] for call in m["tool_calls"]]) for m in messages]


async def test_what_fits_is_read_whole_and_nothing_is_announced() -> None:
    history = talk(3, uses=1)
    history.set_system_prompt("be kind")

    view = await window(1_000).fit(history)

    assert view.messages == history.get_messages()
    assert (view.compaction, view.left_out, view.summary) == (None, frozenset(), None)
    assert view.tokens == count_words(view.messages)


async def test_the_oldest_questions_go_with_all_that_was_done_for_them() -> None:
    history = talk(3, uses=1)
    history.set_system_prompt("be kind")

    view = await window(30).fit(history)

    assert said(view.messages) == [
        *("be kind", "question number 1 ?", "['1.0']", "result of 1.0 .", "answer number 1 ."),
        *("question number 2 ?", "['2.0']", "result of 2.0 .", "answer number 2 ."),
    ]
    assert view.left_out == {message.id for message in history.messages[:4]}
    assert len(history) == 12


async def test_drop_middle_keeps_the_first_question_and_its_answer() -> None:
    view = await window(17, "drop_middle").fit(talk(4))

    assert said(view.messages) == [
        "question number 0 ?",
        "answer number 0 .",
        "question number 3 ?",
        "answer number 3 .",
    ]


async def test_what_was_done_for_the_last_question_goes_piece_by_piece_but_the_question_stays() -> None:
    history = talk(2)
    history.add_user_message("a long task")
    for use in range(5):
        add_use(history, f"use{use}")

    view = await window(15).fit(history)

    assert said(view.messages) == ["a long task", "['use3']", "result of use3 .", "['use4']", "result of use4 ."]
    assert conversation_faults(view.messages) == []


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_middle"])
async def test_that_not_even_the_last_question_fits_is_an_error_that_says_so(strategy: str) -> None:
    history = talk(3)
    history.add_user_message("one two three four five six")

    with pytest.raises(ContextLengthError, match=r"about 6 tokens.* and 5 fit"):
        await window(5, strategy).fit(history, provider=ScriptedProvider([]))
    assert history.left_out == frozenset()


async def test_tools_and_the_reply_need_room_too() -> None:
    history = talk(2)

    assert len((await window(16).fit(history)).messages) == 4
    assert len((await window(16).fit(history, tools=[{}])).messages) == 2
    smaller = ContextWindow(16, reserve_tokens=1, count=count_words)
    assert len((await smaller.fit(history)).messages) == 2


async def test_the_providers_tokenizer_is_used_and_an_estimate_when_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    provider, history = Counting(), talk(100)
    estimating = ContextWindow(40, reserve_tokens=0)

    view = await estimating.fit(history, provider=provider)
    assert view.tokens == count_words(view.messages) <= 40
    assert provider.counted <= 4

    provider.broken = True
    view = await estimating.fit(history, provider=provider)
    assert view.tokens <= 40
    assert "estimated instead" in caplog.text


async def test_the_estimate_learns_from_what_providers_count() -> None:
    estimating, history = ContextWindow(10_000), wide()
    history.add_user_message("x" * 8_000)
    view = await estimating.fit(history)
    assert view.tokens == 2_000 + 7

    for _ in range(5):
        estimating.observe(view, Usage(4_000 + 7, 5))
    estimating.observe(view, None)

    assert (await estimating.fit(history)).tokens == 4_000 + 7


async def test_images_count_by_a_constant_and_not_by_their_data() -> None:
    history = wide()
    for n in range(3):
        image = {"type": "image_url", "image_url": {"url": "data:" + "A" * 1_000_000}}
        history.add_user_message([{"type": "text", "text": f"look {n}"}, image])
        history.add_assistant_message("seen")

    view = await ContextWindow(4_000, reserve_tokens=0).fit(history)

    assert len(view.messages) == 4
    assert view.messages[0]["content"][0] == {"type": "text", "text": "look 1"}


async def test_a_compaction_is_announced_once_with_what_it_left_out() -> None:
    history = talk(3)
    eight = window(8)

    first = (await eight.fit(history)).compaction
    again = (await eight.fit(history)).compaction
    history.add_user_message("and now what ?")
    second = (await eight.fit(history)).compaction

    assert first is not None
    assert first.message_ids == [message.id for message in history.messages[:4]]
    assert (first.strategy, first.summary, first.error) == ("drop_oldest", "", "")
    assert (first.messages_before, first.messages_after) == (6, 2)
    assert (first.tokens_before, first.tokens_after) == (24, 8)
    assert again is None
    assert second is not None
    assert second.message_ids == [message.id for message in history.messages[4:6]]
    assert decode(encode(first)) == first


@pytest.mark.parametrize(
    "bad",
    [{"max_tokens": 1_024}, {"max_tokens": 0}, {"strategy": "newest"}, {"reserve_tokens": -1}, {"max_tokens": 1.5}],
)
def test_senseless_windows_are_refused(bad: dict[str, Any]) -> None:
    options: dict[str, Any] = {"max_tokens": 8_000, **bad}
    with pytest.raises(ConfigurationError):
        ContextWindow(**options)


async def test_a_summary_takes_the_place_of_what_does_not_fit_and_is_made_once() -> None:
    history = talk(6)
    history.set_system_prompt("be kind")
    ids = [message.id for message in history.messages]
    writer = ScriptedProvider([Reply("six numbers", usage=Usage(9, 2))])
    summarising = window(46, Summarise(writer, keep_last=4, max_chars=100))

    view = await summarising.fit(history)

    assert conversation_faults(view.messages) == []
    assert said(view.messages)[0] == "be kind"
    assert said(view.messages)[2] == "[Summary of 8 earlier messages]\nsix numbers"
    assert said(view.messages)[3:] == [m["content"] for m in history.get_messages()[-4:]]
    assert view.compaction is not None
    assert view.compaction.message_ids == ids[:8]
    assert (view.compaction.summary, view.compaction.usage) == ("six numbers", Usage(9, 2))
    assert view.compaction.tokens_after == view.tokens < view.compaction.tokens_before
    assert len(history) == 12
    assert "be kind" not in str(writer.requests)

    history.add_user_message("q")
    view = await summarising.fit(history)
    assert view.compaction is None
    assert said(view.messages)[2] == "[Summary of 8 earlier messages]\nsix numbers"
    assert len(writer.requests) == 1


async def test_a_summary_becomes_part_of_the_next_one() -> None:
    history = talk(6)
    writer = ScriptedProvider([Reply("first"), Reply("second")])
    summarising = window(40, Summarise(writer, keep_last=2, max_chars=100))
    await summarising.fit(history)
    for n in range(6):
        history.add_user_message(f"more of this {n}")
        history.add_assistant_message("yes , of course")

    view = await summarising.fit(history)

    assert "Summary of what was before: first" in str(writer.requests[1].messages)
    assert "answer number 5" in str(writer.requests[1].messages)
    assert "answer number 0" not in str(writer.requests[1].messages)
    assert view.summary is not None
    assert view.summary.messages == 22
    assert said(view.messages)[2:] == ["more of this 5", "yes , of course"]


async def test_a_question_that_stays_before_what_is_summarised_is_neither_lost_nor_read_twice() -> None:
    history = wide()
    history.add_user_message("the task")
    for use in range(10):
        add_use(history, f"u{use}")
    writer = ScriptedProvider([Reply("ten uses"), Reply("all")])
    summarising = window(45, Summarise(writer, keep_last=2, max_chars=100))

    view = await summarising.fit(history)
    assert said(view.messages)[2:] == ["the task", "['u8']", "result of u8 .", "['u9']", "result of u9 ."]
    assert "the task" not in str(writer.requests[0].messages)

    history.add_user_message("go on")
    assert said((await summarising.fit(history)).messages)[2] == "the task"

    for use in range(10, 20):
        add_use(history, f"u{use}")
    await summarising.fit(history)
    assert "the task" in str(writer.requests[1].messages)


async def test_a_failure_to_summarise_falls_back_to_leaving_out_and_is_not_repeated_at_once() -> None:
    history = talk(6)
    writer = ScriptedProvider([Reply(error=ProviderUnavailableError("away")), Reply("at last")])
    summarising = window(40, Summarise(writer, keep_last=4, max_chars=100))

    view = await summarising.fit(history)
    assert said(view.messages) == [m["content"] for m in history.get_messages()[-4:]]
    assert view.compaction is not None
    assert view.compaction.error == "ProviderUnavailableError: away"
    assert (view.compaction.summary, view.compaction.strategy) == ("", "summarise")
    assert view.compaction.message_ids == [message.id for message in history.messages[:8]]
    assert (await summarising.fit(history)).compaction is None
    assert len(writer.requests) == 1

    for n in range(4):
        history.add_user_message(f"more of this {n}")
        history.add_assistant_message("yes , of course")
    view = await summarising.fit(history)
    assert view.summary is not None
    assert "question number 0" in str(writer.requests[1].messages)


async def test_a_cancelled_summary_changes_nothing() -> None:
    history = talk(6)
    begun = asyncio.Event()

    async def write(request: LLMConversation) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    summarising = window(40, Summarise(write, keep_last=4, max_chars=100))
    task = asyncio.create_task(summarising.fit(history))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (history.summary, history.left_out, len(history)) == (None, frozenset(), 12)


async def test_a_summary_that_does_not_fit_beside_what_must_stay_is_left_out() -> None:
    history = talk(3)
    history.add_user_message("x " * 28)

    async def write(request: LLMConversation) -> str:
        return "y " * 50

    view = await window(30, Summarise(write, keep_last=1, max_chars=100)).fit(history)

    assert view.summary is None
    assert len(view.messages) == 1
    assert view.compaction is not None
    assert "does not fit" in view.compaction.error
    assert view.compaction.summary == ""


async def test_a_thousand_groups_are_fitted_at_once() -> None:
    strategies: list[Literal["drop_oldest", "drop_middle"]] = ["drop_oldest", "drop_middle"]
    history = talk(2_500, uses=1)  # 10,000 messages
    for strategy in strategies:
        view = await ContextWindow(8_000, strategy=strategy).fit(history)
        assert conversation_faults(view.messages) == []
        assert view.tokens <= 8_000 - 1_024
