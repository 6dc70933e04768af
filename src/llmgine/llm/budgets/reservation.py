"""What was set apart for one thing to be done, until it is known what it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from types import TracebackType
from typing import Self

from llmgine.llm.budgets.account import Share
from llmgine.llm.budgets.amounts import Spending

__all__ = ["Reservation"]


class Reservation:
    """A part of a budget, and of those above it. Whoever reserved settles or releases it; nobody else ever does.

    As a context manager it is released by an exception, and settled at the end if it was not before. A request to a
    model that has failed may have used tokens all the same: settle it where they are known, before the exception
    leaves the block.
    """

    def __init__(self, estimate: Spending, shares: Sequence[Share], lock: Lock, settled: Callable[[], None]) -> None:
        self.estimate = estimate
        self._shares = shares
        self._lock = lock
        self._settled = settled
        self._is_settled = False

    @property
    def overrun(self) -> Spending:
        """What was used beyond the estimate, as the budget counts it that was reserved from."""
        with self._lock:
            return self._shares[0].overrun

    def settle(self, actual: Spending | None = None) -> None:
        """Count what was used, and give back the rest of what was reserved.

        It may be more than was reserved. It may also be told again, or after a release, if more is known by then: the
        last time counts.

        Args:
            actual: None if that is not known: then all that was reserved counts as used. Where only its cost is not
                known, the cost that was reserved counts.
        """
        with self._lock:
            self._is_settled = True
            for share in self._shares:
                share.settle(actual)
        self._settled()

    def release(self) -> None:
        """Give back what was reserved, because nothing was used. Does nothing to what is settled."""
        with self._lock:
            for share in self._shares:
                share.give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.release()
        elif not self._is_settled:
            self.settle()
