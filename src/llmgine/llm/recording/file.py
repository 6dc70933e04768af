"""The file of a recording: JSON lines, the first of which says what it is.

    {"kind": "recording", "version": 2, "llmgine": …, "provider": …, "model": …, "supports_json_schema": …}
    {"kind": "request", "n": 1, "messages": […], "tools": […], …options}
    {"kind": "chunk", "n": 1, "at": 0.31, "chunk": {"type": "TextDelta", "text": "Hel"}}
    {"kind": "end", "n": 1, "at": 0.52, "how": "complete" | "failed" | "stopped", "error": …}
    {"kind": "tool", "after": 1, "name": …, "arguments": {…}, "result": {…} | null}
    {"kind": "prompt", "prompt": …, "system": …, "builtin_tools": …, "answer": …, "error": …}

`n` counts requests; lines of requests that ran at the same time alternate. `at` is in seconds since the request.
`after` is how many requests had begun when the tool was called; its result is null if it was cancelled. `prompt` is
there where the command line made the recording.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmgine import __version__
from llmgine.errors import ConfigurationError
from llmgine.llm.recording.chunks import chunk_of
from llmgine.llm.tools.result import as_data
from llmgine.llm.types import Chunk

__all__ = ["Ending", "PromptRun", "RecordedRequest", "RecordedTool", "Recording", "RecordingFile"]

VERSION = 2
"""Since 2, requests say how long a reply may be; in those of version 1 that was not known."""

Ending = Literal["complete", "failed", "stopped"]
_ENDINGS: dict[str, Ending] = {"complete": "complete", "failed": "failed", "stopped": "stopped"}


@dataclass
class RecordedRequest:
    """One request, and what came of it."""

    line: int
    asked: dict[str, Any]
    """The messages, the tools and the options."""
    chunks: list[tuple[float, Chunk]] = field(default_factory=list[tuple[float, Chunk]])
    """Each with its seconds since the request."""
    how: Ending | None = None
    """`stopped`: whoever read it did not want to hear the end, or was cancelled."""
    at: float = 0.0
    """Seconds from the request to its end."""
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class RecordedTool:
    """One tool that ran."""

    line: int
    after: int
    name: str
    arguments: Any
    result: dict[str, Any] | None


@dataclass(frozen=True)
class PromptRun:
    """What the command line was asked, and what came of it."""

    prompt: str
    system: str | None
    builtin_tools: bool
    answer: str | None
    error: str | None


@dataclass
class Recording:
    """All that a file holds."""

    path: Path
    provider: str
    model: str
    supports_json_schema: bool
    version: int = VERSION
    requests: list[RecordedRequest] = field(default_factory=list[RecordedRequest])
    tools: list[RecordedTool] = field(default_factory=list[RecordedTool])
    prompt: PromptRun | None = None

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read a file.

        Raises:
            ConfigurationError: it cannot be read, is no recording, or is one of a later version.
        """
        path = Path(path)
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            msg = f"{path}: the recording cannot be read ({error.strerror})"
            raise ConfigurationError(msg) from error
        recording = cls._begun(path, lines[0])
        number = 1
        try:
            for number, line in enumerate(lines[1:], 2):
                if line.strip():
                    recording._add(number, json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            msg = f"{path}, line {number}: this is no line of a recording: {error!r}. Record it anew."
            raise ConfigurationError(msg) from error
        for number, request in enumerate(recording.requests, 1):
            if request.how is None:
                msg = f"{path}: request {number} (line {request.line}) has no end. Record it anew."
                raise ConfigurationError(msg)
        return recording

    @classmethod
    def _begun(cls, path: Path, line: bytes) -> Recording:
        try:
            header = json.loads(line)
            if header["kind"] == "recording" and header["version"] <= VERSION:
                known = header["provider"], header["model"], header["supports_json_schema"]
                return cls(path, *known, header["version"])
            told = f"it is of version {header['version']}, and this is llmgine {__version__}, which reads {VERSION}"
        except (ValueError, KeyError, TypeError):
            told = "its first line does not say that it is one"
        msg = f"{path} is no recording that can be replayed: {told}."
        raise ConfigurationError(msg)

    def _add(self, number: int, data: dict[str, Any]) -> None:
        kind = data.pop("kind")
        if kind == "request":
            if data.pop("n") != len(self.requests) + 1:
                msg = "a request is missing before it"
                raise ValueError(msg)
            self.requests.append(
                RecordedRequest(number, {"messages": data.pop("messages"), "tools": data.pop("tools")} | data)
            )
        elif kind == "chunk":
            self._open(data).chunks.append((float(data["at"]), chunk_of(data["chunk"])))
        elif kind == "end":
            request = self._open(data)
            request.how, request.at, request.error = _ENDINGS[data["how"]], float(data["at"]), data["error"]
        elif kind == "tool":
            self.tools.append(RecordedTool(number, **data))
        elif kind == "prompt":
            self.prompt = PromptRun(**data)
        else:
            msg = f"unknown kind {kind!r}"
            raise ValueError(msg)

    def _open(self, data: dict[str, Any]) -> RecordedRequest:
        number = int(data["n"])
        if not 1 <= number <= len(self.requests):
            msg = f"there is no request {number} before it"
            raise ValueError(msg)
        return self.requests[number - 1]


class RecordingFile:
    """A recording that is being written: under another name, until it is saved. Only its owner can read it.

    Raises:
        ConfigurationError: it cannot be written there.
    """

    def __init__(self, path: str | Path, **header: Any) -> None:
        self.path = Path(path)
        self.closed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Of mode 0600, and of a name that no other process has.
            handle, name = tempfile.mkstemp(".part", f".{self.path.name}.", self.path.parent)
        except OSError as error:
            msg = f"{path}: no recording can be written there ({error.strerror})"
            raise ConfigurationError(msg) from error
        self._part = Path(name)
        self._file = os.fdopen(handle, "wb")
        self.write("recording", version=VERSION, llmgine=__version__, **header)

    def write(self, kind: str, **data: Any) -> None:
        """Write a line; once it is closed, do nothing."""
        if self.closed:
            return
        line = {"kind": kind, **data}
        try:
            text = json.dumps(line, ensure_ascii=False, default=as_data).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
            text = json.dumps(line, default=as_data).encode()
        self._file.write(text + b"\n")

    def save(self) -> None:
        """Put what was written in the place of what may be there."""
        self._close()
        self._part.replace(self.path)

    def discard(self) -> None:
        """Forget what was written; what was there before stays."""
        self._close()
        with suppress(FileNotFoundError):
            self._part.unlink()

    def _close(self) -> None:
        self.closed = True
        self._file.close()
