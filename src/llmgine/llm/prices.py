"""What models cost. No prices come with this package: they change more often than it does."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

from llmgine.errors import ConfigurationError
from llmgine.llm.types import Usage

__all__ = ["MONEY", "Price", "PriceTable", "check_money"]

MONEY = Context(prec=60)
"""Sums of money are exact, whatever the context of the thread is set to."""

_MILLION = Decimal("1e-6")


def check_money(name: str, given: object) -> None:
    """Refuse what is no amount of money.

    Raises:
        ConfigurationError: it is no finite `Decimal`, or is below zero.
    """
    if not (isinstance(given, Decimal) and given.is_finite() and given >= 0):
        msg = f"{name} must be a Decimal, 0 or more, such as Decimal('2.50'); got {given!r}."
        raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, for a million tokens."""

    input: Decimal
    output: Decimal
    cached: Decimal | None = None
    """Of input tokens that the provider had read before; None if they cost as much as others."""

    def __post_init__(self) -> None:
        check_money("input", self.input)
        check_money("output", self.output)
        if self.cached is not None:
            check_money("cached", self.cached)
            if self.cached > self.input:  # else what is reserved, with nothing cached, would not be enough
                msg = f"cached must not be above input, {self.input}; got {self.cached}."
                raise ConfigurationError(msg)

    def cost(self, usage: Usage) -> Decimal:
        """Return what these tokens cost."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        cached_price = self.input if self.cached is None else self.cached
        total = MONEY.multiply(self.input, usage.input_tokens - cached)
        total = MONEY.fma(cached_price, cached, total)
        total = MONEY.fma(self.output, usage.output_tokens, total)
        return MONEY.multiply(total, _MILLION)


class PriceTable(Mapping[str, Price]):
    """Prices by `provider:model`, or by the model's name alone, in one currency."""

    def __init__(self, prices: Mapping[str, Price], *, currency: str = "USD") -> None:
        self._prices = dict(prices)
        self.currency = currency

    def __getitem__(self, name: str) -> Price:
        return self._prices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prices)

    def __len__(self) -> int:
        return len(self._prices)

    def find(self, provider: str, *models: str) -> Price | None:
        """Return the price of the first of these models that has one.

        Args:
            provider: who serves them.
            models: names of what may be one and the same, such as the model that answered and the one that was asked.
        """
        for model in models:
            price = self._prices.get(f"{provider}:{model}", self._prices.get(model))
            if price is not None:
                return price
        return None

    @classmethod
    def read(cls, path: Path) -> PriceTable:
        """Read a file; see `parse`.

        Raises:
            ConfigurationError: there is no such file, or it is something else.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"The prices in {path} cannot be used: {error}"
            raise ConfigurationError(msg) from error

    @classmethod
    def parse(cls, text: str) -> PriceTable:
        """Read TOML: a table for each model with the prices of a million tokens, and a currency if it is not USD.

        ```toml
        currency = "EUR"

        ["provider:model"]
        input = 2.5
        output = 10.0
        cached = 0.25  # if cached input tokens cost less
        ```

        Raises:
            ConfigurationError: it is something else.
        """
        try:
            tables = tomllib.loads(text, parse_float=Decimal)
            currency = tables.pop("currency", "USD")
            return cls({name: _price(name, table) for name, table in tables.items()}, currency=_currency(currency))
        except ValueError as error:
            said = str(error).rstrip(".")
            msg = f'{said}. Expected tables such as ["provider:model"] with input = 2.5 and output = 10.0.'
            raise ConfigurationError(msg) from error


def _currency(given: object) -> str:
    if not isinstance(given, str):
        msg = f"currency must be a text such as 'EUR', not {given!r}"
        raise ConfigurationError(msg)
    return given


def _price(name: str, table: Any) -> Price:
    given: dict[str, Any] = table if isinstance(table, dict) else {}
    for which in ("input", "output"):
        if which not in given:
            msg = f"{name!r} has no {which} price"
            raise ConfigurationError(msg)
    amounts = {which: given[which] for which in ("input", "output", "cached") if which in given}
    try:
        return Price(**{which: Decimal(amount) if type(amount) is int else amount for which, amount in amounts.items()})
    except ConfigurationError as error:
        msg = f"{name!r}: {error}"
        raise ConfigurationError(msg) from error
