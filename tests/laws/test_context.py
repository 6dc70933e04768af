"""29, 31: whatever is said, trimmed, left out, summarised, forked or loaded, the conversation is valid and whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmgine.errors import ContextLengthError, ProviderUnavailableError
from llmgine.llm.context import (
    ChatMessage,
    Content,
    ContextView,
    ContextWindow,
    Role,
    StoredChatHistory,
    Summarise,
    TokenEstimate,
    conversation_faults,
)
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import LLMConversation, LLMMessage

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SHARE = st.floats(0.05, 1.1)
"""Of what a conversation comes to, what there is room for."""
contents: st.SearchStrategy[Content] = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.one_of(st.just(IMAGE), st.text(max_size=50).map(lambda text: {"type": "text", "text": text})), max_size=3
    ),
)


def count_characters(messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()) -> int:
    """A tokenizer that is far from the estimate, and not in proportion to it."""
    return len(str(messages)) // 2 + len(tools)


class Store:
    """Keeps conversations and summaries in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, list[LLMMessage]] = {}
        self.summaries: dict[str, list[dict[str, Any]]] = {}

    async def load(self, conversation: str) -> list[LLMMessage]:
        return list(self.rows.get(conversation, []))

    async def append(self, conversation: str, messages: Sequence[LLMMessage]) -> None:
        self.rows.setdefault(conversation, []).extend(messages)

    async def clear(self, conversation: str) -> None:
        self.rows.pop(conversation, None)
        self.summaries.pop(conversation, None)

    async def load_summaries(self, conversation: str) -> list[dict[str, Any]]:
        return self.summaries.get(conversation, [])[::-1]

    async def append_summary(self, conversation: str, summary: dict[str, Any]) -> None:
        self.summaries.setdefault(conversation, []).append(summary)


class Conversations(RuleBasedStateMachine):
    """A conversation, and whatever may happen to it."""

    @initialize(bounds=st.sampled_from([{}, {"max_messages": 5}, {"max_chars": 300, "trim_strategy": "drop_middle"}]))
    def begin(self, bounds: dict[str, Any]) -> None:
        self.store = Store()
        self.bounds = bounds
        self.calls = 0
        self.forks = 0
        self.history = StoredChatHistory(self.store, "c", **bounds)
        self.history.set_system_prompt("be kind")

    @rule(turns=st.integers(1, 6), uses=st.integers(0, 3))
    def talk(self, turns: int, uses: int) -> None:
        for _ in range(turns):
            self.history.add_user_message("a question")
            for _ in range(uses):
                self.use_tools([False], ["a result"])
            self.history.add_assistant_message("an answer")

    @rule(content=contents)
    def user(self, content: Content) -> None:
        self.history.add_user_message(content)

    @rule(content=st.none() | contents)
    def answer(self, content: Content | None) -> None:
        self.history.add_assistant_message(content)

    @rule(names=st.lists(st.booleans(), min_size=1, max_size=3), results=st.lists(contents, max_size=4))
    def use_tools(self, names: list[bool], results: list[Content]) -> None:
        """Some ids are used again and again; some results are missing, and there may be too many."""
        ids: list[str] = []
        for place, again in enumerate(names):
            self.calls += 1
            ids.append(f"call_{place}" if again else f"call {self.calls}")
        self.history.add_assistant_message(None, [ToolCall(id_, name="tool") for id_ in ids])
        for id_, result in zip([*ids, "nobody's"], results, strict=False):
            self.history.add_tool_message(id_, result)

    @rule()
    def drop_unanswered(self) -> None:
        self.history.drop_unanswered()

    @rule()
    def save(self) -> None:
        asyncio.run(self.history.save())

    @rule(unsaved=st.booleans())
    def start_again(self, unsaved: bool) -> None:
        if not unsaved:
            asyncio.run(self.history.save())
        name = self.history._conversation
        self.history = StoredChatHistory(self.store, name, **self.bounds)
        self.history.set_system_prompt("be kind")
        asyncio.run(self.history.load())

    @rule(place=st.floats(0, 1))
    def fork(self, place: float) -> None:
        self.forks += 1
        messages = self.history.messages
        if messages:
            at = messages[int(place * (len(messages) - 1))].id
            shared = self.history.fork(at)
            self.history = asyncio.run(self.history.fork_to(f"c{self.forks}", at))
            assert self.history.messages[-1].id == shared.messages[-1].id

    @rule()
    def clear(self) -> None:
        self.history.clear()

    @rule(share=SHARE, strategy=st.sampled_from(["drop_oldest", "drop_middle"]), exact=st.booleans())
    def leave_out(self, share: float, strategy: Any, exact: bool) -> None:
        self.fit(strategy, share, count_characters if exact else TokenEstimate())

    @rule(share=SHARE, keep_last=st.integers(1, 4), fails=st.booleans(), length=st.integers(1, 500))
    def summarise(self, share: float, keep_last: int, fails: bool, length: int) -> None:
        async def write(request: LLMConversation) -> str:
            assert conversation_faults(request) == []
            assert "be kind" not in str(request)
            if fails:
                raise ProviderUnavailableError("away")
            return "s" * length

        self.fit(Summarise(write, keep_last=keep_last, max_chars=100), share, count_characters)

    def fit(self, strategy: Any, share: float, count: Any) -> None:
        before = self.history.messages
        room = 1 + int(share * count(self.history.get_messages()))
        window = ContextWindow(room, reserve_tokens=0, strategy=strategy, count=count)
        try:
            view = asyncio.run(window.fit(self.history))
        except ContextLengthError:
            return
        assert self.history.messages == before
        assert view.tokens <= room
        self.check(view, before)

    def check(self, view: ContextView, before: tuple[ChatMessage, ...]) -> None:
        assert conversation_faults(view.messages) == []
        assert view.messages[0]["content"] == "be kind"
        whole = self.history.get_messages()
        users = [m.to_dict() for m in before if m.role is Role.USER]
        if users:
            assert [m for m in view.messages if m["role"] == "user"][-1] == users[-1]
            if view.left_out or before[0].role is Role.USER:
                assert view.messages[1]["role"] == "user"
        if whole[1:]:
            assert view.messages[-1] == whole[-1]
        begin = 1 + (0 if view.summary is None else 2)
        read = view.messages[begin:]
        rest = iter(whole[1:])
        assert all(message in rest for message in read)  # in order, none twice, each as it was said
        if view.summary is None:
            left_out = {m.id for m in before if m.id in view.left_out}
            assert (len(read) == len(whole) - 1) == (not left_out)

    @invariant()
    def valid(self) -> None:
        if hasattr(self, "history"):
            assert conversation_faults(self.history.get_messages()) == []


Conversations.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestConversations = Conversations.TestCase
