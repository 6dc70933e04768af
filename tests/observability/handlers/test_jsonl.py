"""The buffered log holds each event that was handled once, in whole lines, across threads, processes and rotations."""

from __future__ import annotations

import errno
import gc
import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError
from llmgine.llm.engine import TextChunkEvent
from llmgine.messages import Event
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers import JsonlHandler, SyncFileEventHandler, archive, jsonl, rotating_file
from llmgine.observability.handlers.archive import Archive
from llmgine.observability.handlers.file_lock import lock
from llmgine.observability.handlers.rotating_file import RotatingFile
from llmgine.observability.redact import Redactor


@dataclass
class Happened(Event):
    text: str = ""


def files(folder: Path) -> list[Path]:
    """Return the files of a log, from the oldest to the one that is written."""
    return sorted(folder.glob("log.*"), key=lambda path: path.name.removesuffix(".gz"))


def lines(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in files(folder):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert content.endswith(b"\n") or not content
        found += [json.loads(line) for line in content.splitlines()]
    return found


def texts(folder: Path) -> list[str]:
    return [line["text"] for line in lines(folder)]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    preamble = (
        "import logging, multiprocessing, os, sys, threading, warnings\n"
        "from llmgine.messages import Event\n"
        "from llmgine.observability.handlers import JsonlHandler\n"
        "warnings.simplefilter('ignore')  # from 3.12 on, forking beside threads is discouraged; people still do it\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def output(process: subprocess.Popen[str]) -> str:
    with process:
        try:
            text = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 0
    return text


def test_an_event_is_in_the_file_after_a_while_without_another(tmp_path: Path) -> None:
    handler = JsonlHandler(tmp_path, "log.jsonl", flush_after=0.001)
    for n in range(3):
        handler.handle(Happened(text=str(n)))
        timer = handler._timer
        if timer is not None:
            timer.join()
        assert texts(tmp_path) == [str(i) for i in range(n + 1)]
    assert (handler.written, handler.dropped) == (3, 0)
    handler.close()


def test_while_there_is_nothing_to_write_nothing_runs(tmp_path: Path) -> None:
    before = threading.active_count()
    handler = JsonlHandler(tmp_path, "log.jsonl", flush_after=0.001)
    assert threading.active_count() == before
    handler.handle(Happened())
    if (timer := handler._timer) is not None:
        timer.join()
    assert handler._timer is None
    assert threading.active_count() == before
    handler.close()


def test_a_full_buffer_is_written_at_once(tmp_path: Path) -> None:
    handler = JsonlHandler(tmp_path, "log.jsonl", flush_after=3600)
    handler.handle(Happened(text="a"))
    assert texts(tmp_path) == []
    handler.handle(Happened(text="b" * 70_000))
    assert [text[0] for text in texts(tmp_path)] == ["a", "b"]
    handler.handle(Happened(text="c"))
    assert len(texts(tmp_path)) == 2
    handler.flush()
    assert len(texts(tmp_path)) == 3
    handler.close()


def test_closing_writes_what_waits_and_a_closed_log_refuses_events(tmp_path: Path) -> None:
    handler = JsonlHandler(tmp_path, "log.jsonl", flush_after=3600)
    handler.handle(Happened(text="a"))
    handler.close()
    handler.close()
    assert texts(tmp_path) == ["a"]
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the number is what matters
        handler.handle(Happened())
    assert caught.value.errno == errno.EBADF


def test_a_forgotten_log_is_written_and_closed(tmp_path: Path) -> None:
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir()))
    for n in range(20):
        handler = JsonlHandler(tmp_path, "log.jsonl", flush_after=3600)
        handler.handle(Happened(text=str(n)))
        assert handler._timer is not None
        handler._timer.cancel()  # it knows the handler; after `flush_after` it would forget it by itself
        handler._timer.join()
        handler._timer = None
        del handler
        gc.collect()
    assert len(list(open_files.iterdir())) <= before
    assert texts(tmp_path) == [str(n) for n in range(20)]


