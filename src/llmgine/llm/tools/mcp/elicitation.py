"""What a server asks a person becomes a request for approval: there is one place where people are asked."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from llmgine.bus.answer_schema import form_of
from llmgine.bus.approval_records import ApprovalState
from llmgine.errors import ApprovalError, ConfigurationError, StoreError
from llmgine.llm.approvals import Approvals
from llmgine.llm.tools.mcp.server_question import MAX_OPEN, ServerQuestion
from llmgine.llm.tools.tool_context import ToolContext

if TYPE_CHECKING:
    from mcp_types import ElicitRequestParams, ElicitResult, ErrorData

__all__ = ["MAX_QUESTION", "MAX_URL", "AskPerson", "OnElicitation"]

logger = logging.getLogger("llmgine.mcp")

_Answer: TypeAlias = "Awaitable[ElicitResult | ErrorData]"
OnElicitation: TypeAlias = "Callable[[str, ElicitRequestParams, ToolContext | None], _Answer]"
"""Answers what a server asks a person: its name, the question, and the call during which it asks if that is known."""

MAX_QUESTION = 32_768
"""Characters of the longest question, with its schema as JSON."""
MAX_URL = 2048
"""Characters of the longest URL."""

_UNPRINTABLE = re.compile(r"[\s\x00-\x20\x7f-\x9f]")


class AskPerson:
    """Has what servers ask decided as calls of tools are: by whom, how and where, is the approvals' business.

    An approval accepts, with what was filled in; a denial declines; where nobody answers in time, or there is nothing
    to keep the question in, the answer is "cancel". A question that is asked again after a restart, in the same call,
    is the same request. Pages are shown, never opened.
    """

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals
        self._open: Counter[str] = Counter()

    async def __call__(
        self, server: str, params: ElicitRequestParams, context: ToolContext | None
    ) -> ElicitResult | ErrorData:
        """Ask, and wait for the answer. Only a cancellation is raised, and withdraws the question.

        Args:
            server: its name here, for whoever is asked.
            params: the question.
            context: of the call during which it is asked, if that is known. The time that this takes is not the tool's,
                but the prompt's; its deadline holds.
        """
        from mcp_types import INVALID_PARAMS, ElicitResult, ErrorData

        question = _question(server, params)
        problem = _problem(question)
        if problem:
            logger.warning("%s: asked what cannot be passed on: %s", server, problem)
            return ErrorData(code=INVALID_PARAMS, message=problem)
        if self._open[server] >= MAX_OPEN:
            logger.warning("%s: asks too much: %d of its questions wait for an answer already", server, MAX_OPEN)
            return ElicitResult(action="cancel")
        self._open[server] += 1
        try:
            record = await question.put(self._approvals, context or ToolContext())
        except (ApprovalError, StoreError) as error:
            logger.warning("%s: nobody could be asked: %s", server, error)
            return ElicitResult(action="cancel")
        finally:
            self._open[server] -= 1
        if record is None or record.state is ApprovalState.EXPIRED:
            return ElicitResult(action="cancel")
        if record.state is ApprovalState.DENIED:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content=record.answer)


def _question(server: str, params: ElicitRequestParams) -> ServerQuestion:
    note = f"The MCP server {server} asks this, not the application."
    arguments = {"message": params.message}
    if params.mode == "form":
        schema = params.requested_schema
        return ServerQuestion(server=server, kind="elicitation", arguments=arguments, note=note, answer_schema=schema)
    arguments["host"] = _host(params.url)  # which letters that look like others do not hide
    return ServerQuestion(server=server, kind="elicitation", arguments=arguments, note=note, url=params.url)


def _problem(question: ServerQuestion) -> str:
    """Return why a question is not one that anybody is asked; "" if it is."""
    schema = question.answer_schema
    if len(question.arguments["message"]) + len(json.dumps(schema)) > MAX_QUESTION:
        return f"The question must not have more than {MAX_QUESTION} characters, with its schema."
    if schema is None:
        usable = f"The url must be of http or https, with a host, without a password, of {MAX_URL} characters at most."
        return "" if question.arguments["host"] else usable
    try:
        form_of(schema)
    except ConfigurationError as error:
        return str(error)
    return ""


def _host(url: str) -> str:
    """Return the host of a page, as it is looked up; "" if the URL is none that anybody should be shown."""
    if len(url) > MAX_URL or _UNPRINTABLE.search(url) or "\\" in url:
        return ""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError:
        return ""
    return host if parts.scheme in {"http", "https"} and "@" not in parts.netloc else ""
