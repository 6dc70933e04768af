"""`llmgine dlq edit`: other values for the fields of a command that failed, so that it may be retried with those."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from sys import stderr
from typing import Any, NoReturn, cast

from sqlalchemy import Connection, or_, select, update

from llmgine.cli.database import in_database, match_ids
from llmgine.cli.failure import ExitCode
from llmgine.cli.stderr import say
from llmgine.cli.stored_text import data_of, own_fields
from llmgine.cli.user_modules import load_module
from llmgine.database.stores import Database
from llmgine.database.tables import clean
from llmgine.errors import CodecError, ConfigurationError, LLMgineError
from llmgine.messages.codec import StoredMessage, decode

__all__ = ["EditOptions", "run_dlq_edit"]

_ORIGINAL = "original"
"""The key in a letter's metadata under which the command is kept as it failed."""


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """What the command line asks for.

    Raises:
        ConfigurationError: it contradicts itself.
    """

    identity: str
    settings: tuple[str, ...] = ()
    """Each FIELD=JSON; without any, an editor is opened."""
    app: str | None = None
    """The module that has the command's class."""
    undo: bool = False

    def __post_init__(self) -> None:
        if self.undo and self.settings:
            msg = "--undo brings the original back, so it cannot be used with --set."
            raise ConfigurationError(msg)


@dataclass(frozen=True)
class _Stored:
    """A dead letter's row, as far as it is edited."""

    command_id: str
    type_name: str
    version: int
    payload: str
    metadata: dict[str, Any]


def run_dlq_edit(options: EditOptions) -> int:
    """Change a dead letter, or bring its original back; return the exit code. What makes no sense changes nothing.

    Raises:
        ConfigurationError: there is no such database or field, or what is given is no JSON.
        LLMgineError: there is no such letter, it is being retried, or its class cannot take the values.
    """
    if options.app is not None:
        with redirect_stdout(stderr):
            load_module("--app", options.app, "")
    rows = in_database(lambda database: database.access.run(partial(_read, database), reads=True))
    letters = {letter.command_id: letter for letter in rows}
    letter = letters[match_ids([options.identity], letters, "dead letter")[0]]
    original = letter.metadata.get(_ORIGINAL)
    if options.undo:
        if not isinstance(original, dict):
            say("nothing has been edited there")
            return ExitCode.OK
        _write(letter, cast("dict[str, Any]", original), {**letter.metadata, _ORIGINAL: None})
        say(f"the original of {letter.command_id} is back")
        return ExitCode.OK
    data = data_of(letter.payload)
    before = own_fields(data)
    after = {**before, **_settings(options.settings)} if options.settings else _edited(before)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if not changed and before.keys() == after.keys():
        say("nothing was changed")
        return ExitCode.OK
    _check_names(letter, before, after, with_class=options.app is not None)
    new = _without_lost({**data, **after}, changed)
    if options.app is not None:
        _check_values(letter, new)
    _write(letter, new, {**letter.metadata, _ORIGINAL: original or data})
    say(f"{letter.command_id}: {', '.join(changed)} changed; --undo brings the original back")
    return ExitCode.OK


