"""What a server that others wrote asks, with each kind of field that there is: forms, pages, and the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp_servers import server_command

from llmgine.bus import MessageBus
from llmgine.llm.approvals import Approvals, ToolApprovalRequestedEvent
from llmgine.llm.engine import LLMEngine
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolContext
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import SessionID

A = SessionID("a")
PATIENCE_S = 60


@dataclass
class Everything:
    """The server, an engine that answers it, and a person who answers the engine."""

    tools: ToolManager
    approvals: Approvals
    answer: Callable[[ToolApprovalRequestedEvent], dict[str, Any]] = lambda _: {}
    asked: list[ToolApprovalRequestedEvent] = field(default_factory=list[ToolApprovalRequestedEvent])

    async def decide(self, event: ToolApprovalRequestedEvent) -> None:
        self.asked.append(event)
        decision: dict[str, Any] = {"approve": True, **self.answer(event)}
        await self.approvals.decide(event.approval_id, **decision)

    async def call(self, name: str, **arguments: Any) -> str:
        prepared = self.tools.prepare(ToolCall("1", name=name, arguments=json.dumps(arguments)))
        async with asyncio.timeout(PATIENCE_S):
            result = await self.tools.run_prepared(prepared, ToolContext(session_id=A))  # type: ignore[arg-type]
        return result.content


@pytest.fixture
async def everything(bus: MessageBus) -> AsyncIterator[Everything]:
    command, *arguments = server_command("everything")
    made = Everything(ToolManager(default_timeout_s=PATIENCE_S), Approvals(bus))
    bus.register_event_handler(ToolApprovalRequestedEvent, made.decide)
    LLMEngine(bus, ScriptedProvider([Reply("So be it.")]), tools=made.tools, approvals=made.approvals, session_id=A)
    try:
        assert await made.tools.register_mcp_server(
            "everything", command, arguments, sampling=True, connect_timeout=PATIENCE_S
        )
        yield made
    finally:
        await made.tools.cleanup_mcp_servers()


async def test_every_kind_of_field_is_asked_for_and_answered(everything: Everything) -> None:
    said = {
        "name": "Ada",
        "check": True,
        "email": "ada@example.com",
        "homepage": "https://example.com",
        "birthdate": "1815-12-10",
        "integer": 7,
        "number": 2.5,
        "untitledSingleSelectEnum": "Ross",
        "untitledMultipleSelectEnum": ["Piano", "Bass"],
        "titledSingleSelectEnum": "hero-2",
        "titledMultipleSelectEnum": ["fish-1"],
        "legacyTitledEnum": "pet-2",
    }
    everything.answer = lambda _: {"answer": said}
    told = await everything.call("trigger-elicitation-request")

    assert "User provided the requested information" in told
    assert json.loads(told[told.index("{") :]) == {"action": "accept", "content": said}
    (request,) = everything.asked
    assert request.session_id == A
    (record,) = await everything.approvals.store.list()
    assert record.form is not None
    assert [each.name for each in record.form.fields][:3] == ["name", "check", "firstLine"]
    assert record.form.defaults["titledMultipleSelectEnum"] == ["fish-1"]
    hero = next(each for each in record.form.fields if each.name == "titledSingleSelectEnum")
    assert hero.expected == "one of: hero-1 (Superman), hero-2 (Green Lantern), hero-3 (Wonder Woman)"


async def test_a_no_is_a_no(everything: Everything) -> None:
    everything.answer = lambda _: {"approve": False}
    assert "declined" in await everything.call("trigger-elicitation-request")
    assert "declined" in await everything.call("trigger-url-elicitation", url="https://example.com/", message="Look")


async def test_a_page_is_visited_during_a_call_or_before_it(everything: Everything) -> None:
    during = await everything.call("trigger-url-elicitation", url="https://example.com/?a=1", message="Look")
    before = await everything.call("trigger-url-elicitation", url="https://example.com/2", errorPath=True)

    assert "User completed the URL elicitation flow" in during
    assert "User completed the URL elicitation flow" in before
    assert [request.url for request in everything.asked] == [
        "https://example.com/?a=1",
        "https://modelcontextprotocol.io",
        "https://example.com/2",
    ]


async def test_the_engines_model_writes_what_it_asks(everything: Everything) -> None:
    told = await everything.call("trigger-sampling-request", prompt="Hello", maxTokens=20)
    assert "So be it." in told
    assert everything.asked == []
