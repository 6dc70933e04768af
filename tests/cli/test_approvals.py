"""`llmgine approvals` on what a real application has asked."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState
from llmgine.database.stores import Database
from llmgine.messages import SessionID

from .left_by_shop import cells, lines, run_here

if TYPE_CHECKING:
    from .conftest import Program

IDS = ["18e9b63c5f5a4a01", "18e9b63c5f5a4b02", "77aaaaaaaaaaaaaa"]
KEY = "sk-abcdefghijklmnop1234"
SNEAKY = "bob\u202e\x1b[2Jevil\u200b"


def in_database(program: Program, work: Callable[[Database], Coroutine[Any, Any, Any]]) -> Any:
    async def go() -> Any:
        database = Database(f"sqlite:///{program.folder / 'message_bus.db'}", "message_bus")
        try:
            return await work(database)
        finally:
            await database.aclose()

    return asyncio.run(go())


def asked(program: Program) -> list[str]:
    """Leave requests in the program's folder: two that wait, and one that was denied."""

    async def ask(database: Database) -> None:
        now = datetime.now(UTC)
        for number, name in enumerate(IDS):
            record = ApprovalRecord(
                id=name,
                digest="d" * 64,
                tool="pay",
                requested_at=now,
                arguments={"to": SNEAKY, "api_key": KEY, "session_id": "", "amount": number},
                session_id=SessionID("alice" if number < 1 else "bob"),
                run_id="r1",
                note="It may have run before.",
                expires_at=now + timedelta(hours=2),
            )
            await database.approvals.add(record)
        await database.approvals.decide(IDS[2], approve=False, decided_by="ada", reason=f"not with {KEY}")

    in_database(program, ask)
    return IDS


def state_of(program: Program, name: str) -> ApprovalRecord:
    async def get(database: Database) -> ApprovalRecord | None:
        return await database.approvals.get(name)

    record = in_database(program, get)
    assert isinstance(record, ApprovalRecord)
    return record


def test_what_waits_is_listed_and_the_rest_if_asked_for(program: Program) -> None:
    first, second, denied = asked(program)
    printed = cells(run_here(program, "approvals", "list"))
    of_bob = lines(run_here(program, "approvals", "list", "--session", "bob", "--json"))
    everything = lines(run_here(program, "approvals", "list", "--all", "--json"))

    assert [(row[0], row[1], row[2], row[5]) for row in printed] == [
        (first, "pay", "alice", "pending"),
        (second, "pay", "bob", "pending"),
    ]
    assert json.loads(printed[0][6])["amount"] == 0
    assert [row["id"] for row in of_bob] == [second]
    assert [(row["id"], row["state"]) for row in everything][2] == (denied, "denied")


def test_all_arguments_are_shown_but_no_secret_and_nothing_that_a_terminal_obeys(program: Program) -> None:
    first, _, denied = asked(program)
    shown = run_here(program, "approvals", "show", first[:-1])
    outputs = [
        shown,
        run_here(program, "approvals", "list"),
        run_here(program, "approvals", "show", denied),
        run_here(program, "approvals", "show", denied, "--json"),
        run_here(program, "approvals", "list", "--all", "--json"),
        run_here(program, "approvals", "approve", first),
    ]

    for output in outputs:
        assert output.returncode == 0
        assert KEY not in output.stdout
        assert "<redacted>" in output.stdout
        assert not {"\u202e", "\x1b", "\u200b"} & set(output.stdout)
    assert '"to": "bob\\u202e\\u001b[2Jevil\\u200b"' in shown.stdout
    assert '"session_id": ""' in shown.stdout
    assert "It may have run before." in shown.stdout
    assert "by ada" in outputs[2].stdout


def test_one_is_approved_another_denied_and_neither_again(program: Program) -> None:
    first, second, _ = asked(program)
    ambiguous = run_here(program, "approvals", "approve", "18e9")
    approved = run_here(program, "approvals", "approve", first[:-1])
    denied = run_here(program, "approvals", "deny", second, "--reason", "too much", "--json")
    again = run_here(program, "approvals", "approve", second)
    unknown = run_here(program, "approvals", "approve", "nobody")

    assert (ambiguous.returncode, ambiguous.stdout) == (1, "")
    assert "2 ids begin with '18e9'" in ambiguous.stderr
    assert approved.stdout.startswith('approved: pay {"to": ')
    assert json.loads(denied.stdout)["reason"] == "too much"
    assert again.returncode == 1
    assert "cannot be approved: it is denied" in again.stderr
    assert unknown.returncode == 1
    assert "there is no request for approval whose id begins with 'nobody'" in unknown.stderr
    assert state_of(program, first).state is ApprovalState.APPROVED
    assert state_of(program, first).decided_by
    assert state_of(program, second).state is ApprovalState.DENIED


