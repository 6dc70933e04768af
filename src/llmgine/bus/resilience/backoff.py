"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import uniform
from typing import Any

from llmgine.bus.options import check_number
from llmgine.errors import ConfigurationError

__all__ = ["Jitter", "RetryConfig"]


class Jitter(Enum):
    """How delays are spread, so that those who failed together do not come back together."""

    FULL = "full"
    """Anything up to the delay."""
    DECORRELATED = "decorrelated"
    """Anything up to three times the last delay."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How often to try again, and when.

    Raises:
        ConfigurationError: an option is out of its range.
    """

    max_retries: int = 3
    """Attempts after the first one."""
    initial_delay: float = 0.1
    """Seconds before the first retry."""
    max_delay: float = 10.0
    """Seconds that no delay is longer than, unless the error asks for it with `retry_after`."""
    exponential_base: float = 2.0
    """What the delay is multiplied by from one retry to the next, 1 or more."""
    jitter: bool | Jitter = True
    """True is full jitter, False none."""

    def __post_init__(self) -> None:
        check_number("max_retries", self.max_retries, int, "a whole number, 0 or more")
        for name in ("initial_delay", "max_delay"):
            check_number(name, getattr(self, name), int | float, "a number of seconds, 0 or more")
        check_number("exponential_base", self.exponential_base, int | float, "a number, 1 or more", least=1)
        given: Any = self.jitter
        if not isinstance(given, bool | Jitter):
            msg = f"jitter must be True, False or one of {', '.join(map(str, Jitter))}; got {given!r}."
            raise ConfigurationError(msg)

    def delay(
        self, attempt: int, previous: float | None = None, random: Callable[[float, float], float] = uniform
    ) -> float:
        """Return the seconds to wait after an attempt has failed.

        Without jitter `min(max_delay, initial_delay * exponential_base ** (attempt - 1))`; with full jitter
        `uniform(0, that)`; decorrelated `min(max_delay, uniform(initial_delay, 3 * previous))`. Source: Marc Brooker,
        "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

        Args:
            attempt: which one has failed, counted from 1.
            previous: the last delay, for decorrelated jitter; None before the first retry.
            random: returns a number between two.
        """
        if self.jitter is Jitter.DECORRELATED:
            start = self.initial_delay
            return min(self.max_delay, random(start, max(start, 3 * (start if previous is None else previous))))
        try:
            delay = min(self.max_delay, self.initial_delay * float(self.exponential_base) ** (attempt - 1))
        except OverflowError:
            delay = self.max_delay if self.initial_delay else 0.0
        return random(0.0, delay) if self.jitter in {True, Jitter.FULL} else delay
