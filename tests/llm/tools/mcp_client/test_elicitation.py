"""What servers ask people: through the approvals, whoever answers there, with both eras of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from mcp import Client
from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp.server.mcpserver.resolve import ElicitationResult
from mcp_types import ElicitRequestFormParams, ElicitRequestURLParams, ElicitResult, ErrorData
from pydantic import BaseModel, Field

from llmgine.bus import MessageBus
from llmgine.bus.approval_records import ApprovalState
from llmgine.database.stores import Database
from llmgine.errors import StoreError
from llmgine.llm.approvals import Approvals, MemoryApprovalStore, ToolApprovalEvent, ToolApprovalRequestedEvent
from llmgine.llm.engine import LLMEngine
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall
from llmgine.llm.tools.mcp.elicitation import MAX_QUESTION, AskPerson
from llmgine.llm.tools.mcp.server_question import MAX_OPEN
from llmgine.llm.tools.mcp.targets import ServerTarget
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import Event, SessionID

A = SessionID("a")
ERAS = ["legacy", "auto"]


class Booking(BaseModel):
    seats: Annotated[int, Field(ge=1, le=9, description="How many")]
    where: Literal["window", "aisle"] = "window"
    name: str = "nobody"


def ask_seats() -> Elicit[Booking]:
    return Elicit("How many seats?", Booking)


def server() -> MCPServer:
    """Return a server whose tools ask: one as each era does."""
    made = MCPServer("agency")

    @made.tool()
    async def book_now(context: Context) -> str:
        """Ask while the call waits."""
        return repr(await context.elicit("How many seats?", Booking))

    @made.tool()
    async def book(booking: Annotated[ElicitationResult[Booking], Resolve(ask_seats)]) -> str:
        """Ask in the way of the connection."""
        return repr(booking)

    @made.tool()
    async def pay(context: Context) -> str:
        return repr(await context.elicit_url("Pay there", "https://pay.example/c?id=1", "e1"))

    return made


@dataclass
class Desk:
    """A bus with approvals, and somebody who answers."""

    bus: MessageBus
    approvals: Approvals
    requests: list[ToolApprovalRequestedEvent] = field(default_factory=list[ToolApprovalRequestedEvent])
    answers: list[Callable[[ToolApprovalRequestedEvent], Any]] = field(default_factory=list[Any])
    context: ToolContext | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self, event: Event) -> None:
        if isinstance(event, ToolApprovalRequestedEvent):
            self.requests.append(event)
            self.asked.set()
            if self.answers:
                await self.answers.pop(0)(event)

    def say(self, *, approve: bool = True, **answer: Any) -> None:
        """Answer the next question so."""
        decision = answer or None
        self.answers.append(
            lambda event: self.approvals.decide(event.approval_id, approve=approve, answer=decision, decided_by="ada")
        )

    @asynccontextmanager
    async def client(self, mode: Any) -> AsyncGenerator[Client]:
        ask = AskPerson(self.approvals)

        async def elicit(context: Any, params: Any) -> ElicitResult | ErrorData:
            assert context.session is not None
            return await ask("agency", params, self.context)

        async with asyncio.timeout(20), Client(server(), mode=mode, elicitation_callback=elicit) as client:
            yield client

    async def call(self, tool: str, mode: Any) -> str:
        async with self.client(mode) as client:
            result = await client.call_tool(tool, {})
        return str(result.content[0].text)  # type: ignore[union-attr]

    async def ask(self, params: Any, context: ToolContext | None = None) -> ElicitResult | ErrorData:
        """Ask without a server."""
        async with asyncio.timeout(10):
            return await AskPerson(self.approvals)("agency", params, context)


@pytest.fixture
def desk(bus: MessageBus) -> Desk:
    desk = Desk(bus, Approvals(bus))
    bus.register_event_handler(ToolApprovalEvent, desk.hear)
    bus.unsuppress_event_errors()
    return desk


def form(message: str = "How many?", **properties: Any) -> ElicitRequestFormParams:
    return ElicitRequestFormParams(
        message=message, requested_schema={"type": "object", "properties": properties, "required": [*properties]}
    )


def page(url: str) -> ElicitRequestURLParams:
    return ElicitRequestURLParams(message="Look", url=url)


SEATS = form(seats={"type": "integer"})


@pytest.mark.parametrize("mode", ERAS)
async def test_what_is_filled_in_reaches_the_tool_that_asked(desk: Desk, mode: str) -> None:
    desk.say(seats=2, where="aisle")
    desk.context = ToolContext(session_id=A, run_id="r", tool_name="book", idempotency_key="k")

    assert "seats=2, where='aisle', name='nobody'" in await desk.call("book", mode)
    (request,) = desk.requests
    assert (request.session_id, request.run_id, request.tool_name) == (A, "r", "agency/elicitation")
    assert request.arguments == {"message": "How many seats?"}
    assert request.answer_schema is not None
    assert request.answer_schema["properties"]["seats"]["maximum"] == 9
    assert request.note == "During a call of book. The MCP server agency asks this, not the application."
    (record,) = await desk.approvals.store.list()
    assert (record.state, record.answer) == (ApprovalState.USED, {"seats": 2, "where": "aisle"})


@pytest.mark.parametrize("mode", ERAS)
async def test_a_no_declines_and_silence_cancels(desk: Desk, mode: str) -> None:
    desk.say(approve=False)
    assert "Declined" in await desk.call("book", mode)
    desk.context = ToolContext(deadline=asyncio.get_running_loop().time() + 0.05)
    assert "Cancelled" in await desk.call("book", mode)
    assert [record.state for record in await desk.approvals.store.list()] == ["denied", "expired"]


async def test_a_tool_of_the_era_before_may_ask_while_its_call_waits(desk: Desk) -> None:
    desk.say(seats=9)
    assert "seats=9" in await desk.call("book_now", "legacy")


async def test_a_page_is_shown_in_full_and_agreed_to(desk: Desk) -> None:
    desk.say()
    assert "Accepted" in await desk.call("pay", "legacy")
    desk.say(approve=False)
    assert "Declined" in await desk.call("pay", "legacy")
    request = desk.requests[0]
    assert (request.url, request.answer_schema) == ("https://pay.example/c?id=1", None)
    assert request.arguments == {"message": "Pay there", "host": "pay.example"}


async def test_a_wrong_answer_is_told_to_who_gives_it_and_the_server_waits_for_a_right_one(desk: Desk) -> None:
    asked = asyncio.create_task(desk.ask(SEATS))
    await desk.asked.wait()
    (record,) = await desk.approvals.pending()
    with pytest.raises(ValueError, match="seats: expected a whole number"):
        await desk.approvals.decide(record.id, approve=True, answer={"seats": "two"})
    assert not asked.done()
    await desk.approvals.decide(record.id, approve=True, answer={"seats": 2})
    assert await asked == ElicitResult(action="accept", content={"seats": 2})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "ftp://a.example/",
        "https://",
        "https:///path",
        "https://user@a.example/",
        "https://google.com:x@evil.example/",
        "https://a.example/\n",
        "https://a.example/ b",
        "https://a.example\\@evil.example",
        "https://a.example/\x1b[2J",
        "https://[::1",
        "https://a.example/" + "x" * 2048,
        "https://" + "a" * 64 + ".example/",
    ],
)
async def test_a_page_that_could_be_mistaken_is_refused_unseen(desk: Desk, url: str) -> None:
    assert isinstance(await desk.ask(page(url)), ErrorData)
    assert desk.requests == []


async def test_a_host_in_other_letters_is_told_as_it_is_looked_up(desk: Desk) -> None:
    desk.say()
    assert await desk.ask(page("https://раураl.example/login")) == ElicitResult(action="accept")
    assert desk.requests[0].arguments["host"] == "xn--l-7sba6dbr.example"


@pytest.mark.parametrize(
    "params",
    [
        form(a={"type": "object", "properties": {}}),
        form(a={"$ref": "https://a.example/schema"}),
        ElicitRequestFormParams(message="?", requested_schema={"type": "string"}),
    ],
)
async def test_a_form_that_nobody_could_fill_in_is_refused(desk: Desk, params: Any) -> None:
    answer = await desk.ask(params)
    assert isinstance(answer, ErrorData)
    assert "The schema of an answer" in answer.message
    assert desk.requests == []


async def test_a_question_has_a_longest_length_schema_included(desk: Desk) -> None:
    for params in (form("x" * MAX_QUESTION), form(a={"type": "string", "description": "x" * MAX_QUESTION})):
        answer = await desk.ask(params)
        assert isinstance(answer, ErrorData)
        assert f"{MAX_QUESTION} characters" in answer.message


async def test_a_server_that_asks_without_end_is_cut_off_and_others_are_not(desk: Desk) -> None:
    ask = AskPerson(desk.approvals)
    asked = [asyncio.create_task(ask("agency", SEATS, None)) for _ in range(MAX_OPEN)]
    async with asyncio.timeout(10):
        while len(desk.requests) < MAX_OPEN:
            desk.asked.clear()
            await desk.asked.wait()
        assert await ask("agency", SEATS, None) == ElicitResult(action="cancel")
        desk.say(seats=1)
        assert (await ask("other", SEATS, None)).action == "accept"  # type: ignore[union-attr]
        await desk.approvals.decide(desk.requests[0].approval_id, approve=False)
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        desk.say(seats=1)
        assert (await ask("agency", SEATS, None)).action == "accept"  # type: ignore[union-attr]
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)


async def test_whose_call_is_cancelled_is_not_asked_any_more(desk: Desk) -> None:
    asked = asyncio.create_task(desk.ask(SEATS))
    await desk.asked.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await desk.approvals.pending() == []


async def test_when_no_time_is_left_or_nothing_can_be_kept_nobody_is_asked(
    bus: MessageBus, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    late = ToolContext(deadline=asyncio.get_running_loop().time() - 1)
    assert await desk.ask(SEATS, late) == ElicitResult(action="cancel")

    class Away(MemoryApprovalStore):
        async def add(self, record: Any) -> None:
            raise StoreError("away")

    desk.approvals._store = Away()
    assert await desk.ask(SEATS) == ElicitResult(action="cancel")
    assert "nobody could be asked: away" in caplog.text
    assert desk.requests == []


async def test_the_same_question_of_the_same_call_is_the_same_request_after_a_restart(tmp_path: Path) -> None:
    context = ToolContext(session_id=A, idempotency_key="k")
    states: list[str] = []
    for process in range(3):
        database = Database(f"sqlite:///{tmp_path / 'bus.db'}")
        bus = MessageBus.isolated()
        await bus.start()
        approvals = Approvals(bus, database.approvals, look_every=0.05)
        desk = Desk(bus, approvals)
        bus.register_event_handler(ToolApprovalEvent, desk.hear)
        asked = asyncio.create_task(desk.ask(SEATS, context))
        if process < 2:
            await asyncio.wait_for(desk.asked.wait(), 10)
            approvals.close()  # the program ends
            asked.cancel()
            await asyncio.wait([asked])
        else:
            assert await asked == ElicitResult(action="accept", content={"seats": 3})
        states = [record.state.value for record in await database.approvals.list()]
        if process == 1:  # answered while nothing runs
            await database.approvals.decide(desk.requests[0].approval_id, approve=True, answer={"seats": 3})
        await bus.stop()
        await database.aclose()
    assert states == ["used"]


async def test_the_same_question_again_in_the_same_call_is_a_new_one(desk: Desk) -> None:
    context = ToolContext(idempotency_key="k")
    for seats in (1, 2):
        desk.say(seats=seats)
        assert await desk.ask(SEATS, context) == ElicitResult(action="accept", content={"seats": seats})
    assert len(desk.requests) == 2


@pytest.mark.parametrize("mode", ERAS)
async def test_a_question_during_a_call_of_an_engines_tool_is_asked_in_the_session_of_the_prompt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    made = server()

    def client(target: Any, *_: Any) -> Client:
        return Client(made, mode=mode, **target._callbacks)

    monkeypatch.setattr(ServerTarget, "client", client)
    tools = ToolManager()
    assert await tools.register_mcp_server("agency", server=made, timeout=0.5)  # before there is an engine
    calls = Reply(tool_calls=[ToolCall("1", name="book")])
    engine = LLMEngine(
        desk.bus, ScriptedProvider([calls, Reply("Booked.")]), tools=tools, approvals=desk.approvals, session_id=A
    )

    async def think(request: ToolApprovalRequestedEvent) -> None:
        await asyncio.sleep(0.7)  # longer than the tool may take
        await desk.approvals.decide(request.approval_id, approve=True, answer={"seats": 4})

    desk.answers.append(think)
    try:
        async with asyncio.timeout(20):
            assert await engine.respond("Book four seats", A) == "Booked."
    finally:
        await tools.cleanup_mcp_servers()

    (request,) = desk.requests
    assert request.session_id == A
    assert request.run_id
    assert request.note.startswith("During a call of book.")
    assert "seats=4" in engine.history.get_messages()[-2]["content"]


async def test_while_there_is_nobody_to_ask_every_question_is_cancelled() -> None:
    tools = ToolManager()
    assert await tools.register_mcp_server("agency", server=server())
    try:
        async with asyncio.timeout(20):
            assert "Cancelled" in str(await tools.execute_tool_call(ToolCall("1", name="book")))
    finally:
        await tools.cleanup_mcp_servers()


async def test_an_answer_holds_for_the_question_that_was_asked_and_for_no_other(desk: Desk) -> None:
    context = ToolContext(idempotency_key="k")
    desk.say(approve=False)
    assert (await desk.ask(page("https://a.example/1"), context)).action == "decline"  # type: ignore[union-attr]
    assert (await desk.ask(page("https://a.example/1"), context)).action == "decline"  # type: ignore[union-attr]
    desk.say()
    assert (await desk.ask(page("https://a.example/2"), context)).action == "accept"  # type: ignore[union-attr]
    assert [request.url for request in desk.requests] == ["https://a.example/1", "https://a.example/2"]
