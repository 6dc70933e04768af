"""`llmgine schedule` on what a real application has scheduled."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from .left_by_shop import Left, cells, left_by_shop, lines, run_here

if TYPE_CHECKING:
    from .conftest import Program


@pytest.fixture
def left(program: Program) -> Left:
    """What the shop has left in the program's folder."""
    return left_by_shop().to(program)


def test_what_is_due_first_is_listed_first(program: Program, left: Left) -> None:
    printed = cells(run_here(program, "schedule", "list"))
    first = lines(run_here(program, "schedule", "list", "--json", "-n", "1"))
    of_bob = lines(run_here(program, "schedule", "list", "--json", "--session", "bob"))

    assert [(row[1], row[2], row[4], row[5]) for row in printed] == [
        ("ReminderEvent", "alice", left.soon, 'text="water the plants"'),
        ("ReminderEvent", "bob", left.later, "text=pay"),
    ]
    assert printed[0][3] == "-"
    assert printed[1][3].startswith("every 86400 s")
    assert [(row["id"], row["event"]["text"]) for row in first] == [(left.soon, "water the plants")]
    assert [row["id"] for row in of_bob] == [left.later]


def test_at_a_terminal_it_says_how_long_it_is_until_then(program: Program, left: Left) -> None:
    terminal = program.terminal("schedule", "list")

    assert terminal.wait() == 0
    head, soon, later = terminal.text().splitlines()
    assert head.split() == ["DUE", "EVENT", "SESSION", "REPEATS", "ID", "WHAT"]
    assert "in 1 h 5" in soon
    assert "in 2 d 23 h" in later


def test_a_row_that_an_application_could_not_read_says_why(program: Program, left: Left) -> None:
    with closing(sqlite3.connect(program.folder / "message_bus.db")) as connection, connection:
        change = "UPDATE message_bus_scheduled_events SET payload = '{', error = 'CodecError: bad' WHERE id = ?"
        connection.execute(change, (left.soon,))

    printed = cells(run_here(program, "schedule", "list"))

    assert printed[0][4:] == [left.soon, "CodecError: bad"]
    assert printed[1][4] == left.later


def test_what_is_cancelled_is_gone_and_nothing_else(program: Program, left: Left) -> None:
    rehearsed = run_here(program, "schedule", "cancel", left.soon, left.later, "--dry-run", "--json")
    unknown = run_here(program, "schedule", "cancel", left.soon, "nothing")
    cancelled = run_here(program, "schedule", "cancel", left.soon[:-1])

    assert [row["id"] for row in lines(rehearsed)] == [left.soon, left.later]
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "there is no scheduled event whose id begins with 'nothing'" in unknown.stderr
    assert (cancelled.returncode, cancelled.stdout) == (0, "1 scheduled event cancelled\n")
    assert [row["id"] for row in lines(run_here(program, "schedule", "list", "--json"))] == [left.later]


def test_what_is_being_delivered_is_not_cancelled(program: Program, left: Left) -> None:
    with closing(sqlite3.connect(program.folder / "message_bus.db")) as connection, connection:
        change = "UPDATE message_bus_scheduled_events SET owner = 'somebody', claimable_at = ? WHERE id = ?"
        connection.execute(change, (2**60, left.soon))

    result = run_here(program, "schedule", "cancel", left.soon, "--json")

    assert (result.returncode, json.loads(result.stdout)) == (1, {"cancelled": 0})
    assert "1 scheduled event not cancelled" in result.stderr
