"""`llmgine replay` on the log of a real application."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .left_by_shop import Left, cells, left_by_shop, run_here

if TYPE_CHECKING:
    from .conftest import Program


@pytest.fixture
def left(program: Program) -> Left:
    """What the shop has left in the program's folder."""
    return left_by_shop().to(program)


def sales(program: Program) -> list[str]:
    return (program.folder / "sales").read_text().splitlines()


def test_only_the_named_handler_runs_on_the_wanted_events(program: Program, left: Left) -> None:
    before = sales(program)

    result = program.run(
        *("replay", "shop", "--session", "alice", "--type", "Sold", "--handler", "shop.count_sales", "--json")
    )

    assert (result.returncode, json.loads(result.stdout)) == (0, {"events": 1, "handled": 1, "failed": 0})
    assert sales(program) == [*before, "tea True"]


def test_a_handler_that_fails_is_counted_and_the_exit_code_is_1(program: Program, left: Left) -> None:
    result = program.run("replay", "shop.py:bus", "--type", "SoldEvent")

    assert (result.returncode, result.stdout) == (1, "2 events read, 2 runs of handlers ended well, 2 failed\n")
    assert "shop.send_invoice failed" in result.stderr
    assert len(cells(run_here(program, "events", "--type", "Sold"))) == 2  # nothing is logged a second time


def test_a_rehearsal_says_what_would_run_and_runs_nothing(program: Program, left: Left) -> None:
    before = sales(program)

    printed = cells(program.run("replay", "shop", "--dry-run", "-t", "Sold", "-t", "Reminder"))

    assert printed == [
        ["ReminderEvent", "2", "-"],
        ["SoldEvent", "2", "shop.count_sales"],
        ["SoldEvent", "2", "shop.send_invoice"],
    ]
    named = cells(
        program.run("replay", "shop", "--dry-run", "--handler", "count_sales", "--session", "bob", "-t", "Sold")
    )
    assert named == [["SoldEvent", "1", "shop.count_sales"]]
    assert sales(program) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shop", "--handler", "count_sale"], "Did you mean shop.count_sales?"),
        (["shop", "--handler", "sell"], "no handler of events is called that"),
        (["shop", "--type", "sold.*"], "replay takes names of event classes"),
        (["shop:bare"], "its bus keeps no log of events"),
        (["shop", "--db", "sqlite:///other.db"], "There is no database sqlite:///other.db"),
    ],
)
def test_misuse_is_one_line_and_the_exit_code_2(program: Program, left: Left, arguments: list[str], said: str) -> None:
    result = program.run("replay", *arguments)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert said in result.stderr
    assert not (program.folder / "other.db").exists()
