"""What a replay fails with."""

from __future__ import annotations

from typing import Any

from llmgine.errors import LLMgineError

__all__ = ["ReplayMismatchError"]


class ReplayMismatchError(LLMgineError, AssertionError):
    """A run is not the one that was recorded. Not a `ProviderError`, so that nothing tries again or asks elsewhere."""

    def __init__(self, message: str, *, where: str, recorded: Any = None, now: Any = None) -> None:
        super().__init__(message)
        self.where = where
        """Such as `request 2: messages[3].content`."""
        self.recorded = recorded
        """What was there; None if nothing was."""
        self.now = now
        """What came in its place; None if nothing did."""
