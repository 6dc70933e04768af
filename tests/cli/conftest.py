"""The real program, in a process of its own: with pipes, or at a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 30
"""For what should take a moment, on a machine that is busy."""
_SERVER = Path(__file__).parent.parent / "llm" / "openai_server.py"
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()].|\x1b.|\r")


class Terminal:
    """A pseudo-terminal with the program at its other end."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 160))
        # A session leader that opens a terminal is controlled by it: that is how it hears Ctrl-C and hang-ups.
        attach = 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", attach, "sh", os.ttyname(slave), *command],
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        self._slave = slave
        self._seen = 0
        self._output = b""

    def text(self) -> str:
        """Everything written so far, without control sequences."""
        return _ESCAPES.sub("", self._output.decode(errors="replace"))

    def colours(self) -> set[bytes]:
        """Return the control sequences that set a colour."""
        return set(re.findall(rb"\x1b\[(?:\d+;)*(?:[349]\d|10\d)(?:;\d+)*m", self._output))

    def expect(self, pattern: str) -> str:
        """Wait until the pattern is written, after what was expected before; return all up to its end."""
        limit = time.monotonic() + DEADLINE_S
        while True:
            text = self.text()[self._seen :]
            if match := re.search(pattern, text):
                self._seen += match.end()
                return text[: match.end()]
            ready, _, _ = select.select([self._master], [], [], max(0, limit - time.monotonic()))
            assert ready, f"{pattern!r} was not written; this was: {text}"
            try:
                self._output += os.read(self._master, 65536)
            except OSError as error:
                raise AssertionError(f"{pattern!r} was not written before the end; this was: {text}") from error

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def hang_up(self) -> None:
        """Close the terminal's window."""
        for end in (self._slave, self._master):
            with contextlib.suppress(OSError):
                os.close(end)

    def wait(self) -> int:
        """Wait for the end of the program and return its exit code."""
        limit = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < limit, self.text()
            with contextlib.suppress(OSError):
                if select.select([self._master], [], [], 0.05)[0]:
                    self._output += os.read(self._master, 65536)  # it waits for its output to be read
        return self.process.returncode


class Program:
    """`python -m llmgine` with a home, a working folder and an environment of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "work"
        self.folder.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        self.environment = kept | {
            "HOME": str(home),
            "PYTHON": sys.executable,
            "TERM": "xterm-256color",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # the test does not answer where the cursor is
        }
        self._scripts = 0
        self._started: list[subprocess.Popen[bytes]] = []
        self._terminals: list[Terminal] = []

    def script(self, replies: list[dict[str, Any]]) -> str:
        """Write a script for the scripted provider; return the option that chooses it."""
        self._scripts += 1
        path = self.home / f"script{self._scripts}.json"
        path.write_text(json.dumps(replies))
        return f"--model=scripted:{path}"

    def serve(self, replies: list[dict[str, Any]]) -> None:
        """Start a server that speaks OpenAI's protocol and plays the replies, and have the program use it."""
        path = self.home / "server.json"
        path.write_text(json.dumps(replies))
        server = subprocess.Popen([sys.executable, str(_SERVER), str(path)], stdout=subprocess.PIPE)
        self._started.append(server)
        assert server.stdout is not None
        self.environment["OPENAI_BASE_URL"] = server.stdout.readline().decode().strip()
        self.environment["OPENAI_API_KEY"] = "a key"

    def stored(self, session: str, path: Path | None = None) -> list[str]:
        """Return the contents of a conversation's messages in the database."""
        database = path or self.home / ".local/share/llmgine/chats.db"
        with contextlib.closing(sqlite3.connect(database)) as connection:
            rows = connection.execute(
                "SELECT message FROM chat_messages WHERE conversation = ? ORDER BY id", (session,)
            )
            return [json.loads(message)["content"] for (message,) in rows]

    def run(self, *arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        """Run it to its end with pipes."""
        process = self.start(*arguments)
        out, err = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, timeout=DEADLINE_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out.decode(), err.decode())

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the same surroundings; the interpreter is `$PYTHON`."""
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it with pipes."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-m", "llmgine", *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        self._started.append(process)
        return process

    def terminal(self, *arguments: str) -> Terminal:
        """Start it at a terminal."""
        terminal = Terminal([sys.executable, "-m", "llmgine", *arguments], self.environment, self.folder)
        self._started.append(terminal.process)
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        for terminal in self._terminals:
            terminal.hang_up()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The program, new on this machine."""
    program = Program(tmp_path)
    yield program
    program.close()
