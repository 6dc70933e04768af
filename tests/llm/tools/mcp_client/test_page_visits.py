"""A call that is refused until somebody has visited pages: asked about once, and made once more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import ElicitRequestURLParams, ElicitResult
from mcp_types.jsonrpc import URL_ELICITATION_REQUIRED

from llmgine.llm.tools.mcp.page_visits import after_visits


def page(number: int) -> ElicitRequestURLParams:
    return ElicitRequestURLParams(message="Sign in", url=f"https://a.example/{number}", elicitation_id=str(number))


async def call(answers: list[Any], pages: int = 2, *, visited: bool = True, error: Exception | None = None) -> Any:
    """Call a tool that wants pages visited first; return its answer, how often it was called, and what was asked."""
    server = MCPServer("agency")
    asked: list[str] = []
    calls: list[int] = []

    @server.tool()
    async def pay() -> str:
        calls.append(1)
        if len(calls) == 1 or not visited:
            raise error or UrlElicitationRequiredError([page(number) for number in range(pages)], "Sign in first.")
        return "paid"

    async def elicit(context: Any, params: Any) -> ElicitResult:
        assert context.request_id == params.elicitation_id
        asked.append(params.url)
        return ElicitResult(action=answers.pop(0))

    async with asyncio.timeout(20), Client(server, mode="legacy", elicitation_callback=elicit) as client:
        try:
            result = await after_visits(client, lambda: client.call_tool("pay", {}))
            told = getattr(result.content[0], "text", "")
        except MCPError as refused:
            told = refused.error.message
    return told, len(calls), asked


async def test_it_is_made_again_when_all_pages_are_visited() -> None:
    assert await call(["accept", "accept"]) == ("paid", 2, ["https://a.example/0", "https://a.example/1"])


@pytest.mark.parametrize("answer", ["decline", "cancel"])
async def test_it_stays_refused_when_one_is_not(answer: str) -> None:
    assert await call(["accept", answer, "accept"], 3) == (
        "Sign in first.",
        1,
        ["https://a.example/0", "https://a.example/1"],
    )


async def test_it_is_made_again_once_and_no_more() -> None:
    assert await call(["accept"] * 5, 1, visited=False) == ("Sign in first.", 2, ["https://a.example/0"])


@pytest.mark.parametrize("pages", [0, 9])
async def test_no_pages_and_too_many_are_a_refusal_like_another(pages: int) -> None:
    assert await call([], pages) == ("Sign in first.", 1, [])


@pytest.mark.parametrize("data", [None, [], {"elicitations": 5}, {"elicitations": [{"url": 5}]}])
async def test_so_is_what_makes_no_sense(data: Any) -> None:
    assert await call([], error=MCPError(URL_ELICITATION_REQUIRED, "Sign in first.", data)) == ("Sign in first.", 1, [])
