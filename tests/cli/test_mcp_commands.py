"""`llmgine mcp`, and the tools of MCP servers in `llmgine chat`: the real program, with real servers."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import mcp_shop
from .conftest import DEADLINE_S
from .left_by_shop import run_here

if TYPE_CHECKING:
    from .conftest import Program, Terminal

COMMAND = [sys.executable, mcp_shop.__file__]
TOOLS = """
from llmgine.llm.tools.tool_manager import ToolManager

print("the module is imported")
tools = ToolManager()

@tools.register_tool
def double(n: int) -> int:
    \"\"\"Double a number.\"\"\"
    print("doubling")
    return 2 * n

def refund(euros: int) -> str:
    \"\"\"Give money back.\"\"\"
    return f"{euros} euros are paid back"

tools.register_tool(refund, requires_approval=True)

def public(text: str) -> str:
    \"\"\"Return a text.\"\"\"
    return text
"""


@pytest.fixture
def folder(program: Program) -> Path:
    """The working folder, with a file of servers in it."""
    write_servers(program.folder / "mcp.json", shop={"command": COMMAND[0], "args": COMMAND[1:]})
    return program.folder


def write_servers(path: Path, **servers: Any) -> None:
    path.write_text(json.dumps({"mcpServers": servers}))


def processes_of(program: Program) -> list[str]:
    """Return the command lines of the processes that were started in the program's surroundings."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"HOME={program.home}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return [each for each in found if "leash.py" not in each]


# list


def test_all_servers_are_tried_and_what_is_wrong_is_told(program: Program) -> None:
    write_servers(
        program.folder / ".mcp.json",
        shop={"command": COMMAND[0], "args": COMMAND[1:]},
        broken={"command": "no-such-program"},
        off={"command": "x", "disabled": True},
        web={"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": "Bearer hunter2"}},
    )

    done = run_here(program, "mcp", "list")

    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["shop", "ready", "shop 3.1", "2026-07-28", "6", "-"]
    assert [row[:5] for row in rows[1:]] == [[name, "failed", "-", "-", "-"] for name in ("broken", "web")]
    assert "no-such-program" in rows[1][5]
    assert "http://127.0.0.1:9/mcp" in rows[2][5]
    assert done.stderr == ""
    assert done.returncode == 1
    assert "hunter2" not in done.stdout
    assert processes_of(program) == []


def test_the_list_is_json_lines_for_programs(program: Program, folder: Path) -> None:
    done = run_here(program, "mcp", "list", "--json")

    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "name": "shop",
            "transport": "stdio",
            "state": "ready",
            "server": "shop",
            "version": "3.1",
            "protocol": "2026-07-28",
            "tools": ["count", "picture", "price", "say", "sell", "surroundings"],
            "problem": None,
        }
    ]
    assert done.returncode == 0


def test_without_a_file_it_says_where_servers_come_from(program: Program) -> None:
    done = run_here(program, "mcp", "list")

    assert done.returncode == 2
    assert "no mcp.json and no .mcp.json" in done.stderr
    assert "llmgine mcp inspect -- " in done.stderr


def test_a_person_sees_a_table_and_which_file_it_is_of(program: Program, folder: Path) -> None:
    broken = {"command": sys.executable, "args": ["-c", f"raise SystemExit('{'word ' * 30}')"]}
    write_servers(folder / "mcp.json", shop={"command": COMMAND[0], "args": COMMAND[1:]}, broken=broken)

    terminal = program.terminal("mcp", "list")

    terminal.expect("servers of mcp.json")
    terminal.expect(r"NAME +STATE +SERVER +PROTOCOL +TOOLS")
    terminal.expect(r"shop +ready +shop 3.1 +2026-07-28 +6")
    terminal.expect("broken +failed")
    terminal.expect(r"\n\s*\n- MCP server 'broken'")
    terminal.expect(r"\n  (word )+")  # the lines below are indented
    assert terminal.wait() == 1
    assert terminal.colours()


# inspect


