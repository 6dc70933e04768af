"""What is done about a failure, by its exception."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from llmgine.bus.resilience.outcomes import MISSING_SESSION
from llmgine.errors import (
    ApprovalError,
    CircuitOpenError,
    ConfigurationError,
    HandlerNotFoundError,
    ToolValidationError,
)
from llmgine.messages import Command, CommandResult

__all__ = ["Action", "Rule", "action_for", "check_rules", "discarded"]

_log = logging.getLogger("llmgine.bus.resilience")

On: TypeAlias = "type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]"


class Action(Enum):
    """What is done about a failure."""

    RETRY = "retry"
    """Try again while there are attempts left; after the last one the command is a dead letter."""
    GIVE_UP = "give_up"
    """Do not try again, and keep no dead letter: it is the caller's business. No failure for the circuit breaker."""
    DEAD_LETTER = "dead_letter"
    """Do not try again; the command is a dead letter."""
    DISCARD = "discard"
    """Take it for a success without a result. No failure for the circuit breaker."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Says what to do about some exceptions: `Rule(Action.DISCARD, on=NotFound)`.

    Of several rules the first that matches decides. A failed result without an exception matches none.

    Raises:
        ConfigurationError: `action` is no action, or `on` can match no exception.
    """

    action: Action
    on: On = Exception
    """An exception class, several of them, or a function that takes the exception and says whether it is meant. What
    that function raises is logged, and the rule does not match."""

    def __post_init__(self) -> None:
        action: Any = self.action
        if not isinstance(action, Action):
            msg = f"action must be one of {', '.join(map(str, Action))}; got {action!r}."
            raise ConfigurationError(msg)
        on: Any = self.on
        kinds = on if isinstance(on, tuple) else (on,)
        is_function = callable(on) and not isinstance(on, type)
        fits = is_function or all(isinstance(each, type) and issubclass(each, Exception) for each in kinds)
        if not (fits and kinds):
            msg = (
                "on must be an exception class (a subclass of Exception), a tuple of them, or a function that takes "
                f"the exception; got {self.on!r}."
            )
            raise ConfigurationError(msg)

    def matches(self, error: Exception) -> bool:
        """Whether the rule is about this exception."""
        on = self.on
        if isinstance(on, type | tuple):
            return isinstance(error, on)
        try:
            return bool(on(error))
        except Exception:  # noqa: BLE001
            # It is the application's code, and the failure that it was asked about must not get lost in its own.
            _log.exception("The rule %s could not say whether it is about %r; it does not match", self, error)
            return False


def check_rules(given: Any) -> tuple[Rule, ...]:
    """Return rules as a tuple.

    Raises:
        ConfigurationError: they are none.
    """
    if not isinstance(given, Sequence) or not all(isinstance(each, Rule) for each in given):
        msg = f"rules must be a sequence of Rule, such as (Rule(Action.DISCARD, on=KeyError),); got {given!r}."
        raise ConfigurationError(msg)
    return tuple(given)


def action_for(result: CommandResult[Any], rules: Sequence[Rule]) -> Action:
    """Return what is to be done about a failed result.

    Without a rule, everything is tried again but what would fail the same way (`ApprovalError`, `ConfigurationError`,
    `HandlerNotFoundError`, `ToolValidationError`, exceptions whose class is called `ValidationError`, what
    `ValidationMiddleware` refuses) and what an open circuit breaker refused.
    """
    error = result.exception
    if error is None:
        return Action.GIVE_UP if result.error == MISSING_SESSION else Action.RETRY
    for rule in rules:
        if rule.matches(error):
            return rule.action
    return Action.GIVE_UP if _would_fail_again(error) else Action.RETRY


def discarded(result: CommandResult[Any], command: Command[Any]) -> CommandResult[Any]:
    """Return the success that a failure is taken for."""
    return CommandResult.of(CommandResult(success=True, metadata={"discarded": result.error}), command)


def _would_fail_again(error: Exception) -> bool:
    # By name, because the bus needs the standard library only: pydantic's, jsonschema's and their like.
    hopeless = ApprovalError | CircuitOpenError | ConfigurationError | HandlerNotFoundError | ToolValidationError
    return isinstance(error, hopeless) or any(kind.__name__ == "ValidationError" for kind in type(error).__mro__)
