"""Several providers as one: whoever fails is tried again, then passed over, and left alone for a while if it goes on.

Whether an error is worth another attempt, and whether it says that the provider is not well, is one table: `verdict`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from random import uniform
from typing import Any, NamedTuple

from llmgine.bus import causality
from llmgine.bus.clocks import loop_time
from llmgine.bus.resilience.backoff import RetryConfig
from llmgine.bus.resilience.circuit import CircuitBreakerConfig, Outcome
from llmgine.bus.resilience.circuit_breaker import CircuitBreaker
from llmgine.errors import (
    ConfigurationError,
    IncompleteResponseError,
    ProviderError,
    ProviderResponseError,
    ProviderUnavailableError,
    RateLimitedError,
)
from llmgine.llm.providers.base import Provider, given_options, takes_schemas
from llmgine.llm.providers.errors import OverloadedError
from llmgine.llm.types import Chunk, Finish, JSONSchema, LLMMessage, ModelFormattedDictTool, Restart

__all__ = ["FallbackProvider", "Switch", "Verdict", "verdict"]


class Verdict(NamedTuple):
    """What an error says."""

    retry: bool
    """Another attempt may succeed."""
    outcome: Outcome
    """For the circuit breaker."""


def verdict(error: ProviderError) -> Verdict:
    """Return what to do about an error. Whatever it is, the next provider may do better: another key, another model.

    ============================================================== ===== ========
    error                                                          retry breaker
    ============================================================== ===== ========
    RateLimitedError (429), OverloadedError (5xx, 408)             yes   failure
    ProviderUnavailableError, StalledError, IncompleteResponseError yes   failure
    429 because the quota is used up                               no    failure
    every other refusal (key, model, context length, bad request)  no    neutral
    ============================================================== ===== ========
    """
    if isinstance(error, RateLimitedError | OverloadedError | ProviderUnavailableError | IncompleteResponseError):
        return Verdict(retry=True, outcome=Outcome.FAILURE)
    if isinstance(error, ProviderResponseError) and error.status == 429:
        return Verdict(retry=False, outcome=Outcome.FAILURE)
    return Verdict(retry=False, outcome=Outcome.NEUTRAL)


@dataclass(frozen=True, slots=True)
class Switch:
    """A provider that was asked has not answered."""

    failed: str
    """`provider:model`, as in `breakers`."""
    next: str | None
    """Who is asked now, the same one if it is tried again; None if that was the last."""
    error: str
    """Why, in a sentence for people."""
    delay: float
    """Seconds until then."""


class _Target:
    def __init__(self, provider: Provider, label: str, breaker: CircuitBreaker) -> None:
        self.provider = provider
        self.label = label
        self.breaker = breaker


class FallbackProvider:
    """Asks the first of several providers that can answer.

    A reply of which something has been passed on is not asked for again, unless `retry_after_output` says so; then a
    `Restart` comes first, and what came before it is void. Waits honour Retry-After, unless that is longer than the
    retry's `max_delay`: then the next provider is asked at once. No wait goes beyond the deadline of the command that
    is being handled. When nobody has answered, the first error is raised that another attempt might help, else the
    last one; its notes name the others.

    Give the providers `max_retries=0`: the attempts are counted here.

    Args:
        providers: in the order in which they are asked. They are closed with this one.
        retry: how often each is tried again, and when; by default twice.
        breaker: when a provider is passed over; a `slow_call_duration` is measured to the first piece of the reply.
        retry_after_output: whether a reply that broke off may begin anew.
        on_switch: told of each failure, and who is asked next.
        clock: seconds that never go back, for the breakers.
        sleep: waits for some seconds.
        random: returns a number between two, for the jitter.

    Raises:
        ConfigurationError: there is no provider.
    """

    name = "fallback"

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        retry: RetryConfig | None = None,
        breaker: CircuitBreakerConfig | None = None,
        retry_after_output: bool = False,
        on_switch: Callable[[Switch], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[float, float], float] = uniform,
    ) -> None:
        if not providers:
            msg = "A FallbackProvider needs providers to ask; got none."
            raise ConfigurationError(msg)
        config = breaker or CircuitBreakerConfig()
        self._slow = config.slow_call_duration
        # A breaker would measure to the end of the reply, which says more of its length than of the provider.
        config = replace(config, slow_call_duration=None)
        self._retry = retry or RetryConfig(max_retries=2, initial_delay=0.5)
        self._targets: list[_Target] = []
        for provider in providers:
            label = self._label(provider)
            self._targets.append(_Target(provider, label, CircuitBreaker(label, config, clock=clock)))
        self._retry_after_output = retry_after_output
        self._on_switch = on_switch
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self.model = ", ".join(target.label for target in self._targets)
        self.supports_json_schema = all(takes_schemas(provider) for provider in providers)
        """Whether all of them do, since any of them may be the one that answers."""

    @property
    def breakers(self) -> Mapping[str, CircuitBreaker]:
        """The circuit breaker of each provider, by `provider:model`."""
        return {target.label: target.breaker for target in self._targets}

    async def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ModelFormattedDictTool] = (),
        max_output_tokens: int | None = None,
        response_format: JSONSchema | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply of whoever answers; the `Finish` names them. See `SchemaProvider.stream`."""
        errors: list[ProviderError] = []
        position = tries = 0
        previous: float | None = None
        visible = False
        while True:
            target = self._targets[position]
            form = response_format if takes_schemas(target.provider) else None
            options = given_options(max_output_tokens=max_output_tokens, response_format=form)
            reply = self._attempt(target, messages, tools, options)
            try:
                if errors and visible:
                    yield Restart(f"{errors[-1]} {target.label} begins anew.")
                    visible = False
                async with aclosing(reply) as chunks:
                    async for chunk in chunks:
                        visible = visible or not isinstance(chunk, Finish)
                        yield chunk
            except ProviderError as error:
                errors.append(error)
            else:
                return
            tries += 1
            delay = self._delay(errors[-1], tries, previous)
            over = visible and not self._retry_after_output
            if delay is None:
                position, tries, previous = position + 1, 0, None
            else:
                previous = delay
            last = over or position == len(self._targets)
            self._tell(target, None if last else self._targets[position], errors[-1], delay or 0.0)
            if over:
                raise errors[-1]
            if last:
                raise _most_useful(errors)
            if delay is not None:
                await self._sleep(delay)

    async def aclose(self) -> None:
        """Close the providers, all of them also where one fails to."""
        closed = await asyncio.gather(*(target.provider.aclose() for target in self._targets), return_exceptions=True)
        for error in closed:
            if isinstance(error, BaseException):
                raise error

    async def _attempt(
        self,
        target: _Target,
        messages: Sequence[LLMMessage],
        tools: Sequence[ModelFormattedDictTool],
        options: dict[str, Any],
    ) -> AsyncGenerator[Chunk, None]:
        permit = target.breaker.enter()
        if permit is None:
            raise _RefusedError(str(target.breaker.refusal()), provider=target.provider.name, model=target.label)
        provider = target.provider
        outcome = Outcome.NEUTRAL  # also of a reply that nobody reads to its end
        began = self._clock()
        first: float | None = None
        try:
            async with aclosing(provider.stream(messages, tools=tools, **options)) as chunks:
                async for chunk in chunks:
                    first = self._clock() if first is None else first
                    if isinstance(chunk, Finish):
                        slow = self._slow is not None and first - began >= self._slow
                        outcome = Outcome.FAILURE if slow else Outcome.SUCCESS
                        yield _signed(chunk, provider)
                    else:
                        yield chunk
            if outcome is Outcome.NEUTRAL:
                msg = f"The reply of {target.label} broke off: it ended without saying so. Ask again."
                raise IncompleteResponseError(msg, provider=provider.name, model=provider.model)
        except ProviderError as error:
            outcome = verdict(error).outcome
            raise
        finally:
            target.breaker.leave(permit, outcome)

    def _delay(self, error: ProviderError, tries: int, previous: float | None) -> float | None:
        """Return the seconds until the same provider is tried again; None if it is the next one's turn."""
        if tries > self._retry.max_retries or isinstance(error, _RefusedError) or not verdict(error).retry:
            return None
        asked = getattr(error, "retry_after", None) or 0.0
        if asked > self._retry.max_delay:
            return None
        delay = max(asked, self._retry.delay(tries, previous, self._random))
        deadline = causality.deadline()
        return None if deadline is not None and loop_time() + delay >= deadline else delay

    def _tell(self, failed: _Target, target: _Target | None, error: ProviderError, delay: float) -> None:
        if self._on_switch is not None:
            self._on_switch(Switch(failed.label, target.label if target else None, str(error), delay))

    def _label(self, provider: Provider) -> str:
        """Return `provider:model`, numbered where several have the same: their keys or servers may differ."""
        label = f"{provider.name}:{provider.model}"
        taken = {target.label for target in self._targets}
        return next(one for one in (label, *(f"{label}#{n}" for n in range(2, len(taken) + 3))) if one not in taken)


class _RefusedError(ProviderUnavailableError):
    """A circuit breaker let the request not through."""


def _signed(finish: Finish, provider: Provider) -> Finish:
    return replace(finish, model=finish.model or provider.model, provider=finish.provider or provider.name)


def _most_useful(errors: list[ProviderError]) -> ProviderError:
    asked = [error for error in errors if not isinstance(error, _RefusedError)] or errors
    chosen = next((error for error in asked if verdict(error).retry), asked[-1])
    for error in errors:
        if error is not chosen:
            chosen.add_note(f"{error.provider}: {error}")
    return chosen
