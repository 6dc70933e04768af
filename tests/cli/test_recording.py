"""`llmgine record` and `llmgine replay-run`, as programs use them."""

from __future__ import annotations

import json
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Program

KEY = "sk-proj-abcdefghijklmnop1234567890"
TWO_TOOLS: list[dict[str, Any]] = [
    {
        "text": "Let me see.",
        "tool_calls": [
            {"name": "calculate", "arguments": {"expression": "6 * 7"}},
            {"name": "shout", "arguments": {"word": "hi"}},
        ],
    },
    {"text": "It is 42."},
]
TOOLS = """
print("imported")

def shout(word: str) -> str:
    open("called", "a").close()
    return word.upper()
"""


def test_a_run_is_recorded_as_chat_would_answer_and_replayed_without_server_key_or_tools(program: Program) -> None:
    tools = program.folder / "tools.py"
    tools.write_text(TOOLS)
    program.serve(TWO_TOOLS)
    program.environment["OPENAI_API_KEY"] = KEY
    asked = program.run("record", "run.jsonl", "6 * 7?", "--tools", "tools.py", "--system", "Be brief.")
    assert (asked.returncode, asked.stdout) == (0, "It is 42.\n")
    assert asked.stderr == "imported\nllmgine: recorded in run.jsonl\n"
    file = program.folder / "run.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert KEY not in file.read_text()

    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        del program.environment[name]
    (program.folder / "called").unlink()
    replayed = program.run("replay-run", "run.jsonl", "--tools", "tools.py")
    assert (replayed.returncode, replayed.stdout, replayed.stderr) == (0, "It is 42.\nno difference\n", "imported\n")
    assert not (program.folder / "called").exists()

    as_json = program.run("replay-run", "run.jsonl", "--tools", "tools.py", "--json")
    assert json.loads(as_json.stdout) == {
        "file": "run.jsonl",
        "model": "openai:test-model",
        "prompt": "6 * 7?",
        "requests": 2,
        "answer": "It is 42.",
        "error": None,
        "difference": None,
    }

    tools.write_text(TOOLS.replace("word: str", "word: str, loud: bool = True"))
    changed = program.run("replay-run", "run.jsonl", "--tools", "tools.py")
    assert changed.returncode == 1
    where = "tools.shout.function.parameters.properties.loud"
    assert changed.stdout.splitlines() == [
        "The run differs from its recording (run.jsonl, line 2): request 1 was something else.",
        f"{where}:",
        "  recorded: nothing",
        '  now:      {"default": true, "type": "boolean"}',
    ]
    as_json = program.run("replay-run", "run.jsonl", "--tools", "tools.py", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["difference"]["where"] == f"request 1: {where}"


def test_an_answer_that_comes_out_otherwise_is_a_difference(program: Program) -> None:
    assert program.run("record", "run.jsonl", "Hello", program.script([{"text": "Hi there."}])).returncode == 0
    file = program.folder / "run.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line.replace("there", "you") if '"chunk"' in line else line for line in lines))
    replayed = program.run("replay-run", "run.jsonl")
    assert replayed.returncode == 1
    assert "the end of the run was something else" in replayed.stdout
    assert '  recorded: "Hi there."\n  now:      "Hi you."\n' in replayed.stdout


def test_a_run_that_fails_is_recorded_with_its_failure(program: Program) -> None:
    model = program.script([{"text": "I", "error": "the model is on strike"}])
    asked = program.run("record", "run.jsonl", "Hello", model, "--no-tools", "--json")
    assert asked.returncode == 1
    assert json.loads(asked.stdout.splitlines()[-1])["event_type"] == "PromptFailedEvent"
    assert asked.stderr == "llmgine: the model is on strike\nllmgine: recorded in run.jsonl\n"
    replayed = program.run("replay-run", "run.jsonl")
    assert replayed.stdout == "failed, as recorded: ProviderError: the model is on strike\nno difference\n"
    assert replayed.returncode == 0


def test_a_run_that_is_stopped_is_not_recorded(program: Program) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        asking = program.start("record", "run.jsonl", "Hello", program.script([{"text": "I", "hold": True}]), "--json")
        assert asking.stdout is not None
        while b"TextChunkEvent" not in asking.stdout.readline():
            pass
        asking.send_signal(number)
        assert asking.wait(30) == code
        assert list(program.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("record", "notes.txt", "Hello"), "is no recording; it is left as it is"),
        (("record", "run.jsonl", " "), "the question is empty"),
        (("record", "run.jsonl", "Hello", "--tools", "json", "--no-tools"), "contradict each other"),
        (("replay-run", "notes.txt"), "is no recording that can be replayed"),
        (("replay-run", "none.jsonl"), "cannot be read"),
    ],
)
def test_misuse_is_a_line_and_exit_code_2(program: Program, arguments: tuple[str, ...], told: str) -> None:
    notes = program.folder / "notes.txt"
    notes.write_text("dear diary")
    misused = program.run(*arguments)
    assert (misused.returncode, misused.stdout) == (2, "")
    assert told in misused.stderr
    assert len(misused.stderr.splitlines()) == 1
    assert [each.name for each in program.folder.iterdir()] == ["notes.txt"]
    assert notes.read_text() == "dear diary"


def test_a_recording_is_replaced_by_the_next_and_shown_in_colour_at_a_terminal(program: Program) -> None:
    program.run("record", "run.jsonl", "Hello", program.script([{"text": "One."}]))
    terminal = program.terminal("record", "run.jsonl", "Hello", program.script([{"text": "Two."}]))
    terminal.expect("Two")
    terminal.expect("recorded in run.jsonl")
    assert terminal.wait() == 0
    terminal = program.terminal("replay-run", "run.jsonl")
    terminal.expect(r"Two\.\s+no difference")
    assert terminal.wait() == 0
