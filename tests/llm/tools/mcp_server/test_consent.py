"""Tools that need approval: the user of the client is asked, in both eras of the protocol."""

from typing import Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.mcp.server import create_llmgine_mcp_server

ran: list[str] = []


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tools() -> ToolManager:
    ran.clear()

    def delete(path: str) -> str:
        ran.append(path)
        return "gone"

    manager = ToolManager()
    manager.register_tool(delete, requires_approval=lambda arguments: not arguments["path"].startswith("/tmp/"))  # noqa: S108
    return manager


class User:
    """Who sits in front of the client."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[types.ElicitRequestParams] = []

    async def __call__(self, context: Any, params: types.ElicitRequestParams) -> types.ElicitResult | types.ErrorData:
        self.asked.append(params)
        return self.answer if isinstance(self.answer, types.ErrorData) else types.ElicitResult(action=self.answer)


def client(tools: ToolManager, mode: str, user: User | None) -> Client:
    return Client(create_llmgine_mcp_server(tools).sdk, mode=mode, elicitation_callback=user)


def text_of(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    return block.text


async def test_a_call_that_the_user_agrees_to_runs_once(tools: ToolManager, mode: str) -> None:
    user = User("accept")
    async with client(tools, mode, user) as session:
        result = await session.call_tool("delete", {"path": "/home/ada"})
    assert (result.is_error, text_of(result), ran) == (False, "gone", ["/home/ada"])
    [question] = user.asked
    assert isinstance(question, types.ElicitRequestFormParams)
    assert question.message == 'Run delete with {"path":"/home/ada"}?'
    assert question.requested_schema == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("answer", "told"), [("decline", "was denied by the user"), ("cancel", "the question about it was not answered")]
)
async def test_a_call_that_the_user_does_not_agree_to_does_not_run(
    tools: ToolManager, mode: str, answer: str, told: str
) -> None:
    async with client(tools, mode, User(answer)) as session:
        result = await session.call_tool("delete", {"path": "/home/ada"})
    assert (result.is_error, ran) == (True, [])
    assert told in text_of(result)


async def test_a_call_that_needs_no_approval_runs_unasked(tools: ToolManager, mode: str) -> None:
    user = User("decline")
    async with client(tools, mode, user) as session:
        await session.call_tool("delete", {"path": "/tmp/x"})  # noqa: S108
    assert (user.asked, ran) == ([], ["/tmp/x"])  # noqa: S108


async def test_arguments_that_do_not_fit_are_not_asked_about(tools: ToolManager, mode: str) -> None:
    user = User("accept")
    async with client(tools, mode, user) as session:
        assert (await session.call_tool("delete", {})).is_error
    assert user.asked == []


async def test_a_question_that_fails_is_no_approval(tools: ToolManager) -> None:
    user = User(types.ErrorData(code=-32000, message="no window"))
    async with client(tools, "legacy", user) as session:
        result = await session.call_tool("delete", {"path": "/home/ada"})
    assert (result.is_error, ran) == (True, [])
    assert "no window" in text_of(result)


async def test_where_the_client_cannot_ask_the_call_does_not_run(tools: ToolManager) -> None:
    async with client(tools, "legacy", None) as session:
        result = await session.call_tool("delete", {"path": "/home/ada"})
    assert (result.is_error, ran) == (True, [])
    assert "a person has to agree to it, and this client cannot ask one" in text_of(result)


async def test_where_the_client_cannot_ask_the_protocol_has_an_error_for_it(tools: ToolManager) -> None:
    async with client(tools, "auto", None) as session:
        with pytest.raises(MCPError, match="this client cannot ask one") as refused:
            await session.call_tool("delete", {"path": "/home/ada"})
    assert ran == []
    assert refused.value.code == types.MISSING_REQUIRED_CLIENT_CAPABILITY
    assert refused.value.data == {"requiredCapabilities": {"elicitation": {}}}


async def asked(session: Client, path: str) -> types.InputRequiredResult:
    result = await session.session.call_tool("delete", {"path": path}, allow_input_required=True)
    assert isinstance(result, types.InputRequiredResult)
    return result


AGREED: dict[str, Any] = {"approval": types.ElicitResult(action="accept")}


async def test_an_approval_of_one_call_is_none_of_another(tools: ToolManager) -> None:
    async with client(tools, "auto", User("accept")) as session:
        question = await asked(session, "/home/ada")
        with pytest.raises(MCPError, match="Invalid or expired requestState"):
            await session.session.call_tool(
                "delete",
                {"path": "/home"},
                input_responses=AGREED,
                request_state=question.request_state,
                allow_input_required=True,
            )
    assert ran == []


@pytest.mark.parametrize("state", ["forged", None])
async def test_an_answer_to_no_question_is_none(tools: ToolManager, state: str | None) -> None:
    async with client(tools, "auto", User("accept")) as session:
        call = session.session.call_tool(
            "delete", {"path": "/home"}, input_responses=AGREED, request_state=state, allow_input_required=True
        )
        if state is None:
            assert isinstance(await call, types.InputRequiredResult)
        else:
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await call
    assert ran == []


async def test_who_does_not_answer_is_asked_again(tools: ToolManager) -> None:
    async with client(tools, "auto", User("accept")) as session:
        question = await asked(session, "/home/ada")
        again = await session.session.call_tool(
            "delete", {"path": "/home/ada"}, request_state=question.request_state, allow_input_required=True
        )
    assert isinstance(again, types.InputRequiredResult)
    assert ran == []


async def test_a_long_question_is_cut(tools: ToolManager, mode: str) -> None:
    user = User("decline")
    async with client(tools, mode, user) as session:
        await session.call_tool("delete", {"path": "x" * 10_000})
    assert len(user.asked[0].message) < 4_200
    assert "left out" in user.asked[0].message
