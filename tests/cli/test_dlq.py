"""`llmgine dlq` on the dead letters of a real application."""

from __future__ import annotations

import json
import signal
import sqlite3
import tempfile
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.cli.database import match_ids
from llmgine.errors import LLMgineError

from .conftest import DEADLINE_S
from .left_by_shop import Left, cells, left_by_shop, lines, run_here

if TYPE_CHECKING:
    from .conftest import Program


@pytest.fixture
def left(program: Program) -> Left:
    """What the shop has left in the program's folder."""
    return left_by_shop().to(program)


def remaining(program: Program) -> list[str]:
    return [letter["command_id"] for letter in lines(run_here(program, "dlq", "list", "--json"))]


# Looking


def test_in_a_pipe_there_is_one_line_for_each_letter(program: Program, left: Left) -> None:
    printed = cells(run_here(program, "dlq", "list"))

    assert [row[0] for row in printed] == [*left.gold, left.other]
    assert [row[1:3] + row[4:] for row in printed] == [
        ["SellCommand", session, "1", f"LookupError: there is no gold left for {count}"]
        for session, count in (("alice", 1), ("alice", 2), ("bob", 3))
    ]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--session", "bob"], [2]),
        (["--type", "Sell", "-n", "2"], [1, 2]),
        (["--type", "SellCommand", "-n", "0"], []),
        (["--type", "Other"], []),
        (["--since", "2h"], [0, 1, 2]),
        (["--since", "2100-01-01"], []),
    ],
)
def test_only_the_letters_that_are_wanted_are_listed(
    program: Program, left: Left, options: list[str], wanted: list[int]
) -> None:
    ids = [*left.gold, left.other]

    assert [row["command_id"] for row in lines(run_here(program, "dlq", "list", "--json", *options))] == [
        ids[number] for number in wanted
    ]


def test_at_a_terminal_there_is_a_table_and_nothing_that_it_would_obey(program: Program, left: Left) -> None:
    terminal = program.terminal("dlq", "list")

    assert terminal.wait() == 0
    head, *body = terminal.text().splitlines()
    assert head.split() == ["ID", "COMMAND", "SESSION", "FAILED", "TRIES", "ERROR"]
    assert len(body) == 3
    assert all(left_id.startswith(row.split()[0]) for left_id, row in zip([*left.gold, left.other], body, strict=True))
    assert "no gold left for 1" in body[0]


def test_a_letter_is_shown_whole_by_the_beginning_of_its_id(program: Program, left: Left) -> None:
    shown = run_here(program, "dlq", "show", left.other[:-1]).stdout
    data = lines(run_here(program, "dlq", "show", left.other, "--json"))[0]

    for text in ("bob", "LookupError: there is no gold left for 3", '"item": "gold"', "Traceback", "shop.py"):
        assert text in shown
    assert "\x1b" not in shown
    assert (data["command"]["count"], data["attempts"]) == (3, 1)
    assert "Traceback" in data["metadata"]["traceback"]


def test_an_id_that_stands_for_several_or_none_is_a_failure_that_says_so(program: Program, left: Left) -> None:
    several, none = run_here(program, "dlq", "show", left.other[:4]), run_here(program, "dlq", "show", "nothing")

    assert (several.returncode, several.stdout) == (none.returncode, none.stdout) == (1, "")
    assert f"3 ids begin with '{left.other[:4]}'" in several.stderr
    assert "there is no dead letter whose id begins with 'nothing'" in none.stderr


@given(st.lists(st.text("ab", min_size=1, max_size=4), unique=True), st.text("ab", min_size=1, max_size=4))
def test_an_id_stands_for_itself_or_for_the_only_one_that_begins_so(ids: list[str], asked: str) -> None:
    meant = [each for each in ids if each == asked] or [each for each in ids if each.startswith(asked)]

    if len(meant) == 1:
        assert match_ids([asked, asked], ids, "thing") == meant
    else:
        with pytest.raises(LLMgineError):
            match_ids([asked], ids, "thing")


def test_a_database_that_is_not_there_is_a_line_and_no_file_is_made(program: Program) -> None:
    missing = run_here(program, "dlq", "list")
    named = run_here(program, "dlq", "discard", "--all", "--yes", "--db", "sqlite:///other.db")
    foreign = program.shell('"$PYTHON" -c \'import sqlite3; sqlite3.connect("mine.db").execute("CREATE TABLE t (x)")\'')
    assert foreign.returncode == 0
    before = (program.folder / "mine.db").read_bytes()
    strange = run_here(program, "dlq", "list", "--db", "sqlite:///mine.db", "--schema", "elsewhere")

    for result, said in ((missing, "message_bus.db"), (named, "other.db"), (strange, "under the schema 'elsewhere'")):
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert said in result.stderr
    assert [path.name for path in program.folder.iterdir()] == ["mine.db"]
    assert (program.folder / "mine.db").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["discard"], "Say which dead letters are meant"),
        (["discard", "x", "--all"], "Say which dead letters are meant"),
        (["retry", "shop"], "Say which dead letters are meant"),
        (["retry", "nowhere", "--all"], "there is no module 'nowhere'"),
        (["retry", "shop:bare", "--all"], "its bus keeps no dead letters"),
        (["list", "--since", "soon"], "'soon' is no time"),
        (["list", "--db", "nonsense"], "is not a usable database URL"),
        (["edit", "x", "--undo", "--set", "a=1"], "--undo"),
    ],
)
def test_misuse_is_one_line_and_the_exit_code_2(program: Program, left: Left, arguments: list[str], said: str) -> None:
    run = program.run if arguments[0] == "retry" else partial(run_here, program)
    result = run("dlq", *arguments)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert said in result.stderr


