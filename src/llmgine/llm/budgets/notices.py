"""Which limits of a budget are nearly used up, or were passed: said once for each."""

from __future__ import annotations

from llmgine.errors import BudgetExceededError
from llmgine.llm.budgets.account import Account
from llmgine.llm.budgets.amounts import KINDS
from llmgine.llm.budgets.events import BudgetEvent, BudgetExceededEvent, BudgetWarningEvent

__all__ = ["Notices", "refused"]


class Notices:
    """Remembers what was said about one budget."""

    def __init__(self, name: str, account: Account, warn_at: float) -> None:
        self._name = name
        self._account = account
        self._warn_at = warn_at
        self._warned: set[str] = set()
        self._passed: set[str] = set()

    def new(self, age: float) -> list[BudgetEvent]:
        """Return what there is to be said now; `age` is that of the budget, in seconds."""
        account = self._account
        new: list[BudgetEvent] = []
        for kind in (*KINDS, "seconds"):
            exact = getattr(account.limits, kind)
            if exact is None:
                continue
            timed = kind == "seconds"
            used = age if timed else getattr(account.used, kind)
            reserved = 0.0 if timed else float(getattr(account.reserved, kind))
            limit, so_far = float(exact), float(used)
            if limit and so_far >= self._warn_at * limit and kind not in self._warned:
                self._warned.add(kind)
                new.append(BudgetWarningEvent(self._name, kind, limit, so_far, reserved))
            if used > exact and kind not in self._passed:
                self._passed.add(kind)
                new.append(BudgetExceededEvent(self._name, kind, limit, so_far, reserved, action="pass"))
        return new


def refused(error: BudgetExceededError) -> BudgetExceededEvent:
    """Return the event of a reservation that was refused."""
    limit, used, reserved = float(error.limit), float(error.used), float(error.reserved)
    return BudgetExceededEvent(error.budget, error.kind, limit, used, reserved, action=error.action)
