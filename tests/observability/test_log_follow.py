"""Whoever follows a log sees each line once, whatever becomes of the files."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgine.observability import log_follow
from llmgine.observability.log_files import find_logs, former_logs
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

    append(tmp_path / "log.2026.jsonl.gz", gzip.compress(b"1\n"))
    append(tmp_path / "log.jsonl.1", b"1\n")
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
    os.utime(tmp_path, (1e9, 1e9))  # a change of just now might not have been the last one
    follower = LogFollower(tmp_path)
    scans: list[object] = []
    iterdir = Path.iterdir

    def counted(path: Path) -> object:
        scans.append(path)
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", counted)

    for _ in range(30):  # nine seconds
        list(follower.poll())
        clock.now += 0.3
    assert 3 <= len(scans) <= 6
    follower.close()


def test_a_file_that_appears_without_changing_the_folders_date_is_found_with_the_next_poll(
    tmp_path: Path, clock: Clock
) -> None:
    now = time.time_ns()
    with closing(LogFollower(tmp_path)) as follower:
        append(tmp_path / "a.jsonl", b"1\n")
        os.utime(tmp_path, ns=(now, now))
        assert look(follower, clock) == b"1\n"
        append(tmp_path / "b.jsonl", b"2\n")
        os.utime(tmp_path, ns=(now, now))  # as it is where dates are only exact to some milliseconds
        clock.now += 0.3
        assert b"".join(follower.poll()) == b"2\n"


class Writer:
    """Does to a log whatever is done to logs: lines get a number each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.jsonl"
        self.written = 0
        self.half = b""
        self.rotations = 0

    def write(self, count: int) -> None:
        lines = b"".join(b'{"number":%d}\n' % number for number in range(self.written, self.written + count))
        self.written += count
        append(self.log, self.half + lines)
        self.half = b""

    def write_half(self) -> None:
        if not self.half:
            line = b'{"number":%d}\n' % self.written
            self.written += 1
            append(self.log, line[:5])
            self.half = line[5:]

    def finish_line(self) -> None:
        if self.half:
            append(self.log, self.half)
            self.half = b""

    def rotate(self) -> None:
        self.finish_line()
        if self.log.exists():
            self.rotations += 1
            self.log.rename(self.folder / f"log.2026-01-01T00-00-00.{self.rotations:06}Z.jsonl")

    def compress(self) -> None:
        for path in sorted(self.folder.glob("log.2026*.jsonl")):
            part = path.with_name(f"{path.name}.gz.part")
            part.write_bytes(gzip.compress(path.read_bytes()))
            part.rename(part.with_suffix(""))
            path.unlink()

    def copy_and_cut_off(self) -> None:
        """As logrotate does with `copytruncate`."""
        self.finish_line()
        if self.log.exists():
            for number in range(9, 0, -1):
                former = self.folder / f"log.jsonl.{number}"
                if former.exists():
                    former.rename(former.with_name(f"log.jsonl.{number + 1}"))
            shutil.copy(self.log, self.folder / "log.jsonl.1")
            os.truncate(self.log, 0)


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 400)),
    *(
        st.tuples(st.just(name))
        for name in ("write_half", "finish_line", "rotate", "compress", "copy_and_cut_off", "poll", "sleep")
    ),
)


# Numbers of files that are gone and were given to others, which most file systems do at once:
@example(steps=[("compress",), ("copy_and_cut_off",)], named=False, before=1, is_open=1)
@example(
    steps=[("rotate",), ("write", 1), ("compress",), ("poll",), ("copy_and_cut_off",)],
    named=False,
    before=0,
    is_open=1,
)
@given(steps=st.lists(STEPS, max_size=25), named=st.booleans(), before=st.integers(0, 3), is_open=st.integers(1, 3))
def test_each_line_is_given_once_whatever_is_done_to_the_files_between_two_polls(
    steps: list[tuple[str, *tuple[int, ...]]], named: bool, before: int, is_open: int
) -> None:
    clock = Clock()
    with (
        TemporaryDirectory() as folder,
        mock.patch.object(log_follow, "monotonic", clock),
        mock.patch.object(log_follow, "_OPEN", is_open),
    ):
        writer = Writer(Path(folder))
        for _ in range(before):
            writer.write(2)
            writer.rotate()
        writer.write(before)
        old = writer.written
        known = [*find_logs(writer.folder, whole_lines=True)]
        if named:
            known = [*find_logs(writer.log, whole_lines=True), *former_logs(writer.log)]
        with closing(LogFollower(writer.log if named else writer.folder, known)) as follower:
            given_lines: list[bytes] = []
            for name, *arguments in steps:
                if name == "poll":
                    clock.now += 0.3
                    given_lines += b"".join(follower.poll()).splitlines()
                elif name == "sleep":
                    clock.now += 100
                    given_lines += b"".join(follower.poll()).splitlines()
                else:
                    getattr(writer, name)(*arguments)
            writer.finish_line()
            for _ in range(3):
                given_lines += look(follower, clock).splitlines()
            assert all(source.stream is None for source in follower._sources.values() if source.is_copy)
        assert Counter(given_lines) == Counter(b'{"number":%d}' % number for number in range(old, writer.written))


@pytest.mark.parametrize("named", [True, False])
def test_a_writer_that_rotates_and_compresses_as_fast_as_it_can_is_followed_without_a_gap(
    tmp_path: Path, named: bool
) -> None:
    code = (
        "import sys\n"
        "from llmgine.messages import Event\n"
        "from llmgine.observability.handlers import JsonlHandler\n"
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', flush_after=3600, max_bytes=3000, compress=True)\n"
        "for n in range(4000):\n"
        "    handler.handle(Event(metadata={'n': n}))\n"
        "    if n % 3 == 0: handler.flush()\n"
        "handler.close()\n"
    )
    append(tmp_path / "log.jsonl", b'{"metadata":{"n":-1}}\n')
    log = tmp_path / "log.jsonl"
    known = [*find_logs(log), *former_logs(log)] if named else find_logs(tmp_path)
    found: list[int] = []

    def see(follower: LogFollower) -> None:
        lines = b"".join(follower.poll()).splitlines()
        found.extend(orjson.loads(line)["metadata"]["n"] for line in lines)

    with closing(LogFollower(log if named else tmp_path, known)) as follower:
        with subprocess.Popen([sys.executable, "-c", code, tmp_path]) as process:
            while process.poll() is None:
                see(follower)
        for _ in range(2):
            follower._changed = -1
            see(follower)
    assert process.returncode == 0
    assert len(list(tmp_path.glob("*.gz"))) > 50
    assert Counter(found) == Counter(range(4000))
