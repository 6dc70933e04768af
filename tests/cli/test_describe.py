"""`llmgine describe` on small applications: what it prints where, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Program

MESSAGES = """\
from dataclasses import dataclass
from llmgine import Command, Event

class ShopCommand(Command[str]): ...
class Buy(ShopCommand): ...
class Leave(ShopCommand): ...
class Complain(Command[None]): ...
class OrderEvent(Event): ...
class OrderPlaced(OrderEvent): ...
@dataclass(slots=True)
class Door(Event):
    open: bool = False
"""
APP = """\
from llmgine import MessageBus
from llmgine.bus import HandlerMiddleware, HandlerPriority
from llmgine.bus.filters import SessionFilter
from shop.messages import *

print("on sale")
bus = MessageBus()
spare = MessageBus.isolated()

class Guard(HandlerMiddleware): ...

bus.add_command_middleware(Guard())
bus.add_event_filter(SessionFilter(exclude_sessions=["x"]))

@bus.command_handler
def serve(command: ShopCommand) -> str: ...

@bus.command_handler(session_id="vip")
def serve_at_once(command: Buy) -> str: ...

@bus.on(OrderPlaced)
def pack(event): ...

@bus.on(OrderEvent, priority=HandlerPriority.HIGHEST)
def note(event): ...

@bus.on("order.*", session_id="vip")
def call(event): ...

@bus.on("ordr.*")
def never(event): ...
"""
PAGE = """\
shop.app  4 commands, 3 events, 1 session, 0 observers

Command middleware, outermost first
  Guard  shop/app.py:10

Commands
  Buy          serve          shop/app.py:15  as ShopCommand
               serve_at_once  shop/app.py:18  in session vip
  Leave        serve          shop/app.py:15  as ShopCommand
  ShopCommand  serve          shop/app.py:15

Event filters, in the order in which they are asked
  llmgine.bus.filters.SessionFilter

Events
  OrderEvent  order
    0 HIGHEST  note  shop/app.py:24
  OrderPlaced  order.placed
    0 HIGHEST  note  shop/app.py:24  as OrderEvent
   50 NORMAL   pack  shop/app.py:21
               call  shop/app.py:27  in session vip, as order.*

Names that no known event has
  ordr.*
   50 NORMAL   never  shop/app.py:30

Commands without a handler: executing one fails
  Complain  shop/messages.py:7

Events that nobody hears
  Door  shop/messages.py:10
"""


@pytest.fixture
def shop(program: Program) -> Program:
    """The program, in a working folder with an application."""
    folder = program.folder / "shop"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "messages.py").write_text(MESSAGES)
    (folder / "app.py").write_text(APP)
    return program


def test_the_page_says_who_handles_what_in_which_order_and_what_nobody_handles(shop: Program) -> None:
    described = shop.run("describe", "shop.app")
    assert (described.returncode, described.stdout, described.stderr) == (0, PAGE, "on sale\n")


def test_on_a_narrow_terminal_nothing_is_cut_off_and_colours_are_there_only(shop: Program) -> None:
    shop.environment["COLUMNS"] = "44"
    piped = shop.run("describe", "shop.app").stdout
    assert piped == PAGE
    terminal = shop.terminal("describe", "shop.app")
    assert terminal.wait() == 0
    shown = terminal.text().replace("on sale\n", "")
    assert shown.split() == PAGE.split()
    assert "call  shop/app.py:27\n                 in session vip, as order.*\n" in shown
    assert terminal.colours()
    shop.environment["NO_COLOR"] = "1"
    plain = shop.terminal("describe", "shop.app")
    assert (plain.wait(), plain.colours()) == (0, set())


def test_json_has_every_fact_under_the_names_that_the_help_lists(shop: Program) -> None:
    described = shop.run("describe", "shop.app:bus", "--json")
    assert (described.returncode, described.stderr) == (0, "on sale\n")
    routing = json.loads(described.stdout)
    file = str(shop.folder / "shop/app.py")
    messages = str(shop.folder / "shop/messages.py")
    assert list(routing) == [
        "sessions",
        "command_middleware",
        "event_middleware",
        "filters",
        "observers",
        "commands",
        "events",
        "patterns",
        "unhandled_commands",
        "unheard_events",
    ]
    help_ = " ".join(shop.run("describe", "--help").stdout.replace("│", " ").split())
    assert ", ".join(routing) in help_
    assert routing["sessions"] == ["vip"]
    assert routing["command_middleware"] == [{"name": "shop.app.Guard", "module": "shop.app", "file": file, "line": 10}]
    assert routing["event_middleware"] == []
    assert routing["filters"][0]["name"] == "llmgine.bus.filters.SessionFilter"
    assert routing["observers"] == 0
    assert routing["commands"][0] == {
        "command": {"name": "shop.messages.Buy", "module": "shop.messages", "file": messages, "line": 5},
        "handlers": [
            {
                "scope": "BUS",
                "handler": {"name": "shop.app.serve", "module": "shop.app", "file": file, "line": 15},
                "registered_for": "shop.messages.ShopCommand",
            },
            {
                "scope": "vip",
                "handler": {"name": "shop.app.serve_at_once", "module": "shop.app", "file": file, "line": 18},
                "registered_for": "shop.messages.Buy",
            },
        ],
    }
    placed = routing["events"][1]
    assert (placed["event"]["name"], placed["event_name"]) == ("shop.messages.OrderPlaced", "order.placed")
    assert placed["handlers"][2] == {
        "scope": "vip",
        "priority": 50,
        "priority_name": "NORMAL",
        "handler": {"name": "shop.app.call", "module": "shop.app", "file": file, "line": 27},
        "registered_for": "order.*",
    }
    assert [(each["pattern"], each["stands_for"]) for each in routing["patterns"]] == [
        ("order.*", ["shop.messages.OrderPlaced"]),
        ("ordr.*", []),
    ]
    assert [part["name"] for part in routing["unhandled_commands"]] == ["shop.messages.Complain"]
    assert [part["name"] for part in routing["unheard_events"]] == ["shop.messages.Door"]


def test_check_fails_if_a_command_has_no_handler_and_says_which(shop: Program) -> None:
    missing = shop.run("describe", "shop.app", "--check")
    assert (missing.returncode, missing.stdout) == (1, PAGE)
    assert missing.stderr == "on sale\nllmgine: 1 command without a handler: shop.messages.Complain\n"
    with (shop.folder / "shop/app.py").open("a") as app:
        app.write("bus.register_command_handler(Complain, print)\n")
    complete = shop.run("describe", "shop.app", "--check", "--json")
    assert (complete.returncode, complete.stderr) == (0, "on sale\n")
    assert json.loads(complete.stdout)["unheard_events"]


MAKING = """\
from types import SimpleNamespace
from llmgine import Command, MessageBus
from llmgine.messages.bus import message_bus

