"""The protocol over HTTP, and who may speak it: on this machine anybody, beyond it who has the token."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response

from llmgine.errors import ConfigurationError

if TYPE_CHECKING:
    from types import FrameType

    from mcp.server import Server
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["PATH", "http_app", "serve_http"]

PATH = "/mcp"
_GRACE = 3
"""Seconds that requests get to end after a signal, before they are cancelled."""


def http_app(server: Server[Any], host: str, token: str | None, allowed_origins: Collection[str]) -> Starlette:
    """Return the application that answers under `PATH`.

    Raises:
        ConfigurationError: it would be open to others than this machine, or the token or an origin cannot be one.
    """
    _check(host, token, allowed_origins)
    # The guard looks at hosts and origins: it knows that of a server with a token any name may be right.
    unguarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(streamable_http_path=PATH, transport_security=unguarded)
    app.add_middleware(Guard, token=token, allowed_origins=frozenset(allowed_origins), loopback=_is_loopback(host))
    if allowed_origins:  # which are of no use to a browser that is not told so
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Mcp-Session-Id"],
        )
    return app


async def serve_http(
    server: Server[Any],
    host: str,
    port: int,
    *,
    token: str | None,
    allowed_origins: Collection[str],
    on_listening: Callable[[str], object] | None,
) -> None:
    """Serve clients until SIGTERM, SIGINT or a cancellation, then give them `_GRACE` seconds.

    Raises:
        ConfigurationError: as `http_app` does, or nobody can listen there.
    """
    app = http_app(server, host, token, allowed_origins)
    listener = _listen(host, port)
    try:
        if on_listening is not None:
            shown = f"[{host}]" if ":" in host else host
            on_listening(f"http://{shown}:{listener.getsockname()[1]}{PATH}")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=_GRACE,
        )
        uvicorn_server = _Uvicorn(config)
        serving = asyncio.ensure_future(uvicorn_server.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:  # by which uvicorn would leave everything where it is
            uvicorn_server.should_exit = True
            await serving
            raise
    finally:
        listener.close()


class _Uvicorn(uvicorn.Server):
    """Ends at a signal, and leaves it at that: raised again, it would end the program, and not the bus first."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.force_exit = self.should_exit  # asked a second time
        self.should_exit = True


class Guard:
    """Turns away who must not speak to the server, before anything that they send is read.

    Args:
        app: what is guarded.
        token: what to send as `Authorization: Bearer …`; None if nothing is asked for.
        allowed_origins: web pages that may speak to it, as `https://example.com`, besides those of this machine where
            the server is for this machine.
        loopback: whether it is. Then it must be spoken to as such: a page that has its own name lead here (DNS
            rebinding) is neither a foreign origin to the browser nor known to have come from elsewhere.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, allowed_origins: frozenset[str], loopback: bool) -> None:
        self._app = app
        self._credentials = None if token is None else token.encode()
        self._allowed_origins = allowed_origins
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        refusal = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        if self._loopback and not _is_loopback(_name(f"//{headers.get('host', '')}")):
            return PlainTextResponse("This server is for this machine: the Host header names another.", 403)
        origin = headers.get("origin")
        if origin is not None and not self._may_speak(origin):
            return PlainTextResponse("Pages of this origin may not speak to this server.", 403)
        if self._credentials is not None:
            scheme, _, credentials = headers.get("authorization", "").partition(" ")
            given = credentials.strip().encode()
            if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._credentials):
                return PlainTextResponse(
                    "Send the server's token: Authorization: Bearer …", 401, {"WWW-Authenticate": "Bearer"}
                )
        return None

    def _may_speak(self, origin: str) -> bool:
        if origin in self._allowed_origins:
            return True
        return self._loopback and origin.startswith(("http://", "https://")) and _is_loopback(_name(origin))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name(url: str) -> str:
    """Return the name of the host in a URL; "" where there is none, or something is wrong with it."""
    try:
        parts = urlsplit(url)
        named = parts.hostname is not None and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return ""
    return (parts.hostname or "") if named else ""


def _check(host: str, token: str | None, allowed_origins: Collection[str]) -> None:
    if token is None and not _is_loopback(host):
        msg = (
            f"Serving MCP on {host or 'every address'} lets others than this machine run the tools. "
            "Give a token that they must send (token=), or serve on 127.0.0.1."
        )
        raise ConfigurationError(msg)
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        msg = "The token must be one word of printable ASCII characters: it is sent in a header."
        raise ConfigurationError(msg)
    for origin in (allowed_origins,) if isinstance(allowed_origins, str) else allowed_origins:
        parts = urlsplit(origin)
        if isinstance(allowed_origins, str) or origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc:
            msg = f"allowed_origins is a list of origins such as https://example.com, without a path; got {origin!r}."
            raise ConfigurationError(msg)


def _listen(host: str, port: int) -> socket.socket:
    given: Any = port
    if not (isinstance(given, int) and 0 <= given <= 65_535):
        msg = f"port must be a number from 0 to 65535, not {port!r}."
        raise ConfigurationError(msg)
    try:
        family, *_, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        msg = f"Nobody can listen on {host}:{port}: {error}. Choose another host or port."
        raise ConfigurationError(msg) from error