def test_without_a_name_each_log_is_a_new_file(tmp_path: Path) -> None:
    handlers = [JsonlHandler(tmp_path) for _ in range(3)]
    assert len({handler.log_file.name for handler in handlers}) == 3
    assert {handler.log_file.parent for handler in handlers} == {tmp_path}
    for handler in handlers:
        handler.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filename": "../log.jsonl"}, "inside the folder"),
        ({"max_bytes": 0}, "max_bytes is 0; expected a number of at least 1"),
        ({"keep": -1}, "keep is -1"),
        ({"keep_days": -1}, "keep_days is -1"),
        ({"flush_after": float("nan")}, "flush_after is nan"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        JsonlHandler(tmp_path / "logs", **options)
    assert not list(tmp_path.iterdir())


# Secrets and content.


def test_secrets_and_content_are_left_out_unless_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMGINE_RECORD_CONTENT", raising=False)
    event = TextChunkEvent(text="Hello", metadata={"password": "p", "K": "K-1"})
    logs: dict[str, Any] = {
        "usual": {},
        "asked": {"record_content": True, "redact": False},
        "own": {"redact": Redactor(patterns=["K-1"])},
    }
    for name, options in logs.items():
        handler = JsonlHandler(tmp_path / name, "log.jsonl", **options)
        handler.handle(event)
        handler.close()
    monkeypatch.setenv("LLMGINE_RECORD_CONTENT", "1")
    handler = JsonlHandler(tmp_path / "environment", "log.jsonl")
    handler.handle(event)
    handler.close()
    said = {
        name: (line["text"], line["metadata"]) for name in (*logs, "environment") for line in lines(tmp_path / name)
    }
    hidden = "<5 characters of content>"
    assert said == {
        "usual": (hidden, {"password": "<redacted>", "K": "K-1"}),
        "asked": ("Hello", {"password": "p", "K": "K-1"}),
        "own": (hidden, {"password": "<redacted>", "K": "<redacted>"}),
        "environment": ("Hello", {"password": "<redacted>", "K": "K-1"}),
    }


def test_the_log_that_is_written_at_once_has_content_but_no_secrets_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    event = TextChunkEvent(text="Hello", metadata={"password": "p"})
    SyncFileEventHandler(tmp_path, "log.1.jsonl").handle(event)
    SyncFileEventHandler(tmp_path, "log.2.jsonl", record_content=False, redact=False).handle(event)
    assert [(line["text"], line["metadata"]["password"]) for line in lines(tmp_path)] == [
        ("Hello", "<redacted>"),
        ("<5 characters of content>", "p"),
    ]


# Rotation.


@given(
    writes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400), st.booleans()), max_size=60),
    max_bytes=st.none() | st.integers(1, 3000),
    compress=st.booleans(),
)
def test_no_line_is_lost_or_mixed_whatever_is_written_flushed_and_rotated_by_whom(
    writes: list[tuple[int, int, bool]], max_bytes: int | None, compress: bool
) -> None:
    with TemporaryDirectory() as folder:
        handlers = [
            JsonlHandler(folder, "log.jsonl", flush_after=3600, max_bytes=max_bytes, compress=compress)
            for _ in range(3)
        ]
        for n, (writer, length, flush) in enumerate(writes):
            handlers[writer].handle(Happened(event_id=f"{writer}-{n}", text="x" * length))
            if flush:
                handlers[writer].flush()
        for handler in handlers:
            handler.close()
            wait_for_archive(handler)
        written = [line["event_id"] for line in lines(Path(folder))]
        assert Counter(written) == Counter(f"{writer}-{n}" for n, (writer, _, _) in enumerate(writes))
        for name in "012":
            order = [int(each[2:]) for each in written if each[0] == name]
            assert order == sorted(order)
        former = files(Path(folder))[:-1]
        assert all((path.suffix == ".gz") == compress for path in former)
        if max_bytes is not None:
            for path in files(Path(folder)):
                content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                assert len(content) <= max_bytes or content.count(b"\n") == 1


def wait_for_archive(handler: JsonlHandler) -> None:
    while (thread := handler._archive.thread) is not None and thread.is_alive():
        thread.join()


def test_a_day_s_events_are_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 86_400.0 * 20_000 - 60
    monkeypatch.setattr(rotating_file, "time", lambda: now)
    handler = JsonlHandler(tmp_path, "log.jsonl", daily=True)
    for text in ("a", "b"):
        handler.handle(Happened(text=text))
        handler.flush()
    now += 120
    for text in ("c", "d"):
        handler.handle(Happened(text=text))
        handler.flush()
    handler.close()
    assert [len(path.read_bytes().splitlines()) for path in files(tmp_path)] == [2, 2]
    assert texts(tmp_path) == ["a", "b", "c", "d"]


def test_a_log_of_yesterday_that_is_continued_begins_a_new_file(tmp_path: Path) -> None:
    JsonlHandler(tmp_path, "log.jsonl").close()
    for days_ago, text in ((2, "a"), (0, "b"), (0, "c")):
        handler = JsonlHandler(tmp_path, "log.jsonl", daily=True)
        handler.handle(Happened(text=text))
        handler.close()
        moment = (datetime.now(UTC) - timedelta(days=days_ago)).timestamp()
        os.utime(handler.log_file, (moment, moment))
    assert texts(tmp_path) == ["a", "b", "c"]
    assert len(files(tmp_path)) == 2


