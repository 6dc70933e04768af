"""An `mcp.json`: the servers of an application, in the form that other programs have them in, too.

    {"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"]},
                    "docs": {"type": "http", "url": "https://example.com/mcp",
                             "headers": {"Authorization": "Bearer ${DOCS_TOKEN}"}}}}

Values may be secrets, and no message shows one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from llmgine.errors import ConfigurationError
from llmgine.llm.tools.mcp.config import MCPServerConfig

__all__ = ["read_mcp_file"]

logger = logging.getLogger(__name__)

_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_]\w*)(?::-([^}]*))?\}")
_STDIO, _HTTP = {"stdio"}, {"http", "streamable-http", "streamableHttp"}
_FIELDS = {field.name: field.name for field in fields(MCPServerConfig) if field.name != "server"}
_CAMEL = {re.sub(r"_(.)", lambda match: match[1].upper(), name): name for name in _FIELDS}
_KEYS = _FIELDS | _CAMEL
_EXPANDED = ("command", "args", "env", "cwd", "url", "headers")


def read_mcp_file(path: str | os.PathLike[str]) -> dict[str, MCPServerConfig]:
    """Return the servers of a file by their names, in its order, without those that are `"disabled": true`.

    In `command`, `args`, `env`, `cwd`, `url` and `headers`, `${VAR}` and `${env:VAR}` stand for an environment
    variable, and `${VAR:-text}` for a text where that is not set or is empty. The other options of `MCPServerConfig`
    are keys too, as `connect_timeout` or `connectTimeout`; but not `server`, which is an object. Keys that are unknown
    belong to other programs: each is named in a warning, and passed over.

    Raises:
        ConfigurationError: the file cannot be read, or something in it is wrong.
    """
    servers = _read(path).get("mcpServers")
    if not isinstance(servers, dict):
        msg = f'{path}: expected {{"mcpServers": {{NAME: {{"command": …, "args": […]}} or {{"url": …}}}}}}.'
        raise ConfigurationError(msg)
    configs = {}
    for name, entry in servers.items():
        try:
            if not name.strip():
                _refuse("a server needs a name.")
            if not isinstance(entry, dict):
                _refuse('expected {"command": …, "args": […]} or {"url": …}.')
            disabled = entry.pop("disabled", False)
            if not isinstance(disabled, bool):
                _refuse("disabled must be true or false.")
            if not disabled:
                configs[name] = _config(f"{path}: server {name!r}", entry)
        except ConfigurationError as exc:
            msg = f"{path}: server {name!r}: {exc}"
            raise ConfigurationError(msg) from exc
    return configs


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as exc:
        msg = f"{path} cannot be read: {exc.strerror or exc}."
        raise ConfigurationError(msg) from exc
    except ValueError as exc:
        msg = f"{path} is no text in UTF-8."
        raise ConfigurationError(msg) from exc
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as exc:
        msg = f"{path}, line {exc.lineno}, column {exc.colno}: not JSON: {exc.msg}."
        raise ConfigurationError(msg) from exc
    except ConfigurationError as exc:
        msg = f"{path}: {exc}"
        raise ConfigurationError(msg) from exc
    except RecursionError as exc:
        msg = f"{path} is nested too deeply."
        raise ConfigurationError(msg) from exc
    return data if isinstance(data, dict) else {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; of two with one key, JSON would quietly drop the first."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        _refuse(f"{twice!r} is there twice in the same object; leave one out.")
    return made


def _config(where: str, entry: dict[str, Any]) -> MCPServerConfig:
    kind = entry.pop("type", None)
    options: dict[str, Any] = {}
    for key, value in entry.items():
        name = _KEYS.get(key)
        if name is None:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            logger.warning("%s: the key %r is not one of LLMgine's, and passed over%s", where, key, hint)
        elif name in options:
            _refuse(f"{name} is there in two spellings; leave one out.")
        else:
            options[name] = _expanded(key, value) if name in _EXPANDED else value
    if kind is not None:
        _check_type(kind, options)
    return MCPServerConfig(**options)


def _check_type(kind: object, options: dict[str, Any]) -> None:
    if kind == "sse":
        _refuse("type 'sse' is a transport of MCP's past; ask the server for its address of streamable HTTP ('http').")
    if not isinstance(kind, str) or kind not in _STDIO | _HTTP:
        _refuse("type must be 'stdio' (with a command) or 'http' (with a url).")
    needed = "command" if kind in _STDIO else "url"
    if not options.get(needed):
        _refuse(f"a server of type {kind!r} needs {needed}.")


def _expanded(key: str, value: Any) -> Any:
    """Return a value with the environment's in place of `${…}`."""
    if isinstance(value, list):
        return [_expanded(f"{key}[{number}]", each) for number, each in enumerate(value)]
    if isinstance(value, dict):
        return {name: _expanded(f"{key}.{name}", each) for name, each in value.items()}
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name)
        if found or (found is not None and default is None):
            return found
        if default is None:
            _refuse(f"{key}: the environment variable {name} is not set. Set it, or write ${{{name}:-…}}.")
        return default

    return _VARIABLE.sub(replaced, value)


def _refuse(problem: str) -> NoReturn:
    raise ConfigurationError(problem)
