"""`llmgine dlq list`, `show`, `discard` and `export`: the dead letters in a database."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmgine.cli.database import in_database, match_ids
from llmgine.cli.failure import ExitCode
from llmgine.cli.letters import Letter, LetterChoice, is_command_type, print_letters
from llmgine.cli.listing import counted, local, print_json
from llmgine.cli.log_text import one_line
from llmgine.cli.question import confirmed
from llmgine.cli.stderr import notice, printable, say
from llmgine.cli.stored_text import own_fields
from llmgine.errors import LLMgineError
from llmgine.observability.log_filter import parse_time

__all__ = ["read_letters", "run_dlq_discard", "run_dlq_export", "run_dlq_list", "run_dlq_show"]

_KNOWN = frozenset({"command_id", "command_type", "session_id", "traceback", "exception_type", "original", "lossy"})
"""Metadata that is shown in a way of its own, or again."""


def read_letters() -> list[Letter]:
    """Return the dead letters in the database, the oldest first.

    Raises:
        ConfigurationError: there is no such database.
        StoreError: it cannot be reached.
    """
    return [Letter.of_record(record) for record in in_database(lambda database: database.dead_letters.records())]


def run_dlq_list(
    *, command_type: str | None, session: str | None, since: str | None, last: int | None, as_json: bool
) -> int:
    """List dead letters, the oldest first; return the exit code.

    Raises:
        ConfigurationError: there is no such database, or `since` is no time.
    """
    begin = None if since is None else parse_time(since, datetime.now().astimezone())
    letters = read_letters()
    wanted = [
        letter
        for letter in letters
        if (command_type is None or is_command_type(command_type, letter))
        and session in {None, letter.session_id}
        and (begin is None or letter.last_attempt >= begin)
    ]
    if last is not None:
        wanted = wanted[len(wanted) - min(last, len(wanted)) :]
    if not wanted:
        notice("no dead letter matches" if letters else "there are no dead letters")
    print_letters(wanted, as_json=as_json)
    return ExitCode.OK


def run_dlq_show(identity: str, *, as_json: bool) -> int:
    """Print everything that is known of a dead letter; return the exit code.

    Raises:
        ConfigurationError: there is no such database.
        LLMgineError: there is no such letter, or there are several.
    """
    letters = {letter.command_id: letter for letter in read_letters()}
    letter = letters[match_ids([identity], letters, "dead letter")[0]]
    if as_json:
        print_json(letter.as_data())
        return ExitCode.OK
    console = Console(highlight=False)
    for line in _page(letter):
        console.print(line, soft_wrap=True)
    return ExitCode.OK


def run_dlq_discard(choice: LetterChoice, *, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Forget dead letters; return the exit code.

    Raises:
        ConfigurationError: there is no such database, or nobody can be asked whether that is meant.
        LLMgineError: an id stands for no letter, or for several.
    """
    letters = choice.of(read_letters())
    if dry_run:
        print_letters(letters, as_json=as_json)
        notice(f"{counted(len(letters), 'dead letter')} would be discarded")
        return ExitCode.OK
    if letters and not confirmed(f"Discard {counted(len(letters), 'dead letter')} for good?", yes=yes):
        say("nothing was discarded")
        return ExitCode.FAILURE
    ids = [letter.command_id for letter in letters]
    count = in_database(lambda database: database.dead_letters.remove(ids)) if ids else 0
    if as_json:
        print_json({"discarded": count})
    else:
        print(f"{counted(count, 'dead letter')} discarded")  # noqa: T201
    return ExitCode.OK


def run_dlq_export(target: str, choice: LetterChoice) -> int:
    """Write dead letters as JSON Lines; return the exit code.

    Args:
        target: a file that is not there yet, or "-".
        choice: which letters.

    Raises:
        ConfigurationError: there is no such database.
        LLMgineError: the file is there already.
        OSError: it cannot be written.
    """
    letters = choice.of(read_letters())
    lines = "".join(json.dumps(letter.as_data()) + "\n" for letter in letters)
    if target == "-":
        sys.stdout.write(lines)
        return ExitCode.OK
    path = Path(target).expanduser()
    # Not for everybody to read: whatever the commands were about is in there.
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        msg = f"{path} is there already; name a file that is not"
        raise LLMgineError(msg) from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(lines)
    say(f"{path}: {counted(len(letters), 'dead letter')}")
    return ExitCode.OK


def _page(letter: Letter) -> list[Text]:
    facts = {
        "session": letter.session_id,
        "error": letter.error,
        "attempts": f"{letter.attempts}, from {local(letter.first_attempt)} to {local(letter.last_attempt)}",
        **{name: value for name, value in letter.metadata.items() if name not in _KNOWN},
    }
    if "original" in letter.metadata:
        facts["edited"] = "yes; llmgine dlq edit ID --undo brings the original back"
    if lossy := letter.metadata.get("lossy"):
        facts["not stored"] = ", ".join(map(str, lossy)) if isinstance(lossy, list) else lossy
    width = max(map(len, facts))
    lines = [Text.assemble((one_line(letter.command_type), "bold cyan"), f" {one_line(letter.command_id)}")]
    for name, value in facts.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        style = "red" if name == "error" else "yellow" if name in {"edited", "not stored"} else ""
        lines.append(Text.assemble((f"{name:{width}}  ", "dim"), (one_line(shown), style)))
    lines += [
        Text("\nfields", "dim"),
        Text(printable(json.dumps(own_fields(letter.data), indent=2, ensure_ascii=False))),
    ]
    if trace := letter.metadata.get("traceback"):
        lines += [Text("\ntraceback", "dim"), Text(printable(str(trace)).rstrip())]
    return lines