BOOKING = {
    "type": "object",
    "properties": {
        "seats": {"type": "integer", "minimum": 1, "title": "Seats", "description": "How many?"},
        "class": {"type": "string", "oneOf": [{"const": "1", "title": "First"}, {"const": "2", "title": "Second"}]},
        "extras": {"type": "array", "items": {"type": "string", "enum": ["meal", "bed", "wifi"]}},
        "quiet": {"type": "boolean", "default": True},
        f"note{SNEAKY}": {"type": "string", "description": SNEAKY},
    },
    "required": ["seats", "class"],
}
PAGE = "https://pay.example/c?token=abcdefghijklmnop1234&x=1"


def asked_by_server(program: Program) -> tuple[str, str]:
    """Leave what a server has asked: to fill in a form, and to visit a page."""

    async def ask(database: Database) -> None:
        for name, more in (("f0rm0000", {"answer_schema": BOOKING}), ("9a9e0000", {"url": PAGE})):
            record = ApprovalRecord(
                id=name,
                digest="d" * 64,
                tool="agency/elicitation",
                requested_at=datetime.now(UTC),
                arguments={"message": f"How many? {SNEAKY}"},
                note="The MCP server agency asks this.",
                **more,
            )
            await database.approvals.add(record)

    in_database(program, ask)
    return "f0rm0000", "9a9e0000"


def test_what_a_server_asks_for_is_shown_field_by_field_and_a_page_in_full(program: Program) -> None:
    form, page = asked_by_server(program)
    shown = run_here(program, "approvals", "show", form).stdout
    visit = run_here(program, "approvals", "show", page).stdout
    listed = {row["id"]: row for row in lines(run_here(program, "approvals", "list", "--json"))}

    assert "seats  Seats: How many? — a whole number, at least 1\n" in shown
    assert "class  one of: 1 (First), 2 (Second)\n" in shown
    assert "extras  some of: meal, bed, wifi; may be left out\n" in shown
    assert "quiet  yes or no; default: yes; may be left out\n" in shown
    assert f"visit     {PAGE}\n" in visit
    assert not {"\u202e", "\x1b", "\u200b"} & {*shown, *visit}
    assert listed[form]["answer_schema"] == BOOKING
    assert listed[page]["url"] == PAGE
    assert listed[page]["answer_schema"] is None


def test_what_is_asked_for_is_given_with_the_approval(program: Program) -> None:
    form, page = asked_by_server(program)
    approve = ("approvals", "approve", form)
    wrong = [
        run_here(program, *approve),
        run_here(program, *approve, "-a", "seats=none", "-a", "class=First"),
        run_here(program, *approve, "-a", "seats=2", "-a", "class=1", "-a", "extras=meal", "-a", "extras=tv"),
        run_here(program, *approve, "--answer", "seats"),
        run_here(program, *approve, "--answer", "name=ada"),
        run_here(program, "approvals", "approve", page, "--answer", "seats=1"),
    ]
    assert [result.returncode for result in wrong] == [1, 1, 1, 2, 2, 2]
    assert "seats: is missing: expected a whole number, at least 1; class: is missing" in wrong[0].stderr
    assert "seats: expected a whole number, at least 1." in wrong[1].stderr
    assert "extras: expected some of: meal, bed, wifi." in wrong[2].stderr
    assert "expected NAME=VALUE" in wrong[3].stderr
    assert "there is no field 'name'. Asked for: seats, class, extras, quiet" in wrong[4].stderr
    assert "Only yes or no is asked for." in wrong[5].stderr
    assert state_of(program, form).state is ApprovalState.PENDING

    settings = ["-a", "seats=2", "-a", "class=First", "-a", "extras=meal", "-a", "extras=bed"]
    right = run_here(program, *approve, *settings)
    assert right.stdout.endswith(' with {"quiet": true, "seats": 2, "class": "1", "extras": ["meal", "bed"]}\n')
    assert state_of(program, form).answer == {"seats": 2, "class": "1", "extras": ["meal", "bed"], "quiet": True}
    said = json.loads(run_here(program, "approvals", "show", form, "--json").stdout)
    assert said["answer"]["seats"] == 2
    assert run_here(program, "approvals", "approve", page).returncode == 0
    assert state_of(program, page).state is ApprovalState.APPROVED


