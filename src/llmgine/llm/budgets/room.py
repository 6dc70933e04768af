"""How long a reply may be, so that its request passes no limit."""

from __future__ import annotations

from dataclasses import replace

from llmgine.llm.budgets.account import Account
from llmgine.llm.budgets.amounts import Spending
from llmgine.llm.prices import MONEY, Price
from llmgine.llm.types import Usage

__all__ = ["OUTPUT_KINDS", "SHORTEST_REPLY", "output_room", "with_output"]

OUTPUT_KINDS = ("output_tokens", "total_tokens", "cost")
"""What a longer reply takes more of."""
SHORTEST_REPLY = 16
"""Tokens. To have less said, the whole conversation is not sent: then there is no room for the request."""

_MILLION = 1_000_000


def output_room(account: Account, kind: str, estimate: Spending, price: Price | None, *, last: bool) -> int | None:
    """Return how many output tokens there is room for, beside what else a request takes.

    Args:
        account: of one budget.
        kind: one of `OUTPUT_KINDS`.
        estimate: of the request.
        price: of the model, if it is known.
        last: whether the request may draw on what is set aside for the last answer.

    Returns:
        The number, which is below zero if there is no room for the rest; None if nothing limits it.
    """
    left = account.left(kind)
    if left is None:
        return None
    kept = 0 if last else getattr(account.set_aside, kind) or 0
    if kind != "cost":
        return int(left) - int(kept) - (estimate.input_tokens if kind == "total_tokens" else 0)
    assumed = account.unknown_price
    price = price or (assumed if isinstance(assumed, Price) else None)
    if price is None or not price.output:
        return None
    money = MONEY.subtract(MONEY.subtract(left, kept), price.cost(Usage(estimate.input_tokens)))
    return int(MONEY.divide_int(MONEY.multiply(money, _MILLION), price.output))


def with_output(estimate: Spending, price: Price | None, output_tokens: int) -> Spending:
    """Return what the same request takes if its reply is this long."""
    cost = None if price is None else price.cost(Usage(estimate.input_tokens, output_tokens))
    return replace(estimate, output_tokens=output_tokens, cost=cost)
