"""`llmgine chat` as people use it: at a terminal, with its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Program

CTRL_C, CTRL_D, ENTER, UP = "\x03", "\x04", "\r", "\x1b[A"
PROMPT = "\n›"  # a new one: when it is drawn again, it stays on its line


def test_a_conversation_with_tools_a_command_and_an_end(program: Program) -> None:
    call: dict[str, Any] = {"tool_calls": [{"name": "calculate", "arguments": {"expression": "6 * 7"}}]}
    terminal = program.terminal("chat", program.script([call, {"text": "It is **42**."}, {"text": "You are welcome."}]))
    assert terminal.expect(PROMPT).startswith("LLMgine")
    assert "scripted:" in terminal.text()
    assert "as asked for" in terminal.text()
    terminal.type("What is 6 * 7?" + ENTER)
    terminal.expect(r"─ calculate ─+╮\n│ expression = \"6 \* 7\" +│\n│ 42 +│\n╰─+ \d\.\d\d s ─╯")
    terminal.expect(r"It is 42\.\n")
    terminal.expect(r"\d+ tokens in · 3 out · first after \d\.\d\d s")
    terminal.expect(PROMPT)
    terminal.type("Thanks!" + ENTER)
    terminal.expect("You are welcome.")
    terminal.expect(PROMPT)
    terminal.type("/history" + ENTER)
    terminal.expect(r"user: What is 6 \* 7\?\n")
    terminal.expect(r'assistant: → calculate {"expression": "6 \* 7"}\n')
    terminal.expect(r"tool: 42\n")
    terminal.expect(r"assistant: You are welcome\.")
    terminal.expect(PROMPT)
    terminal.type("/quit" + ENTER)
    assert terminal.wait() == 0


def test_ctrl_c_stops_the_reply_and_keeps_the_session(program: Program) -> None:
    script: list[dict[str, Any]] = [{"text": "Once upon a time", "hold": True}, {"text": "Here I am."}]
    terminal = program.terminal("chat", program.script(script), "--session", "a")
    terminal.expect(PROMPT)
    terminal.type("Tell me a story" + ENTER)
    terminal.expect("Once upon a time")
    terminal.type(CTRL_C)
    terminal.expect("stopped")
    terminal.expect(PROMPT)
    terminal.type("Still there?" + ENTER)
    terminal.expect("Here I am.")
    terminal.expect(PROMPT)
    terminal.type(CTRL_C)
    terminal.expect("Ctrl-C again or Ctrl-D quits")
    terminal.expect(PROMPT)
    terminal.type(CTRL_C)
    assert terminal.wait() == 0
    assert program.stored("a") == ["Tell me a story", "Once upon a time", "Still there?", "Here I am."]


def test_ctrl_c_with_something_typed_only_drops_that(program: Program) -> None:
    terminal = program.terminal("chat", program.script([]))
    terminal.expect(PROMPT)
    for _ in range(3):
        terminal.type("never mind")
        terminal.expect("never mind")
        terminal.type(CTRL_C)
        terminal.expect(PROMPT)
    terminal.type(CTRL_D)
    assert terminal.wait() == 0
    assert "Ctrl-C again" not in terminal.text()


def test_every_command_does_what_help_says(program: Program) -> None:
    first, second = program.script([{"text": "One."}]), program.script([{"text": "Two."}])
    terminal = program.terminal("chat", first)
    terminal.expect(PROMPT)
    for typed, shown in [
        ("/help", r"/help .*\n/tools .*\n/history .*\n/reset .*\n/model .*\n/quit "),
        ("/tools", r"calculate .*\ncurrent_time .*\nread_file "),
        ("/history", "nothing yet"),
        ("/hlep", r"There is no command /hlep; did you mean /help\?"),
        ("/", "There is no command /; /help lists the commands"),
        ("Hello", r"One\."),
        ("Hello?", "The script has ended"),
        (second.replace("--model=", "/model "), "script2.json, as asked for"),
        ("/model nonsense", "llmgine: 'nonsense' names no model"),
        ("/model", "script2.json, as asked for"),
        ("Hello!", r"Two\."),
        ("/history", r"user: Hello\nassistant: One\.\nuser: Hello!\nassistant: Two\."),
        ("/reset", "forgotten: 4 messages"),
        ("/history", "nothing yet"),
    ]:
        terminal.type(typed + ENTER)
        terminal.expect(shown)
        terminal.expect(PROMPT)
    terminal.type("/q\t" + ENTER)
    assert terminal.wait() == 0


def test_what_was_typed_comes_back_in_the_next_session_and_so_does_the_conversation(program: Program) -> None:
    terminal = program.terminal("chat", program.script([{"text": "One."}]), "--session", "a")
    terminal.expect(PROMPT)
    terminal.type("Say one" + ENTER)
    terminal.expect(r"One\.")
    terminal.expect(PROMPT)
    terminal.type(CTRL_D)
    assert terminal.wait() == 0
    terminal = program.terminal("chat", program.script([{"text": "One again."}]), "--session", "a")
    terminal.expect("Session 'a' goes on: 2 messages")
    terminal.expect(PROMPT)
    terminal.type(UP)
    terminal.expect("Say one")
    terminal.type(ENTER)
    terminal.expect("One again.")
    terminal.expect(PROMPT)
    terminal.type("/reset" + ENTER)
    terminal.expect("forgotten: 4 messages")
    assert program.stored("a") == []


@pytest.mark.parametrize("in_reply", [True, False])
def test_a_terminal_that_closes_loses_no_turn(program: Program, *, in_reply: bool) -> None:
    script: list[dict[str, Any]] = [{"text": "One."}, {"text": "And then", "hold": True}]
    terminal = program.terminal("chat", program.script(script), "--session", "a", "--log-dir", "logs")
    terminal.expect(PROMPT)
    terminal.type("First?" + ENTER)
    terminal.expect(r"One\.")
    terminal.expect(PROMPT)
    if in_reply:
        terminal.type("Second?" + ENTER)
        terminal.expect("And then")
    terminal.hang_up()
    assert terminal.process.wait(60) == 129
    assert program.stored("a") == ["First?", "One.", *(["Second?", "And then"] if in_reply else [])]
    [log] = (program.folder / "logs").iterdir()
    assert '"event_type":"SessionEndEvent"' in log.read_text().splitlines()[-1]


def test_one_question_at_a_terminal_is_answered_and_that_is_it(program: Program) -> None:
    terminal = program.terminal("chat", program.script([{"text": "It is **42**."}]), "6 * 7?")
    assert terminal.wait() == 0
    assert "It is 42.\n" in terminal.text()
    terminal = program.terminal("chat", program.script([{"text": "Once", "hold": True}]), "A story")
    terminal.expect("Once")
    terminal.type(CTRL_C)
    assert terminal.wait() == 130


def test_without_colour_nothing_is_coloured(program: Program) -> None:
    program.environment["NO_COLOR"] = "1"
    terminal = program.terminal("chat", program.script([{"text": "# A\n\n`b`\n\n```python\nx = 1\n```"}]))
    terminal.expect(PROMPT)
    terminal.type("Hello" + ENTER)
    terminal.expect("x = 1")
    terminal.expect(PROMPT)
    assert not terminal.colours()


def test_a_question_is_needed_where_nobody_can_type(program: Program) -> None:
    terminal = program.terminal("chat", program.script([]), "--json")
    assert terminal.wait() == 2
    assert terminal.text().startswith("llmgine: nothing was asked")
