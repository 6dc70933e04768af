"""The server, a process of its own: it speaks OpenAI's chat completions, and every reply is the same stream of words.

`python server.py CHUNKS PAUSE TOGETHER` prints its base URL and serves until its standard input is closed. It pauses so
many seconds after each chunk, or sends all of them at once. It begins to reply when so many requests have come, to one
after the other within the first pause.
"""

import asyncio
import json
import re
import sys
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def event(**content: Any) -> bytes:
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "test-model", **content}
    return framed(json.dumps(whole).encode())


def framed(data: bytes) -> bytes:
    line = b"data: " + data + b"\n\n"
    return f"{len(line):x}\r\n".encode() + line + b"\r\n"


def choice(delta: dict[str, str], reason: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}], usage=None)


class Server:
    def __init__(self, chunks: int, pause: float, together: int) -> None:
        self.first = HEAD + choice({"role": "assistant", "content": ""})
        self.words = [choice({"content": f" word{n}"}) for n in range(chunks)]
        usage = {"prompt_tokens": 10, "completion_tokens": chunks, "total_tokens": 10 + chunks}
        self.last = choice({}, "stop") + event(choices=[], usage=usage) + framed(b"[DONE]") + b"0\r\n\r\n"
        self.pause = pause
        self.together = self.awaited = together
        self.all_there = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if length := LENGTH.search(head):
                    await reader.readexactly(int(length[1]))
                await self.reply(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    async def reply(self, writer: asyncio.StreamWriter) -> None:
        self.awaited -= 1
        place = max(self.awaited, 0) / self.together
        if self.awaited <= 0:
            self.all_there.set()
        await self.all_there.wait()
        if self.pause:
            await asyncio.sleep(place * self.pause)
            writer.write(self.first)
            for word in self.words:
                writer.write(word)
                await asyncio.sleep(self.pause)
            writer.write(self.last)
        else:
            writer.write(self.first + b"".join(self.words) + self.last)
        await writer.drain()


async def main(chunks: int, pause: float, together: int) -> None:
    server = await asyncio.start_server(Server(chunks, pause, together).accept, "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
