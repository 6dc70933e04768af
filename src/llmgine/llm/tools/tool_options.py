"""What can be said about a tool besides its code, where it is registered or with `@tool` where it is defined."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from llmgine.bus.resilience.backoff import RetryConfig
from llmgine.errors import ConfigurationError, ToolRegistrationError
from llmgine.llm.tools.effects import Effect

__all__ = ["ToolOptions", "check_names", "check_options", "options_of", "retry_of", "tool"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__llmgine_tool__"


class ToolOptions(TypedDict, total=False):
    """What a function's signature does not say. All of it can be left out."""

    name: str | None
    """1 to 64 letters, digits, `_` or `-`. Default: the function's name."""
    description: str | None
    """What the model reads about it. Default: the docstring up to its first section."""
    timeout: float | None
    """Seconds that one attempt may take. Default: the manager's."""
    retries: int | RetryConfig
    """How often to try again after a failure, of tools whose effect can be repeated. Default: never."""
    max_concurrency: int | None
    """Calls of this tool that run at the same time in one event loop. Default: as many as the manager allows."""
    effect: Effect | Literal["read", "idempotent", "unsafe"]
    """What happens if a call is run twice. Default: unsafe."""
    requires_approval: bool | Callable[[dict[str, Any]], bool]
    """Whether a person must agree to each call; or a function of the arguments, as the tool gets them, that tells."""
    in_process: bool
    """Whether each call gets a process of its own, which is killed at the timeout; else sync tools get a thread."""


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(**options: Unpack[ToolOptions]) -> Callable[[F], F]: ...
def tool(function: Any = None, /, **options: Unpack[ToolOptions]) -> Any:
    """Mark a function or method as a tool, with its options; it is registered with the object or module it is in."""
    check_names(options)

    def mark(marked: F) -> F:
        setattr(marked, _MARK, options)
        return marked

    return mark if function is None else mark(function)


def options_of(function: Any) -> ToolOptions | None:
    """Return the options that `@tool` has given to a function or to what it is a partial of; None if there are none."""
    options: ToolOptions | None = getattr(function, _MARK, None)
    while options is None and isinstance(function, functools.partial):
        function = function.func
        options = getattr(function, _MARK, None)
    return options


def retry_of(options: ToolOptions) -> RetryConfig:
    """Return how often and when to try again.

    Raises:
        ConfigurationError: `retries` is no such number.
    """
    retries = options.get("retries", 0)
    return retries if isinstance(retries, RetryConfig) else RetryConfig(max_retries=retries)


def check_names(options: ToolOptions) -> None:
    """Refuse options that there are not, with a TypeError as for any function."""
    unknown = options.keys() - ToolOptions.__annotations__.keys()
    if unknown:
        msg = f"A tool has no option {', '.join(sorted(unknown))}; there are: {', '.join(ToolOptions.__annotations__)}."
        raise TypeError(msg)


def check_options(options: ToolOptions) -> None:
    """Refuse options that are out of their range or contradict each other.

    Raises:
        ToolRegistrationError: saying which, in words that follow "'name' cannot be a tool: ".
    """
    timeout = options.get("timeout")
    if timeout is not None and not timeout > 0:
        msg = f"its timeout must be above 0 seconds, not {timeout!r}."
        raise ToolRegistrationError(msg)
    places: Any = options.get("max_concurrency")
    if places is not None and not (isinstance(places, int) and places >= 1):
        msg = f"its max_concurrency must be a whole number, 1 or more, not {places!r}."
        raise ToolRegistrationError(msg)
    approval: Any = options.get("requires_approval", False)
    if not (isinstance(approval, bool) or callable(approval)) or iscoroutinefunction(approval):
        msg = f"its requires_approval must be True, False or a plain function of the arguments, not {approval!r}."
        raise ToolRegistrationError(msg)
    try:
        effect = Effect(options.get("effect", Effect.UNSAFE))
    except ValueError as exc:
        msg = f"its effect must be one of {', '.join(Effect)}, not {options.get('effect')!r}."
        raise ToolRegistrationError(msg) from exc
    try:
        retries = retry_of(options).max_retries
    except ConfigurationError as exc:
        msg = "its retries must be a whole number, 0 or more, or a RetryConfig."
        raise ToolRegistrationError(msg) from exc
    if retries and not effect.repeatable:
        msg = (
            "its effect is unsafe, so it must not be tried again. If running it twice does no harm, "
            'say so with effect="read" or effect="idempotent"; else leave out retries.'
        )
        raise ToolRegistrationError(msg)