class Go(Command[None]): ...

def make():
    print("made")
    bus = MessageBus.isolated()
    bus.register_command_handler(Go, print)
    return bus

async def make_later():
    bus = make()
    await bus.start()
    return bus

def fail():
    raise ValueError("oh\\nno")

def choose(name): ...

app = SimpleNamespace(bus=make())
message_bus.register_command(Go, print)
number = 7
"""


@pytest.mark.parametrize("name", ["app.bus", "make", "make_later", "message_bus", "MessageBus"])
def test_a_bus_is_found_by_its_path_or_made_by_a_function(program: Program, name: str) -> None:
    (program.folder / "making.py").write_text(MAKING)
    for source in ("making", "making.py", str(program.folder / "making.py")):
        described = program.run("describe", f"{source}:{name}")
        assert (described.returncode, set(described.stderr.split())) == (0, {"made"})
        assert described.stdout.endswith("\nCommands\n  Go  builtins.print\n")


def test_a_file_that_others_import_by_its_name_runs_once(program: Program) -> None:
    (program.folder / "main.py").write_text(
        "from llmgine import MessageBus\nprint('main')\nbus = MessageBus.isolated()\nimport part\n"
    )
    (program.folder / "part.py").write_text(
        "from llmgine import Command\nfrom main import bus\nclass Go(Command[None]): ...\n"
        "bus.register_command_handler(Go, print)\n"
    )
    described = program.run("describe", "main.py", "--check")
    assert (described.returncode, described.stderr) == (0, "main\n")
    assert "Go  builtins.print" in described.stdout


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "expected module:bus, module, or path/to/file.py"),
        ("making:", "expected module:bus, module, or path/to/file.py"),
        ("missing", "there is no module 'missing', neither in {folder} nor installed"),
        ("missing.py", "there is no such file"),
        ("making", "there is no 'bus' in it; its buses: message_bus, other"),
        ("making:app.buss", "there is no 'app.buss' in it; its buses: message_bus, other"),
        ("making:number", "number is no MessageBus, but of type int; its buses: message_bus, other"),
        ("making:choose", "calling choose failed: TypeError: choose() missing 1 required positional argument: 'name'"),
        ("making:fail", "calling fail failed: ValueError: oh (making.py, line 19)"),
        ("making:print", "there is no 'print' in it; its buses: message_bus, other"),
        (
            "twice",
            (
                "importing it failed: HandlerAlreadyRegisteredError: Go is already registered in scope BUS; "
                "a command has exactly one handler. (twice.py, line 3)"
            ),
        ),
        ("none", "there is no 'bus' in it; its buses: none"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(program: Program, spec: str, reason: str) -> None:
    (program.folder / "making.py").write_text(MAKING.replace('print("made")', "pass") + "other = make()\n")
    (program.folder / "twice.py").write_text(
        "from making import Go, other\n\nother.register_command_handler(Go, print)\n"
    )
    (program.folder / "none.py").touch()
    described = program.run("describe", spec)
    assert (described.returncode, described.stdout) == (2, "")
    assert described.stderr == f"llmgine: describe {spec}: {reason.format(folder=program.folder)}\n"


def test_two_classes_of_one_name_are_told_apart(program: Program) -> None:
    for name in ("one", "two"):
        (program.folder / f"{name}.py").write_text("from llmgine import Command\nclass Go(Command[None]): ...\n")
    (program.folder / "app.py").write_text(
        "import one, two\nfrom llmgine import MessageBus\nbus = MessageBus()\n"
        "bus.register_command_handler(one.Go, print)\nbus.register_command_handler(two.Go, print)\n"
    )
    assert "  one.Go  builtins.print\n  two.Go  builtins.print\n" in program.run("describe", "app").stdout


def test_what_an_application_calls_things_cannot_command_the_terminal(program: Program) -> None:
    (program.folder / "app.py").write_text(
        "from llmgine import Event, MessageBus\nbus = MessageBus()\n"
        "bus.register_event_handler('a\\x1b[2J', print, session_id='b\\x1b[2J')\n"
    )
    assert "\x1b" not in program.run("describe", "app").stdout
