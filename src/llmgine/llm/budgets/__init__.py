"""Budgets: requests, tool calls, tokens, money and seconds are reserved before they are spent."""

from llmgine.errors import BudgetExceededError
from llmgine.llm.budgets.account import UnknownPrice
from llmgine.llm.budgets.amounts import Limits, Spending
from llmgine.llm.budgets.budget import AtLimit, Budget, OnLimit
from llmgine.llm.budgets.estimate import estimate_request, estimate_tokens
from llmgine.llm.budgets.events import BudgetEvent, BudgetExceededEvent, BudgetWarningEvent
from llmgine.llm.budgets.reservation import Reservation

__all__ = [
    "AtLimit",
    "Budget",
    "BudgetEvent",
    "BudgetExceededError",
    "BudgetExceededEvent",
    "BudgetWarningEvent",
    "Limits",
    "OnLimit",
    "Reservation",
    "Spending",
    "UnknownPrice",
    "estimate_request",
    "estimate_tokens",
]