def test_names_sort_by_time_even_if_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        moment = datetime(2026, 1, 2, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.moment

    monkeypatch.setattr(archive, "datetime", Clock)
    handler = JsonlHandler(tmp_path, "log.jsonl", max_bytes=1)
    for n, day in enumerate((2, 1, 1, 3, 2)):
        Clock.moment = datetime(2026, 1, day, tzinfo=UTC)
        handler.handle(Happened(text=str(n)))
        handler.flush()
    handler.close()
    assert texts(tmp_path) == ["0", "1", "2", "3", "4"]
    assert len(files(tmp_path)) == 5


def test_the_newest_files_are_kept_and_those_of_other_logs_are_left_alone(tmp_path: Path) -> None:
    others = ["log.notes.jsonl", "other.2020-01-01T00-00-00.000000Z.jsonl", "log.2020-01-01T00-00-00.000000Z.txt"]
    for name in others:
        (tmp_path / name).write_text("{}\n")
    handler = JsonlHandler(tmp_path, "log.jsonl", max_bytes=1, keep=2)
    for n in range(6):
        handler.handle(Happened(text=str(n)))
        handler.flush()
        wait_for_archive(handler)
    handler.close()
    for name in others:
        (tmp_path / name).unlink()
    assert texts(tmp_path) == ["3", "4", "5"]


def test_files_are_kept_for_some_days(tmp_path: Path) -> None:
    for days in (0, 1, 3, 4):
        moment = datetime.now(UTC) - timedelta(days=days)
        path = tmp_path / f"log.{moment:%Y-%m-%dT%H-%M-%S.%fZ}.jsonl{'.gz' if days == 4 else ''}"
        path.write_bytes(b"")
    handler = JsonlHandler(tmp_path, "log.jsonl", keep_days=2)
    wait_for_archive(handler)
    handler.close()
    assert len(files(tmp_path)) == 3


def test_what_a_killed_process_left_uncompressed_is_compressed_later(tmp_path: Path) -> None:
    former = tmp_path / "log.2026-01-01T00-00-00.000000Z.jsonl"
    former.write_text('{"text":"a"}\n')
    former.with_name(f"{former.name}.gz.part").write_bytes(b"half")
    done = tmp_path / "log.2026-01-02T00-00-00.000000Z.jsonl"
    done.write_text('{"text":"b"}\n')
    done.with_name(f"{done.name}.gz").write_bytes(gzip.compress(b'{"text":"b"}\n'))
    handler = JsonlHandler(tmp_path, "log.jsonl", compress=True)
    wait_for_archive(handler)
    handler.close()
    assert [path.name for path in files(tmp_path)] == [f"{former.name}.gz", f"{done.name}.gz", "log.jsonl"]
    assert texts(tmp_path) == ["a", "b"]


def test_a_file_that_another_process_is_compressing_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_PATIENCE", 0)
    former = tmp_path / "log.2026-01-01T00-00-00.000000Z.jsonl"
    former.write_text("{}\n")
    with former.open("rb") as busy:
        assert lock(busy.fileno(), 0)
        Archive(tmp_path / "log.jsonl", compress=True)._tidy()
        assert former.exists()
    Archive(tmp_path / "log.jsonl", compress=True)._tidy()
    assert [path.suffix for path in files(tmp_path)] == [".gz"]


def test_a_process_that_is_stopped_with_the_lock_in_its_hand_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotating_file, "_PATIENCE", 0.01)
    handler = JsonlHandler(tmp_path, "log.jsonl", max_bytes=1)
    handler.handle(Happened(text="a"))
    handler.flush()
    with handler.log_file.open("rb") as busy:
        assert lock(busy.fileno(), 0)
        handler.handle(Happened(text="b"))
        handler.handle(Happened(text="c"))
        handler.flush()
        assert texts(tmp_path) == ["a", "b", "c"]
        assert len(files(tmp_path)) == 1
    handler.close()


# Threads and processes.


def test_threads_that_share_a_handler_lose_nothing(tmp_path: Path) -> None:
    handler = JsonlHandler(tmp_path, "log.jsonl", flush_after=0.001, max_bytes=100_000)

    def work(name: int) -> None:
        for n in range(1000):
            handler.handle(Happened(event_id=f"{name}-{n}", text="x" * (n % 300)))
            if n % 50 == 0:
                handler.flush()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    assert handler.written == 4000
    assert Counter(line["event_id"] for line in lines(tmp_path)) == Counter(
        f"{t}-{n}" for t in range(4) for n in range(1000)
    )


