"""What one prompt may spend: each request and each tool call is reserved before it is made, and settled afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from llmgine.llm.budgets import (
    Budget,
    BudgetEvent,
    Limits,
    Reservation,
    Spending,
    estimate_request,
    estimate_tokens,
)
from llmgine.llm.providers.base import Provider
from llmgine.llm.types import Finish, LLMMessage, ModelFormattedDictTool, Usage

__all__ = ["RunSpending"]

_OUTPUT_TOKENS = 4096
"""How long a reply is taken to be at most, and may be where tokens or money are limited, if nobody has said."""


class RunSpending:
    """The budget of one prompt, below that of its engine. Without either it costs nothing and forbids nothing."""

    def __init__(self, budget: Budget | None, limits: Limits | None, max_output_tokens: int | None) -> None:
        """Begin a run. Its seconds, if they are limited, begin now."""
        self._max_output_tokens = max_output_tokens
        self._events: list[BudgetEvent] = []
        self.budget: Budget | None = None
        """None if nothing is limited."""
        if budget is not None or limits is not None:
            self.budget = Budget(limits, name="run", parent=budget, announce=self._events.append)

    def events(self) -> list[BudgetEvent]:
        """Return what there is to be told since the last time."""
        events = self._events[:]
        self._events.clear()
        return events

    def reserve_request(
        self,
        messages: Sequence[LLMMessage],
        tools: Sequence[ModelFormattedDictTool],
        provider: Provider,
        *,
        counted: int,
        last: bool,
    ) -> tuple[Reservation | None, int | None]:
        """Set apart what a request will take at most.

        Args:
            messages: the conversation.
            tools: what the model may call.
            provider: who is asked.
            counted: how many tokens it reads, by a count that may be better than the estimate; 0 if there is none.
            last: whether it may draw on what is set aside for the last answer.

        Returns:
            The reservation, and how many tokens the model may write; None of what is without limit.

        Raises:
            BudgetExceededError: there is no room for it.
        """
        longest = self._max_output_tokens
        if self.budget is None:
            return None, longest
        price = self.budget.find_price(provider.name, provider.model)
        estimate = estimate_request(messages, tools, max_output_tokens=longest or _OUTPUT_TOKENS, price=price)
        if counted > estimate.input_tokens:
            estimate = Spending.of_request(Usage(counted, estimate.output_tokens), price)
        reservation = self.budget.reserve_request(estimate, price, last=last)
        return reservation, reservation.estimate.output_tokens if self.budget.bounds_replies else longest

    def settle_request(
        self, reservation: Reservation | None, provider: Provider, finish: Finish | None, text: str, *, begun: bool
    ) -> None:
        """Count what a request took.

        Args:
            reservation: what was set apart.
            provider: who was asked.
            finish: how it ended; None if it broke off.
            text: as much of the reply as came.
            begun: whether anything came: a request that fails before is not paid for.
        """
        if self.budget is None or reservation is None:
            return
        if finish is not None and finish.usage is not None:
            price = self.budget.find_price(provider.name, finish.model, provider.model)
            reservation.settle(Spending.of_request(finish.usage, price))
        elif finish is not None:
            reservation.settle()
        elif begun:
            price = self.budget.find_price(provider.name, provider.model)
            paid = Usage(reservation.estimate.input_tokens, estimate_tokens(text))
            reservation.settle(Spending.of_request(paid, price))
        else:
            reservation.release()

    def reserve_tool_call(self) -> Reservation | None:
        """Set apart a tool call.

        Raises:
            BudgetExceededError: there is no room for it.
        """
        return None if self.budget is None else self.budget.reserve(Spending(tool_calls=1))