# Discard and export


def test_what_is_discarded_is_gone_and_nothing_else(program: Program, left: Left) -> None:
    rehearsed = run_here(program, "dlq", "discard", "--all", "--dry-run", "--json")
    unasked = run_here(program, "dlq", "discard", "--all")
    discarded = run_here(program, "dlq", "discard", left.other, left.gold[0][:-1], "--yes")

    assert len(lines(rehearsed)) == 3
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "add --yes" in unasked.stderr
    assert (discarded.returncode, discarded.stdout) == (0, "2 dead letters discarded\n")
    assert remaining(program) == [left.gold[1]]


def test_at_a_terminal_somebody_is_asked_first(program: Program, left: Left) -> None:
    no = program.terminal("dlq", "discard", "--type", "Sell")
    no.expect("Discard 3 dead letters for good")
    no.type("n\n")
    assert no.wait() == 1
    assert len(remaining(program)) == 3

    yes = program.terminal("dlq", "discard", "--type", "Sell")
    yes.expect("Discard 3 dead letters for good")
    yes.type("y\n")
    assert yes.wait() == 0
    assert remaining(program) == []


def test_what_is_exported_is_kept_and_no_file_is_overwritten(program: Program, left: Left) -> None:
    first = run_here(program, "dlq", "export", "letters.jsonl")
    again = run_here(program, "dlq", "export", "letters.jsonl")
    out = run_here(program, "dlq", "export", "--type", "Sell", "-")

    file = program.folder / "letters.jsonl"
    assert first.returncode == 0
    assert (again.returncode, again.stdout) == (1, "")
    assert "letters.jsonl is there already" in again.stderr
    assert file.read_text() == out.stdout
    assert file.stat().st_mode & 0o077 == 0
    assert [json.loads(line)["command"]["count"] for line in out.stdout.splitlines()] == [1, 2, 3]


# Retry


def test_what_succeeds_now_is_forgotten_and_what_fails_is_kept_with_its_new_error(program: Program, left: Left) -> None:
    rehearsed = program.run("dlq", "retry", "shop", "--all", "--dry-run", "--json")
    failed = program.run("dlq", "retry", "shop", left.other)
    kept = lines(run_here(program, "dlq", "show", left.other, "--json"))[0]
    (program.folder / "gold").touch()
    succeeded = program.run("dlq", "retry", "shop.py:bus", "--type", "Sell", "--json")

    assert [row["command_id"] for row in lines(rehearsed)] == [*left.gold, left.other]
    assert (failed.returncode, failed.stdout) == (1, "0 commands succeeded, 1 failed again\n")
    assert f"SellCommand {left.other}: " in failed.stderr
    assert kept["attempts"] == 2
    assert succeeded.returncode == 0
    assert json.loads(succeeded.stdout) == {"succeeded": [*left.gold, left.other], "failed": [], "not_tried": []}
    assert "selling gold" in succeeded.stderr
    assert remaining(program) == []
    sales = (program.folder / "sales").read_text().splitlines()
    assert sales.count("gold False") == 3


def test_an_interrupted_retry_says_how_far_it_came_and_loses_nothing(program: Program, left: Left) -> None:
    assert run_here(program, "dlq", "edit", left.gold[1], "--set", 'item="sand"').returncode == 0
    assert run_here(program, "dlq", "edit", left.gold[0], "--set", 'item="tea"').returncode == 0
    process = program.start("dlq", "retry", "shop", "--all")
    assert process.stderr is not None
    assert [process.stderr.readline() for _ in range(2)] == [b"selling tea\n", b"selling sand\n"]

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, err) == (130, b"")
    assert out == b"1 command succeeded, 0 failed again, 2 not tried\n"
    assert remaining(program) == [left.gold[1], left.other]
    assert program.run("dlq", "retry", "shop", left.other).returncode == 1  # nothing is left taken


