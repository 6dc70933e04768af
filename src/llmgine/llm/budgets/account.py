"""The figures of one budget, and how a reservation changes them. Plain arithmetic: its callers see to threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, TypeAlias

from llmgine.llm.budgets.amounts import KINDS, Limits, Spending
from llmgine.llm.prices import MONEY, Price
from llmgine.llm.types import Usage

__all__ = ["Account", "Share", "UnknownPrice"]

UnknownPrice: TypeAlias = Literal["deny", "ignore"] | Price
"""What becomes of a request whose price is not known: where money is limited, there is none for it ("deny"); its tokens
are counted, and its cost is not ("ignore"); or it is counted with a price, which should be the dearest of all."""


class Account:
    """What one budget has spent and reserved."""

    def __init__(self, limits: Limits, set_aside: Limits, unknown_price: UnknownPrice) -> None:
        self.limits = limits
        self.set_aside = set_aside
        self.unknown_price: UnknownPrice = unknown_price
        self.used = Spending()
        self.reserved = Spending()
        self.overrun = Spending()
        """What was used beyond what had been reserved for it."""
        self.unpriced = 0
        """Settled reservations of which the cost is not known, and not in `used`."""

    def lacking(self, wanted: Spending, *, last: bool) -> Iterator[str]:
        """Yield of which kinds there is not as much as is wanted."""
        if wanted.cost is None and self.limits.cost is not None and self.unknown_price == "deny":
            yield "cost"
        wanted = self.priced(wanted)
        for kind in KINDS:
            amount, left = getattr(wanted, kind), self.left(kind)
            if not amount or left is None:
                continue
            kept = 0 if last else getattr(self.set_aside, kind) or 0
            if MONEY.add(amount, kept) > left:
                yield kind

    def left(self, kind: str) -> int | Decimal | None:
        """Return how much of a kind is neither used nor reserved; below zero if the limit was passed, None without."""
        limit: int | Decimal | None = getattr(self.limits, kind)
        if limit is None:
            return None
        used, reserved = getattr(self.used, kind), getattr(self.reserved, kind)
        if isinstance(limit, Decimal):
            return MONEY.subtract(MONEY.subtract(limit, used), reserved)
        return limit - int(used) - int(reserved)

    def priced(self, spending: Spending) -> Spending:
        """Return the same with a cost, whatever is known of it."""
        if spending.cost is not None:
            return spending
        cost = Decimal(0)
        if isinstance(self.unknown_price, Price):
            cost = self.unknown_price.cost(Usage(spending.input_tokens, spending.output_tokens))
        return replace(spending, cost=cost)

    def take(self, estimate: Spending) -> Share:
        """Reserve, whether or not there is room."""
        share = Share(self, estimate, self.priced(estimate))
        self.reserved += share.reserved
        return share


@dataclass(slots=True)
class Share:
    """What one reservation takes from one budget."""

    account: Account
    estimate: Spending
    reserved: Spending
    used: Spending | None = None
    """None if it is not settled."""
    overrun: Spending = field(default_factory=Spending)
    unpriced: bool = False
    _held: bool = True

    def give_back(self) -> None:
        """End the reservation."""
        if self._held:
            self._held = False
            self.account.reserved = self.account.reserved.beyond(self.reserved)

    def settle(self, actual: Spending | None) -> None:
        """Count what was used, in place of what was counted for it before; what was reserved if that is not known."""
        account = self.account
        self.give_back()
        said = self.estimate if actual is None else actual
        cost_reserved = said.cost is None and self.estimate.cost is not None
        unpriced = said.cost is None and not cost_reserved and not isinstance(account.unknown_price, Price)
        used = replace(said, cost=self.reserved.cost) if cost_reserved else account.priced(said)
        overrun = used.beyond(self.reserved)
        if self.used is not None:
            account.used = account.used.beyond(self.used)
            account.overrun = account.overrun.beyond(self.overrun)
            account.unpriced -= self.unpriced
        account.used += used
        account.overrun += overrun
        account.unpriced += unpriced
        self.used, self.overrun, self.unpriced = used, overrun, unpriced
