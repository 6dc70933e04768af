# ruff: noqa: PLR0911, PLR0912, PLR0915, T201  # one branch for each thing that no server should do
"""A server by hand, of the revision before the last, that does what no server should.

    python raw.py [--state FILE] [--child] [--stubborn] [--until N]

FILE counts how often it has been started. With --child it has a child in its group; --stubborn servers, and their
children, end neither with their input nor at SIGTERM. With --until, it dies as it is started for the Nth time or later.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

options = argparse.ArgumentParser()
options.add_argument("--state")
options.add_argument("--child", action="store_true")
options.add_argument("--stubborn", action="store_true")
options.add_argument("--until", type=int, default=0)
args = options.parse_args()

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
NUMBER = {"type": "object", "properties": {"n": {"type": "integer", "description": "A number."}}}
tools = [
    {"name": "echo", "description": "Says it again.", "inputSchema": {**NUMBER, "required": ["n"]}},
    *(
        {"name": name, "inputSchema": NUMBER}
        for name in (
            *(
                "starts",
                "pids",
                "die",
                "die_once",
                "hang",
                "never",
                "cancelled",
                "late",
                "garbage",
                "invalid_utf8",
                "half",
            ),
            *(
                "huge",
                "flood",
                "twice",
                "meta",
                "add_tool",
                "say",
                "image",
                "fail",
                "refuse",
                "progress",
                "crash_midway",
            ),
            *("with.dots", "deaf", "ask", "called", "shut", "blank", "lists", "add_later"),
        )
    ),
    {"name": "wrong", "inputSchema": NUMBER, "outputSchema": {"type": "object", "required": ["x"]}},
    {"name": "right", "inputSchema": NUMBER, "outputSchema": {"type": "object", "required": ["x"]}},
]
starts = 1
if args.state:
    state = Path(args.state)
    starts = int(state.read_text() or 0) + 1 if state.exists() else 1
    state.write_text(str(starts))
if args.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = None
if args.child:
    wait = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-S", "-c", wait])
if 0 < args.until <= starts:
    print("I cannot go on", file=sys.stderr)
    sys.exit(3)

cancelled: list[object] = []
called: list[object] = []
asking: dict[object, object] = {}
writing = threading.Lock()


def send(message: dict[str, Any]) -> None:
    with writing:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def text(value: object) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]}


def later(seconds: float, message: dict[str, Any]) -> None:
    timer = threading.Timer(seconds, send, [message])
    timer.daemon = True
    timer.start()


def add_tools(n: int, seconds: float = 0.0) -> None:
    for number in range(n):
        tools.append({"name": f"added_{number}", "inputSchema": NUMBER})
        send({"method": "notifications/tools/list_changed"})
        time.sleep(seconds)


def call(number: object, params: dict[str, Any]) -> dict[str, Any] | None:
    n = params.get("arguments", {}).get("n", 0)
    called.append(params["name"])
    match params["name"]:
        case "echo" | "with.dots" | "added":
            return text(str(n))
        case "starts":
            return text(str(starts))
        case "pids":
            return text([os.getpid(), child.pid if child else 0])
        case "die" | "crash_midway":
            print("password=hunter2 and then the roof fell in", file=sys.stderr, flush=True)
            os._exit(7)
        case "die_once" if starts == 1:
            os._exit(7)
        case "die_once":
            return text(f"alive in life {starts}")
        case "hang" | "never":
            return None
        case "cancelled":
            return text(cancelled)
        case "late":
            later(n / 1000, {"id": number, "result": text("late")})
            return None
        case "garbage":
            print("this is no JSON\n{\n[]\n" + "[" * 100_000 + "\nnull\n" + '{"jsonrpc": "2.0"}', flush=True)
            return text("after the garbage")
        case "invalid_utf8":
            sys.stdout.buffer.write(b"\xff\xfe\xfd\n")
            sys.stdout.buffer.flush()
            return text("after the bytes")
        case "half":
            whole = json.dumps({"jsonrpc": "2.0", "id": number, "result": text("in two halves")}) + "\n"
            for part in (whole[:20], whole[20:]):
                sys.stdout.write(part)
                sys.stdout.flush()
                time.sleep(0.05)
            return None
        case "huge":
            for _ in range(n):
                sys.stdout.write("x" * 2**20)
            sys.stdout.flush()
            return None
        case "flood":
            line = json.dumps(
                {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
            )
            for _ in range(n // 100):
                sys.stdout.write((line + "\n") * 100)
            sys.stdout.flush()
            return text("after the flood")
        case "lists":
            return text(str(called.count("tools/list")))
        case "blank":
            sys.stdout.write("\n" * n)
            return text("after the blank lines")
        case "twice":
            send({"id": number, "result": text("first")})
            return text("second")
        case "meta":
            return text(params.get("_meta", {}))
        case "add_tool":
            add_tools(n)
            return text("added")
        case "add_later":
            threading.Thread(target=add_tools, args=[n, 0.01], daemon=True).start()
            return text("later")
        case "say":
            for _ in range(n):
                print("something", "x" * 10_000, file=sys.stderr)
            sys.stderr.flush()
            return text("said")
        case "image":
            words = {"type": "text", "text": "Look:"}
            return {"content": [words, {"type": "image", "mimeType": "image/png", "data": PIXEL}]}
        case "fail":
            return {**text("the file is not there"), "isError": True}
        case "progress":
            token = params["_meta"]["progressToken"]
            for done in range(n):
                about = {"progressToken": token, "progress": done + 1, "total": n, "message": f"step {done + 1}"}
                send({"method": "notifications/progress", "params": about})
            return text("done")
        case "wrong":
            return {**text("{}"), "structuredContent": {"y": 1}}
        case "right":
            return {**text("x is 1"), "structuredContent": {"x": 1}}
        case "ask":
            form = {"type": "object", "properties": {"color": {"type": "string"}}}
            asking[f"q{number}"] = number
            question = {"message": "Which color?", "requestedSchema": form}
            send({"id": f"q{number}", "method": "elicitation/create", "params": question})
            return None
        case "called":
            return text([name for name in called if name != "tools/list"])
        case "shut":
            os.close(0)
            time.sleep(600)
        case "refuse" if n:
            send({"id": number, "error": {"code": -32603, "message": "Connection closed"}})
            return None
        case "deaf":
            time.sleep(600)
    send({"id": number, "error": {"code": -32602, "message": "no such thing"}})
    return None


def answer(request: dict[str, Any]) -> None:
    number, params = request.get("id"), request.get("params") or {}
    if number in asking:
        send({"id": asking.pop(number), "result": text(request["result"])})
        return
    match request.get("method"):
        case "initialize":
            about = {"name": "raw", "version": "1"}
            capabilities = {"tools": {"listChanged": True}, "resources": {}, "prompts": {}}
            version = params["protocolVersion"]
            result: dict[str, Any] | None = {
                "protocolVersion": version,
                "serverInfo": about,
                "capabilities": capabilities,
            }
        case "tools/list":
            at = int(params.get("cursor", 0))
            called.extend(["tools/list"] * (at == 0))
            result = {"tools": tools[at : at + 10]}
            if at + 10 < len(tools):
                result["nextCursor"] = str(at + 10)
        case "tools/call":
            result = call(number, params)
        case "resources/list":
            at = int(params.get("cursor", 0))
            result = {"resources": [{"uri": f"mem://{at}", "name": str(at)}]}
            if at < 4:
                result["nextCursor"] = str(at + 1)
        case "resources/read":
            result = {"contents": [{"uri": params["uri"], "text": "what is there"}]}
        case "prompts/list":
            result = {"prompts": [{"name": "hello", "arguments": [{"name": "who"}]}]}
        case "prompts/get":
            words = {"type": "text", "text": f"Greet {params['arguments']['who']}."}
            result = {"messages": [{"role": "user", "content": words}]}
        case "notifications/cancelled":
            cancelled.append(params["requestId"])
            return
        case _:
            if number is not None:
                send({"id": number, "error": {"code": -32601, "message": "Method not found"}})
            return
    if result is not None:
        send({"id": number, "result": result})


for line in sys.stdin:
    answer(json.loads(line))
while args.stubborn:
    time.sleep(600)
if child is not None:
    os._exit(0)
