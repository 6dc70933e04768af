"""A fixed grid of times, and when what is held is due next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus.recurrence import Every, next_due
from llmgine.bus.stores import Held, Misfire
from llmgine.errors import ConfigurationError
from llmgine.messages import Event

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001
intervals = st.floats(0.001, 1e7) | st.integers(1, 10**9)


@given(intervals, moments, moments)
def test_the_first_time_of_the_grid_after_a_moment(seconds: float, start: datetime, moment: datetime) -> None:
    every = Every(seconds, start)
    interval = timedelta(seconds=seconds)
    found = every.after(moment)
    assert found is not None
    assert found > moment
    assert (found - start) % interval == timedelta()
    assert found == start or found - interval <= moment
    assert found >= start


def test_it_does_not_drift() -> None:
    every = Every(0.1, NOON)
    moment = NOON
    for _ in range(36_000):
        following = every.after(moment)
        assert following is not None
        moment = following
    assert moment == NOON + timedelta(hours=1)


@given(intervals, moments)
def test_it_is_written_and_read(seconds: float, start: datetime) -> None:
    every = Every(seconds, start)
    again = Every.from_spec(every.spec)
    assert again.spec == every.spec
    assert again.start == start
    assert again.after(start) == every.after(start)


def test_its_text() -> None:
    assert Every(30, NOON).spec == "every 30 s from 2026-11-20T12:00:00+00:00"
    assert Every(0.25, NOON).spec == "every 0.25 s from 2026-11-20T12:00:00+00:00"
    assert Every(100, NOON).spec == "every 100 s from 2026-11-20T12:00:00+00:00"


def test_its_first_time_is_kept_in_utc() -> None:
    there = timezone(timedelta(hours=2))
    assert Every(30, NOON.astimezone(there)) == Every(30, NOON)
    assert Every(30, NOON.astimezone().replace(tzinfo=None)).start == NOON


@pytest.mark.parametrize("seconds", [0, -1, 0.0009, float("nan"), float("inf"), "30", None, 1e20])
def test_an_interval_that_makes_no_sense_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"every must be a number of seconds .* such as 30"):
        Every(seconds, NOON)


def test_a_start_that_is_no_date_is_refused() -> None:
    start: Any = "tomorrow"
    with pytest.raises(ConfigurationError, match="first time of a recurrence must be a datetime, such as"):
        Every(30, start)


@pytest.mark.parametrize(
    "spec", ["every day", "every 30 s", "every 0 s from 2026-11-20", "every 1.2.3 s from 2026-11-20"]
)
def test_a_text_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError):
        Every.from_spec(spec)


def test_beyond_the_last_date_there_is_nothing() -> None:
    assert Every(1e9, NOON).after(datetime.max.replace(tzinfo=UTC)) is None


@given(st.sampled_from(Misfire), st.integers(0, 100), st.integers(-100, 100))
def test_what_repeats_is_due_after_now_or_after_each_occurrence(misfire: Misfire, place: int, late: int) -> None:
    every = Every(10, NOON)
    due = NOON + timedelta(seconds=10 * place)
    now = due + timedelta(seconds=late)  # before it was due, where the clock has been set back
    following = next_due(Held("id", Event(), due, every, misfire), now)
    assert following is not None
    assert following > due
    if misfire is Misfire.ALL:
        assert following == due + timedelta(seconds=10)
    else:
        assert now < following <= max(now, due) + timedelta(seconds=10)


def test_what_does_not_repeat_is_done_with() -> None:
    assert next_due(Held("id", Event(), NOON), NOON) is None


def test_a_chain_of_occurrences_is_the_grid() -> None:
    held = Held("id", Event(), NOON, Every(10, NOON), Misfire.ALL)
    dues = [NOON]
    for _ in range(5):
        following = next_due(Held("id", held.event, dues[-1], held.recurrence, held.misfire), NOON + timedelta(days=1))
        assert following is not None
        dues.append(following)
    assert {later - earlier for earlier, later in pairwise(dues)} == {timedelta(seconds=10)}
