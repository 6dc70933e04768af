"""What may be spent, and what is."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from llmgine.bus.options import check_number
from llmgine.llm.prices import MONEY, Price, check_money
from llmgine.llm.types import Usage

__all__ = ["KINDS", "Limits", "Spending"]

KINDS = ("requests", "tool_calls", "input_tokens", "output_tokens", "total_tokens", "cost")
"""What is reserved and counted. Seconds pass by themselves."""

_COUNTS = ("requests", "tool_calls", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be spent; None of what is without limit."""

    requests: int | None = None
    """To models."""
    tool_calls: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    """Input and output together."""
    cost: Decimal | None = None
    seconds: float | None = None
    currency: str = "USD"
    """Of `cost`."""

    def __post_init__(self) -> None:
        for kind in (*_COUNTS, "total_tokens"):
            if (limit := getattr(self, kind)) is not None:
                check_number(kind, limit, int, "a whole number, 0 or more, or None")
        if self.cost is not None:
            check_money("cost", self.cost)
        if self.seconds is not None:
            check_number("seconds", self.seconds, int | float, "a number of seconds, 0 or more, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What has been spent, or will be."""

    requests: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal | None = Decimal(0)
    """None if the price is not known."""

    def __post_init__(self) -> None:
        for kind in _COUNTS:
            check_number(kind, getattr(self, kind), int, "a whole number, 0 or more")
        if self.cost is not None:
            check_money("cost", self.cost)

    @classmethod
    def of_request(cls, usage: Usage, price: Price | None) -> Self:
        """Return what one request to a model has come to; a price of None is not known."""
        return cls(
            requests=1,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost=None if price is None else price.cost(usage),
        )

    @property
    def total_tokens(self) -> int:
        """Tokens read and written."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Spending) -> Spending:
        known = self.cost is not None and other.cost is not None
        return Spending(
            requests=self.requests + other.requests,
            tool_calls=self.tool_calls + other.tool_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=MONEY.add(self.cost or 0, other.cost or 0) if known else None,
        )

    def beyond(self, other: Spending) -> Spending:
        """Return by how much this is more than another; nothing of what is not more. Both have a cost."""
        return Spending(
            requests=max(0, self.requests - other.requests),
            tool_calls=max(0, self.tool_calls - other.tool_calls),
            input_tokens=max(0, self.input_tokens - other.input_tokens),
            output_tokens=max(0, self.output_tokens - other.output_tokens),
            cost=max(Decimal(0), MONEY.subtract(self.cost or 0, other.cost or 0)),
        )
