"""What runs in the process of a tool: read the request, call the function, write the answer, a line of JSON each."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
from threading import Thread
from traceback import format_exception_only
from typing import Any, BinaryIO

__all__ = ["main"]


def main() -> None:
    """Answer the one request that comes on standard input."""
    requests, answers = _take_channel()
    line = requests.readline()
    if not line.endswith(b"\n"):  # the parent is gone already
        return
    request = json.loads(line)
    Thread(target=_end_with_parent, args=(requests,), daemon=True).start()
    answers.write(_answer(request).encode() + b"\n")
    answers.flush()


def _take_channel() -> tuple[BinaryIO, BinaryIO]:
    """Return the ends of the channel, and give the tool other ones: whatever it or its children print is no answer."""
    requests, answers = os.dup(0), os.dup(1)  # which children do not inherit
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def _end_with_parent(requests: BinaryIO) -> None:
    requests.read()  # returns when the other end is closed: the parent is done with this process, or dead
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():  # this process and what it has started, nobody else
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _answer(request: dict[str, Any]) -> str:
    from llmgine.errors import ToolError, ToolValidationError
    from llmgine.llm.tools.process import resolve
    from llmgine.llm.tools.result import as_data
    from llmgine.llm.tools.tool import Tool

    try:
        function = resolve(request["module"], request["name"])
        arguments = Tool.from_function(function, name="tool").validator.validate(request["arguments"])
        value = function(**arguments)
        value = asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value
        return json.dumps({"kind": "result", "value": as_data(value)})
    except ToolValidationError as exc:
        kind, told = "invalid", str(exc)
    except ToolError as exc:
        kind, told = "error", str(exc)
    except SystemExit as exc:
        kind, told = "error", f"it tried to exit the program, with {exc.code!r}"
    except BaseException as exc:  # noqa: BLE001  # whatever it raises is for the parent to tell
        kind, told = "error", "".join(format_exception_only(exc)).strip()
    return json.dumps({"kind": kind, "value": told})


async def _awaited(value: Any) -> Any:
    return await value