def test_what_could_not_be_stored_whole_is_not_executed_until_somebody_gives_it_a_value(
    program: Program, left: Left
) -> None:
    with closing(sqlite3.connect(program.folder / "message_bus.db")) as connection, connection:
        change = "UPDATE message_bus_dead_letters SET payload = json_set(payload, '$.\"$lossy\"', json(?)), "
        lost = '["SellCommand.item"]'
        connection.execute(f"{change} metadata = json_set(metadata, '$.lossy', json(?))", (lost, lost))

    refused = program.run("dlq", "retry", "shop", left.other)
    edited = run_here(program, "dlq", "edit", left.other, "--set", 'item="tea"')
    retried = program.run("dlq", "retry", "shop", left.other)

    assert refused.returncode == 1
    assert "SellCommand.item is missing" in refused.stderr
    assert "selling" not in refused.stderr
    assert edited.returncode == 0
    assert (retried.returncode, retried.stdout) == (0, "1 command succeeded, 0 failed again\n")


def test_a_rehearsal_of_an_application_that_has_kept_nothing_makes_no_file(program: Program) -> None:
    left_by_shop().to(program)
    (program.folder / "message_bus.db").unlink()

    result = program.run("dlq", "retry", "shop", "--all", "--dry-run")

    assert result.returncode == 2
    assert "There is no database" in result.stderr
    assert not (program.folder / "message_bus.db").exists()


# Edit


def test_an_edit_changes_the_command_and_undo_brings_back_how_it_failed(program: Program, left: Left) -> None:
    identity = left.gold[0]
    before = lines(run_here(program, "dlq", "show", identity, "--json"))[0]
    for setting in ("count=7", 'item="tea"'):
        assert run_here(program, "dlq", "edit", identity, "--set", setting).returncode == 0
    edited = lines(run_here(program, "dlq", "show", identity, "--json"))[0]
    page = run_here(program, "dlq", "show", identity).stdout
    assert run_here(program, "dlq", "edit", identity, "--undo").returncode == 0
    restored = lines(run_here(program, "dlq", "show", identity, "--json"))[0]

    assert edited["command"] == before["command"] | {"count": 7, "item": "tea"}
    assert edited["metadata"]["original"] == before["command"]
    assert "--undo" in page
    assert restored == before


def test_what_was_edited_is_what_is_retried(program: Program, left: Left) -> None:
    edited = program.run("dlq", "edit", left.gold[0], "--app", "shop", "--set", 'item="salt"')
    retried = program.run("dlq", "retry", "shop", left.gold[0])

    assert (edited.returncode, edited.stdout) == (0, "")
    assert (retried.returncode, retried.stdout) == (0, "1 command succeeded, 0 failed again\n")
    assert "salt False" in (program.folder / "sales").read_text().splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "item=tea"], 2, "A text has quotes"),
        (["--set", "item"], 2, "expected FIELD=JSON"),
        (["--set", "count=NaN"], 2, "NaN is not in JSON"),
        (["--set", "itm=1"], 2, "SellCommand has no field 'itm'. Its fields are: item, count, when"),
        (["--set", "itm=1", "--app", "shop"], 2, "SellCommand has no field 'itm'"),
        (["--set", 'when={"$datetime": "soon"}', "--app", "shop"], 2, "when"),
        (["--set", "count=1"], 0, "nothing was changed"),
        (["--undo"], 0, "nothing has been edited"),
        ([], 2, "No editor is named"),
    ],
)
def test_an_edit_that_makes_no_sense_changes_nothing(
    program: Program, left: Left, arguments: list[str], code: int, said: str
) -> None:
    run = program.run if "--app" in arguments else partial(run_here, program)  # it imports the shop
    result = run("dlq", "edit", left.gold[0], *arguments)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert said in result.stderr
    assert lines(run_here(program, "dlq", "show", left.gold[0], "--json"))[0]["metadata"].get("original") is None


def test_what_is_being_retried_is_not_edited(program: Program, left: Left) -> None:
    with closing(sqlite3.connect(program.folder / "message_bus.db")) as connection, connection:
        connection.execute("UPDATE message_bus_dead_letters SET owner = 'somebody', leased_until = ?", (2**60,))

    result = run_here(program, "dlq", "edit", left.other, "--set", "count=9")

    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "nothing was edited" in result.stderr
    assert lines(run_here(program, "dlq", "show", left.other, "--json"))[0]["command"]["count"] == 3


@pytest.mark.parametrize(
    ("editor", "code", "item", "said"),
    [
        ("sed -i s/gold/tea/", 0, "tea", "item changed"),
        ("true", 0, "gold", "nothing was changed"),
        ("false", 1, "gold", "the editor ended with 1"),
        ("sed -i s/}/]/", 2, "gold", "It is kept in"),
        ("sed -i /count/d", 2, "gold", "count of SellCommand is left out"),
        ("no-such-editor", 1, "gold", "could not be started"),
    ],
)
def test_without_values_an_editor_is_opened(  # noqa: PLR0917  # pytest passes them by name
    program: Program, left: Left, editor: str, code: int, item: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = program.home / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    program.environment["EDITOR"] = editor

    result = run_here(program, "dlq", "edit", left.gold[0])

    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr
    assert lines(run_here(program, "dlq", "show", left.gold[0], "--json"))[0]["command"]["item"] == item
    assert len(list(temporary.iterdir())) == ("It is kept" in said)
