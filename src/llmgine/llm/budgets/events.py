"""What is published about budgets. Amounts are numbers for people and gauges; exact ones are in the budget."""

from __future__ import annotations

from dataclasses import dataclass

from llmgine.messages import Event

__all__ = ["BudgetEvent", "BudgetExceededEvent", "BudgetWarningEvent"]


@dataclass
class BudgetEvent(Event):
    """A budget comes to an end."""

    budget: str = ""
    """Its name."""
    kind: str = ""
    """Which of its limits: "requests", "tool_calls", "input_tokens", "output_tokens", "total_tokens", "cost" or
    "seconds"."""
    limit: float = 0.0
    used: float = 0.0
    reserved: float = 0.0
    """By what is under way."""


@dataclass
class BudgetWarningEvent(BudgetEvent):
    """A large share of a limit is used. Once for each limit."""


@dataclass
class BudgetExceededEvent(BudgetEvent):
    """There was no room for what was to be spent, or, once for each limit, more was spent than it allows."""

    action: str = "fail"
    """ "fail" and "finish" if it was refused; "pass" if it was spent."""
