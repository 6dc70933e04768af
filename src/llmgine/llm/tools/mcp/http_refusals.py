"""Why a server over HTTP refuses: the SDK tells that it does, but not with which status."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

__all__ = ["NO_SESSION", "REFUSED", "HttpRefusals"]

REFUSED = "Server returned an error response"
NO_SESSION = "Session terminated"
_NOT_FOUND = "Not Found"

_WRONG_PATH = "this may not be the path at which it speaks MCP, such as /mcp"
_ADVICE = {
    HTTPStatus.UNAUTHORIZED: "it wants a token that it knows, in headers (Authorization)",
    HTTPStatus.FORBIDDEN: "the token in headers (Authorization) gives no right to this, or there is none",
    HTTPStatus.NOT_FOUND: _WRONG_PATH,
    HTTPStatus.METHOD_NOT_ALLOWED: _WRONG_PATH,
}


class HttpRefusals:
    """Remembers the last status with which a message was refused, and puts it in the place of what the SDK says."""

    def __init__(self) -> None:
        self._status = 0

    async def note(self, response: httpx2.Response) -> None:
        """Look at a response, before the SDK does."""
        # Messages are sent by POST; a server may well have no stream that is begun by GET.
        if response.status_code >= HTTPStatus.BAD_REQUEST and response.request.method == "POST":
            self._status = response.status_code

    def explained(self, text: str) -> str:
        """Return what the SDK says of a failure, with the status and what can be done about it if it means one."""
        if not self._status or text not in {REFUSED, NO_SESSION, _NOT_FOUND}:
            return text
        try:
            status = HTTPStatus(self._status)
        except ValueError:
            return f"HTTP {self._status}"
        said = f"HTTP {status} {status.phrase}"
        if text == NO_SESSION:  # which is what 404 means, once there is one
            return f"{said}: it does not know the session any more"
        return f"{said}: {_ADVICE[status]}" if status in _ADVICE else said
