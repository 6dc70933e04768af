"""What goes wrong with a provider, where who catches it does something else about it than about its neighbours.

ProviderError
├─ ProviderUnavailableError (ConnectionError)
│  └─ StalledError (TimeoutError; also an IncompleteResponseError) .timeout .partial
└─ ProviderResponseError .status
   ├─ AuthenticationError (PermissionError)
   └─ OverloadedError .retry_after
"""

from __future__ import annotations

from llmgine.errors import IncompleteResponseError, ProviderResponseError, ProviderUnavailableError

__all__ = ["AuthenticationError", "OverloadedError", "StalledError"]


class AuthenticationError(ProviderResponseError, PermissionError):
    """The provider refuses the key."""


class OverloadedError(ProviderResponseError):
    """The provider has a fault of its own, or too much to do: a status of 500 or more, or 408."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        provider: str = "",
        model: str = "",
    ) -> None:
        super().__init__(message, status=status, provider=provider, model=model)
        self.retry_after = retry_after
        """Seconds to wait before the next attempt, where the provider said so."""


class StalledError(ProviderUnavailableError, IncompleteResponseError, TimeoutError):
    """A reply was begun and then nothing came, for longer than it may take."""

    def __init__(self, message: str, *, timeout: float, partial: str = "", provider: str = "", model: str = "") -> None:
        # Past ProviderUnavailableError, whose signature is that of the root and knows no partial text.
        IncompleteResponseError.__init__(self, message, partial=partial, provider=provider, model=model)
        self.timeout = timeout
        """Seconds that were waited for the next piece."""
