"""Cron expressions by the calendars of places."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine import cron
from llmgine.bus.recurrence import Every
from llmgine.cron import Cron, parse_recurrence
from llmgine.errors import ConfigurationError

BERLIN = ZoneInfo("Europe/Berlin")


def times(expression: str, since: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    """The first occurrences after a local time, as local times with their offsets."""
    place = ZoneInfo(zone)
    moment = datetime.fromisoformat(since).replace(tzinfo=place).astimezone(UTC)
    found: list[str] = []
    for _ in range(count):
        following = Cron(expression, zone).after(moment)
        assert following is not None
        assert following.tzinfo is UTC
        moment = following
        found.append(moment.astimezone(place).strftime("%m-%d %H:%M %z"))
    return found


def test_a_time_of_day_keeps_to_the_clock_on_the_wall_throughout_the_year() -> None:
    assert times("0 9 * * *", "2026-03-28 10:00", 2) == ["03-29 09:00 +0200", "03-30 09:00 +0200"]
    assert times("0 9 * * *", "2026-10-24 08:00", 3) == ["10-24 09:00 +0200", "10-25 09:00 +0100", "10-26 09:00 +0100"]


def test_a_time_that_the_change_to_summer_time_skips_comes_right_after_it() -> None:
    assert times("30 2 * * *", "2026-03-28 03:00", 2) == ["03-29 03:00 +0200", "03-30 02:30 +0200"]


def test_a_time_that_the_change_from_summer_time_repeats_comes_once() -> None:
    assert times("30 2 * * *", "2026-10-24 03:00", 3) == ["10-25 02:30 +0200", "10-26 02:30 +0100", "10-27 02:30 +0100"]


def test_what_is_asked_for_within_the_repeated_hour_is_still_after_that() -> None:
    second_time = datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN, fold=1)
    assert Cron("30 2 * * *", "Europe/Berlin").after(second_time) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_what_has_a_star_goes_by_the_time_that_passes() -> None:
    assert times("*/30 * * * *", "2026-03-29 01:15", 3) == [
        "03-29 01:30 +0100",
        "03-29 03:00 +0200",
        "03-29 03:30 +0200",
    ]
    assert times("15 * * * *", "2026-10-25 01:30", 3) == ["10-25 02:15 +0200", "10-25 02:15 +0100", "10-25 03:15 +0100"]


def test_without_a_zone_it_is_utc() -> None:
    assert Cron("0 9 * * mon-fri").after(datetime(2026, 11, 20, 9, tzinfo=UTC)) == datetime(2026, 11, 23, 9, tzinfo=UTC)


expressions = st.sampled_from([
    "0 9 * * *", "30 2 * * *", "*/20 * * * *", "0,30 1-3 * * *", "15 * * * *", "0 */2 * * *", "59 23 L * *",
    "0 0 29 2 *", "30 2 * * sun#5", "0 3 1 * mon",
])  # fmt: skip
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
moments = st.datetimes(datetime(2026, 1, 1), datetime(2029, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001


@given(expressions, zones, moments)
def test_occurrences_follow_one_another_and_none_is_left_out(expression: str, zone: str, moment: datetime) -> None:
    recurrence = Cron(expression, zone)
    found = [moment]
    for _ in range(5):
        following = recurrence.after(found[-1])
        assert following is not None
        found.append(following)
    assert all(earlier < later for earlier, later in pairwise(found))
    middle = found[1] + (found[2] - found[1]) / 2
    assert recurrence.after(middle) == found[2]
    assert recurrence.after(found[2] - timedelta(microseconds=1)) == found[2]


@given(expressions, zones)
def test_a_recurrence_is_written_and_read(expression: str, zone: str) -> None:
    recurrence = Cron(f"  {expression.replace(' ', '   ')} ", zone)
    assert parse_recurrence(recurrence.spec) == recurrence == Cron(expression, zone)


def test_the_text_of_a_recurrence() -> None:
    assert Cron("0 9 * * mon-fri", "Europe/Berlin").spec == "cron 0 9 * * mon-fri Europe/Berlin"
    assert parse_recurrence(Every(30, datetime(2026, 11, 20, tzinfo=UTC)).spec).spec.startswith("every 30 s from 2026")


@pytest.mark.parametrize(
    ("name", "expression"),
    [("@hourly", "0 * * * *"), ("@Daily", "0 0 * * *"), ("@weekly", "0 0 * * 0"), ("@yearly", "0 0 1 1 *")],
)
def test_names_stand_for_expressions(name: str, expression: str) -> None:
    assert Cron(name) == Cron(expression)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("0 25 * * *", "wrong hour; it must be 0-23"),
        ("* * * 13 *", "wrong month; it must be 1-12 or JAN-DEC"),
        ("*/0 * * * *", "wrong minute; it must be 0-59"),
        ("0 0 30 2 *", "wrong day-of-month; it must be 1-31 and in its month"),
        ("0 0 * 2 mon#5", None),
        ("0 0 31 2,4 *", "in its month"),
        ("0 0 * * funday", "wrong day-of-week; it must be 0-7 or SUN-SAT"),
        ("0 9 * *", "has five fields, minute, hour, day-of-month, month, day-of-week"),
        ("0 0 9 * * *", "has five fields"),
        ("@reboot", "has five fields"),
        ("", "has five fields"),
        (9, "is text, such as"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(expression: str, told: str | None) -> None:
    if told is None:
        assert Cron(expression).after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2044, 2, 29, tzinfo=UTC)
        return
    with pytest.raises(ConfigurationError, match=told):
        Cron(expression)


@pytest.mark.parametrize("zone", ["Middle/Earth", "", "../etc/passwd", "Europe", 3, "\0"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no time zone .* such as"):
        Cron("@daily", zone)


@pytest.mark.parametrize("spec", ["", "cron", "cron UTC", "0 9 * * * UTC", "every day", "cron 0 9 * * UTC"])
def test_a_text_that_is_no_recurrence_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_recurrence(spec)


def test_beyond_the_last_date_there_is_nothing() -> None:
    assert Cron("@daily").after(datetime.max.replace(tzinfo=UTC)) is None


def test_the_local_zone_is_that_of_the_environment_or_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TZ", ":Europe/Berlin")
    assert Cron("@daily", "local").timezone == "Europe/Berlin"
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with pytest.raises(ConfigurationError, match="Give it"):
        Cron("@daily", "local")
    monkeypatch.delenv("TZ")
    link = tmp_path / "localtime"
    monkeypatch.setattr(cron, "_LOCALTIME", link)
    assert Cron("@daily", "local").timezone == "UTC"
    zone = tmp_path / "zoneinfo" / "Asia" / "Kolkata"
    zone.parent.mkdir(parents=True)
    zone.touch()
    link.symlink_to(zone)
    assert Cron("@daily", "local").timezone == "Asia/Kolkata"
    link.unlink()
    link.touch()
    with pytest.raises(ConfigurationError, match="Give it"):
        Cron("@daily", "local")
