"""Pages that a person has to visit before a server does what it is asked: so servers of revision 2025-11-25 may refuse.

Later ones ask during the call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["after_visits"]

T = TypeVar("T")

_MOST_PAGES = 8


async def after_visits(client: Client, call: Callable[[], Awaitable[T]]) -> T:
    """Make a call. If it is refused until pages are visited, have a person asked, and make it once more if they agree.

    Raises whatever the call does, which has done nothing yet where it is refused so.
    """
    try:
        return await call()
    except Exception as exc:
        if not await _visited(client, exc):
            raise
    return await call()


async def _visited(client: Client, exc: Exception) -> bool:
    """Return whether that is a refusal for the sake of pages, and a person agrees to visit them all."""
    from mcp import MCPError
    from mcp.client.session import ClientRequestContext
    from mcp.shared.exceptions import UrlElicitationRequiredError
    from mcp_types import ElicitRequest, ElicitResult
    from mcp_types.jsonrpc import URL_ELICITATION_REQUIRED
    from pydantic import ValidationError

    if not isinstance(exc, MCPError) or exc.code != URL_ELICITATION_REQUIRED:
        return False
    try:
        pages = UrlElicitationRequiredError.from_error(exc.error).elicitations
    except (ValidationError, AttributeError, TypeError):  # what it says of the pages makes no sense
        return False
    if not 0 < len(pages) <= _MOST_PAGES:
        return False
    for page in pages:
        about = ClientRequestContext(session=client.session, request_id=page.elicitation_id or "")
        answer = await client.session.dispatch_input_request(about, ElicitRequest(params=page))
        if not isinstance(answer, ElicitResult) or answer.action != "accept":
            return False
    return True
