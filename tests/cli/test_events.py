"""`llmgine events` on the log that a real application has kept in its database."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from .left_by_shop import Left, cells, left_by_shop, lines, run_here

if TYPE_CHECKING:
    from .conftest import Program


@pytest.fixture
def left(program: Program) -> Left:
    """What the shop has left in the program's folder."""
    return left_by_shop().to(program)


def logged(program: Program) -> list[dict[str, Any]]:
    """Return what the application has written to its log in files."""
    (file,) = (program.folder / "logs").iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_log_in_the_database_says_what_the_log_in_files_does(program: Program, left: Left) -> None:
    stored = lines(run_here(program, "events", "--json"))
    in_files = {event["event_id"]: event for event in logged(program)}

    assert [event["event_id"] for event in stored if event["event_id"] in in_files] == list(in_files)
    for event in stored:
        if (other := in_files.get(event["event_id"])) is not None and event["event_type"] == "CommandStartedEvent":
            own = {
                name: value for name, value in other["command"].items() if name not in {"metadata", "result_is_content"}
            }
            assert event["command"].items() >= own.items()
            assert {name: event[name] for name in ("event_type", "timestamp", "correlation_id")} == {
                name: other[name] for name in ("event_type", "timestamp", "correlation_id")
            }


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--session", "alice"], lambda event: event["session_id"] == "alice"),
        (["--type", "Sold"], lambda event: event["event_type"] == "SoldEvent"),
        (["-t", "sold", "-t", "command.*"], lambda event: event["event_type"].startswith(("Sold", "Command"))),
        (["--since", "2h", "--until", "2100-01-01"], lambda event: True),
        (["--until", "2h"], lambda event: False),
        (
            ["--type", "SoldEvent", "--session", "bob"],
            lambda event: (event.get("item"), event["session_id"]) == ("tea", "bob"),
        ),
    ],
)
def test_only_the_events_that_are_wanted_are_shown(
    program: Program, left: Left, options: list[str], wanted: Any
) -> None:
    every = lines(run_here(program, "events", "--json"))
    shown = lines(run_here(program, "events", "--json", *options))
    last = lines(run_here(program, "events", "--json", *options, "-n", "2"))

    assert shown == [event for event in every if wanted(event)]
    assert last == shown[-2:]


def test_a_chain_is_found_by_the_beginning_of_its_id(program: Program, left: Left) -> None:
    whole = lines(run_here(program, "events", "--json", "--correlation", left.other))

    assert {event["correlation_id"] for event in whole} == {left.other}
    assert {event["event_type"] for event in whole} >= {"CommandStartedEvent", "DeadLetterCommandEvent"}
    assert lines(run_here(program, "events", "--json", "--correlation", left.other[:-1])) == whole


def test_in_a_pipe_and_at_a_terminal_it_looks_as_the_log_in_files_does(program: Program, left: Left) -> None:
    printed = cells(run_here(program, "events", "--type", "Sold"))
    terminal = program.terminal("events", "--type", "Sold")

    assert [(row[2], row[3], row[5]) for row in printed] == [
        ("SoldEvent", "alice", "item=tea"),
        ("SoldEvent", "bob", "item=tea"),
    ]
    assert terminal.wait() == 0
    assert terminal.text().split()[:6] == ["TIME", "LEVEL", "TYPE", "SESSION", "ID", "WHAT"]


def test_an_empty_log_says_how_it_is_switched_on(program: Program, left: Left) -> None:
    with closing(sqlite3.connect(program.folder / "message_bus.db")) as connection, connection:
        connection.execute("DELETE FROM message_bus_event_log")

    empty = run_here(program, "events")
    program.environment["LLMGINE_PERSIST_EVENTS"] = "1"
    switched_on = run_here(program, "events")

    assert (empty.returncode, empty.stdout) == (switched_on.returncode, switched_on.stdout) == (0, "")
    assert "LLMGINE_PERSIST_EVENTS=1" in empty.stderr
    assert switched_on.stderr == "llmgine: the log of events is empty\n"


def test_the_oldest_events_are_pruned_and_the_latest_kept(program: Program, left: Left) -> None:
    every = lines(run_here(program, "events", "--json"))
    rehearsed = run_here(program, "events", "prune", "--keep", "3", "--dry-run")
    unasked = run_here(program, "events", "prune", "--keep", "3")
    nothing = run_here(program, "events", "prune", "--older-than", "1h", "--yes", "--json")
    before = lines(run_here(program, "events", "--json"))
    pruned = run_here(program, "events", "prune", "--keep", "3", "--yes", "--json")

    count = len(every)
    assert rehearsed.stdout == f"{count - 3} events of {count} would be deleted\n"
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert json.loads(nothing.stdout) == {"deleted": 0, "of": count}
    assert before == every
    assert json.loads(pruned.stdout) == {"deleted": count - 3, "of": count}
    assert lines(run_here(program, "events", "--json")) == every[-3:]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune"], "Say which events are to go"),
        (["prune", "--keep", "1", "--older-than", "1d"], "Say which events are to go"),
        (["prune", "--keep", "0"], "--keep"),
        (["prune", "--older-than", "2100-01-01", "--yes"], "--older-than 2100-01-01 is not over yet"),
        (["--session", "alice", "prune", "--keep", "1", "--yes"], "those of prune come after prune"),
        (["--since", "now"], "'now' is no time"),
        (["--type", "**.x"], "**"),
    ],
)
def test_misuse_is_one_line_and_the_exit_code_2(program: Program, left: Left, arguments: list[str], said: str) -> None:
    result = run_here(program, "events", *arguments)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert said in result.stderr


def test_a_database_that_is_named_before_prune_is_the_one_that_is_pruned(program: Program, left: Left) -> None:
    (program.folder / "message_bus.db").rename(program.folder / "other.db")

    result = run_here(program, "events", "--db", "sqlite:///other.db", "prune", "--keep", "1", "--yes")

    assert result.returncode == 0
    assert len(lines(run_here(program, "events", "--db", "sqlite:///other.db", "--json"))) == 1
