"""The log holds one whole line for each event that was handled, whatever happens around it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers import SyncFileEventHandler, file_sync
from llmgine.observability.handlers.adapters import create_sync_file_handler


@dataclass
class Happened(Event):
    text: str = ""


def lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.splitlines() if line]  # empty where two processes met, as documented


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    preamble = (
        "import os, sys, threading\n"
        "from llmgine.messages import Event\n"
        "from llmgine.observability.handlers import SyncFileEventHandler\n"
        "handler = SyncFileEventHandler(sys.argv[1], 'log.jsonl')\n"
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


def test_an_event_is_in_the_file_when_handle_returns(tmp_path: Path) -> None:
    handler = SyncFileEventHandler(tmp_path / "made" / "on" / "the" / "way", "log.jsonl")
    assert handler.log_file == tmp_path / "made" / "on" / "the" / "way" / "log.jsonl"
    for n in range(3):
        handler.handle(Happened(text=f"{n}\n"))
        assert [line["text"] for line in lines(handler.log_file)] == [f"{i}\n" for i in range(n + 1)]
    assert lines(handler.log_file)[0]["event_type"] == "Happened"


def test_without_a_name_each_log_is_a_new_file(tmp_path: Path) -> None:
    handlers = [create_sync_file_handler(log_dir=str(tmp_path)) for _ in range(5)]
    names = {handler.log_file.name for handler in handlers}
    assert len(names) == 5
    assert all(name.startswith("events_") and name.endswith(".jsonl") for name in names)
    assert {handler.log_file.parent for handler in handlers} == {tmp_path}


def test_the_default_folder_is_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SyncFileEventHandler().log_file.parent == Path("logs")
    assert len(list(tmp_path.glob("logs/events_*.jsonl"))) == 1


def test_a_named_log_is_continued(tmp_path: Path) -> None:
    for text in ("a", "b"):
        SyncFileEventHandler(tmp_path, "log.jsonl").handle(Happened(text=text))
    assert [line["text"] for line in lines(tmp_path / "log.jsonl")] == ["a", "b"]


def test_a_log_may_be_in_a_folder_inside_the_folder(tmp_path: Path) -> None:
    assert SyncFileEventHandler(tmp_path, "today/log.jsonl").log_file == tmp_path / "today" / "log.jsonl"


@pytest.mark.parametrize("filename", ["../log.jsonl", "/elsewhere/log.jsonl", "a/../../b", "..", ".", ""])
def test_a_file_outside_the_folder_is_refused_before_anything_is_made(tmp_path: Path, filename: str) -> None:
    with pytest.raises(ConfigurationError, match="inside the folder"):
        SyncFileEventHandler(tmp_path / "logs", filename)
    assert not list(tmp_path.iterdir())


def test_threads_and_processes_that_share_a_file_write_whole_lines(tmp_path: Path) -> None:
    code = (
        "def work(name):\n"
        "    for n in range(200):\n"
        "        handler.handle(Event(event_id=f'{name}-{n}', metadata={'text': 'x' * (n % 7) * 9000}))\n"
        "threads = [threading.Thread(target=work, args=(f'{os.getpid()}-{t}',)) for t in range(3)]\n"
        "[t.start() for t in threads]\n"
        "[t.join() for t in threads]\n"
    )
    for process in [start(code, tmp_path) for _ in range(3)]:
        output(process)
    ids = [line["event_id"] for line in lines(tmp_path / "log.jsonl")]
    assert len(ids) == len(set(ids)) == 3 * 3 * 200
    writers: dict[str, list[int]] = {}
    for each in ids:
        writer, n = each.rsplit("-", 1)
        writers.setdefault(writer, []).append(int(n))
    assert all(order == sorted(order) for order in writers.values())


def test_killing_the_writer_loses_no_event_that_was_handled(tmp_path: Path) -> None:
    code = "for n in range(10**9):\n    handler.handle(Event(event_id=str(n)))\n    os.write(1, b'%d\\n' % n)\n"
    with start(code, tmp_path) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 2000:
            pass
        process.send_signal(signal.SIGKILL)
        handled = process.stdout.read().splitlines()
    written = [int(line["event_id"]) for line in lines(tmp_path / "log.jsonl")]
    assert written == list(range(len(written)))
    assert int(handled[-1] if handled else 2000) < len(written)


def test_a_child_that_is_forked_while_others_write_can_write(tmp_path: Path) -> None:
    code = (
        "import warnings\n"
        "warnings.simplefilter('ignore')  # from 3.12 on, forking beside threads is discouraged; people still do it\n"
        "def work():\n"
        "    while not done: handler.handle(Event(metadata={'text': 'x' * 50000}))\n"
        "done = False\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "for n in range(30):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        handler.handle(Event(event_id=f'child {n}'))\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "done = True\n"
        "thread.join()\n"
    )
    output(start(code, tmp_path))
    ids = Counter(line["event_id"] for line in lines(tmp_path / "log.jsonl"))
    assert [ids[f"child {n}"] for n in range(30)] == [1] * 30


def test_a_line_that_is_written_in_parts_becomes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    handler = SyncFileEventHandler(tmp_path, "log.jsonl")
    handler.handle(Happened(text="a"))
    handler.handle(Happened(text="b"))
    assert [line["text"] for line in lines(handler.log_file)] == ["a", "b"]


def test_a_full_disk_costs_the_events_that_did_not_fit_and_no_other(tmp_path: Path) -> None:
    code = (
        "import resource\n"
        "handler.handle(Event(event_id='before'))\n"
        "full = handler.log_file.stat().st_size + 100\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))\n"
        "for _ in range(2):\n"
        "    try: handler.handle(Event(event_id='lost'))\n"
        "    except OSError: print('full')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "handler.handle(Event(event_id='after'))\n"
        "handler.handle(Event(event_id='last'))\n"
    )
    assert output(start(code, tmp_path)) == "full\nfull\n"
    before, torn, after, last = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event_id"] for line in (before, after, last)] == ["before", "after", "last"]
    assert torn.startswith('{"event_type"')


def test_a_log_that_ends_in_half_a_line_is_continued_on_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"half')
    handler = SyncFileEventHandler(tmp_path, path.name)
    handler.handle(Happened(text="a"))
    handler.handle(Happened(text="b"))
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()[1:]] == ["a", "b"]


def test_a_deleted_log_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_sync, "_CHECK_EVERY", 0.0)
    handler = SyncFileEventHandler(tmp_path, "log.jsonl")
    handler.handle(Happened(text="a"))
    handler.log_file.unlink()
    handler.handle(Happened(text="b"))
    assert [line["text"] for line in lines(handler.log_file)] == ["b"]


def test_while_the_folder_is_gone_the_manager_hears_of_it_and_afterwards_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_sync, "_CHECK_EVERY", 0.0)
    handler = SyncFileEventHandler(tmp_path / "logs", "log.jsonl")
    manager = ObservabilityManager()
    manager.register_handler(handler)
    shutil.rmtree(tmp_path / "logs")
    manager.observe_event(Happened(text="a"))
    manager.observe_event(Happened(text="b"))
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "FileNotFoundError" in caplog.text
    (tmp_path / "logs").mkdir()
    manager.observe_event(Happened(text="c"))
    assert [line["text"] for line in lines(handler.log_file)] == ["c"]


def test_a_closed_log_refuses_events_and_is_closed_once(tmp_path: Path) -> None:
    handler = SyncFileEventHandler(tmp_path)
    handler.close()
    handler.close()
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the number is what matters
        handler.handle(Happened())
    assert caught.value.errno == errno.EBADF


def test_a_forgotten_log_is_closed(tmp_path: Path) -> None:
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir()))
    for _ in range(20):
        SyncFileEventHandler(tmp_path).handle(Happened())
    assert len(list(open_files.iterdir())) <= before + 1
