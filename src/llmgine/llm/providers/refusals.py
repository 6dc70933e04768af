"""From the errors of SDKs to ours. SDKs differ in their classes, and agree on what HTTP says: status, code, headers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llmgine.errors import (
    ContextLengthError,
    ProviderError,
    ProviderResponseError,
    ProviderUnavailableError,
    RateLimitedError,
)
from llmgine.llm.providers.errors import AuthenticationError, OverloadedError

__all__ = ["Asked", "explained", "seconds_to_wait", "status_of", "told"]

# Each SDK has classes of its own with these names, or derives from one that has.
_TIMEOUTS = {"APITimeoutError", "Timeout", "TimeoutError", "TimeoutException"}
_CONNECTIONS = {"APIConnectionError", "ConnectionError", "TransportError"}
_TOO_LONG = {"ContextLengthExceededError", "ContextWindowExceededError"}
_TOO_LONG_SAID = ("context length", "context size", "context window", "prompt is too long")
_LONGEST_SAID = 500
# Such as "litellm.RateLimitError: RateLimitError: OpenAIException - ": names of classes, which say nothing to people.
_PREFIXES = re.compile(r"^(?:(?:litellm\.)?\w+Error: )*\w+Exception - |^\[\w+\] ")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who was asked, for the sentence."""

    server: str
    provider: str
    model: str
    key: str
    """What to do about the key, as a sentence."""
    timeout: float


def explained(error: BaseException, asked: Asked) -> ProviderError:  # noqa: PLR0911  # one for each that goes wrong
    """Return what an SDK's error means, with a sentence that says what to do."""
    who: Any = {"provider": asked.provider, "model": asked.model}
    server, chain = asked.server, list(_chain(error))
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    status, said = status_of(error), _said(chain)
    if names & _TIMEOUTS:
        return ProviderUnavailableError(f"{server} did not answer within {asked.timeout:g} s.", **who)
    if names & _CONNECTIONS:
        cause = chain[-1]
        return ProviderUnavailableError(f"{server} cannot be reached: {told(cause)}. Is the network there?", **who)
    codes = _codes(chain)
    if status in {401, 403}:
        return AuthenticationError(f"{server} refused the key ({status}). {asked.key}", status=status, **who)
    if status == 404:
        return ProviderResponseError(f"{server} has no model '{asked.model}': {said}", status=status, **who)
    if status == 429 and "insufficient_quota" in codes:
        return ProviderResponseError(f"{server} has no quota left for this key: {said}", status=status, **who)
    wait = next((wait for one in chain if (wait := seconds_to_wait(_headers(one))) is not None), None)
    when = "" if wait is None else f". Try again in {wait:g} s."
    if status == 429:
        return RateLimitedError(f"{server} asks for fewer requests: {said}{when}", retry_after=wait, **who)
    if "context_length_exceeded" in codes or names & _TOO_LONG or any(one in said.lower() for one in _TOO_LONG_SAID):
        msg = f"The conversation is longer than {asked.model} can read: {said}"
        return ContextLengthError(msg, status=status, **who)
    if status is not None and (status >= 500 or status == 408):
        msg = f"{server} answered with an error ({status}): {said}{when}"
        return OverloadedError(msg, status=status, retry_after=wait, **who)
    if status is not None:
        return ProviderResponseError(f"{server} answered with an error ({status}): {said}", status=status, **who)
    return ProviderResponseError(f"{server} could not be used: {said}", **who)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status, where the server gave one; some give it as the code of an error within a stream."""
    for one in _chain(error):
        for name in ("status_code", "code"):
            number = getattr(one, name, None)
            if isinstance(number, str) and number.isdigit():
                number = int(number)
            if isinstance(number, int) and 400 <= number < 600:
                return number
    return None


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Return what `retry-after-ms` or `Retry-After` says (RFC 9110, section 10.2.3: seconds or a date)."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return float(milliseconds) / 1000
        if not (after := headers.get("retry-after")):
            return None
        if after.replace(".", "", 1).isdigit():
            return float(after)
        return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was made of, as far as three of them."""
    for _ in range(3):
        yield error
        hidden = None if error.__suppress_context__ else error.__context__
        before = getattr(error, "original_exception", None) or error.__cause__ or hidden
        if not isinstance(before, BaseException):
            return
        error = before


def _headers(error: BaseException) -> Mapping[str, str]:
    for headers in (
        getattr(error, "litellm_response_headers", None),
        getattr(getattr(error, "response", None), "headers", None),
    ):
        if headers:
            return {str(name).lower(): str(value) for name, value in headers.items()}
    return {}


def _codes(chain: list[BaseException]) -> set[str]:
    """Return what the server calls the error. Some SDKs put a code of their own in its place."""
    codes = [getattr(error, "code", None) for error in chain]
    codes += [body.get("code") for error in chain if isinstance(body := getattr(error, "body", None), dict)]
    return {code for code in codes if isinstance(code, str)}


def _said(chain: list[BaseException]) -> str:
    for error in chain:
        body: Any = getattr(error, "body", None)
        if isinstance(body, dict) and (message := body.get("message")):
            return told(message)
    return told(getattr(chain[0], "message", None) or chain[0])


def told(said: object) -> str:
    """Return one line that fits a screen; a server may answer with a whole page."""
    text = _PREFIXES.sub("", " ".join(str(said).split())).rstrip(".")
    return text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}…"
