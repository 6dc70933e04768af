"""`llmgine chat` as programs use it: what goes to which stream, in which order, and how it ends."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Program

TWO_TOOLS: list[dict[str, Any]] = [
    {
        "text": "Let me see. ",
        "tool_calls": [
            {"name": "calculate", "arguments": {"expression": "6 * 7"}},
            {"name": "current_time", "arguments": {"zone": "Nowhere/Land"}},
        ],
    },
    {"text": "It is **42**."},
]


def test_the_answer_alone_is_printed_to_a_question_given_or_piped_in(program: Program) -> None:
    model = program.script(TWO_TOOLS)
    for asked in (program.run("chat", model, "6 * 7?"), program.run("chat", model, stdin="6 * 7?\n")):
        assert (asked.returncode, asked.stdout, asked.stderr) == (0, "It is **42**.\n", "")


def test_json_prints_every_event_in_order_and_nothing_else(program: Program) -> None:
    asked = program.run("chat", program.script(TWO_TOOLS), "--json", "6 * 7?")
    events = [json.loads(line) for line in asked.stdout.splitlines()]
    kinds = [event["event_type"] for event in events if event["event_type"] != "TextChunkEvent"]
    assert kinds == [
        "EngineStatusEvent",
        "ModelCallEndedEvent",
        "ToolCallEvent",
        "ToolCallEvent",
        "EngineStatusEvent",
        "ToolExecuteResultEvent",
        "ToolExecuteResultEvent",
        "EngineStatusEvent",
        "ModelCallEndedEvent",
        "LLMResponseEvent",
    ]
    assert [event["tool_name"] for event in events if "tool_result" in event] == ["calculate", "current_time"]
    assert [event["execution_succeed"] for event in events if "tool_result" in event] == [True, False]
    text = "".join(event["text"] for event in events if event["event_type"] == "TextChunkEvent")
    assert text == "Let me see. It is **42**."
    assert events[-1]["text"] == "It is **42**."
    assert len({event["correlation_id"] for event in events}) == 1
    assert len({event["session_id"] for event in events}) == 1
    assert asked.stderr == ""


def test_the_log_has_every_event_and_its_path_is_said(program: Program) -> None:
    asked = program.run("chat", program.script(TWO_TOOLS), "--log-dir", "logs", "--session", "s", "--json", "6 * 7?")
    [log] = (program.folder / "logs").iterdir()
    assert asked.stderr == f"llmgine: every event is logged to {log.relative_to(program.folder)}\n"
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    printed = [json.loads(line) for line in asked.stdout.splitlines()]
    kinds = [event["event_type"] for event in logged]
    assert kinds[:2] == ["SessionStartEvent", "CommandStartedEvent"]
    assert kinds[-2:] == ["CommandResultEvent", "SessionEndEvent"]
    assert logged[2:-2] == printed
    assert {event["session_id"] for event in logged} == {"s"}


def test_what_tools_print_is_no_part_of_the_answer(program: Program) -> None:
    (program.folder / "noisy.py").write_text(
        "print('imported')\n\ndef shout(word: str) -> str:\n    print('called')\n    return word.upper()\n"
    )
    script: list[dict[str, Any]] = [
        {"tool_calls": [{"name": "shout", "arguments": {"word": "hi"}}]},
        {"text": "Done.", "expects": "HI"},
    ]
    asked = program.run("chat", program.script(script), "--tools", "noisy", "Shout!")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "Done.\n", "imported\ncalled\n")


def test_a_tool_that_raises_hangs_or_returns_a_megabyte_does_no_harm(program: Program) -> None:
    (program.folder / "bad.py").write_text(
        "import time\n\ndef raises() -> None:\n    raise OSError('oh')\n\ndef hangs() -> None:\n    time.sleep(600)\n\n"
        "def talks() -> str:\n    return 'x' * 1_000_000\n"
    )
    program.environment["LLMGINE_TOOL_TIMEOUT_SECONDS"] = "0.2"
    calls = [{"name": name} for name in ("raises", "hangs", "talks", "missing")]
    asked = program.run(
        "chat", program.script([{"tool_calls": calls}, {"text": "Done."}]), "--tools=bad", "--json", "x"
    )
    results = [event for event in map(json.loads, asked.stdout.splitlines()) if "tool_result" in event]
    assert [event["execution_succeed"] for event in results] == [False, False, True, False]
    assert "OSError: oh" in results[0]["tool_result"]
    assert "timed out" in results[1]["tool_result"]
    assert len(results[2]["tool_result"]) < 40_000
    assert (asked.returncode, asked.stderr) == (0, "")


def test_a_users_tool_replaces_the_built_in_one_of_its_name(program: Program) -> None:
    (program.folder / "mine.py").write_text("def calculate(expression: str) -> str:\n    return 'mine'\n")
    call = {"tool_calls": [{"name": "calculate", "arguments": {"expression": "1"}}]}
    script = program.script([call, {"text": "Done.", "expects": "mine"}])
    assert program.run("chat", script, "--tools", "mine:calculate", "x").stdout == "Done.\n"
    script = program.script(
        [call, {"text": "Done.", "expects": "Error: Tool 'calculate' not found. Available tools: none."}]
    )
    assert program.run("chat", script, "--no-tools", "x").stdout == "Done.\n"


def test_a_session_goes_on_in_the_next_process_and_no_other_does(program: Program) -> None:
    assert program.run("chat", program.script([{"text": "One."}]), "--session", "a", "First?").returncode == 0
    assert program.stored("a") == ["First?", "One."]
    assert program.run("chat", program.script([{"text": "Two."}]), "--session", "a", "Second?").returncode == 0
    assert program.stored("a") == ["First?", "One.", "Second?", "Two."]
    assert program.run("chat", program.script([{"text": "Else."}]), "--session", "b", "Third?").returncode == 0
    assert program.run("chat", program.script([{"text": "Gone."}]), "Fourth?").returncode == 0
    assert program.stored("b") == ["Third?", "Else."]
    assert (program.home / ".local/share/llmgine/chats.db").exists()


def test_the_database_can_be_named(program: Program) -> None:
    program.environment["LLMGINE_DB_URL"] = "sqlite:///mine.db"
    assert program.run("chat", program.script([{"text": "One."}]), "--session", "a", "First?").returncode == 0
    assert program.stored("a", program.folder / "mine.db") == ["First?", "One."]


def test_what_arrived_of_a_reply_that_breaks_off_is_printed_and_kept(program: Program) -> None:
    model = program.script([{"text": "The first half", "cut_off": True}])
    asked = program.run("chat", model, "--session", "a", "Tell me.")
    assert (asked.returncode, asked.stdout) == (1, "The first half\n")
    assert asked.stderr.startswith("llmgine: The reply broke off")
    assert asked.stderr.count("\n") == 1
    assert program.stored("a") == ["Tell me.", "The first half"]
    asked = program.run("chat", model, "--json", "Tell me.")
    last = json.loads(asked.stdout.splitlines()[-1])
    assert (last["event_type"], last["text"]) == ("PromptFailedEvent", "The first half")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_however_it_is_ended_in_mid_reply_no_finished_turn_is_lost(program: Program, number: int, code: int) -> None:
    program.run("chat", program.script([{"text": "One."}]), "--session", "a", "First?")
    hold = [TWO_TOOLS[0], {"text": "And then", "hold": True}]
    process = program.start("chat", program.script(hold), "--session", "a", "--log-dir", "logs", "--json", "Second?")
    assert process.stdout is not None
    assert process.stderr is not None
    while b" then" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in said
    stored = program.stored("a")
    assert stored[:3] == ["First?", "One.", "Second?"]
    assert stored[3].startswith("Let me see. ")
    assert stored[4] == "42"
    assert len(stored) == 6 + (number != signal.SIGKILL)  # with a moment's notice also the half reply
    log = next((program.folder / "logs").iterdir()).read_text().splitlines()
    assert json.loads(log[-1])["event_type"] == ("TextChunkEvent" if number == signal.SIGKILL else "SessionEndEvent")
    if number == signal.SIGINT:
        assert json.loads(rest.splitlines()[-1])["event_type"] == "PromptCancelledEvent"
    asked = program.run("chat", program.script([{"text": "Three."}]), "--session", "a", "Third?")
    assert (asked.returncode, asked.stdout) == (0, "Three.\n")


def test_a_reader_that_goes_away_ends_it_quietly(program: Program) -> None:
    program.run("chat", program.script([{"text": "One."}]), "--session", "a", "First?")
    process = program.start("chat", program.script(TWO_TOOLS), "--session", "a", "--json", "Second?")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + signal.SIGPIPE, b"")
    assert program.stored("a")[:2] == ["First?", "One."]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")  # noqa: PTH110
def test_an_answer_that_cannot_be_written_is_a_failure(program: Program) -> None:
    program.environment["MODEL"] = program.script([{"text": "One."}])
    asked = program.shell('"$PYTHON" -m llmgine chat "$MODEL" x > /dev/full')
    assert asked.returncode == 1
    assert asked.stderr == "llmgine: [Errno 28] No space left on device\n"


MISUSES: dict[str, tuple[list[str], str]] = {
    "an unknown option": (["--nonsense", "x"], "No such option: --nonsense"),
    "an unknown provider": (["--model", "nonsense:x", "x"], "'nonsense:x' names no model"),
    "no provider": (["--model", "nonsense", "x"], "'nonsense' names no model"),
    "a script that is missing": (["--model", "scripted:none.json", "x"], "none.json is not a script"),
    "a bad session name": (["--session", "../x", "x"], "--session '../x': expected"),
    "an empty session name": (["--session", "", "x"], "--session '': expected"),
    "an empty question": (["  "], "nothing was asked"),
    "empty input": ([], "nothing was asked"),
    "a contradiction": (["--no-tools", "--tools", "os", "x"], "--no-tools and --tools contradict"),
    "a missing module": (["--tools", "nonsense", "x"], "--tools nonsense: there is no module"),
    "a module that raises": (["--tools", "raising", "x"], "importing it failed: ZeroDivisionError"),
    "a function that cannot be a tool": (["--tools", "os.path:join", "x"], "'join' cannot be a tool"),
    "a tool twice": (
        ["--tools", "os.path:basename", "--tools", "os.path:basename", "x"],
        "There is a tool 'basename' already",
    ),
    "a log that cannot be written": (["--log-dir", "file/logs", "x"], "--log-dir file/logs: no log can be written"),
    "a key that is missing": (["--model", "openai:gpt-4o-mini", "x"], "needs a key: set OPENAI_API_KEY"),
    "a database that is none": (["--session", "a", "x"], "'nonsense://x' is not a usable database URL"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_one_line_and_exit_code_2(program: Program, case: str) -> None:
    arguments, line = MISUSES[case]
    (program.folder / "raising.py").write_text("1 / 0\n")
    (program.folder / "file").touch()
    program.environment["LLMGINE_MODEL"] = program.script([{"text": "x"}]).removeprefix("--model=")
    if case == "a database that is none":
        program.environment["LLMGINE_DB_URL"] = "nonsense://x"
    asked = program.run("chat", *arguments)
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (2, "", 1), asked.stderr
    assert asked.stderr.startswith("llmgine: ")
    assert line in asked.stderr


def test_a_database_that_cannot_be_opened_is_a_failure(program: Program) -> None:
    program.environment["LLMGINE_DB_URL"] = "sqlite:////nonexistent/folder/chats.db"
    asked = program.run("chat", program.script([{"text": "x"}]), "--session", "a", "x")
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1)


def test_a_bug_is_one_line_unless_the_traceback_is_wanted(program: Program) -> None:
    (program.folder / "buggy.py").write_text(
        "from llmgine.llm.providers.scripted import ScriptedProvider\n"
        "def _stream(*_, **__):\n    raise RuntimeError('oh')\n"
        "ScriptedProvider.stream = _stream\n\ndef tool() -> None: ...\n"
    )
    arguments = ("chat", program.script([]), "--tools", "buggy", "x")
    line = "llmgine: unexpected RuntimeError: oh"
    assert program.run(*arguments).stderr == f"{line} (LLMGINE_DEBUG=1 shows where it comes from)\n"
    program.environment["LLMGINE_DEBUG"] = "1"
    assert f"{line}\nTraceback (most recent call last)" in program.run(*arguments).stderr


def test_help_and_version_come_without_what_they_do_not_need(program: Program) -> None:
    assert program.run("--version").stdout.startswith("llmgine 0.")
    assert "chat" in program.run().stdout
    wanted = "'openai', 'sqlalchemy', 'xllamacpp', 'prompt_toolkit', 'llmgine.llm'"
    code = f"import sys; from llmgine.cli import main; main(); print([m for m in ({wanted},) if m in sys.modules])"
    program.environment["CODE"] = code
    asked = program.shell('"$PYTHON" -c "$CODE" chat --help')
    assert asked.returncode == 0
    assert asked.stdout.endswith("[]\n")
    for source in ("--model", "LLMGINE_MODEL", "OPENAI_API_KEY", "Ollama", "small demonstration model"):
        assert source in asked.stdout
