"""What is done about a failure depends on its exception, by the first rule that matches."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from llmgine.bus.resilience import Action, Rule
from llmgine.bus.resilience.outcomes import attempt, noted
from llmgine.bus.resilience.rules import action_for, check_rules
from llmgine.bus.results import failed
from llmgine.errors import (
    CircuitOpenError,
    CommandTimeoutError,
    ConfigurationError,
    HandlerNotFoundError,
    ToolValidationError,
)
from llmgine.messages import Command, CommandResult


def of(error: Exception | None) -> CommandResult[Any]:
    return failed("no", Command[Any](), error)


class ValidationError(ValueError):
    """Like pydantic's."""


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (None, Action.RETRY),
        (ValueError(), Action.RETRY),
        (TimeoutError(), Action.RETRY),
        (CommandTimeoutError("late", timeout=1), Action.RETRY),
        (ConfigurationError(), Action.GIVE_UP),
        (HandlerNotFoundError(), Action.GIVE_UP),
        (ToolValidationError(), Action.GIVE_UP),
        (ValidationError(), Action.GIVE_UP),
        (CircuitOpenError("open", name="x"), Action.GIVE_UP),
    ],
)
def test_without_rules_all_is_retried_but_what_would_fail_again(error: Exception | None, action: Action) -> None:
    assert action_for(of(error), ()) is action


def test_the_first_rule_that_matches_decides() -> None:
    rules = (
        Rule(Action.DISCARD, on=KeyError),
        Rule(Action.DEAD_LETTER, on=(LookupError, OSError)),
        Rule(Action.GIVE_UP, on=lambda error: "gone" in str(error)),
        Rule(Action.RETRY, on=ToolValidationError),
    )

    def action(error: Exception) -> Action:
        return action_for(of(error), rules)

    assert action(KeyError()) is Action.DISCARD
    assert action(IndexError()) is Action.DEAD_LETTER
    assert action(ConnectionError()) is Action.DEAD_LETTER
    assert action(ValueError("gone")) is Action.GIVE_UP
    assert action(ToolValidationError()) is Action.RETRY
    assert action(ConfigurationError()) is Action.GIVE_UP
    assert action_for(of(None), (Rule(Action.GIVE_UP),)) is Action.RETRY


def test_a_rule_that_raises_does_not_match(caplog: pytest.LogCaptureFixture) -> None:
    rules = (Rule(Action.DISCARD, on=lambda error: bool(error.args[9])), Rule(Action.GIVE_UP))

    assert action_for(of(ValueError()), rules) is Action.GIVE_UP
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("on", [(), "ValueError", asyncio.CancelledError, (ValueError, BaseException), int, 3, None])
def test_a_rule_that_can_match_no_exception_is_refused(on: Any) -> None:
    with pytest.raises(ConfigurationError, match="on must be"):
        Rule(Action.RETRY, on=on)


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="action must be"):
        Rule("retry")  # type: ignore[arg-type]
    for wrong in (Rule(Action.RETRY), [ValueError], "rules"):
        with pytest.raises(ConfigurationError, match="rules must be"):
            check_rules(wrong)
    assert check_rules([]) == ()


async def test_an_error_that_became_a_result_is_not_held_by_its_own_traceback() -> None:
    async def fail(command: Any, handler: Any) -> CommandResult[Any]:
        raise ValueError("no")

    result = await attempt(Command[Any](), print, fail)

    assert result.error == "ValueError: no"
    assert "in fail" in result.metadata["traceback"]
    trace = result.exception.__traceback__ if result.exception else None
    while trace is not None:
        assert trace.tb_frame.f_code.co_name != "attempt"
        trace = trace.tb_next


def test_noting_leaves_the_result_of_the_handler_as_it_was() -> None:
    original = of(ValueError("x"))
    changed = noted(original, attempts=3)

    assert original.metadata == {}
    assert (changed.metadata, changed.exception, changed.command_id) == (
        {"attempts": 3},
        original.exception,
        original.command_id,
    )