def test_everything_that_a_server_offers_is_shown(program: Program, folder: Path) -> None:
    done = run_here(program, "mcp", "inspect", "shop")

    lines = done.stdout.splitlines()
    assert lines[0] == "shop 3.1"
    assert "MCP 2026-07-28" in lines[1]
    assert "  Ask for prices first." in lines
    assert "Tools (6)" in lines
    assert "    Return what something costs." in lines
    assert "      count  integer, optional" in lines
    assert "  shop://hours  text/plain" in lines
    assert "  greet" in lines
    assert "      name  string" in lines
    assert all(line == line.rstrip() for line in lines)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_server_needs_no_file(program: Program) -> None:
    done = run_here(program, "mcp", "inspect", "--json", "--", *COMMAND)

    offer = json.loads(done.stdout)
    assert offer["server"] == {"name": "shop", "version": "3.1"}
    assert offer["protocolVersion"] == "2026-07-28"
    assert {tool["name"] for tool in offer["tools"]} == {"price", "say", "picture", "sell", "count", "surroundings"}
    assert offer["tools"][0]["inputSchema"]["required"] == ["item"]
    assert offer["resources"][0]["uri"] == "shop://hours"
    assert offer["prompts"][0]["arguments"] == [{"name": "name", "required": True}]


def test_a_command_gets_what_it_needs_to_be_fetched_and_no_key(program: Program) -> None:
    program.environment |= {"https_proxy": "http://localhost:9", "SSL_CERT_FILE": "/x", "OPENAI_API_KEY": "hunter2"}

    done = run_here(program, "mcp", "call", "surroundings", "--", *COMMAND)

    assert {"https_proxy", "SSL_CERT_FILE", "PATH", "HOME"} <= set(json.loads(done.stdout))
    assert "OPENAI_API_KEY" not in done.stdout


def test_without_the_extra_that_is_said_once(program: Program, folder: Path) -> None:
    (folder / "mcp.py").write_text("raise ImportError('as if it were not there')")
    program.environment["PYTHONPATH"] = str(folder)

    for command in ("list", "inspect shop", "call shop say text=x"):
        done = program.run("mcp", *command.split())

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("pip install 'llmgine[mcp]'") == done.stderr.count("\n") == 1


