"""What has to be known about an MCP server: how it is reached, and what of it is wanted."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast
from urllib.parse import urlsplit

from llmgine.errors import ConfigurationError
from llmgine.llm.tools.effects import Effect

__all__ = ["MCPServerConfig", "matches"]

_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,60}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class MCPServerConfig:
    """A server that is started as a process and talked to over its pipes, or that answers under a URL, or is here.

    What may hold a secret is in no error message, and neither `env` nor `headers` is in its repr.

    Raises:
        ConfigurationError: an option is out of its range, or they contradict each other.
    """

    command: str = ""
    """The program to start; or else `url`, or `server`."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Environment variables, besides the few that every server gets: PATH, HOME and the like, those about proxies and
    certificates, no keys."""
    cwd: str | None = None
    """The folder that it runs in. Default: that of this process."""

    url: str = ""
    """Where a server answers over streamable HTTP: `https://…`, `http://…`."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Sent with every request, such as `Authorization`."""

    server: Any = field(default=None, repr=False)
    """A server in this process: a `Server` or an `MCPServer` of the SDK."""

    prefix: str = ""
    """What the names of its tools begin with here."""
    include: tuple[str, ...] | None = None
    """The tools that are wanted, by their names on the server, where `*` stands for anything. Default: all."""
    exclude: tuple[str, ...] = ()
    """Those of them that are not."""
    timeout: float | None = None
    """Seconds that a call may take; `math.inf` is no limit. Default: that of the `ToolManager`."""
    connect_timeout: float = 30.0
    """Seconds until the server must have answered for the first time."""
    effects: Mapping[str, Effect] = field(default_factory=dict[str, Effect])
    """What happens if a call is run twice, by the tool's name on the server; under `*`, for all that are not named.
    Default: unsafe."""
    trust_annotations: bool = False
    """Whether to believe what the server says of the effects of its tools, where `effects` says nothing."""
    requires_approval: bool | tuple[str, ...] = False
    """Whether a person must agree to each call; or of which tools, as in `include`."""
    sampling: bool = False
    """Whether the server may have this application's model write something."""

    def __post_init__(self) -> None:
        _check_text("command", self.command)
        _check_text("url", self.url)
        given = [name for name in ("command", "url", "server") if getattr(self, name) not in {"", None}]
        if len(given) != 1:
            found = f"{' and '.join(given)} are" if given else "neither is"
            msg = f"command (a program to start) or url (where a server answers) must be given; {found}."
            raise ConfigurationError(msg)
        self._set(args=_texts("args", self.args), env=_pairs("env", self.env), headers=_pairs("headers", self.headers))
        if self.command:
            self._check_process()
        else:
            self._check_no_process()
        if self.url:
            self._check_address()
        self._check_choice()
        for name in ("trust_annotations", "sampling"):
            if not isinstance(getattr(self, name), bool):
                msg = f"{name} must be true or false, not {_kind(getattr(self, name))}."
                raise ConfigurationError(msg)
        if self.timeout is not None:
            _check_seconds("timeout", self.timeout)
        _check_seconds("connect_timeout", self.connect_timeout)

    def must_be_approved(self, name: str) -> bool:
        """Return whether a person must agree to what has this name on the server."""
        required = self.requires_approval
        return required if isinstance(required, bool) else matches(name, required)

    def _check_process(self) -> None:
        if self.headers:
            msg = "headers are sent to a url; a command gets its secrets in env."
            raise ConfigurationError(msg)
        if self.cwd is not None:
            _check_text("cwd", self.cwd)
        for name in self.env:
            if not name or "=" in name or "\0" in name:
                msg = f"env: {name!r} cannot be the name of a variable."
                raise ConfigurationError(msg)
        if any("\0" in text for text in (self.command, *self.args, self.cwd or "", *self.env.values())):
            msg = "command, args, env and cwd must not have a NUL character in them."
            raise ConfigurationError(msg)

    def _check_no_process(self) -> None:
        if self.args or self.env or self.cwd is not None:
            msg = "args, env and cwd are for a command; a server under a url gets its secrets in headers."
            raise ConfigurationError(msg)
        if self.server is not None and self.headers:
            msg = "headers are sent to a url; a server in this process gets none."
            raise ConfigurationError(msg)

    def _check_address(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable or re.search(r"\s", self.url):
            msg = "url must be an address such as https://example.com/mcp."
            raise ConfigurationError(msg)
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name):
                msg = f"headers: {name!r} cannot be the name of a header."
                raise ConfigurationError(msg)
            if _CONTROLS.search(value) or not value.isascii():
                msg = f"headers: the value of {name} has characters in it that a header cannot have."
                raise ConfigurationError(msg)

    def _check_choice(self) -> None:
        if not isinstance(cast("Any", self.prefix), str) or not _PREFIX.fullmatch(self.prefix):
            msg = "prefix must be up to 60 letters, digits, '_' or '-'."
            raise ConfigurationError(msg)
        if self.include is not None:
            self._set(include=_texts("include", self.include))
        self._set(exclude=_texts("exclude", self.exclude))
        if not isinstance(self.requires_approval, bool):
            self._set(requires_approval=_texts("requires_approval", self.requires_approval, or_else="true, false or "))
        effects = dict(_pairs("effects", self.effects))
        try:
            self._set(effects={name: Effect(effect) for name, effect in effects.items()})
        except ValueError as exc:
            msg = f"effects: the effect of a tool must be one of {', '.join(Effect)}."
            raise ConfigurationError(msg) from exc

    def _set(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name on a server is one of those, in which `*` stands for anything."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_text(name: str, given: object) -> None:
    if not isinstance(given, str):
        msg = f"{name} must be a text, not {_kind(given)}."
        raise ConfigurationError(msg)


def _check_seconds(name: str, given: object) -> None:
    if isinstance(given, bool) or not isinstance(given, int | float):
        msg = f"{name} must be a number of seconds, not {_kind(given)}."
        raise ConfigurationError(msg)
    if math.isnan(given) or given <= 0:
        msg = f"{name} must be a number of seconds above 0, not {given}."
        raise ConfigurationError(msg)


def _texts(name: str, given: object, *, or_else: str = "") -> tuple[str, ...]:
    values = tuple(given) if isinstance(given, Collection) and not isinstance(given, str | Mapping) else (None,)
    if not all(isinstance(each, str) for each in values):
        msg = f"{name} must be {or_else}a list of texts{', not one text' if isinstance(given, str) else ''}."
        raise ConfigurationError(msg)
    return cast("tuple[str, ...]", values)


def _pairs(name: str, given: object) -> Mapping[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(each, str) for pair in given.items() for each in pair):
        msg = f"{name} must be names with a text each."
        raise ConfigurationError(msg)
    return dict(given)


def _kind(given: object) -> str:
    return "a text" if isinstance(given, str) else type(given).__name__
