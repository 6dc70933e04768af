"""`llmgine chat` with a model behind a socket that speaks OpenAI's protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Program

TWO_TOOLS: list[dict[str, Any]] = [
    {
        "text": "Let me see.",
        "tool_calls": [
            {"name": "calculate", "arguments": {"expression": "6 * 7"}},
            {"name": "read_file", "arguments": {"path": "../secret"}},
        ],
    },
    {"text": "It is 42."},
]


def test_two_tools_called_in_one_turn_run_and_every_part_is_told_in_order(program: Program) -> None:
    program.serve(TWO_TOOLS)
    asked = program.run("chat", "--session", "a", "--log-dir", "logs", "--json", "What is 6 * 7?")
    assert asked.returncode == 0
    events = [json.loads(line) for line in asked.stdout.splitlines()]
    told = [
        (event["event_type"], event.get("tool_name") or event.get("text") or event.get("status")) for event in events
    ]
    assert told == [
        ("EngineStatusEvent", "calling model"),
        ("TextChunkEvent", "Let"),
        ("TextChunkEvent", " me"),
        ("TextChunkEvent", " see."),
        ("ModelCallEndedEvent", None),
        ("ToolCallEvent", "calculate"),
        ("ToolCallEvent", "read_file"),
        ("EngineStatusEvent", "running tools"),
        ("ToolExecuteResultEvent", "calculate"),
        ("ToolExecuteResultEvent", "read_file"),
        ("EngineStatusEvent", "calling model"),
        ("TextChunkEvent", "It"),
        ("TextChunkEvent", " is"),
        ("TextChunkEvent", " 42."),
        ("ModelCallEndedEvent", None),
        ("LLMResponseEvent", "It is 42."),
    ]
    assert [event["tool_args"] for event in events[8:10]] == [{"expression": "6 * 7"}, {"path": "../secret"}]
    assert [event["execution_succeed"] for event in events[8:10]] == [True, False]
    assert "outside the working folder" in events[9]["tool_result"]
    assert events[-1]["usage"] == {
        "input_tokens": 22,
        "output_tokens": 10,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
    }
    [log] = (program.folder / "logs").iterdir()
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event for event in logged if "engine_id" in event] == events
    assert program.stored("a")[:3] == ["What is 6 * 7?", "Let me see.", "42"]
    assert program.stored("a")[4] == "It is 42."


def test_the_answer_alone_is_printed_also_after_tools(program: Program) -> None:
    program.serve(TWO_TOOLS)
    asked = program.run("chat", stdin="What is 6 * 7?")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "It is 42.\n", "")


FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a wrong key": ({"status": 401, "error": {"message": "bad key"}}, "", "refused the key"),
    "an unknown model": ({"status": 404, "error": {"message": "no such model"}}, "", "no such model"),
    "a reply cut off": ({"text": "The first half", "cut_off": True}, "The first half\n", "broke off"),
    "a reply garbled": ({"text": "The first half", "garbage": True}, "The first half\n", "broke off"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_goes_wrong_is_one_line_and_exit_code_1_and_what_arrived_is_kept(program: Program, case: str) -> None:
    reply, printed, line = FAILURES[case]
    program.serve([{"text": "One."}, reply, {"text": "Three."}])
    assert program.run("chat", "--session", "a", "First?").returncode == 0
    asked = program.run("chat", "--session", "a", "Second?")
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, printed, 1)
    assert asked.stderr.startswith("llmgine: ")
    assert line in asked.stderr
    assert program.stored("a") == ["First?", "One.", *(["Second?", printed.strip()] if printed else [])]
    assert program.run("chat", "--session", "a", "Third?").stdout == "Three.\n"


def test_no_network_is_one_line_and_exit_code_1(program: Program) -> None:
    program.environment |= {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": "a key"}
    asked = program.run("chat", "--model", "openai:m", "x")
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1)
    assert "http://127.0.0.1:9/v1 cannot be reached" in asked.stderr


def test_a_reply_that_ends_too_early_is_printed_with_a_warning(program: Program) -> None:
    program.serve([{"text": "Long story", "finish_reason": "length"}])
    asked = program.run("chat", "x")
    assert (asked.returncode, asked.stdout) == (0, "Long story\n")
    assert asked.stderr == "llmgine: the reply is not complete: it has reached the model's limit of length\n"