def test_tools_that_the_file_leaves_out_are_marked(program: Program, folder: Path) -> None:
    write_servers(folder / "mcp.json", shop={"command": COMMAND[0], "args": COMMAND[1:], "exclude": ["s*"]})

    done = run_here(program, "mcp", "inspect", "shop")

    assert "  say  left out here, by include or exclude" in done.stdout.splitlines()
    assert "  price" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inspect", "sop"], "did you mean shop?"),
        (["inspect"], "name a server of mcp.json; there are: shop"),
        (["inspect", "shop", "--file", "none.json"], "none.json cannot be read"),
        (["inspect", "shop", "--header", "A: b"], "--header"),
        (["inspect", "shop", "--"], "After -- the command"),
        (["inspect", "shop", "--", "x"], "leave one out"),
        (["call", "shop"], "Name the tool"),
        (["call", "shop", "n=1"], "Name the tool"),
        (["call", "price", "n=1", "--"], "After -- the command"),
        (["serve", "shop:x", "--port", "80"], "--http"),
        (["serve", "no_such_module"], "there is no module"),
        (["serve", "--token-env", "NOT_SET", "--http", "x"], "NOT_SET"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_meant_is_told_in_a_line(
    program: Program, folder: Path, arguments: list[str], told: str
) -> None:
    done = run_here(program, "mcp", *arguments)

    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("llmgine mcp inspect ", ["shop", "stock"]),
        ("llmgine mcp call st", ["stock"]),
        ("llmgine mcp call shop s", []),
        ("llmgine mcp inspect --file none.json ", []),
        ("llmgine mcp ", ["list", "inspect", "call", "serve"]),
    ],
)
def test_names_of_servers_are_completed(program: Program, typed: str, completed: list[str]) -> None:
    write_servers(program.folder / "mcp.json", shop={"command": "x", "foreign": 1}, stock={"command": "x"})
    place = {"_LLMGINE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    program.environment.update(place)

    done = program.run()

    assert done.stdout.split() == completed
    assert done.stderr == ""


# call


def test_a_result_is_printed_readably(program: Program, folder: Path) -> None:
    done = run_here(program, "mcp", "call", "shop", "price", "item=12", "count=2")

    assert json.loads(done.stdout) == {"item": "12", "euros": 5.0}
    assert "\n  " in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_the_server_may_be_started_by_a_command(program: Program) -> None:
    done = program.run("mcp", "call", "say", "--args", "-", "--json", "--", *COMMAND, stdin='{"text": "-- å"}')

    result = json.loads(done.stdout)
    assert result.pop("seconds") > 0
    assert result == {
        "server": Path(sys.executable).name,
        "tool": "say",
        "succeeded": True,
        "value": {"result": "-- å"},
        "text": "-- å",
    }


def test_pictures_are_saved_where_they_are_wanted(program: Program, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/picture-1.png").write_text("another")

    done = run_here(program, "mcp", "call", "shop", "picture", "--out", "out")

    assert done.stdout.splitlines()[0] == "The shop:"
    assert "image/png" in done.stdout
    assert done.stderr == f"llmgine: saved {Path('out/picture-2.png')}\n"
    assert (folder / "out/picture-2.png").read_bytes() == b"\x89PNG not really"
    assert (folder / "out/picture-1.png").read_text() == "another"


def test_a_tool_that_fails_ends_with_1_and_its_words(program: Program, folder: Path) -> None:
    done = run_here(program, "mcp", "call", "shop", "sell", "item=gold")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "llmgine: Error executing sell: there is no gold left\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["prize", "item=tea"], "did you mean price?"),
        (["price"], "item"),
        (["price", "item=tea", "count=many"], "count"),
        (["price", "tea"], "KEY=VALUE"),
    ],
)
def test_a_call_that_does_not_fit_is_not_made(program: Program, folder: Path, arguments: list[str], told: str) -> None:
    done = run_here(program, "mcp", "call", "shop", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def counting(program: Program) -> Terminal:
    """Return the program while it waits for a call, of whose progress it has been told."""
    terminal = program.terminal("mcp", "call", "shop", "count")
    terminal.expect("count: 2 of 3, second shelf")
    return terminal


def test_progress_is_shown_and_ctrl_c_ends_the_call_and_the_server(program: Program, folder: Path) -> None:
    terminal = counting(program)

    terminal.type("\x03")

    assert terminal.wait() == 130
    assert processes_of(program) == []


def test_killed_it_leaves_no_server_behind(program: Program, folder: Path) -> None:
    terminal = counting(program)
    (server,) = [each for each in processes_of(program) if "mcp_shop" in each]

    terminal.process.send_signal(signal.SIGKILL)

    assert terminal.wait() == -signal.SIGKILL
    limit = time.monotonic() + DEADLINE_S
    while server in processes_of(program):  # it is ended by what it was started with
        assert time.monotonic() < limit
        time.sleep(0.05)


# serve


def test_tools_are_served_on_standard_input_and_output(program: Program) -> None:
    (program.folder / "my_tools.py").write_text(TOOLS)
    ours = [sys.executable, "-m", "llmgine", "mcp", "serve"]

    done = program.run("mcp", "call", "double", "n=21", "--", *ours, "my_tools")
    one = program.run("mcp", "call", "public", "text=x", "--", *ours, "my_tools.py:public")

    assert (done.stdout, done.returncode) == ("42\n", 0)
    assert (one.stdout, one.returncode) == ("x\n", 0)


def test_what_a_server_asks_is_asked_at_the_terminal(program: Program) -> None:
    (program.folder / "my_tools.py").write_text(TOOLS)
    call = ["mcp", "call", "refund", "euros=5", "--", sys.executable, "-m", "llmgine", "mcp", "serve", "my_tools"]

    terminal = program.terminal(*call)
    terminal.expect("Run refund with .*5")
    terminal.expect(r"\[y/n\]")
    terminal.type("y\r")
    terminal.expect("5 euros are paid back")
    piped = program.run(*call)

    assert terminal.wait() == 0
    assert (piped.returncode, piped.stdout) == (1, "")
    assert "the call of refund was not run: the question about it was not answered" in piped.stderr


def test_tools_are_served_over_http_to_who_has_the_token(program: Program) -> None:
    (program.folder / "my_tools.py").write_text(TOOLS)
    program.environment["MCP_TOKEN"] = "hunter2"
    server = program.start("mcp", "serve", "my_tools:tools", "--http", "--port", "0", "--token-env", "MCP_TOKEN")
    assert server.stderr is not None
    assert server.stderr.readline() == b"the module is imported\n"
    url = server.stderr.readline().decode().split()[-1]

    without = program.run("mcp", "call", url, "double", "n=1")
    done = program.run("mcp", "call", url, "double", "n=21", "-H", "Authorization: Bearer hunter2")
    server.send_signal(signal.SIGTERM)

    assert (done.stdout, done.returncode) == ("42\n", 0)
    assert without.returncode == 1
    assert f"{url}) refuses: HTTP 401 Unauthorized" in without.stderr
    assert server.wait(10) == 0


def test_beyond_this_machine_nothing_is_served_without_a_token(program: Program) -> None:
    (program.folder / "my_tools.py").write_text(TOOLS)

    done = program.run("mcp", "serve", "my_tools", "--http", "--host", "0.0.0.0", "--port", "0")  # noqa: S104

    assert done.returncode == 2
    assert "token" in done.stderr


# In a conversation


def script(program: Program) -> str:
    call = {"name": "say", "arguments": {"text": "Ten euros."}}
    return program.script([{"tool_calls": [call]}, {"text": "Ten.", "expects": "Ten euros."}])


def test_the_model_may_use_a_servers_tools_and_the_chat_goes_on_without_those_that_are_not_there(
    program: Program, folder: Path
) -> None:
    write_servers(
        folder / "mcp.json", shop={"command": COMMAND[0], "args": COMMAND[1:]}, broken={"command": "no-such-program"}
    )

    done = program.run("chat", "What do four teas cost?", "--mcp", "mcp.json", script(program))

    assert (done.stdout, done.returncode) == ("Ten.\n", 0)
    assert done.stderr.count("no-such-program") >= 1
    assert [line for line in done.stderr.splitlines() if "are left out" in line] == done.stderr.splitlines()
    assert processes_of(program) == []


def test_no_server_is_started_that_was_not_asked_for(program: Program, folder: Path) -> None:
    done = run_here(program, "chat", "What do four teas cost?", script(program))

    assert done.returncode == 1  # the script expects what the tool says


def test_a_recording_with_servers_is_replayed_with_them(program: Program, folder: Path) -> None:
    recorded = run_here(program, "record", "tea.jsonl", "How much?", "--mcp", "mcp.json", script(program))
    replayed = run_here(program, "replay-run", "tea.jsonl", "--mcp", "mcp.json")

    assert (recorded.stdout, recorded.returncode) == ("Ten.\n", 0)
    assert (replayed.stdout, replayed.returncode) == ("Ten.\nno difference\n", 0)


def test_what_contradicts_itself_is_refused(program: Program, folder: Path) -> None:
    done = run_here(program, "chat", "x", "--mcp", "mcp.json", "--no-tools")

    assert done.returncode == 2
    assert "--mcp" in done.stderr


def test_a_mistake_in_the_file_is_told_before_anything_is_asked(program: Program, folder: Path) -> None:
    write_servers(folder / "mcp.json", shop={"command": "x", "env": {"KEY": "${NOT_SET}"}})

    done = run_here(program, "chat", "x", "--mcp", "mcp.json", program.script([{"text": "no"}]))

    assert (done.returncode, done.stdout) == (2, "")
    assert "server 'shop': env.KEY" in done.stderr