def _settings(settings: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (name and equals):
            msg = f"--set {setting}: expected FIELD=JSON, such as --set count=3"
            raise ConfigurationError(msg)
        try:
            values[name] = _parsed(text)
        except ValueError as error:
            msg = (
                f"--set {setting}: {text!r} is no JSON ({error}). A text has quotes: --set '{name}={json.dumps(text)}'"
            )
            raise ConfigurationError(msg) from error
    return values


def _parsed(text: str) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is none.
    """

    def refuse(constant: str) -> NoReturn:
        msg = f"{constant} is not in JSON"
        raise ValueError(msg)

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _edited(before: dict[str, Any]) -> dict[str, Any]:
    """Have somebody edit the fields.

    Raises:
        ConfigurationError: there is no editor, or what it leaves is no JSON object; it is kept then, in its file.
        LLMgineError: the editor says that it has failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        msg = "No editor is named in VISUAL or EDITOR. Name one, or give the values: --set FIELD=JSON."
        raise ConfigurationError(msg)
    handle, name = tempfile.mkstemp(prefix="llmgine-", suffix=".json", text=True)
    path = Path(name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(json.dumps(before, indent=2, ensure_ascii=False) + "\n")
    try:
        code = subprocess.run([*shlex.split(editor), name], check=False).returncode  # noqa: S603  # it is what the person has chosen
    except OSError as error:
        path.unlink(missing_ok=True)
        msg = f"the editor {editor!r} could not be started: {error}"
        raise LLMgineError(msg) from error
    if code:
        path.unlink(missing_ok=True)
        msg = f"the editor ended with {code}; nothing was changed"
        raise LLMgineError(msg)
    try:
        after = _parsed(path.read_text(encoding="utf-8"))
        if not isinstance(after, dict):
            msg = "it is no object, {…}"
            raise ValueError(msg)  # noqa: TRY301, TRY004  # one place says what becomes of it
    except ValueError as error:
        msg = f"What was edited is no JSON object ({error}); nothing was changed. It is kept in {path}"
        raise ConfigurationError(msg) from error
    path.unlink()
    return cast("dict[str, Any]", after)


def _check_names(letter: _Stored, before: Mapping[str, Any], after: Mapping[str, Any], *, with_class: bool) -> None:
    """Refuse fields that the command does not have, and those that are left out.

    Raises:
        ConfigurationError: there are such.
    """
    known = dict.fromkeys(before)
    if with_class:
        kind = type(_decoded(letter, data_of(letter.payload)))
        if is_dataclass(kind):
            known |= dict.fromkeys(field.name for field in fields(kind) if field.name in after)
    short = letter.type_name.rpartition(":")[2]
    for name in after:
        if name not in known:
            has = ", ".join(before) or "none"
            more = "" if with_class else "; those that its class has got since are known with --app MODULE"
            msg = f"{short} has no field {name!r}. Its fields are: {has}{more}. Nothing was changed."
            raise ConfigurationError(msg)
    missing = [name for name in before if name not in after]
    if missing:
        msg = f"{', '.join(missing)} of {short} is left out; each field needs a value. Nothing was changed."
        raise ConfigurationError(msg)


def _check_values(letter: _Stored, data: dict[str, Any]) -> None:
    try:
        _decoded(letter, data)
    except CodecError as error:
        msg = f"{error} Nothing was changed."
        raise ConfigurationError(msg) from error


def _decoded(letter: _Stored, data: dict[str, Any]) -> Any:
    return decode(StoredMessage(letter.type_name, letter.version, data))


def _without_lost(data: dict[str, Any], changed: Sequence[str]) -> dict[str, Any]:
    """Return what is stored without the notes that something of a field is missing, where that has a value now."""
    lost = data.pop("$lossy", [])
    part = re.compile(r"[^.\[]*\.([^.\[]+)")
    left = [path for path in lost if not ((found := part.match(str(path))) and found[1] in changed)]
    return {**data, "$lossy": left} if left else data


def _write(letter: _Stored, data: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Put a command in the place of a letter's own.

    Raises:
        LLMgineError: somebody retries the letter just now, or has changed it.
    """
    payload = StoredMessage(letter.type_name, letter.version, data).payload
    kept = {name: value for name, value in metadata.items() if name != "lossy" and value is not None}
    if lost := data.get("$lossy"):
        kept["lossy"] = lost
    done = in_database(lambda database: database.access.run(partial(_replace, database, letter, payload, kept)))
    if not done:
        msg = f"the dead letter {letter.command_id} is being retried or has been changed just now; nothing was edited"
        raise LLMgineError(msg)


def _read(database: Database, connection: Connection) -> list[_Stored]:
    table = database.access.tables.dead_letters
    columns = (table.c.command_id, table.c.type_name, table.c.version, table.c.payload, table.c.metadata)
    rows = connection.execute(select(*columns).order_by(table.c.position))
    return [_Stored(*row[:4], data_of(row[4])) for row in rows]


def _replace(
    database: Database, letter: _Stored, payload: str, metadata: Mapping[str, Any], connection: Connection
) -> bool:
    table = database.access.tables.dead_letters
    now = database.access.clock().timestamp() * 1e6
    mine = (
        table.c.command_id == letter.command_id,
        table.c.payload == letter.payload,
        or_(table.c.owner.is_(None), table.c.leased_until <= now),
    )
    changed = update(table).where(*mine).values(payload=clean(payload), metadata=json.dumps(metadata))
    return connection.execute(changed).rowcount == 1
