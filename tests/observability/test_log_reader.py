"""What is read from a log is what is wanted of it, in order, however the bytes lie in blocks and files."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.observability import log_reader
from llmgine.observability.events import LogLevel
from llmgine.observability.log_files import LogFile, find_logs, open_log
from llmgine.observability.log_filter import LogFilter, instant_of, level_of, parse_time
from llmgine.observability.log_reader import LogReader
from llmgine.observability.serialize import to_line

NOW = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)


@dataclass
class NoteTakenEvent(Event):
    text: str = ""


@dataclass
class NoteLostEvent(Event):
    error: str = ""


SESSIONS = ["a", "b", "ä", 'say "b"']
IDS = ["10", "100", "11", "2"]
TEXTS = st.sampled_from(["", "a", '"b"', "timestamp", "NoteLostEvent", "\n", "x" * 40, 'session_id":"a'])
times = st.integers(0, 9).map(lambda minutes: (NOW + timedelta(minutes=minutes)).isoformat(timespec="microseconds"))


@st.composite
def events(draw: st.DrawFn) -> Event:
    common: dict[str, Any] = {
        "timestamp": draw(times),
        "session_id": draw(st.sampled_from(SESSIONS)),
        "metadata": draw(st.just({}) | st.just({"timestamp": NOW.isoformat(), "session_id": "a", "event_type": "x"})),
    }
    text = draw(TEXTS)
    event = NoteTakenEvent(text, **common) if draw(st.booleans()) else NoteLostEvent(text, **common)
    event.correlation_id = draw(st.sampled_from(IDS))
    event.causation_id = draw(st.sampled_from([None, *IDS]))
    return event


filters = st.builds(
    LogFilter,
    session=st.none() | st.sampled_from(SESSIONS),
    types=st.lists(st.sampled_from(["NoteTakenEvent", "NoteLost", "note.*", "*.lost", "other"]), max_size=2).map(tuple),
    correlation_id=st.none() | st.sampled_from(IDS),
    causation_id=st.none() | st.sampled_from(IDS),
    since=st.none() | st.integers(0, 4).map(lambda minutes: NOW + timedelta(minutes=minutes)),
    until=st.none() | st.integers(5, 9).map(lambda minutes: NOW + timedelta(minutes=minutes)),
    text=st.none() | st.sampled_from(["a", '"b"', "lost", "Note"]),
    level=st.none() | st.sampled_from(LogLevel),
)


def naively(data: dict[str, Any], wanted: LogFilter) -> bool:
    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield name
                yield from texts(item)
        elif isinstance(value, str):
            yield value

    kind = data["event_type"]
    names = {"NoteTakenEvent": "note.taken", "NoteLostEvent": "note.lost"}
    heard = {"note.*": True, "*.lost": names[kind] == "note.lost", "NoteLost": kind == "NoteLostEvent"}
    when = datetime.fromisoformat(data["timestamp"])
    return (
        (wanted.session is None or data["session_id"] == wanted.session)
        and (not wanted.types or any(heard.get(each, each == kind) for each in wanted.types))
        and str(data["correlation_id"]).startswith(wanted.correlation_id or "")
        and str(data["causation_id"] or "").startswith(wanted.causation_id or "")
        and (wanted.since is None or when >= wanted.since)
        and (wanted.until is None or when < wanted.until)
        and (wanted.text is None or any(wanted.text in text for text in texts(data)))
        and (wanted.level is None or list(LogLevel).index(level_of(data)) >= list(LogLevel).index(wanted.level))
    )


def written(*events: Event) -> bytes:
    return b"".join(to_line(event) for event in events)


def data_of(lines: Any) -> list[dict[str, Any]]:
    return [line.data for line in lines]


@given(st.lists(events(), max_size=12), filters, st.integers(1, 700), st.booleans())
def test_what_is_found_without_parsing_every_line_is_what_parsing_every_line_finds(
    events: list[Event], wanted: LogFilter, block: int, compressed: bool
) -> None:
    text = written(*events)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_reader, "_BLOCK", block)
        path = Path(folder) / ("log.jsonl.gz" if compressed else "log.jsonl")
        path.write_bytes(gzip.compress(text) if compressed else text)
        reader = LogReader(find_logs(path), wanted)
        found, last = data_of(reader), data_of(reader.last(3))

    expected = [data for data in map(json.loads, text.splitlines()) if naively(data, wanted)]
    assert found == expected
    assert last == expected[-3:]
    assert (reader.broken, reader.problems) == (0, [])


@given(st.lists(st.lists(times, max_size=6).map(sorted), min_size=1, max_size=4))
def test_files_whose_times_overlap_are_read_by_date(dates: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, each in enumerate(dates):
            lines = written(*(NoteTakenEvent(timestamp=date) for date in each))
            (Path(folder) / f"{number}.jsonl").write_bytes(lines)
        reader = LogReader(find_logs(Path(folder)))
        found = [line.data["timestamp"] for line in reader]
        last = [line.data["timestamp"] for line in reader.last(4)]

    assert found == sorted(date for each in dates for date in each)
    assert last == found[-4:]


@pytest.mark.parametrize("session", [*SESSIONS, "tab\t", "\\", "\u2028", "</script>"])
def test_a_session_is_found_whatever_it_is_called(tmp_path: Path, session: Any) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(written(NoteTakenEvent(session_id=session), NoteTakenEvent(text=session)))

    (found,) = data_of(LogReader(find_logs(path), LogFilter(session=session)))
    assert found["session_id"] == session
    assert len(data_of(LogReader(find_logs(path), LogFilter(text=session)))) == 2


def test_lines_that_others_have_written_are_found_as_well(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    nested = {"event_type": "NoteTakenEvent", "about": {"timestamp": "1999-01-01T00:00:00.000000+00:00"}}
    late = {"timestamp": "2026-05-04T15:30:00+02:00", "session_id": "a"}
    other = {"session_id": "a", "timestamp": "2026-05-04T13:30:00Z", "event_type": "NoteTakenEvent"}
    compact = json.dumps(nested | late, separators=(",", ":"))
    path.write_text(f"{compact}\n{json.dumps(other)}\r\n")
    wanted = LogFilter(session="a", types=("NoteTakenEvent",), since=NOW, until=NOW + timedelta(seconds=1))

    assert len(data_of(LogReader(find_logs(path), wanted))) == 2


def test_files_that_follow_each_other_are_open_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        lines = written(NoteTakenEvent(timestamp=(NOW + timedelta(minutes=number)).isoformat(timespec="microseconds")))
        (tmp_path / f"{number}.jsonl").write_bytes(lines * 2)
    reader = LogReader(find_logs(tmp_path))
    now: list[int] = []
    most = 0

    @contextmanager
    def counted(file: LogFile) -> Iterator[Any]:
        nonlocal most
        with open_log(file) as stream:
            now.append(1)
            most = max(most, len(now))
            yield stream
            now.pop()

    monkeypatch.setattr(log_reader, "open_log", counted)

    assert len(data_of(reader)) == 20
    assert most <= 2


def test_progress_adds_up_to_the_size_of_the_files(tmp_path: Path) -> None:
    text = written(*(NoteTakenEvent("x" * 50) for _ in range(2000)))
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text))
    told: list[int] = []

    assert sum(1 for _ in LogReader(find_logs(tmp_path), on_progress=told.append)) == 4000
    assert sum(told) == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_what_is_written_after_the_files_were_found_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(written(NoteTakenEvent("first")))
    reader = LogReader(find_logs(path))
    with path.open("ab") as file:
        file.write(written(NoteTakenEvent("later")))

    assert [data["text"] for data in data_of(reader)] == ["first"]


def test_a_line_longer_than_any_event_is_counted_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_BLOCK", 256)
    monkeypatch.setattr(log_reader, "_LONGEST", 2000)
    path = tmp_path / "log.jsonl"
    path.write_bytes(written(NoteTakenEvent("first")) + b"x" * 9000 + b"\n" + written(NoteTakenEvent("last")))
    reader = LogReader(find_logs(path))

    assert [data["text"] for data in data_of(reader)] == ["first", "last"]
    assert reader.broken == 1


def test_lines_that_are_no_events_are_broken_and_empty_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    broken = [b"{", b"1", b"null", b"[]", b'{"a":1}{', b"\xff", b"[" * 3000]
    path.write_bytes(b"\n\n \n" + b"\n".join(broken) + b'\n{"a":1}\n{"event_type": 3, "timestamp": [], "level": {}}\n')
    reader = LogReader(find_logs(path))

    assert len(data_of(reader)) == 2
    assert reader.broken == len(broken)
    assert data_of(LogReader(find_logs(path), LogFilter(level=LogLevel.ERROR, since=NOW, types=("a.*",)))) == []


def test_files_last_written_long_before_the_time_asked_for_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_bytes(b"{broken")
    (tmp_path / "new.jsonl").write_bytes(written(NoteTakenEvent()))
    os.utime(tmp_path / "old.jsonl", (0, 0))
    reader = LogReader(find_logs(tmp_path), LogFilter(since=datetime(2020, 1, 1, tzinfo=UTC)))

    assert len(data_of(reader)) == 1
    assert reader.broken == 0


def test_a_file_is_not_read_twice_while_it_is_being_compressed(tmp_path: Path) -> None:
    line = written(NoteTakenEvent())
    (tmp_path / "log.jsonl").write_bytes(line)
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(line)[:20])

    assert [file.path.name for file in find_logs(tmp_path)] == ["log.jsonl"]


def test_a_line_under_way_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = written(NoteTakenEvent())
    path.write_bytes(whole + b"x" * 600_000)

    assert LogFile.of(path, whole_lines=True).size == len(whole)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("15m", NOW - timedelta(minutes=15)),
        ("1.5h", NOW - timedelta(hours=1.5)),
        ("2 d", NOW - timedelta(days=2)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-05-01T10:00Z", datetime(2026, 5, 1, 10, tzinfo=UTC)),
        ("2026-05-01T10:00+02:00", datetime(2026, 5, 1, 8, tzinfo=UTC)),
        ("2026-05-01", datetime(2026, 5, 1).astimezone()),  # local, as is meant
        ("today", datetime(2026, 5, 4).astimezone()),
        ("yesterday", datetime(2026, 5, 3).astimezone()),
    ],
)
def test_times_are_what_people_mean(text: str, moment: datetime) -> None:
    assert parse_time(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "noon", "15", "m", "99999999999w", "2026-13-01", "-1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no time"):
        parse_time(text, NOW)


def test_a_time_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be the earlier"):
        LogFilter(since=NOW, until=NOW)


@pytest.mark.parametrize(
    ("data", "level"),
    [
        ({"event_type": "LogEvent", "level": "critical"}, LogLevel.CRITICAL),
        ({"event_type": "CommandErrorEvent"}, LogLevel.ERROR),
        ({"event_type": "EventHandlerFailedEvent"}, LogLevel.ERROR),
        ({"event_type": "SessionEndEvent", "error": "ValueError: no"}, LogLevel.ERROR),
        ({"event_type": "SessionEndEvent", "error": None}, LogLevel.INFO),
        ({"event_type": "TraceEvent", "name": "Command Buy", "status": "ERROR"}, LogLevel.DEBUG),
        ({"event_type": "TraceEvent", "name": "import", "status": "ERROR"}, LogLevel.ERROR),
        ({"event_type": "ToolExecuteResultEvent", "execution_succeed": False}, LogLevel.WARNING),
        ({"event_type": "TextChunkEvent"}, LogLevel.DEBUG),
        ({"event_type": "Anything", "level": "loud"}, LogLevel.INFO),
        ({}, LogLevel.INFO),
    ],
)
def test_how_much_an_event_matters(data: dict[str, Any], level: LogLevel) -> None:
    assert level_of(data) is level


def test_dates_are_read_in_every_form_of_iso_8601() -> None:
    forms = ["2026-05-04T13:30:00+00:00", "2026-05-04T13:30:00Z", "2026-05-04T15:30+02:00", "2026-05-04T13:30:00"]

    assert {instant_of({"timestamp": form}) for form in forms} == {NOW}
    assert instant_of({"timestamp": "soon"}) is instant_of({"timestamp": 5}) is instant_of({}) is None
