"""On a disk that is full, what is lost is counted and said once, and where there is room again the log goes on."""

from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from llmgine.messages import Event
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers import JsonlHandler, SyncFileEventHandler, rotating_file
from llmgine.observability.handlers.archive import Archive

_SIZE = 256 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Path]:
    """A small file system of its own, with something large on it that can be deleted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("a small disk is made with Linux's tmpfs")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "none", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    left = os.statvfs(disk)  # asked of the file system: files come and go meanwhile, as they are compressed
    (disk / "ballast").write_bytes(b"x" * (left.f_bavail * left.f_frsize - 40_000))


class Written:
    """What is in the files of a log: the numbers of the events, and how many lines are none."""

    def __init__(self, disk: Path) -> None:
        self.numbers: list[int] = []
        self.broken = 0
        for path in sorted(disk.glob("log.*"), key=lambda path: path.name.removesuffix(".gz")):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            for line in content.splitlines():
                try:
                    self.numbers.append(json.loads(line)["metadata"]["n"])
                except json.JSONDecodeError:
                    self.broken += 1


def numbered(n: int) -> Event:
    return Event(metadata={"n": n, "text": f"{n}" * 20})


@pytest.mark.parametrize(
    "options", [{}, {"max_bytes": 9000}, {"max_bytes": 9000, "compress": True, "keep": 4}], ids=lambda o: str(len(o))
)
def test_the_buffered_log_says_once_that_the_disk_is_full_counts_what_is_lost_and_goes_on(
    disk: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_again(_: int) -> bool:
        raise AssertionError("whoever has torn a line need not look whether it is")

    monkeypatch.setattr(rotating_file, "is_torn", not_again)
    handler = JsonlHandler(disk, "log.jsonl", flush_after=3600, **options)
    lost_before, total = 0, 0
    for _ in range(2):
        fill(disk)
        caplog.clear()
        while handler.dropped < lost_before + 300:
            for _ in range(7):
                handler.handle(numbered(total))
                total += 1
            handler.flush()
            if options.get("keep"):
                # Nothing is ever full for long where former files are deleted; so something else fills the disk.
                settle(handler)
                with (disk / "ballast").open("ab", buffering=0) as ballast:
                    fill_up(ballast)
        said = [record.message for record in caplog.records if "cannot be written" in record.message]
        assert len(said) == 1
        assert "No space left on device" in said[0]
        assert sum("left as they are" in record.message for record in caplog.records) <= 1

        (disk / "ballast").unlink()
        lost_before = handler.dropped
        caplog.clear()
        for _ in range(50):
            handler.handle(numbered(total))
            total += 1
            handler.flush()
        assert handler.dropped == lost_before
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert f"is written again; {lost_before} events were lost so far" in caplog.text
    settle(handler)
    handler.close()
    settle(handler)

    found = Written(disk)
    assert handler.written + handler.dropped == total
    assert found.numbers == sorted(set(found.numbers))
    assert found.numbers[-50:] == list(range(total - 50, total))
    assert found.broken <= 2
    if not options.get("keep"):
        assert len(found.numbers) == handler.written


def settle(handler: JsonlHandler) -> None:
    while (thread := handler._archive.thread) is not None and thread.is_alive():
        thread.join()


def fill_up(file: Any) -> None:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        return


def test_former_files_that_cannot_be_compressed_are_told_of_once_and_compressed_later(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = Archive(disk / "log.jsonl", compress=True)
    former = disk / "log.2026-01-01T00-00-00.000000Z.jsonl"
    for _ in range(2):
        caplog.clear()
        former.write_bytes(os.urandom(20_000))
        with (disk / "ballast").open("ab", buffering=0) as ballast:
            fill_up(ballast)
        for _ in range(3):
            archive._tidy()
        assert [record.message.partition(" of the log ")[0] for record in caplog.records] == ["Former files"]
        (disk / "ballast").unlink()
        archive._tidy()
        assert [path.name for path in disk.iterdir()] == [f"{former.name}.gz"]
        (disk / f"{former.name}.gz").unlink()


def test_the_log_that_is_written_at_once_tells_the_manager_and_goes_on_in_a_line_of_its_own(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = SyncFileEventHandler(disk, "log.jsonl")
    manager = ObservabilityManager()
    manager.register_handler(handler)
    lost = total = 0
    for _ in range(2):
        fill(disk)
        (before,) = manager.stats()
        failures = before.failures
        while failures < lost + 50:
            manager.observe_event(numbered(total))
            total += 1
            failures = manager.stats()[0].failures
        lost = failures
        (disk / "ballast").unlink()
        for _ in range(20):
            manager.observe_event(numbered(total))
            total += 1
        assert manager.stats()[0].failures == lost
    assert [record.message.partition(":")[0] for record in caplog.records] == ["SyncFileEventHandler failed on Event"]
    manager.close()

    found = Written(disk)
    assert len(found.numbers) == total - lost
    assert found.numbers == sorted(set(found.numbers))
    assert found.numbers[-20:] == list(range(total - 20, total))
    assert found.broken <= 2
