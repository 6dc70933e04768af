"""A small server that speaks OpenAI's chat completions over a real socket, and plays a script, odd habits included.

As a program: `python openai_server.py SCRIPT.json` prints its base URL and serves until it is killed.

The script is a list of replies, one a request (the last one is repeated if `repeat` is given):
    {"text": "Hello there"}                                     streamed word by word
    {"tool_calls": [{"name": "add", "arguments": {"a": 1}}]}    arguments streamed in pieces
    {"status": 429, "headers": {"retry-after": "7"}, "error": {"message": "slow down", "code": null}}
and for replies with text or tool calls any of
    "habit": "no index" | "bare" | "one index" | "whole" | "repeats" | "says stop"    how tool calls are streamed
    "usage": false · "cut_off": true · "garbage": true · "hold": true (stop before the end, and keep the line open)
    "cut_off_late": true (after the finish reason)
(a text that is longer than the request allows, in words, ends there)
    "usage": {…} instead of the usual one · "stall": true (before the end, signs of life but no more chunks)
or  {"page": "<html>…", "status": 200}                          something else than chat completions
or  {"raw": ["{\"choices\": []}", "[DONE]"]}                    the data of each event, as it is
or  {"silent": true}                                            no answer at all
or  {"drip": true}                                              an answer that never gets past its headers
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["OpenAIServer"]


class OpenAIServer:
    """Serves while in its `async with` block."""

    def __init__(
        self, replies: list[dict[str, Any]], *, models: tuple[str, ...] = ("test-model",), port: int = 0
    ) -> None:
        self.replies = list(replies)
        self.models = models
        self.port = port
        self.requests: list[dict[str, Any]] = []
        """The bodies of the requests."""
        self.keys: list[str] = []
        self.held = asyncio.Event()
        """Set when a reply is being held."""
        self.hung_up = asyncio.Event()
        """Set when a client has closed a connection while its reply was held."""
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._serve(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if line.startswith("GET"):
            models = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
            return self._whole(writer, 200, models)
        self.keys.append(headers.get("authorization", ""))
        self.requests.append(json.loads(body))
        reply = self._next()
        if reply.get("silent"):
            return await self._hold(reader)
        if reply.get("drip"):
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:  # until the client has hung up
                writer.write(b"x: y\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        if "page" in reply:
            return self._whole(writer, reply.get("status", 200), reply["page"], {"content-type": "text/html"})
        if "status" in reply:
            return self._whole(writer, reply["status"], {"error": reply["error"]}, reply.get("headers"))
        return await self._stream(reader, writer, reply)

    async def _hold(self, reader: asyncio.StreamReader) -> bool:
        self.held.set()
        await reader.read()
        self.hung_up.set()
        return False

    def _next(self) -> dict[str, Any]:
        if not self.replies:
            return {"status": 500, "error": {"message": "the script has ended"}}
        return self.replies[0] if self.replies[0].get("repeat") else self.replies.pop(0)

    @staticmethod
    def _whole(writer: asyncio.StreamWriter, status: int, content: Any, headers: dict[str, str] | None = None) -> bool:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        head = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"HTTP/1.1 {status} Status\r\n{lines}\r\n".encode() + body)
        return True

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: dict[str, Any]) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if "raw" in reply:
            for data in reply["raw"]:
                _send(writer, f"data: {data}\n\n".encode())
            writer.write(b"0\r\n\r\n")
            return True
        reply = _within(self.requests[-1], reply)
        for delta in deltas(reply):
            _event(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            await writer.drain()
        if reply.get("hold"):
            return await self._hold(reader)
        while reply.get("stall"):
            _send(writer, b": ping\n\n")
            await writer.drain()  # which ends it when the client has hung up
            await asyncio.sleep(0.02)
        if reply.get("cut_off"):
            return False
        if reply.get("garbage"):
            _send(writer, b"data: {this is no JSON\n\n")
        stop = "stop" if reply.get("habit") == "says stop" or not reply.get("tool_calls") else "tool_calls"
        reason = reply.get("finish_reason", stop)
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if reply.get("cut_off_late"):
            await writer.drain()
            return False
        if reply.get("usage", True):
            counted = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
            usage = reply["usage"] if isinstance(reply.get("usage"), dict) else counted
            _event(writer, {"choices": [], "usage": usage})
        _send(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def deltas(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The pieces in which a reply is streamed."""
    parts: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    parts += [{"content": word} for word in re.findall(r"\s*\S+", reply.get("text", ""))]
    habit = reply.get("habit")
    for number, call in enumerate(reply.get("tool_calls", ())):
        index = {"no index": None, "bare": None, "one index": 0}.get(habit or "", number)
        call_id = call.get("id", f"call_{number}")
        arguments = json.dumps(call["arguments"]) if not isinstance(call["arguments"], str) else call["arguments"]
        half = len(arguments) // 2
        pieces = [arguments] if habit in {"whole", "one index", "bare"} else ["", arguments[:half], arguments[half:]]
        for position, piece in enumerate(pieces):
            part: dict[str, Any] = {"index": index, "function": {"arguments": piece}}
            if position == 0 or habit == "repeats":
                part |= {"type": "function"} if habit == "bare" else {"id": call_id, "type": "function"}
                part["function"]["name"] = call["name"]
            parts.append({"tool_calls": [part]})
    return parts


def _within(request: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    """A reply as long as the request allows: a word is a token."""
    words = re.findall(r"\s*\S+", reply.get("text", ""))
    longest = request.get("max_completion_tokens", request.get("max_tokens", len(words)))
    if len(words) <= longest:
        return reply
    usage = {"prompt_tokens": 11, "completion_tokens": longest, "total_tokens": 11 + longest}
    return {"text": "".join(words[:longest]), "finish_reason": "length", "usage": usage}


def _event(writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
    whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "test-model-1", **content}
    _send(writer, f"data: {json.dumps(whole)}\n\n".encode())


def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


async def _main(replies: list[dict[str, Any]]) -> None:
    async with OpenAIServer(replies) as server:
        print(server.base_url, flush=True)  # noqa: T201  # whoever started it reads this
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(Path(sys.argv[1]).read_text())))
