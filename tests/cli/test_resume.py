"""`llmgine resume`: a question whose program was killed is answered by another one, and nothing is done twice."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Program

TOOLS = """
import os, signal
from pathlib import Path

def send_mail(to: str) -> str:
    '''Send a mail.'''
    with Path("mails").open("a") as file:
        file.write(to + "\\n")
    if Path("deadly").exists():
        Path("deadly").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return "sent"
"""
CALL: list[dict[str, Any]] = [
    {
        "tool_calls": [
            {"name": "calculate", "arguments": {"expression": "6 * 7"}},
            {"name": "send_mail", "arguments": {"to": "ann"}},
        ]
    }
]


def killed(program: Program) -> None:
    """Have the program killed right after it has sent the mail."""
    (program.folder / "post.py").write_text(TOOLS)
    (program.folder / "deadly").touch()
    asked = program.run("chat", program.script(CALL), "--session", "trip", "--tools", "post.py", "Tell Ann.")
    assert asked.returncode == -signal.SIGKILL


def mails(program: Program) -> str:
    return (program.folder / "mails").read_text()


def test_a_killed_question_is_answered_and_the_mail_is_sent_once(program: Program) -> None:
    killed(program)
    told = "Error: send_mail may have run: the program ended before the outcome was known. It was not run again."
    model = program.script([{"text": "It may have been sent.", "expects": told}])
    resumed = program.run("resume", "trip", model, "--tools", "post.py")
    assert (resumed.returncode, resumed.stdout, resumed.stderr) == (0, "It may have been sent.\n", "")
    assert mails(program) == "ann\n"

    again = program.run("resume", "trip", "--tools", "post.py")
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == "llmgine: nothing is to be resumed in session 'trip': every question has ended\n"


def test_the_next_question_says_what_was_broken_off_and_gives_it_up(program: Program) -> None:
    killed(program)
    model = program.script([{"text": "Fine."}])
    asked = program.run("chat", model, "--session", "trip", "Never mind.")
    assert (asked.returncode, asked.stdout) == (0, "Fine.\n")
    assert "'llmgine resume trip' goes on with it" in asked.stderr
    assert program.run("resume", "trip").stdout == ""
    assert mails(program) == "ann\n"


@pytest.mark.parametrize("arguments", [["../x"], []])
def test_misuse_is_said_in_a_line(program: Program, arguments: list[str]) -> None:
    resumed = program.run("resume", *arguments)
    assert resumed.returncode == 2
    assert "Traceback" not in resumed.stderr