def test_processes_that_share_a_log_which_each_of_them_rotates_lose_and_mix_no_line(tmp_path: Path) -> None:
    code = (
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', max_bytes=40_000, compress=True)\n"
        "for n in range(1500):\n"
        "    handler.handle(Event(event_id=f'{os.getpid()}-{n}', metadata={'text': 'x' * (n % 7) * 100}))\n"
        "    if n % 10 == 0: handler.flush()\n"
    )
    processes = [start(code, tmp_path) for _ in range(4)]
    for process in processes:
        output(process)
    assert len(files(tmp_path)) > 20
    ids = [line["event_id"].split("-") for line in lines(tmp_path)]
    assert len(ids) == 4 * 1500
    for process in processes:
        assert [int(n) for pid, n in ids if int(pid) == process.pid] == list(range(1500))
    assert all(path.suffix == ".gz" for path in files(tmp_path)[:-1])


def test_killing_the_writer_costs_no_more_than_the_buffer(tmp_path: Path) -> None:
    code = (
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', flush_after=3600, max_bytes=300_000)\n"
        "for n in range(10**9):\n"
        "    handler.handle(Event(event_id=str(n)))\n"
        "    if n % 100 == 0: os.write(1, b'%d\\n' % n)\n"
    )
    with start(code, tmp_path) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 5000:
            pass
        process.send_signal(signal.SIGKILL)
        handled = [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    last = files(tmp_path)[-1].read_bytes()
    torn = last.rpartition(b"\n")[2]
    survivor = JsonlHandler(tmp_path, "log.jsonl")
    survivor.handle(Event(event_id="next"))
    survivor.close()
    whole = [line for path in files(tmp_path) for line in path.read_bytes().split(b"\n") if line not in ("", b"", torn)]
    written = [json.loads(line)["event_id"] for line in whole]
    assert written == [*map(str, range(len(written) - 1)), "next"]
    assert max([*handled, 5000]) - len(written) <= jsonl._BUFFER // len(whole[0]) + 1


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "threading.Timer(0.01, lambda: handler.handle(Event())).start()"])
def test_a_process_that_ends_without_closing_its_log_loses_nothing(tmp_path: Path, end: str) -> None:
    code = (
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', flush_after=3600)\n"
        "import atexit\n"
        "handler.handle(Event())\n"
        f"{end}\n"
    )
    output(start(code, tmp_path))
    assert len(lines(tmp_path)) == (2 if "Timer" in end else 1)


def test_what_is_published_when_the_log_has_been_written_for_the_last_time_is_written_at_once(tmp_path: Path) -> None:
    code = (
        "import atexit\n"
        "atexit.register(lambda: handler.handle(Event(event_id='last')))\n"
        "from llmgine.observability.handlers import jsonl\n"
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', flush_after=3600)\n"
        "handler.handle(Event(event_id='first'))\n"
    )
    output(start(code, tmp_path))
    assert [line["event_id"] for line in lines(tmp_path)] == ["first", "last"]


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)"])
def test_a_fork_repeats_no_line_of_its_parent_and_both_go_on(tmp_path: Path, end: str) -> None:
    code = (
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', flush_after=3600)\n"
        "def work():\n"
        "    while not done: handler.handle(Event(event_id='thread', metadata={'text': 'x' * 5000}))\n"
        "done = False\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "for n in range(20):\n"
        "    handler.handle(Event(event_id=f'parent {n}'))\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        handler.handle(Event(event_id=f'child {n}'))\n"
        "        handler.flush()\n"
        f"        {end}\n"
        "    os.waitpid(child, 0)\n"
        "done = True\n"
        "thread.join()\n"
    )
    output(start(code, tmp_path))
    ids = Counter(line["event_id"] for line in lines(tmp_path))
    assert [ids[f"parent {n}"] for n in range(20)] == [ids[f"child {n}"] for n in range(20)] == [1] * 20


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_of_multiprocessing_loses_nothing_when_it_ends(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from llmgine.messages import Event\n"
        "from llmgine.observability.handlers import JsonlHandler\n"
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', flush_after=3600)\n"
        "def work(n): handler.handle(Event(event_id=f'child {n}'))\n"
        "if __name__ == '__main__':\n"
        "    handler.handle(Event(event_id='parent'))\n"
        "    context = multiprocessing.get_context(sys.argv[2])\n"
        "    processes = [context.Process(target=work, args=(n,)) for n in range(3)]\n"
        "    for process in processes: process.start()\n"
        "    for process in processes: process.join()\n"
    )
    folder = tmp_path / "logs"
    process = subprocess.Popen([sys.executable, script, folder, method], stdout=subprocess.PIPE, text=True)
    output(process)
    assert sorted(line["event_id"] for line in lines(folder)) == ["child 0", "child 1", "child 2", "parent"]


