"""A tool that needs approval, at a terminal: it is shown before it runs, and whoever is there says yes or no."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.approval_records import ApprovalState
from llmgine.cli import approval_question
from llmgine.cli.approval_question import ApprovalQuestions
from llmgine.llm.approvals import Approvals, ToolApprovalCommand

from .conftest import DEADLINE_S

if TYPE_CHECKING:
    from .conftest import Program, Terminal

CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"
TOOLS = """
import time
from pathlib import Path
from llmgine.llm.tools.tool_options import tool

@tool(requires_approval=True)
def pay(to: str, amount: int, note: str = "") -> str:
    with open("paid", "a") as file:
        file.write(to + "\\n")
    while Path("stuck").exists():
        time.sleep(0.01)
    return f"paid {amount} to {to}"

async def wait() -> str:
    Path("waiting").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return "waited"
"""
NOBODY = "Error: pay was not run: it needs approval, and there is nobody here to ask."


@pytest.fixture
def shop(program: Program) -> Program:
    (program.folder / "shop.py").write_text(TOOLS)
    return program


def call(name: str = "pay", **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def ask(shop: Program, *calls: dict[str, Any], rest: tuple[str, ...] = ()) -> Terminal:
    script = shop.script([{"tool_calls": list(calls)}, {"text": "Well then."}])
    return shop.terminal("chat", "Pay Ann", script, "--tools", "shop:pay", "--tools", "shop:wait", *rest)


def paid(shop: Program) -> list[str]:
    file = shop.folder / "paid"
    return file.read_text().split() if file.exists() else []


def test_it_runs_after_a_yes_and_all_of_it_is_shown_before(shop: Program) -> None:
    terminal = ask(shop, call(to="ann\u202e", amount=5, note="a" * 300))
    shown = terminal.expect(r"Run it\? \[y/n\]")
    assert "pay asks for approval" in shown
    assert 'to = "ann\\u202e"' in shown
    assert "amount = 5" in shown
    assert shown.count("a") > 300
    assert paid(shop) == []
    for said in ("", "sure"):
        terminal.type(said + ENTER)
        terminal.expect("y lets it run, once; n does not")
    terminal.type("y" + ENTER)
    terminal.expect(r"pay: approved by \w+\n")
    terminal.expect(r"paid 5 to ann")
    terminal.expect(r"Well then\.")
    assert terminal.wait() == 0
    assert len(paid(shop)) == 1


@pytest.mark.parametrize(("keys", "reason"), [("n\rToo dear\r", "Too dear"), ("no\r\r", ""), (CTRL_D, "")])
def test_it_does_not_run_after_a_no_and_the_model_is_told_why(shop: Program, keys: str, reason: str) -> None:
    terminal = ask(shop, call(to="ann", amount=5))
    terminal.expect(r"Run it\?")
    for line in keys.split("\r"):
        terminal.type(line + (ENTER if "\r" in keys else ""))
        if "n" in line:
            terminal.expect(r"Why not\?")
    terminal.expect(r"pay: denied by \w+\n")
    terminal.expect("Error: the call of pay was denied" + (f": {reason}" if reason else ""))
    terminal.expect(r"Well then\.")
    assert terminal.wait() == 0
    assert paid(shop) == []


def test_two_calls_are_asked_about_one_after_the_other(shop: Program) -> None:
    terminal = ask(shop, call(to="ann", amount=5), call(to="bob", amount=7))
    terminal.expect(r'to = "ann"')
    terminal.expect(r"Run it\?")
    terminal.type("n" + ENTER)
    terminal.expect(r"Why not\?")
    assert 'to = "bob"' not in terminal.text()
    terminal.type(ENTER)
    terminal.expect(r'to = "bob"')
    terminal.expect(r"Run it\?")
    terminal.type("y" + ENTER)
    terminal.expect(r"Well then\.")
    assert terminal.wait() == 0
    assert paid(shop) == ["bob"]


def test_what_was_typed_before_the_question_is_no_answer_to_it(shop: Program) -> None:
    script = shop.script([{"tool_calls": [call("wait")]}, {"tool_calls": [call(to="ann", amount=5)]}, {"text": "So."}])
    terminal = shop.terminal("chat", "Pay Ann", script, "--tools", "shop:pay", "--tools", "shop:wait")
    limit = time.monotonic() + DEADLINE_S
    while not (shop.folder / "waiting").exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    terminal.type("y" + ENTER)
    (shop.folder / "go").touch()
    terminal.expect(r"Run it\?")
    terminal.type("n" + ENTER)
    terminal.expect(r"Why not\?")
    terminal.type(ENTER)
    terminal.expect("So.")
    assert terminal.wait() == 0
    assert paid(shop) == []


def test_an_answer_from_another_terminal_ends_the_question(shop: Program) -> None:
    terminal = ask(shop, call(to="ann", amount=5), rest=("--session", "a"))
    terminal.expect(r"Run it\?")
    database = ("--db", f"sqlite:///{shop.home / '.local/share/llmgine/chats.db'}")
    (request,) = map(json.loads, shop.run("approvals", "list", "--json", *database).stdout.splitlines())
    assert shop.run("approvals", "approve", request["id"], *database).returncode == 0
    terminal.expect("paid 5 to ann")
    terminal.expect(r"Well then\.")
    assert terminal.wait() == 0
    assert paid(shop) == ["ann"]


def test_ctrl_c_at_the_question_stops_the_reply(shop: Program) -> None:
    script = shop.script([{"tool_calls": [call(to="ann", amount=5)]}, {"text": "Here I am."}])
    terminal = shop.terminal("chat", script, "--tools", "shop:pay")
    terminal.expect("\n›")
    terminal.type("Pay Ann" + ENTER)
    terminal.expect(r"Run it\?")
    terminal.type(CTRL_C)
    terminal.expect("stopped")
    terminal.expect("\n›")
    terminal.type("Still there?" + ENTER)
    terminal.expect(r"Here I am\.")
    terminal.expect("\n›")
    terminal.type(CTRL_D)
    assert terminal.wait() == 0
    assert paid(shop) == []


def test_who_takes_up_a_question_is_told_that_a_call_may_have_run(shop: Program) -> None:
    (shop.folder / "stuck").touch()
    terminal = ask(shop, call(to="ann", amount=5), rest=("--session", "a"))
    terminal.expect(r"Run it\?")
    terminal.type("y" + ENTER)
    limit = time.monotonic() + DEADLINE_S
    while not paid(shop):
        assert time.monotonic() < limit
        time.sleep(0.01)
    terminal.process.kill()
    terminal.process.wait()

    (shop.folder / "stuck").unlink()
    again = shop.terminal("resume", "a", shop.script([{"text": "So be it."}]), "--tools", "shop:pay")
    assert "It may have run before." in again.expect(r"Run it\?")
    again.type("n" + ENTER)
    again.expect(r"Why not\?")
    again.type("I have looked." + ENTER)
    again.expect("denied: I have looked. It may have run before.")
    again.expect(r"So be it\.")
    assert again.wait() == 0
    assert paid(shop) == ["ann"]


def test_an_answer_given_while_nothing_ran_holds_when_the_prompt_is_taken_up(shop: Program) -> None:
    terminal = ask(shop, call(to="ann", amount=5), rest=("--session", "a"))
    terminal.expect(r"Run it\?")
    terminal.process.kill()
    terminal.process.wait()
    database = ("--db", f"sqlite:///{shop.home / '.local/share/llmgine/chats.db'}")
    (request,) = map(json.loads, shop.run("approvals", "list", "--json", *database).stdout.splitlines())
    assert shop.run("approvals", "approve", request["id"], *database).returncode == 0

    again = shop.terminal("resume", "a", shop.script([{"text": "So be it."}]), "--tools", "shop:pay")
    again.expect("paid 5 to ann")
    again.expect(r"So be it\.")
    assert again.wait() == 0
    assert "Run it?" not in again.text()
    assert paid(shop) == ["ann"]


def test_where_nobody_is_at_a_terminal_it_is_refused(shop: Program) -> None:
    script: list[dict[str, Any]] = [{"tool_calls": [call(to="ann", amount=5)]}, {"text": "Well then."}]
    alone = shop.run("chat", "Pay Ann", shop.script(script), "--tools", "shop:pay")
    assert (alone.returncode, alone.stdout) == (0, "Well then.\n")

    lines = shop.run("chat", "Pay Ann", shop.script(script), "--tools", "shop:pay", "--json").stdout.splitlines()
    results = [event for event in map(json.loads, lines) if event["event_type"] == "ToolExecuteResultEvent"]
    assert [(event["execution_succeed"], event["tool_result"]) for event in results] == [(False, NOBODY)]
    assert paid(shop) == []


# What has to be filled in


async def test_an_approval_that_has_to_say_something_is_asked_for_it(
    bus: MessageBus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["y", "", "0", "3", "red, mauve", "red, blue", ""])

    async def line(_: str) -> str:
        return next(typed)

    monkeypatch.setattr(approval_question, "_line", line)
    approvals = Approvals(bus)
    bus.register_command_handler(ToolApprovalCommand, ApprovalQuestions(approvals).ask)
    schema = {
        "type": "object",
        "properties": {
            "seats": {"type": "integer", "minimum": 1},
            "colours": {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}},
            "remark": {"type": "string"},
        },
        "required": ["seats"],
    }
    record = await approvals.ask(
        "book", {"show": "Hamlet"}, answer_schema=schema, url="https://example.com/\u202eseats"
    )

    assert (record.state, record.answer) == (ApprovalState.APPROVED, {"seats": 3, "colours": ["red", "blue"]})
    shown = capsys.readouterr().out
    assert "https://example.com/\\u202eseats" in shown
    assert "something has to be said here: a whole number" in shown
    assert shown.count("expected") >= 2
    assert next(typed, None) is None


async def test_who_is_slower_than_somebody_else_is_told_so(
    bus: MessageBus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    approvals = Approvals(bus)

    async def line(_: str) -> str:
        (request,) = await approvals.pending()
        await approvals.store.decide(request.id, approve=False, decided_by="boss", reason="")
        return "y"

    monkeypatch.setattr(approval_question, "_line", line)
    question = ApprovalQuestions(approvals)
    asked = approvals.store
    bus.register_command_handler(ToolApprovalCommand, question.ask)
    monkeypatch.setattr(approvals, "_look_every", 0.01)
    monkeypatch.setattr(asked, "shared", True)
    record = await approvals.ask("book", {})

    assert (record.state, record.decided_by) == (ApprovalState.DENIED, "boss")
    assert "is denied" in capsys.readouterr().out
