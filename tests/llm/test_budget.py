"""Budgets: what is refused and what is said, policies at the limit, seconds, prices and estimates."""

from __future__ import annotations

import asyncio
import json
import threading
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

from llmgine.errors import BudgetExceededError, ConfigurationError, LLMgineError
from llmgine.llm.budgets import (
    AtLimit,
    Budget,
    BudgetEvent,
    BudgetExceededEvent,
    BudgetWarningEvent,
    Limits,
    Spending,
    estimate_request,
    estimate_tokens,
)
from llmgine.llm.prices import Price, PriceTable
from llmgine.llm.types import Usage
from llmgine.messages.codec import decode, encode

REQUEST = Spending(requests=1)
CALL = Spending(tool_calls=1)
UNPRICED = Spending(requests=1, input_tokens=1000, output_tokens=1000, cost=None)
TOML = """
["openai:big"]
input = 2.5
output = 10
cached = 0.25

[small]
input = 0.1
output = 0.3
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def usd(text: str) -> Decimal:
    return Decimal(text)


# What is taken, and from whom


def test_all_budgets_above_are_taken_from_or_none() -> None:
    application = Budget(Limits(requests=2), name="application")
    session = Budget(Limits(tool_calls=5), name="session", parent=application)
    run = Budget(Limits(requests=9), name="run", parent=session)

    held = run.reserve(Spending(requests=2, tool_calls=1))
    with pytest.raises(BudgetExceededError) as refused:
        run.reserve(Spending(requests=1, tool_calls=1))

    assert (refused.value.budget, refused.value.kind) == ("application", "requests")
    assert [each.reserved.tool_calls for each in (run, session, application)] == [1, 1, 1]
    held.settle(Spending(requests=1))
    assert [each.used for each in (run, session, application)] == [REQUEST] * 3
    assert [each.reserved for each in (run, session, application)] == [Spending()] * 3


def test_the_error_says_which_limit_of_which_budget_and_what_is_left() -> None:
    budget = Budget(Limits(cost=usd("1.00")), name="session")
    budget.reserve(Spending(cost=usd("0.50"))).settle(Spending(cost=usd("0.80")))
    budget.reserve(Spending(cost=usd("0.15")))

    with pytest.raises(LLMgineError) as refused:
        budget.reserve(Spending(cost=usd("0.0600001")))

    error = refused.value
    assert isinstance(error, BudgetExceededError)
    assert (error.limit, error.used, error.reserved, error.action) == (usd("1.00"), usd("0.80"), usd("0.15"), "fail")
    assert str(error) == (
        "Budget 'session' has no room for 0.0600001 of cost: 1.00 USD is the limit, 0.80 used, 0.15 reserved, "
        "0.05 left. Wait for what is under way, or raise the limit."
    )


def test_only_limits_of_what_is_wanted_stand_in_the_way() -> None:
    budget = Budget(Limits(output_tokens=5, tool_calls=1))
    budget.reserve(Spending(output_tokens=5)).settle(Spending(output_tokens=50))

    budget.reserve(CALL)

    with pytest.raises(BudgetExceededError, match="tool calls"):
        budget.reserve(CALL)


def test_a_limit_of_zero_allows_nothing() -> None:
    with pytest.raises(BudgetExceededError):
        Budget(Limits(tool_calls=0)).reserve(CALL)


def test_siblings_share_what_is_above_and_nothing_else() -> None:
    session = Budget(Limits(requests=3))
    search, fetch = (Budget(Limits(requests=2), name=name, parent=session) for name in ("search", "fetch"))
    for tool in (search, search, fetch):
        tool.reserve(REQUEST).settle()

    assert (search.left.requests, fetch.left.requests, session.left.requests) == (0, 0, 0)
    assert (search.used.requests, fetch.used.requests) == (2, 1)


# How a reservation ends


def test_an_exception_releases_and_the_end_of_the_block_settles() -> None:
    budget = Budget(Limits(requests=2))
    with pytest.raises(KeyError), budget.reserve(REQUEST):
        raise KeyError
    assert (budget.used, budget.reserved) == (Spending(), Spending())

    with budget.reserve(REQUEST):
        pass
    assert (budget.used, budget.reserved) == (REQUEST, Spending())

    with pytest.raises(KeyError), budget.reserve(REQUEST) as reservation:  # noqa: PT012
        reservation.settle()
        raise KeyError
    assert budget.used.requests == 2


def test_what_is_known_only_after_a_release_still_counts() -> None:
    budget = Budget(Limits(output_tokens=10))
    reservation = budget.reserve(Spending(output_tokens=5))
    reservation.release()
    reservation.settle(Spending(output_tokens=7))
    reservation.settle(Spending(output_tokens=4))

    assert (budget.used.output_tokens, budget.reserved.output_tokens, budget.overrun.output_tokens) == (4, 0, 0)


def test_where_nobody_knows_what_was_used_the_reservation_counts() -> None:
    budget = Budget(Limits(cost=usd("1")))
    budget.reserve(Spending(input_tokens=100, cost=usd("0.4"))).settle(None)
    budget.reserve(Spending(input_tokens=100, cost=usd("0.4"))).settle(Spending(input_tokens=50, cost=None))

    assert budget.used == Spending(input_tokens=150, cost=usd("0.8"))
    assert budget.unpriced == 0


# Prices that are not known


def test_an_unknown_price_is_refused_where_money_is_limited() -> None:
    budget = Budget(Limits(cost=usd("5")), name="run", parent=Budget())

    with pytest.raises(BudgetExceededError, match="the price of this request is not known") as refused:
        budget.reserve(UNPRICED)

    assert (refused.value.kind, refused.value.limit) == ("cost", usd("5"))
    assert budget.reserved == Spending()


def test_an_unknown_price_is_only_noted_where_money_is_not_limited() -> None:
    budget = Budget(Limits(requests=5))
    budget.reserve(UNPRICED).settle()

    assert (budget.used.cost, budget.used.input_tokens, budget.unpriced) == (Decimal(0), 1000, 1)


def test_an_unknown_price_may_be_ignored_or_assumed_by_each_budget() -> None:
    dear = Price(usd("1000"), usd("2000"))
    application = Budget(Limits(cost=usd("5")), unknown_price=dear)
    session = Budget(Limits(cost=usd("1")), unknown_price="ignore", parent=application)
    inheriting = Budget(parent=session)

    reservation = inheriting.reserve(UNPRICED)
    assert (session.reserved.cost, application.reserved.cost) == (Decimal(0), Decimal(3))
    with pytest.raises(BudgetExceededError, match=r"3\.0+ of cost"):
        inheriting.reserve(UNPRICED)
    reservation.settle(Spending(requests=1, input_tokens=1000, output_tokens=500, cost=None))

    assert (inheriting.unpriced, session.unpriced, application.unpriced) == (1, 1, 0)
    assert application.used.cost == 2
    reservation.settle(Spending(requests=1, cost=usd("0.5")))
    assert (session.unpriced, session.used.cost, application.used.cost) == (0, usd("0.5"), usd("0.5"))


# What happens at the limit


def test_at_the_limit_it_fails_or_finishes_as_the_budget_that_is_spent_says() -> None:
    session = Budget(Limits(requests=1), on_limit="finish", set_aside=Limits())
    run = Budget(Limits(tool_calls=0), parent=session, on_limit="fail")

    for spending, expected in ((CALL, "fail"), (Spending(requests=2), "finish")):
        with pytest.raises(BudgetExceededError) as refused:
            run.reserve(spending)
        assert refused.value.action == expected


def test_the_last_answer_has_what_was_set_aside_for_it() -> None:
    run = Budget(
        Limits(requests=3, output_tokens=100), on_limit="finish", set_aside=Limits(requests=1, output_tokens=40)
    )
    turn = Spending(requests=1, output_tokens=30)
    run.reserve(turn).settle()
    run.reserve(turn).settle()
    with pytest.raises(BudgetExceededError, match="of which 1 is kept for the last answer") as refused:
        run.reserve(turn)
    assert refused.value.action == "finish"

    assert (run.left.requests, run.left.output_tokens) == (1, 40)
    run.reserve(Spending(requests=1, output_tokens=40), last=True).settle()
    with pytest.raises(BudgetExceededError):
        run.reserve(REQUEST, last=True)


def test_who_finishes_keeps_one_request_for_it() -> None:
    run = Budget(Limits(requests=2), parent=Budget(on_limit="finish"))
    run.reserve(REQUEST)
    with pytest.raises(BudgetExceededError):
        run.reserve(REQUEST)
    run.reserve(REQUEST, last=True)


def test_a_callable_decides_while_nothing_is_held() -> None:
    asked: list[BudgetExceededError] = []

    def decide(error: BudgetExceededError) -> AtLimit:
        asked.append(error)
        assert (budget.used.requests, above.left.requests) == (0, 0)  # a lock that was held would never let it
        return answers.pop(0)

    above = Budget(Limits(requests=0), on_limit=decide)
    budget = Budget(Limits(tool_calls=0), on_limit=decide, parent=above)
    answers: list[AtLimit] = ["warn", "finish", "warn", "warn"]
    both = Spending(requests=1, tool_calls=1)

    with pytest.raises(BudgetExceededError) as refused:
        budget.reserve(both)
    assert (refused.value.action, refused.value.kind, budget.reserved) == ("finish", "requests", Spending())
    budget.reserve(both)
    assert [error.kind for error in asked] == ["tool_calls", "requests"] * 2
    assert (budget.reserved, above.reserved) == (both, both)


def test_a_decision_must_be_one() -> None:
    def wrong(error: BudgetExceededError) -> Any:
        return "perhaps"

    with pytest.raises(ConfigurationError, match="perhaps"):
        Budget(Limits(requests=0), on_limit=wrong).reserve(REQUEST)


# Events


def test_a_share_is_warned_of_once_and_a_refusal_each_time() -> None:
    events: list[BudgetEvent] = []
    application = Budget(Limits(requests=5), name="application", announce=events.append)
    run = Budget(name="run", parent=application)
    for used in range(5):
        assert len(events) == (used == 4)
        run.reserve(REQUEST).settle()
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            run.reserve(REQUEST)

    assert [type(event) for event in events] == [BudgetWarningEvent, BudgetExceededEvent, BudgetExceededEvent]
    warning, refused = events[0], events[1]
    assert (warning.budget, warning.kind, warning.limit, warning.used) == ("application", "requests", 5, 4)
    assert isinstance(refused, BudgetExceededEvent)
    assert (refused.used, refused.action) == (5, "fail")
    stored = decode(encode(warning))
    assert isinstance(stored, BudgetWarningEvent)
    assert stored.used == 4


def test_a_limit_that_was_passed_is_told_once() -> None:
    events: list[BudgetEvent] = []
    budget = Budget(Limits(cost=usd("0.10")), on_limit="warn", announce=events.append, warn_at=1)
    for _ in range(3):
        budget.reserve(Spending(cost=usd("0.10"))).settle()

    assert budget.used.cost == usd("0.30")
    assert budget.left.cost == 0
    assert [type(event) for event in events] == [BudgetWarningEvent, BudgetExceededEvent]
    assert [event.used for event in events] == pytest.approx([0.1, 0.2])


def test_what_a_listener_does_wrong_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: BudgetEvent) -> None:
        raise KeyError(event.kind)

    budget = Budget(Limits(requests=1), announce=broken)
    budget.reserve(REQUEST).settle()
    with pytest.raises(BudgetExceededError):
        budget.reserve(REQUEST)
    assert (budget.used, budget.reserved) == (REQUEST, Spending())
    assert "could not be announced" in caplog.text


# Seconds


def test_seconds_pass_for_all_below() -> None:
    clock = Clock()
    events: list[BudgetEvent] = []
    session = Budget(Limits(seconds=10), name="session", clock=clock, announce=events.append)
    clock.now += 7
    run = Budget(Limits(seconds=60), parent=session, clock=clock)
    assert run.seconds_left() == run.left.seconds == 3
    clock.now += 2
    run.reserve(REQUEST).settle()
    assert [(type(event), event.kind, event.used) for event in events] == [(BudgetWarningEvent, "seconds", 9)]
    clock.now += 1

    with pytest.raises(BudgetExceededError, match=r"'session' has run out of time: 10 s") as refused:
        run.reserve(REQUEST)
    assert (refused.value.kind, refused.value.limit, refused.value.used) == ("seconds", 10, 10)
    assert run.seconds_left() == 0


async def test_work_is_cancelled_when_the_time_is_over() -> None:
    clock = Clock()
    run = Budget(Limits(seconds=20), parent=Budget(Limits(seconds=10), name="session", clock=clock), clock=clock)
    clock.now += 10
    cancelled = asyncio.Event()
    with pytest.raises(BudgetExceededError) as refused:  # noqa: PT012
        async with run.in_time():
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
    assert (refused.value.budget, refused.value.kind) == ("session", "seconds")
    assert cancelled.is_set()


async def test_time_limits_of_others_stay_theirs() -> None:
    with pytest.raises(TimeoutError):
        async with Budget(Limits(seconds=60)).in_time(), asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_the_last_answer_has_its_seconds() -> None:
    clock = Clock()
    run = Budget(Limits(seconds=10), on_limit="finish", set_aside=Limits(seconds=4), clock=clock)
    assert (run.seconds_left(), run.seconds_left(last=True)) == (6, 10)
    clock.now += 6
    with pytest.raises(BudgetExceededError) as refused:
        run.reserve(REQUEST)
    assert refused.value.action == "finish"
    run.reserve(REQUEST, last=True)


async def test_a_budget_that_only_warns_cuts_nothing_short() -> None:
    clock = Clock()
    run = Budget(Limits(seconds=1), on_limit="warn", clock=clock)
    clock.now += 5
    assert run.seconds_left() is None
    async with run.in_time():
        await asyncio.sleep(0)
    run.reserve(REQUEST)


# Reading


def test_the_snapshot_is_json() -> None:
    clock = Clock()
    budget = Budget(Limits(requests=4, cost=usd("1.50"), currency="EUR"), name="session", clock=clock)
    budget.reserve(Spending(requests=1, cost=usd("0.25")))
    budget.reserve(Spending(requests=1)).settle(Spending(requests=1, input_tokens=3))
    clock.now += 2

    snapshot = json.loads(json.dumps(budget.snapshot()))

    assert snapshot["limits"] == {"requests": 4, "cost": "1.50"}
    assert (snapshot["name"], snapshot["currency"], snapshot["seconds"], snapshot["unpriced"]) == (
        "session",
        "EUR",
        2,
        0,
    )
    assert snapshot["reserved"]["cost"] == "0.25"
    assert snapshot["used"]["total_tokens"] == snapshot["overrun"]["input_tokens"] == 3


def test_left_is_what_all_above_allow_too() -> None:
    session = Budget(Limits(requests=5, cost=usd("1"), currency="EUR"))
    run = Budget(Limits(requests=9, tool_calls=2), parent=session)
    session.reserve(Spending(requests=3))

    assert run.left == Limits(requests=2, tool_calls=2, cost=usd("1"), currency="EUR")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(requests=-1),
        lambda: Limits(output_tokens=1.5),  # type: ignore[arg-type]
        lambda: Limits(cost=0.1),  # type: ignore[arg-type]
        lambda: Limits(cost=Decimal("NaN")),
        lambda: Limits(seconds=float("inf")),
        lambda: Spending(input_tokens=-1),
        lambda: Spending(cost=Decimal(-1)),
        lambda: Budget(on_limit="stop"),  # type: ignore[arg-type]
        lambda: Budget(unknown_price="guess"),  # type: ignore[arg-type]
        lambda: Budget(warn_at=0),
        lambda: Budget(warn_at=80),
        lambda: Budget(Limits(requests=1), set_aside=Limits(requests=2)),
        lambda: Budget(Limits(requests=1), set_aside=Limits(seconds=2)),
        lambda: Budget(Limits(cost=Decimal(1)), prices=PriceTable({}, currency="EUR")),
        lambda: Budget(Limits(cost=Decimal(1)), parent=Budget(Limits(cost=Decimal(1), currency="EUR"))),
        lambda: Budget(Limits(cost=Decimal(1)), parent=Budget(prices=PriceTable({}, currency="EUR"))),
        lambda: Price(Decimal("Infinity"), Decimal(1)),
        lambda: Price(Decimal(1), Decimal(1), cached=Decimal(2)),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


# Prices


def test_prices_are_found_by_provider_and_model_or_by_model(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(TOML)
    table = PriceTable.read(path)

    big = Price(usd("2.5"), Decimal(10), usd("0.25"))
    assert dict(table) == {"openai:big": big, "small": Price(usd("0.1"), usd("0.3"))}
    assert (len(table), table.currency) == (2, "USD")
    assert table.find("openai", "big-2026-11-20", "big") == big
    assert table.find("other", "big") is None
    assert table.find("other", "small") == table["small"]


def test_costs_are_exact_whatever_the_thread_rounds_to() -> None:
    price = PriceTable.parse(TOML)["openai:big"]
    with localcontext(prec=2):
        cost = price.cost(Usage(input_tokens=1_000_003, output_tokens=7, cached_tokens=3))
        budget = Budget(Limits(cost=usd("2.5001")))
        budget.reserve(Spending(cost=cost)).settle(None)
        left = budget.left.cost
    assert cost == usd("2.50007075")
    assert left == usd("0.00002925")


def test_the_table_can_be_replaced_for_all_below() -> None:
    application = Budget(Limits(cost=usd("1")), prices=PriceTable.parse(TOML))
    run = Budget(parent=Budget(parent=application))
    assert run.find_price("x", "small") == Price(usd("0.1"), usd("0.3"))

    new = Price(Decimal(1), Decimal(2))
    application.prices = PriceTable({"small": new})

    assert run.find_price("x", "small") == new
    assert Budget().find_price("x", "small") is None
    with pytest.raises(ConfigurationError, match="EUR"):
        application.prices = PriceTable({}, currency="EUR")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[m]\ninput = 1", "'m' has no output price"),
        ("m = 1", "'m' has no input price"),
        ("[m]\ninput = true\noutput = 1", "'m': input must be a Decimal"),
        ("[m]\ninput = nan\noutput = 1", "'m': input must be a Decimal"),
        ("[m]\ninput = -1\noutput = 1", "'m': input must be a Decimal"),
        ("currency = 3", "currency must be a text"),
        ("[m", "Expected tables such as"),
    ],
)
def test_a_file_that_is_no_table_of_prices_is_explained(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        PriceTable.read(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        PriceTable.read(tmp_path / "none.toml")


# Estimates


def test_an_image_counts_as_one_however_long_it_is() -> None:
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    text = {"type": "text", "text": "What is this?"}
    said = {"role": "user", "content": [text]}
    shown = {"role": "user", "content": [text, url, url]}
    without, with_two = (
        estimate_request([each], max_output_tokens=1, price=None).input_tokens for each in (said, shown)
    )
    assert with_two == without + 2 * 1_600


def test_a_request_is_estimated_from_all_that_is_sent() -> None:
    messages = [{"role": "user", "content": "word " * 80}]
    tools = [{"type": "function", "function": {"name": "f", "description": "does " * 40, "parameters": {}}}]
    price = Price(Decimal(2), Decimal(10))

    bare = estimate_request(messages, max_output_tokens=50, price=price)
    full = estimate_request(messages, tools, max_output_tokens=50, price=price)

    assert 100 <= bare.input_tokens <= 120
    assert full.input_tokens >= bare.input_tokens + 50
    assert (bare.requests, bare.output_tokens) == (1, 50)
    assert bare.cost == Decimal(bare.input_tokens * 2 + 500) / 1_000_000
    assert estimate_request(messages, max_output_tokens=50, price=None).cost is None
    counted = estimate_request(messages, tools, max_output_tokens=50, counter=lambda text: 7, price=None)
    assert counted.input_tokens == 14


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcde", 2), ("日本語で", 3), ("\ud800", 1)])
def test_tokens_are_estimated_by_bytes(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_a_budget_may_be_read_from_another_thread_while_it_decides() -> None:
    read: list[int] = []

    def decide(error: BudgetExceededError) -> AtLimit:
        thread = threading.Thread(target=lambda: read.append(budget.used.requests))
        thread.start()
        thread.join(10)
        return "fail"

    budget = Budget(Limits(requests=0), on_limit=decide)
    with pytest.raises(BudgetExceededError):
        budget.reserve(REQUEST)
    assert read == [0]
