"""Several providers as one: who is asked, how often, when, and what the reader is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import causality
from llmgine.bus.resilience import CircuitBreakerConfig, CircuitState, RetryConfig
from llmgine.errors import (
    ConfigurationError,
    ContextLengthError,
    IncompleteResponseError,
    ProviderError,
    ProviderResponseError,
    ProviderUnavailableError,
    RateLimitedError,
)
from llmgine.llm.providers import (
    AuthenticationError,
    FallbackProvider,
    Fold,
    OverloadedError,
    StalledError,
    Switch,
    complete,
)
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.types import Chunk, Finish, FinishReason, LLMConversation, Restart, TextDelta
from llmgine.messages.ids import write

HELLO: LLMConversation = [{"role": "user", "content": "hello"}]
FINE = Reply("fine")
BUSY = Reply(error=OverloadedError("busy", status=503))
LIMITED = Reply(error=RateLimitedError("slow down", retry_after=3.0))
REFUSED = Reply(error=ProviderResponseError("bad request", status=400))
GONE = Reply(error=ProviderUnavailableError("gone"))
ONCE = RetryConfig(max_retries=0)


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Under(ScriptedProvider):
    """A scripted provider with a name of its own."""

    def __init__(self, name: str, *replies: Reply, clock: Clock | None = None, takes: float = 0.0) -> None:
        super().__init__(replies, "m")
        self.name = name
        self.closed = False
        self._clock = clock
        self._takes = takes

    async def stream(self, messages: Any, **options: Any) -> Any:
        if self._clock is not None:
            self._clock.now += self._takes
        async with aclosing(super().stream(messages, **options)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        self.closed = True


def fallback(providers: Sequence[Any], clock: Clock | None = None, **options: Any) -> FallbackProvider:
    clock = clock or Clock()
    options = {"retry": ONCE, **options}
    return FallbackProvider(providers, clock=clock, sleep=clock.sleep, random=lambda _, most: most, **options)


async def test_the_first_one_answers_and_the_others_are_not_asked() -> None:
    first, second = Under("a", FINE), Under("b", FINE)
    chunks = [chunk async for chunk in fallback([first, second]).stream(HELLO)]

    assert chunks[:-1] == [TextDelta("fine")]
    end = chunks[-1]
    assert isinstance(end, Finish)
    assert (end.provider, end.model) == ("a", "m")
    assert second.requests == []


async def test_the_next_one_answers_in_place_of_one_that_cannot() -> None:
    switches: list[Switch] = []
    provider = fallback([Under("a", BUSY), Under("b", FINE)], on_switch=switches.append)
    chunks = [chunk async for chunk in provider.stream(HELLO)]

    assert [type(chunk) for chunk in chunks] == [TextDelta, Finish]
    assert isinstance(chunks[-1], Finish)
    assert chunks[-1].provider == "b"
    assert switches == [Switch("a:m", "b:m", "busy", 0.0)]


async def test_each_one_is_tried_again_after_growing_waits() -> None:
    clock = Clock()
    retry = RetryConfig(max_retries=2, initial_delay=1.0)
    provider = fallback([Under("a", BUSY, GONE, BUSY), Under("b", BUSY, FINE)], clock, retry=retry)

    assert (await complete(provider, HELLO)).text == "fine"
    assert clock.waits == [1.0, 2.0, 1.0]


async def test_a_wait_is_as_long_as_the_provider_asks() -> None:
    clock = Clock()
    retry = RetryConfig(max_retries=1, initial_delay=1.0, max_delay=5.0)
    assert (await complete(fallback([Under("a", LIMITED, FINE)], clock, retry=retry), HELLO)).text == "fine"

    assert clock.waits == [3.0]


async def test_a_wait_that_is_too_long_is_not_waited_while_others_are_there() -> None:
    clock = Clock()
    retry = RetryConfig(max_retries=1, initial_delay=1.0, max_delay=2.0)
    assert (await complete(fallback([Under("a", LIMITED), Under("b", FINE)], clock, retry=retry), HELLO)).text == "fine"

    assert clock.waits == []


@pytest.mark.parametrize("left", [0.5, 2.0])
async def test_no_wait_goes_beyond_the_deadline(left: float) -> None:
    clock = Clock()
    deadline = asyncio.get_running_loop().time() + left
    chain: Any = (write("c"), write("c"), (), deadline, None, True)
    token = causality.current.set(chain)
    try:
        retry = RetryConfig(max_retries=1, initial_delay=1.0)
        await complete(fallback([Under("a", BUSY, FINE), Under("b", FINE)], clock, retry=retry), HELLO)
    finally:
        causality.current.reset(token)

    assert clock.waits == ([] if left < 1 else [1.0])


@pytest.mark.parametrize(
    ("error", "again", "counts"),
    [
        (RateLimitedError("x"), True, True),
        (OverloadedError("x", status=500), True, True),
        (ProviderUnavailableError("x"), True, True),
        (StalledError("x", timeout=1.0), True, True),
        (IncompleteResponseError("x"), True, True),
        (ProviderResponseError("quota", status=429), False, True),
        (ProviderResponseError("x", status=400), False, False),
        (ProviderResponseError("x"), False, False),
        (AuthenticationError("x", status=401), False, False),
        (ContextLengthError("x", status=400), False, False),
        (ProviderError("x"), False, False),
    ],
)
async def test_what_an_error_says_of_the_provider(error: ProviderError, again: bool, counts: bool) -> None:
    first = Under("a", Reply(error=error), FINE)
    provider = fallback([first, Under("b", FINE)], retry=RetryConfig(max_retries=1))
    await complete(provider, HELLO)

    assert len(first.requests) == (2 if again else 1)
    assert provider.breakers["a:m"].failure_count == (1 if counts else 0)


async def test_one_that_keeps_failing_is_left_alone_and_tried_again_later() -> None:
    clock = Clock()
    first = Under("a", BUSY, BUSY, FINE, FINE)
    breaker = CircuitBreakerConfig(failure_threshold=2, recovery_timeout=30.0, success_threshold=1)
    provider = fallback([first, Under("b", FINE, FINE, FINE)], clock, breaker=breaker)
    for _ in range(3):
        await complete(provider, HELLO)

    assert len(first.requests) == 2
    assert {label: one.state.value for label, one in provider.breakers.items()} == {"a:m": "open", "b:m": "closed"}

    clock.now += 30.0
    assert [c.provider async for c in provider.stream(HELLO) if isinstance(c, Finish)] == ["a"]
    assert provider.breakers["a:m"].state is CircuitState.CLOSED


async def test_an_open_breaker_ends_the_attempts_of_a_request_under_way() -> None:
    first = Under("a", BUSY, BUSY, FINE)
    breaker = CircuitBreakerConfig(failure_threshold=2)
    provider = fallback([first, Under("b", FINE)], breaker=breaker, retry=RetryConfig(max_retries=5))
    await complete(provider, HELLO)

    assert len(first.requests) == 2


async def test_the_time_to_the_first_piece_tells_who_is_slow() -> None:
    clock = Clock()
    slow, quick = Under("a", FINE, FINE, clock=clock, takes=5.0), Under("b", FINE, clock=clock, takes=1.0)
    breaker = CircuitBreakerConfig(failure_threshold=1, slow_call_duration=5.0)
    provider = fallback([slow, quick], clock, breaker=breaker)

    assert (await complete(provider, HELLO)).text == "fine"
    assert provider.breakers["a:m"].state is CircuitState.OPEN
    await complete(provider, HELLO)
    assert provider.breakers["b:m"].state is CircuitState.CLOSED


async def test_what_has_been_said_is_not_said_again() -> None:
    second = Under("b", FINE)
    provider = fallback([Under("a", Reply("Once upon", error=GONE.error)), second], retry=RetryConfig())
    chunks: list[Chunk] = []
    with pytest.raises(ProviderUnavailableError):
        chunks.extend([chunk async for chunk in provider.stream(HELLO)])

    assert second.requests == []


async def test_where_it_may_begin_anew_the_reader_is_told() -> None:
    provider = fallback(
        [Under("a", Reply("Once upon", error=GONE.error)), Under("b", BUSY), Under("c", FINE)], retry_after_output=True
    )
    chunks = [chunk async for chunk in provider.stream(HELLO)]
    fold = Fold()
    for chunk in chunks:
        fold.add(chunk)

    assert [type(chunk) for chunk in chunks] == [TextDelta, TextDelta, Restart, TextDelta, Finish]
    assert fold.response().text == "fine"


async def test_a_reply_that_ends_without_saying_so_is_a_failure() -> None:
    provider = fallback([Under("a", Reply(cut_off=True)), Under("b", FINE)])

    assert (await complete(provider, HELLO)).text == "fine"
    assert provider.breakers["a:m"].failure_count == 1


async def test_when_nobody_answers_the_error_is_the_one_that_waiting_may_help_and_names_the_others() -> None:
    provider = fallback([Under("a", REFUSED), Under("b", LIMITED), Under("c", REFUSED)])
    with pytest.raises(RateLimitedError) as caught:
        await complete(provider, HELLO)

    assert caught.value.retry_after == 3.0
    assert len(caught.value.__notes__) == 2


async def test_when_every_breaker_is_open_that_is_the_error() -> None:
    provider = fallback([Under("a", BUSY), Under("b", BUSY)], breaker=CircuitBreakerConfig(failure_threshold=1))
    with pytest.raises(OverloadedError):
        await complete(provider, HELLO)
    with pytest.raises(ProviderUnavailableError, match=r"Circuit breaker 'a:m' is OPEN"):
        await complete(provider, HELLO)


async def test_cancelling_and_closing_say_nothing_of_the_provider() -> None:
    hold = Reply("Once upon", hold=asyncio.Event())
    provider = fallback([Under("a", hold, hold, FINE)], breaker=CircuitBreakerConfig(failure_threshold=1))
    reader = asyncio.create_task(complete(provider, HELLO))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    async with aclosing(provider.stream(HELLO)) as chunks:
        await anext(chunks)

    assert provider.breakers["a:m"].failure_count == 0
    assert (await complete(provider, HELLO)).text == "fine"


async def test_a_trial_that_is_not_read_to_its_end_makes_room_for_the_next() -> None:
    clock = Clock()
    breaker = CircuitBreakerConfig(failure_threshold=1, recovery_timeout=1.0, success_threshold=1)
    provider = fallback([Under("a", BUSY, FINE, FINE)], clock, breaker=breaker)
    with pytest.raises(OverloadedError):
        await complete(provider, HELLO)
    clock.now += 1.0
    async with aclosing(provider.stream(HELLO)) as chunks:
        await anext(chunks)

    assert (await complete(provider, HELLO)).text == "fine"
    assert provider.breakers["a:m"].state is CircuitState.CLOSED


async def test_errors_that_are_no_providers_are_not_hidden() -> None:
    class Bug(Under):
        async def stream(self, messages: Any, **options: Any) -> Any:
            yield TextDelta(str(1 / 0))

    with pytest.raises(ZeroDivisionError):
        await complete(fallback([Bug("a"), Under("b", FINE)]), HELLO)


async def test_twins_have_breakers_of_their_own() -> None:
    provider = fallback([Under("a", BUSY), Under("a", FINE), Under("a")])
    await complete(provider, HELLO)

    assert [*provider.breakers] == ["a:m", "a:m#2", "a:m#3"]
    assert [breaker.failure_count for breaker in provider.breakers.values()] == [1, 0, 0]


async def test_all_are_closed_also_where_one_fails_to() -> None:
    class Stuck(Under):
        async def aclose(self) -> None:
            raise OSError("stuck")

    last = Under("b")
    with pytest.raises(OSError, match="stuck"):
        await fallback([Stuck("a"), last]).aclose()

    assert last.closed


def test_nobody_to_ask_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs providers"):
        FallbackProvider([])


REPLIES = st.sampled_from([FINE, BUSY, GONE, REFUSED, LIMITED, Reply("Once", error=GONE.error), Reply(cut_off=True)])


@given(
    scripts=st.lists(st.lists(REPLIES, min_size=3, max_size=3), min_size=1, max_size=3),
    requests=st.integers(1, 3),
    anew=st.booleans(),
)
def test_every_request_ends_and_nothing_is_said_twice(scripts: list[list[Reply]], requests: int, anew: bool) -> None:
    async def run() -> None:
        providers = [Under(f"p{number}", *script * 3) for number, script in enumerate(scripts)]
        provider = fallback(
            providers,
            retry=RetryConfig(max_retries=2),
            breaker=CircuitBreakerConfig(failure_threshold=3),
            retry_after_output=anew,
        )
        for _ in range(requests):
            fold = Fold()
            ended = False
            try:
                async for chunk in provider.stream(HELLO):
                    assert not ended
                    ended = isinstance(chunk, Finish)
                    assert anew or not isinstance(chunk, Restart)
                    fold.add(chunk)
            except ProviderError:
                assert not ended
            else:
                assert ended
                assert fold.response().text == "fine"
                assert fold.response().finish_reason is FinishReason.STOP
        for under in providers:
            assert len(under.requests) <= 3 * requests

    asyncio.run(run())
