"""Whoever follows a log sees each line once, whatever becomes of the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmgine.observability import log_follow
from llmgine.observability.log_files import find_logs
from llmgine.observability.log_follow import LogFollower


class Clock:
    """Time for a follower, which passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log_follow, "monotonic", clock)
    return clock


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def look(follower: LogFollower, clock: Clock) -> bytes:
    clock.now += 3  # long enough for the folder to be read again
    return b"".join(follower.poll())


@pytest.mark.parametrize("named", [True, False])
def test_only_whole_lines_are_given_and_each_once(tmp_path: Path, clock: Clock, named: bool) -> None:
    log = tmp_path / "log.jsonl"
    append(log, b"1\n2\n")
    follower = LogFollower(log if named else tmp_path, find_logs(tmp_path))

    assert look(follower, clock) == b""
    append(log, b"3\n4")
    assert look(follower, clock) == b"3\n"
    append(log, b"5\n")
    assert look(follower, clock) == b"45\n"
    assert look(follower, clock) == b""
    follower.close()


def test_what_was_written_before_a_rotation_comes_before_what_is_written_after(tmp_path: Path, clock: Clock) -> None:
    log = tmp_path / "log.jsonl"
    append(log, b"1\n")
    follower = LogFollower(log, find_logs(log))
    look(follower, clock)

    append(log, b"2\n")
    log.rename(tmp_path / "log.jsonl.1")
    append(log, b"3\n")
    append(tmp_path / "log.jsonl.1", b"late\n")
    assert look(follower, clock) == b"2\nlate\n3\n"
    follower.close()


def test_a_compressed_copy_of_what_has_been_seen_is_not_new(tmp_path: Path, clock: Clock) -> None:
    log = tmp_path / "log.jsonl"
    append(log, b"1\n")
    follower = LogFollower(tmp_path, find_logs(tmp_path))
    look(follower, clock)

    append(tmp_path / "log.2026.jsonl.gz", b"anything")
    append(tmp_path / "log.jsonl.1", b"anything\n")
    append(tmp_path / "new.jsonl", b"2\n")
    assert look(follower, clock) == b"2\n"
    follower.close()


def test_a_file_that_is_cut_off_is_read_from_its_new_beginning(tmp_path: Path, clock: Clock) -> None:
    log = tmp_path / "log.jsonl"
    append(log, b"111\nunfini")
    follower = LogFollower(log)
    assert look(follower, clock) == b"111\n"

    log.write_bytes(b"2\n")
    assert look(follower, clock) == b"2\n"
    follower.close()


def test_a_deleted_file_may_come_back(tmp_path: Path, clock: Clock) -> None:
    log = tmp_path / "log.jsonl"
    append(log, b"1\n")
    follower = LogFollower(log)
    assert look(follower, clock) == b"1\n"

    log.unlink()
    assert look(follower, clock) == b""
    append(log, b"2\n")
    assert look(follower, clock) == b"2\n"
    follower.close()


def test_files_that_sleep_are_closed_and_wake_up(tmp_path: Path, clock: Clock) -> None:
    log = tmp_path / "log.jsonl"
    append(log, b"1\n")
    follower = LogFollower(tmp_path)
    assert look(follower, clock) == b"1\n"

    clock.now += 100
    look(follower, clock)
    assert [source.stream for source in follower._sources.values()] == [None]
    append(log, b"2\n")
    assert look(follower, clock) == b"2\n"
    follower.close()


def test_between_two_looks_the_folder_is_not_read(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "log.jsonl", b"1\n")
    follower = LogFollower(tmp_path)
    scans: list[object] = []
    scandir = os.scandir

    def counted(path: Path) -> object:
        scans.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)

    for _ in range(30):  # nine seconds
        list(follower.poll())
        clock.now += 0.3
    assert 3 <= len(scans) <= 6
    follower.close()