# Trouble.


def test_a_deleted_or_renamed_log_is_begun_anew(tmp_path: Path) -> None:
    handler = JsonlHandler(tmp_path / "logs", "log.jsonl")
    for text in ("a", "b", "c"):
        handler.handle(Happened(text=text))
        handler.flush()
        handler.log_file.rename(tmp_path / f"log.{text}.jsonl")
        if text == "b":
            handler.log_file.parent.rmdir()
    handler.close()
    assert texts(tmp_path) == ["a", "b", "c"]


def test_half_a_line_that_somebody_left_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"half')
    handler = JsonlHandler(tmp_path, path.name)
    for half, text in (("", "a"), ('{"other', "b"), ("", "c")):
        with path.open("a") as other:
            other.write(half)
        handler.handle(Happened(text=text))
        handler.flush()
    handler.close()
    found = path.read_text().splitlines()
    assert [found[0], found[2]] == ['{"half', '{"other']
    assert [json.loads(found[n])["text"] for n in (1, 3, 4)] == ["a", "b", "c"]


async def test_where_the_log_cannot_be_written_the_bus_runs_on_and_once_it_can_the_log_does_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file, where the folder would be")
    handler = JsonlHandler(tmp_path / "logs", "log.jsonl", flush_after=3600)
    manager = ObservabilityManager()
    manager.register_handler(handler)
    bus = MessageBus.isolated(observability=manager)
    heard: list[Event] = []
    bus.register_event_handler(Happened, heard.append)
    await bus.start()
    for text in ("a", "b"):
        await bus.publish(Happened(text=text))
        handler.flush()
    assert len(heard) == handler.dropped == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(handler.log_file) in caplog.text
    (tmp_path / "logs").unlink()
    await bus.publish(Happened(text="c"))
    handler.flush()
    assert "written again; 2 events were lost" in caplog.text
    await bus.stop()
    manager.close()
    assert [line["text"] for line in lines(tmp_path / "logs") if "text" in line] == ["c"]


def test_where_no_file_can_be_made_a_log_without_a_name_reports_it_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("")
    handler = JsonlHandler(tmp_path / "logs")
    handler.handle(Happened())
    handler.close()
    assert handler.dropped == 1
    assert caplog.text.count("cannot be written") == 1


def test_a_full_disk_costs_what_did_not_fit_is_counted_and_is_over_when_there_is_space(tmp_path: Path) -> None:
    code = (
        "import resource\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "handler = JsonlHandler(sys.argv[1], 'log.jsonl', flush_after=3600)\n"
        "def write(*ids):\n"
        "    for each in ids: handler.handle(Event(event_id=each))\n"
        "    handler.flush()\n"
        "write('before')\n"
        "length = handler.log_file.stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (length * 5 // 2, resource.RLIM_INFINITY))\n"
        "write('fitted', 'lost 1', 'lost 2')\n"
        "write('lost 3')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "write('after')\n"
        "write('last')\n"
        "print(handler.written, handler.dropped)\n"
    )
    printed = output(start(code, tmp_path)).splitlines()
    assert len(printed) == 3
    assert "cannot be written: [Errno 27]" in printed[0]
    assert "3 events were lost" in printed[1]
    assert printed[2] == "4 3"
    before, fitted, torn, after, last = (tmp_path / "log.jsonl").read_text().splitlines()
    ids = [json.loads(line)["event_id"] for line in (before, fitted, after, last)]
    assert ids == ["before", "fitted", "after", "last"]
    assert torn.startswith('{"event_type"')


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_device_that_is_full_takes_nothing_and_says_why() -> None:
    file = RotatingFile(Path("/dev/full"), Archive(Path("/dev/full")))
    done, error = file.append([b"a\n", b"b\n"])
    file.close()
    assert done == 0
    assert error is not None
    assert error.errno == errno.ENOSPC


def test_a_line_that_is_written_in_parts_becomes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    handler = JsonlHandler(tmp_path, "log.jsonl")
    for text in ("a", "b"):
        handler.handle(Happened(text=text))
    handler.close()
    assert texts(tmp_path) == ["a", "b"]
