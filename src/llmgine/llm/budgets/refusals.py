"""What is said where a budget has no room."""

from __future__ import annotations

from decimal import Decimal

from llmgine.errors import BudgetExceededError
from llmgine.llm.budgets.account import Account
from llmgine.llm.budgets.amounts import Spending

__all__ = ["no_room", "out_of_time"]


def no_room(name: str, account: Account, kind: str, wanted: Spending, *, last: bool) -> BudgetExceededError:
    """Return the error of a reservation.

    Args:
        name: of the budget.
        account: its figures.
        kind: which limit is in the way.
        wanted: what was to be reserved.
        last: whether it might have had what is set aside.
    """
    limit, used, reserved = (getattr(each, kind) for each in (account.limits, account.used, account.reserved))
    currency = account.limits.currency
    if kind == "cost" and wanted.cost is None and account.unknown_price == "deny":
        msg = (
            f"Budget '{name}' limits cost to {_text(limit)} {currency}, and the price of this request is not known. "
            "Add the model to the price table, or say by unknown_price what it counts for."
        )
    else:
        amount = getattr(account.priced(wanted), kind)
        left = max(0, account.left(kind) or 0)
        kept = None if last else getattr(account.set_aside, kind)
        msg = (
            f"Budget '{name}' has no room for {_text(amount)} of {kind.replace('_', ' ')}: "
            f"{_text(limit)}{f' {currency}' if kind == 'cost' else ''} is the limit, {_text(used)} used, "
            f"{_text(reserved)} reserved, {_text(left)} left"
            f"{f', of which {_text(kept)} is kept for the last answer' if kept else ''}. "
            f"{'Wait for what is under way, or raise the limit' if reserved else 'Raise the limit if it is too low'}."
        )
    return BudgetExceededError(msg, budget=name, kind=kind, limit=limit, used=used, reserved=reserved)


def out_of_time(name: str, limit: float, age: float) -> BudgetExceededError:
    """Return the error of a budget whose seconds are over."""
    msg = f"Budget '{name}' has run out of time: {limit:g} s were given. Raise the limit if it needs more."
    return BudgetExceededError(msg, budget=name, kind="seconds", limit=limit, used=age)


def _text(amount: int | Decimal) -> str:
    return f"{amount:f}" if isinstance(amount, Decimal) else str(amount)
