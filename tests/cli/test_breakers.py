"""`llmgine breakers` on the log of a real application."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .left_by_shop import cells, left_by_shop, lines, run_here

if TYPE_CHECKING:
    from .conftest import Program


def changed(name: str, state: str, second: int, **fields: Any) -> bytes:
    """Return a line that says that a breaker has changed."""
    event = {
        "event_type": "CircuitBreakerChangedEvent",
        "event_id": f"{name}{second}",
        "timestamp": f"2026-05-04T10:00:{second:02}.000000+00:00",
        "causation_id": None,
        "name": name,
        "state": state,
        "failure_count": 5,
    }
    return json.dumps(event | fields).encode() + b"\n"


def test_a_breaker_is_shown_with_what_opened_it(program: Program) -> None:
    left_by_shop().to(program)

    (row,) = cells(run_here(program, "breakers"))
    (data,) = lines(run_here(program, "breakers", "logs", "--json"))

    assert row[:2] == ["WeighCommand", "open"]
    assert row[3:] == ["2", "1", "OSError: the scales are broken, so tea has no weight"]
    assert (data["since"], data["reason"]) == (row[2], row[5])


def test_the_last_state_counts_and_those_that_are_open_come_first(program: Program) -> None:
    log = program.folder / "log.jsonl"
    log.write_bytes(
        changed("A", "open", 1)
        + changed("A", "half_open", 2)
        + changed("A", "open", 3)
        + changed("B", "open", 4)
        + changed("A", "half_open", 5)
        + changed("A", "closed", 6, failure_count=0)
        + changed("C", "half_open", 7)
        + b'{"event_type":"OtherEvent","name":"D","state":"open"}\n'
    )

    found = lines(run_here(program, "breakers", "log.jsonl", "--json"))

    assert [(each["name"], each["state"], each["opened"], each["failure_count"]) for each in found] == [
        ("B", "open", 1, 5),
        ("C", "half_open", 0, 5),
        ("A", "closed", 2, 0),
    ]
    assert found[2]["since"] == "2026-05-04T10:00:06+00:00"


def test_a_log_without_such_events_is_said_to_have_none(program: Program) -> None:
    (program.folder / "logs").mkdir()
    (program.folder / "logs" / "events.jsonl").write_bytes(b'{"event_type":"OtherEvent"}\n')

    result = run_here(program, "breakers")

    assert (result.returncode, result.stdout) == (0, "")
    assert "all that there are are closed" in result.stderr


def test_a_log_that_is_not_there_is_misuse(program: Program) -> None:
    result = run_here(program, "breakers")

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_at_a_terminal_an_open_breaker_is_red(program: Program) -> None:
    left_by_shop().to(program)
    terminal = program.terminal("breakers")

    assert terminal.wait() == 0
    head, body = terminal.text().splitlines()
    assert head.split("  ")[0] == "BREAKER"
    assert "open" in body
    assert b"\x1b[1;31m" in terminal.colours()
