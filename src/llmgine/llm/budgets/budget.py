"""Budgets in a tree: what is spent is reserved first, from a budget and all those above it, or from none."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from threading import Lock
from typing import Any, Literal, TypeAlias

from llmgine.bus.options import check_number
from llmgine.errors import BudgetExceededError, ConfigurationError
from llmgine.llm.budgets.account import Account, UnknownPrice
from llmgine.llm.budgets.amounts import KINDS, Limits, Spending
from llmgine.llm.budgets.events import BudgetEvent
from llmgine.llm.budgets.notices import Notices, refused
from llmgine.llm.budgets.refusals import no_room, out_of_time
from llmgine.llm.budgets.reservation import Reservation
from llmgine.llm.budgets.room import OUTPUT_KINDS, SHORTEST_REPLY, output_room, with_output
from llmgine.llm.budgets.timer import Timer
from llmgine.llm.prices import Price, PriceTable

__all__ = ["AtLimit", "Budget", "OnLimit"]

_log = logging.getLogger("llmgine.budget")

AtLimit: TypeAlias = Literal["fail", "finish", "warn"]
"""What is done where a reservation finds no room: it is refused, and the prompt fails; it is refused, and the model is
asked once more, without tools, to answer with what it has; it is made all the same."""
OnLimit: TypeAlias = AtLimit | Callable[[BudgetExceededError], AtLimit]


class Budget:
    """What may be spent on something, and on all that is done for it.

    A budget of an application is the parent of those of its sessions, these of their runs, and so on. Any number of
    threads and tasks may reserve at the same time: while nothing takes more than was reserved for it, what is used and
    what is reserved never come to more than a limit, together. A budget has no timer and no task, and nothing to be
    closed.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        name: str = "budget",
        parent: Budget | None = None,
        on_limit: OnLimit | None = None,
        unknown_price: UnknownPrice | None = None,
        set_aside: Limits | None = None,
        prices: PriceTable | None = None,
        warn_at: float = 0.8,
        announce: Callable[[BudgetEvent], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at nothing, and with its seconds.

        Args:
            limits: None of its own: then it counts, and those above it limit.
            name: for errors and reports.
            parent: the budget that everything is taken from as well.
            on_limit: what is done at this budget's limits, or what decides it. Default: the parent's, or "fail". A
                callable is called while the reservation waits; it is not asked about requests already under way.
            unknown_price: what becomes of requests without a price; see `UnknownPrice`. Default: the parent's, or
                "deny".
            set_aside: what is kept for the last answer; only `last=True` has it. Default: nothing, or one request
                where `on_limit` is "finish".
            prices: what models cost. Default: the parent's, also when that is replaced.
            warn_at: the share of a limit that is worth a warning, above 0 and up to 1.
            announce: called with events about this budget, and about those above where it was this one that took from
                them; in the thread that reserves or settles. Default: the parent's.
            clock: seconds that never go back.

        Raises:
            ConfigurationError: an option makes no sense, or the currencies differ.
        """
        self.limits = Limits() if limits is None else limits
        self.name = name
        self.parent = parent
        self.on_limit: OnLimit = on_limit or ("fail" if parent is None else parent.on_limit)
        if not callable(self.on_limit) and self.on_limit not in {"fail", "finish", "warn"}:
            msg = f"on_limit must be 'fail', 'finish', 'warn' or a callable; got {on_limit!r}."
            raise ConfigurationError(msg)
        unknown_price = unknown_price or ("deny" if parent is None else parent.unknown_price)
        if not isinstance(unknown_price, Price) and unknown_price not in {"deny", "ignore"}:
            msg = f"unknown_price must be 'deny', 'ignore' or a Price to assume; got {unknown_price!r}."
            raise ConfigurationError(msg)
        self.unknown_price: UnknownPrice = unknown_price
        check_number("warn_at", warn_at, int | float, "above 0 and up to 1")
        if not 0 < warn_at <= 1:
            msg = f"warn_at must be above 0 and up to 1; got {warn_at!r}."
            raise ConfigurationError(msg)
        set_aside = self._checked_aside(set_aside)
        self._account = Account(self.limits, set_aside, self.unknown_price)
        self._chain: tuple[Budget, ...] = (self, *(() if parent is None else parent._chain))
        self._lock: Lock = Lock() if parent is None else parent._lock
        """One for the whole tree; nothing but sums is done while it is held."""
        self._notices = Notices(name, self._account, warn_at)
        self._timer = Timer(self.limits.seconds, set_aside.seconds, clock)
        self._announce: Callable[[BudgetEvent], object] | None = announce
        if announce is None and parent is not None:
            self._announce = parent._announce
        self._check_currency(None if parent is None else parent.currency)
        self._prices: PriceTable | None = None
        self.prices = prices
        if self.prices is not None:
            self._check_currency(self.prices.currency)

    def reserve(self, estimate: Spending, *, last: bool = False) -> Reservation:
        """Set apart what something will take at most, here and in all budgets above, or nowhere.

        Only limits of what it takes stand in its way: a tool call needs no tokens.

        Args:
            estimate: what it will take.
            last: whether it may draw on what is set aside for the last answer.

        Raises:
            BudgetExceededError: there is no room for it, or no time; its `action` says what to do.
        """
        return self._reserve(lambda _: estimate, last=last)

    def reserve_request(self, estimate: Spending, price: Price | None, *, last: bool = False) -> Reservation:
        """Set apart what a request to a model will take, if need be with a shorter reply than is wanted.

        The reply must not be longer than the reservation's estimate says. Budgets that only warn shorten nothing.

        Args:
            estimate: what it will take; its `output_tokens` are the longest reply that is wanted.
            price: of the model, if it is known.
            last: whether it may draw on what is set aside for the last answer.

        Raises:
            BudgetExceededError: there is no room for it with any reply worth the while, or no time.
        """
        return self._reserve(lambda waived: self._shortened(estimate, price, waived, last=last), last=last)

    @property
    def bounds_replies(self) -> bool:
        """Whether a limit of tokens or money, here or above, is kept to: then replies must be kept short enough."""
        return any(
            getattr(budget.limits, kind) is not None
            for budget in self._chain
            if budget.on_limit != "warn"
            for kind in OUTPUT_KINDS
        )

    @asynccontextmanager
    async def in_time(self, *, last: bool = False) -> AsyncGenerator[None, None]:
        """Cancel the block when the seconds of this budget, or of one above, are over; "warn" budgets have no end.

        Args:
            last: whether it may have the seconds that are set aside for the last answer.

        Raises:
            BudgetExceededError: they are over.
        """
        left, budget = self._time_left(last=last)
        if left is None:
            yield
            return
        limit = asyncio.timeout(left)
        try:
            async with limit:
                yield
        except TimeoutError as exc:
            if not limit.expired():
                raise
            error = budget._out_of_time()
            self._decide(budget, error)
            raise error from exc

    def seconds_left(self, *, last: bool = False) -> float | None:
        """Return how long this budget and those above last, without what is set aside unless it is for the last answer.

        None if there is no end.
        """
        return self._time_left(last=last)[0]

    @property
    def used(self) -> Spending:
        """What is settled."""
        with self._lock:
            return self._account.used

    @property
    def reserved(self) -> Spending:
        """What is under way."""
        with self._lock:
            return self._account.reserved

    @property
    def overrun(self) -> Spending:
        """How much of what is used had not been reserved."""
        with self._lock:
            return self._account.overrun

    @property
    def unpriced(self) -> int:
        """How many times the cost was not known, and is not in what is used."""
        with self._lock:
            return self._account.unpriced

    @property
    def left(self) -> Limits:
        """What can still be reserved here, as those above allow too; with what is set aside. None without limit."""
        with self._lock:
            left: dict[str, Any] = {
                kind: max(0, min(amounts))
                for kind in KINDS
                if (amounts := [amount for each in self._chain if (amount := each._account.left(kind)) is not None])
            }
        if "cost" in left:
            left["cost"] = Decimal(left["cost"])
        seconds = self.seconds_left(last=True)
        return Limits(**left, seconds=seconds, currency=self.currency or "USD")

    @property
    def currency(self) -> str | None:
        """In which money is limited, here or above; None if it is not."""
        return next((each.limits.currency for each in self._chain if each.limits.cost is not None), None)

    @property
    def prices(self) -> PriceTable | None:
        """What models cost: its own table, or its parent's. It may be replaced at any time."""
        return next((each._prices for each in self._chain if each._prices is not None), None)

    @prices.setter
    def prices(self, prices: PriceTable | None) -> None:
        if prices is not None:
            self._check_currency(prices.currency)
        self._prices = prices

    def find_price(self, provider: str, *models: str) -> Price | None:
        """Return the price of the first of these models that has one; see `PriceTable.find`.

        Raises:
            ConfigurationError: the prices are in another currency than the limits.
        """
        prices = self.prices
        if prices is None:
            return None
        self._check_currency(prices.currency)
        return prices.find(provider, *models)

    def snapshot(self) -> dict[str, Any]:
        """Return the figures of this budget alone, for JSON; money as text.

        `{"name", "currency", "limits", "used", "reserved", "overrun", "unpriced", "seconds"}`: "limits" has those that
        there are, "unpriced" how many requests of unknown cost are not in "used", "seconds" how old the budget is.
        """
        account = self._account
        with self._lock:
            used, reserved, overrun, unpriced = account.used, account.reserved, account.overrun, account.unpriced
        limits = {kind: getattr(self.limits, kind) for kind in (*KINDS, "seconds")}
        return {
            "name": self.name,
            "currency": self.currency,
            "limits": {kind: _plain(limit) for kind, limit in limits.items() if limit is not None},
            **{
                name: {kind: _plain(getattr(amounts, kind)) for kind in KINDS}
                for name, amounts in (("used", used), ("reserved", reserved), ("overrun", overrun))
            },
            "unpriced": unpriced,
            "seconds": self._timer.age,
        }

    def _checked_aside(self, given: Limits | None) -> Limits:
        if given is None:
            return Limits(requests=1 if self.on_limit == "finish" and self.limits.requests else None)
        for kind in (*KINDS, "seconds"):
            kept, limit = getattr(given, kind), getattr(self.limits, kind)
            if kept is not None and (limit is None or kept > limit):
                msg = f"set_aside has {kind}={kept}, but the limit is {limit}. Set aside a part of what is limited."
                raise ConfigurationError(msg)
        return given

    def _check_currency(self, other: str | None) -> None:
        if other is not None and self.currency is not None and other != self.currency:
            msg = f"Budget '{self.name}' is in {self.currency}, but would be used with {other}. Use one currency."
            raise ConfigurationError(msg)

    def _reserve(self, wanted: Callable[[_Waived], Spending], *, last: bool) -> Reservation:
        for budget in self._chain:
            left = budget._timer.left(last=last)
            if left is not None and left <= 0:
                self._decide(budget, budget._out_of_time())
        waived: _Waived = set()
        while not isinstance(outcome := self._attempt(wanted, waived, last=last), Reservation):
            budget, error = outcome
            self._decide(budget, error)
            waived.add((budget, error.kind))
        self._notice()
        return outcome

    def _shortened(self, estimate: Spending, price: Price | None, waived: _Waived, *, last: bool) -> Spending:
        """Return the request with as long a reply as there is room for; called with the lock."""
        rooms = [
            room
            for budget in self._chain
            if budget.on_limit != "warn"
            for kind in OUTPUT_KINDS
            if (budget, kind) not in waived
            if (room := output_room(budget._account, kind, estimate, price, last=last)) is not None
        ]
        longest = estimate.output_tokens
        return with_output(estimate, price, max(min([longest, *rooms]), min(longest, SHORTEST_REPLY)))

    def _attempt(
        self, wanted: Callable[[_Waived], Spending], waived: _Waived, *, last: bool
    ) -> Reservation | tuple[Budget, BudgetExceededError]:
        """Take from all or none; return the first budget that stands in the way, and why, unless that is waived."""
        with self._lock:
            estimate = wanted(waived)
            for budget in self._chain:
                for kind in budget._account.lacking(estimate, last=last):
                    if (budget, kind) not in waived:
                        return budget, no_room(budget.name, budget._account, kind, estimate, last=last)
            shares = [budget._account.take(estimate) for budget in self._chain]
        return Reservation(estimate, shares, self._lock, self._notice)

    def _decide(self, budget: Budget, error: BudgetExceededError) -> None:
        """Return if what a budget has no room for is to be done all the same.

        Raises:
            BudgetExceededError: it is not.
        """
        action = budget.on_limit(error) if callable(budget.on_limit) else budget.on_limit
        if action == "warn":
            return
        if action not in ("fail", "finish"):
            msg = f"on_limit of budget '{budget.name}' must return 'fail', 'finish' or 'warn'; it returned {action!r}."
            raise ConfigurationError(msg) from error
        error.action = action
        self._tell(refused(error))
        raise error

    def _time_left(self, *, last: bool) -> tuple[float | None, Budget]:
        """Return the least that a budget has left which has an end, and that budget."""
        shortest: tuple[float | None, Budget] = None, self
        for budget in self._chain:
            left = None if budget.on_limit == "warn" else budget._timer.left(last=last)
            if left is not None and (shortest[0] is None or left < shortest[0]):
                shortest = max(0.0, left), budget
        return shortest

    def _out_of_time(self) -> BudgetExceededError:
        return out_of_time(self.name, self.limits.seconds or 0.0, self._timer.age)

    def _notice(self) -> None:
        """Announce, once, which limits are nearly used up, and which were passed."""
        ages = [budget._timer.age for budget in self._chain]
        with self._lock:
            news = [event for budget, age in zip(self._chain, ages, strict=True) for event in budget._notices.new(age)]
        for event in news:
            self._tell(event)

    def _tell(self, event: BudgetEvent) -> None:
        if self._announce is None:
            return
        try:
            self._announce(event)
        except Exception:  # noqa: BLE001  # what listeners do wrong must not lose a reservation, nor what was spent
            _log.exception("%s could not be announced", type(event).__name__)


_Waived: TypeAlias = set[tuple[Budget, str]]
"""Limits that have been decided to be passed, with their budgets."""


def _plain(amount: float | Decimal) -> float | str:
    return str(amount) if isinstance(amount, Decimal) else amount