def test_at_a_terminal_each_field_is_asked_for_until_it_fits(program: Program) -> None:
    form, page = asked_by_server(program)
    terminal = program.terminal("approvals", "approve", form)
    terminal.expect(r"agency/elicitation .*\r?\n?The MCP server agency asks this\.")
    terminal.expect("seats: Seats: How many\\? — a whole number, at least 1")
    terminal.expect("> ")
    terminal.type("none\r")
    terminal.expect("expected a whole number, at least 1\\s+> ")
    terminal.type("3\r")
    terminal.expect("class: one of: 1 \\(First\\), 2 \\(Second\\)\\s+> ")
    terminal.type("\r")
    terminal.expect("something has to be said here: one of: .*\\s+> ")
    terminal.type("Second\r")
    terminal.expect("extras: .*\\s+> ")
    terminal.type("meal, wifi\r")
    terminal.expect("quiet: .* default: yes.*\\s+> ")
    terminal.type("no\r")
    terminal.expect("note.*\\s+> ")
    terminal.type("\r")
    assert terminal.wait() == 0
    assert state_of(program, form).answer == {"seats": 3, "class": "2", "extras": ["meal", "wifi"], "quiet": False}

    visit = program.terminal("approvals", "approve", page)
    visit.expect(re.escape(PAGE))
    assert visit.wait() == 0


def test_an_id_means_what_waits_before_what_does_not(program: Program) -> None:
    first, second, _ = asked(program)
    run_here(program, "approvals", "deny", first)
    assert run_here(program, "approvals", "approve", "18e9").returncode == 0
    assert state_of(program, second).state is ApprovalState.APPROVED


def test_at_a_terminal_it_is_a_table(program: Program) -> None:
    asked(program)
    terminal = program.terminal("approvals", "list")

    assert terminal.wait() == 0
    head, first, _ = terminal.text().splitlines()
    assert head.split() == ["ID", "TOOL", "SESSION", "ASKED", "EXPIRES", "STATE", "ARGUMENTS"]
    assert re.search(r"in [12] h", first)


def test_without_a_database_none_is_made(program: Program) -> None:
    result = run_here(program, "approvals", "list")
    assert result.returncode == 2
    assert "There is no database" in result.stderr
    assert not (program.folder / "message_bus.db").exists()


WAITING = """
import asyncio, os, sys
from llmgine.bus import MessageBus
from llmgine.database.stores import Database
from llmgine.llm.approvals import Approvals
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.toolCall import ToolCall

def pay(amount: int) -> str:
    with open("paid", "a") as file:
        file.write(f"{amount}\\n")
    return "done"

async def main():
    bus = MessageBus.isolated()
    await bus.start()
    database = Database()
    approvals = Approvals(bus, database.approvals, look_every=0.05)
    bus.register_event_handler("tool.approval.requested", lambda event: print(event.approval_id, flush=True))
    prepared = PreparedCall.of(ToolCall("1", name="pay"), Tool.from_function(pay), {"amount": 7})
    refused = await approvals.check(prepared, ToolContext(run_id="r", idempotency_key="k"))
    if refused is None:
        prepared.tool.function(**prepared.arguments)
    print(refused or "ran", flush=True)
    await bus.stop()
    await database.aclose()

asyncio.run(main())
"""


def start(program: Program) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=program.folder,
        env=program.environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_an_application_that_waits_hears_of_it_and_one_that_was_killed_goes_on_where_it_was(program: Program) -> None:
    with start(program) as process:
        name = line(process)
        process.kill()
    assert [row["id"] for row in lines(run_here(program, "approvals", "list", "--json"))] == [name]

    with start(program) as process:
        assert line(process) == name  # the same request is waited for
        assert run_here(program, "approvals", "approve", name).returncode == 0
        assert line(process) == "ran"
    assert (program.folder / "paid").read_text() == "7\n"
    assert state_of(program, name).state is ApprovalState.USED


def test_what_was_approved_while_nothing_ran_is_used_once(program: Program) -> None:
    with start(program) as process:
        name = line(process)
        process.kill()
    assert run_here(program, "approvals", "approve", name).returncode == 0

    with start(program) as process:
        assert line(process) == "ran"
    with start(program) as process:
        asked_anew = line(process)
        assert asked_anew != name
        assert run_here(program, "approvals", "deny", asked_anew, "-r", "once is enough").returncode == 0
        assert line(process) == "Error: the call of pay was denied: once is enough"
    assert (program.folder / "paid").read_text() == "7\n"
