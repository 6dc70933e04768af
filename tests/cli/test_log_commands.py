"""`llmgine logs`, `stats`, `trace` and `why` on the log of a real application."""

from __future__ import annotations

import gzip
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Program

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")


class Shop:
    """A folder with the log of the shop, and what is known of it."""

    def __init__(self, folder: Path) -> None:
        application = Path(__file__).with_name("logged_shop.py")
        result = subprocess.run(
            [sys.executable, str(application), str(folder)], stdout=subprocess.PIPE, check=True, timeout=60
        )
        self.ids: dict[str, str] = json.loads(result.stdout)
        (self.file,) = folder.iterdir()
        self.lines = self.file.read_bytes().splitlines()
        self.events: list[dict[str, Any]] = [json.loads(line) for line in self.lines]

    def one(self, event_type: str, **fields: object) -> dict[str, Any]:
        """Return the one event of a type with certain fields."""
        (event,) = (
            event
            for event in self.events
            if event["event_type"] == event_type and all(event.get(name) == value for name, value in fields.items())
        )
        return event


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def logged(program: Program, shop: Shop) -> Program:
    """The program, in a folder in which the shop has left its log."""
    (program.folder / "logs").mkdir()
    shutil.copy(shop.file, program.folder / "logs" / "events.jsonl")
    return program


def rows(output: str) -> list[list[str]]:
    return [line.split("\t") for line in output.splitlines()]


# logs


def test_json_prints_every_line_as_it_was_written(logged: Program, shop: Shop) -> None:
    result = logged.run("logs", "--json")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.encode() == shop.file.read_bytes()


def test_in_a_pipe_there_is_one_line_for_each_event(logged: Program, shop: Shop) -> None:
    printed = rows(logged.run("logs").stdout)

    assert [row[4] for row in printed] == [event["event_id"] for event in shop.events]
    assert {len(row) for row in printed} == {6}
    (reserved,) = (row for row in printed if row[2] == "CommandErrorEvent" and "Reserve" in row[5])
    assert reserved[1] == "error"
    assert reserved[5].startswith("ReserveStockCommand: LookupError: there is no gold left")


def test_nothing_that_a_terminal_would_obey_is_printed(logged: Program) -> None:
    for command in (["logs"], ["trace", "0"], ["stats"]):
        assert "\x1b" not in logged.run(*command).stdout
    terminal = logged.terminal("logs", "--json", "--level", "error")
    terminal.expect("gold")
    assert terminal.wait() == 0
    assert "\\u001b[31mleft" in terminal.text()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--session", "alice"], lambda event: event["session_id"] == "alice"),
        (["--type", "OrderPlacedEvent"], lambda event: event["event_type"] == "OrderPlacedEvent"),
        (["--type", "OrderPlaced"], lambda event: event["event_type"] == "OrderPlacedEvent"),
        (["-t", "order.placed", "-t", "tool.**"], lambda event: event["event_type"].startswith(("Order", "Tool"))),
        (["--text", 'say "1 + 2?"'], lambda event: False),
        (["--text", "gold"], lambda event: "gold" in str(event)),
        (["--level", "error"], lambda event: event["event_type"] in {"CommandErrorEvent", "EventHandlerFailedEvent"}),
        (["--since", "2h", "--until", "2100-01-01"], lambda event: True),
        (["--until", "2h"], lambda event: False),
        (["--type", "OrderPlaced", "--text", "gold"], lambda event: event.get("item") == "gold"),
    ],
)
def test_filters_let_through_what_they_name(logged: Program, shop: Shop, options: list[str], wanted: Any) -> None:
    result = logged.run("logs", *options)

    expected = [event["event_id"] for event in shop.events if wanted(event)]
    assert result.returncode == 0
    assert [row[4] for row in rows(result.stdout)] == expected


def test_events_of_a_chain_and_of_a_cause_are_found_by_how_the_id_begins(logged: Program, shop: Shop) -> None:
    bad = shop.ids["bad"]

    chain = rows(logged.run("logs", "--correlation", bad[:16]).stdout)
    caused = rows(logged.run("logs", "--caused-by", bad).stdout)

    assert [row[4] for row in chain] == [event["event_id"] for event in shop.events if event["correlation_id"] == bad]
    assert [row[4] for row in caused] == [event["event_id"] for event in shop.events if event["causation_id"] == bad]


@pytest.mark.parametrize("last", [[], ["--last", "9"]])
def test_a_failure_names_its_command_also_where_only_failures_are_wanted(logged: Program, last: list[str]) -> None:
    for options in (["--level", "error"], ["--type", "command.error"]):
        told = [row[5] for row in rows(logged.run("logs", *options, *last).stdout) if row[2] == "CommandErrorEvent"]
        assert [each.partition(":")[0] for each in told] == ["ReserveStockCommand", "PlaceOrderCommand"]


def test_last_prints_the_end(logged: Program, shop: Shop) -> None:
    result = logged.run("logs", "--json", "--last", "3", "--type", "CommandResult")

    wanted = [
        line for line, event in zip(shop.lines, shop.events, strict=True) if event["event_type"] == "CommandResultEvent"
    ]
    assert result.stdout.encode().splitlines() == wanted[-3:]


def test_files_of_a_folder_are_read_in_the_order_of_their_events_also_compressed(program: Program, shop: Shop) -> None:
    folder = program.folder / "logs"
    folder.mkdir()
    half = len(shop.lines) // 2
    (folder / "z.2026.jsonl.gz").write_bytes(gzip.compress(b"\n".join(shop.lines[:half]) + b"\n"))
    (folder / "a.jsonl").write_bytes(b"\n".join(shop.lines[half:]) + b"\n")
    (folder / "notes.txt").write_text("no log")

    assert program.run("logs", "--json").stdout.encode() == shop.file.read_bytes()
    assert (
        program.run("logs", "--json", "--last", str(half + 3)).stdout.encode().splitlines() == shop.lines[-half - 3 :]
    )


def test_broken_lines_are_counted_and_the_others_printed(logged: Program, shop: Shop) -> None:
    log = logged.folder / "logs" / "events.jsonl"
    log.write_bytes(b"\n".join([shop.lines[0][:40], *shop.lines, b"[1]", b"", shop.lines[1][:60]]))

    result = logged.run("logs", "--json")

    assert result.stdout.encode().splitlines() == shop.lines
    assert result.returncode == 0
    assert "3 broken lines were left out" in result.stderr


def test_a_damaged_file_is_read_as_far_as_it_goes_and_is_a_failure(program: Program, shop: Shop) -> None:
    packed = gzip.compress(b"\n".join(shop.lines) + b"\n")
    (program.folder / "cut.jsonl.gz").write_bytes(packed[:-8])

    result = program.run("logs", "cut.jsonl.gz", "--json")

    assert result.returncode == 1
    assert result.stdout.encode().splitlines() == shop.lines
    assert "cut.jsonl.gz" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["logs"], "There is no file or folder 'logs'"),
        (["logs", "."], "There is no log in the folder '.'"),
        (["logs", ".", "--since", "noon"], "'noon' is no time"),
        (["logs", ".", "--level", "loud"], "debug, info, warning, error, critical"),
        (["logs", ".", "--type", "a..b"], "'a..b' is no name of events"),
        (["logs", ".", "--since", "1h", "--until", "2h"], "the first must be the earlier one"),
        (["logs", ".", "--follow", "--until", "2100-01-01"], "--follow"),
        (["stats", ".", "--by", "month"], "expected session"),
        (["stats", ".", "--prices", "none.toml"], "none.toml"),
        (["trace", "0"], "There is no file or folder 'logs'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(program: Program, arguments: list[str], said: str) -> None:
    result = program.run(*arguments)

    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_reader_that_has_gone_ends_it_quietly(logged: Program, shop: Shop) -> None:
    log = logged.folder / "logs" / "events.jsonl"
    log.write_bytes(log.read_bytes() * 200)

    result = logged.shell('"$PYTHON" -m llmgine logs --json | head -n 1; echo done')

    assert result.stdout.encode() == shop.lines[0] + b"\ndone\n"
    assert result.stderr == ""


def test_at_a_terminal_there_is_a_table_that_fits(logged: Program) -> None:
    terminal = logged.terminal("logs", "--level", "info")

    assert terminal.wait() == 0
    head, *body = terminal.text().splitlines()
    assert head.split() == ["TIME", "LEVEL", "TYPE", "SESSION", "ID", "WHAT"]
    assert max(map(len, body)) <= 160
    assert b"\x1b[31m" in terminal.colours()


# logs --follow


def following(process: subprocess.Popen[bytes], count: int) -> list[bytes]:
    """Return the next lines that the program writes; read byte by byte, so that none is left in a buffer."""
    assert process.stdout is not None
    lines = [b""]
    while len(lines) <= count:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, f"{count} lines were expected; these came: {lines}"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"{count} lines were expected; it ended after {lines}"
        lines[-1] += byte.rstrip(b"\n")
        lines += [b""] if byte == b"\n" else []
    return lines[:-1]


def test_follow_survives_rotation_truncation_and_new_files(logged: Program, shop: Shop) -> None:
    log = logged.folder / "logs" / "events.jsonl"
    lines = shop.lines
    log.write_bytes(b"\n".join(lines[:5]) + b"\n" + lines[5][:30])
    process = logged.start("logs", "--follow", "--json", "--last", "2")

    assert following(process, 2) == lines[3:5]
    with log.open("ab") as file:
        file.write(lines[5][30:] + b"\n" + lines[6] + b"\n")
    assert following(process, 2) == lines[5:7]
    with log.open("ab") as file:
        file.write(lines[7] + b"\n")
    log.rename(log.with_name("events.1.jsonl"))
    log.write_bytes(lines[8] + b"\n")
    assert following(process, 2) == lines[7:9]
    shortest = min(lines, key=len)  # were it as long as what was there, nobody could tell
    log.write_bytes(shortest + b"\n")
    assert following(process, 1) == [shortest]
    (log.parent / "other.jsonl").write_bytes(lines[10] + b"\n")
    assert following(process, 1) == [lines[10]]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_follow_waits_for_a_folder_that_is_not_there_yet(program: Program, shop: Shop) -> None:
    terminal = program.terminal("logs", "--follow", "--json", "--session", "alice")
    terminal.expect("waiting for logs")

    (program.folder / "logs").mkdir()
    shutil.copy(shop.file, program.folder / "logs")

    wanted = [event["event_id"] for event in shop.events if event["session_id"] == "alice"]
    assert re.findall(r'"event_id":"(\w+)"', terminal.expect(wanted[-1] + '"')) == wanted
    terminal.type("\x03")
    assert terminal.wait() == 130


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time is read from /proc")
def test_waiting_costs_next_to_nothing(logged: Program, shop: Shop) -> None:
    process = logged.start("logs", "--follow", "--json")
    following(process, 10)
    log = logged.folder / "logs" / "events.jsonl"

    def ticks() -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    for line in shop.lines[:3]:  # each is seen with the next look, so this takes three of them
        with log.open("ab") as file:
            file.write(line + b"\n")
        assert following(process, 1) == [line]
    assert (ticks() - before) / os.sysconf("SC_CLK_TCK") < 0.2


# stats


def test_stats_add_up(logged: Program, shop: Shop) -> None:
    prices = logged.folder / "prices.toml"
    prices.write_text('["scripted:script"]\ninput = 1000000\noutput = 2000000\n')
    result = logged.run("stats", "--json", "--by", "session", "--prices", "prices.toml")
    stats = json.loads(result.stdout)

    assert stats["events"] == len(shop.events) == sum(each["count"] for each in stats["types"].values())
    assert {name: (each["count"], each["failed"]) for name, each in stats["commands"].items()} == {
        "PlaceOrderCommand": (2, 1),
        "ReserveStockCommand": (2, 1),
        "PromptCommand": (1, 0),
    }
    assert 0.02 <= stats["commands"]["ReserveStockCommand"]["p50_seconds"] < 2
    assert stats["errors_total"] == 3 == sum(each["count"] for each in stats["errors"])
    assert [each["event_type"] for each in stats["errors"]].count("EventHandlerFailedEvent") == 1
    assert stats["tools"]["add"]["count"] == 1
    assert stats["spans"]["look into the store"]["count"] == 2
    usage = shop.one("LLMResponseEvent")["usage"]
    model = stats["models"]["scripted:script"]
    assert (model["answers"], model["requests"], model["failed_requests"]) == (1, 2, 0)
    assert (model["input_tokens"], model["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
    assert model["cost"] == pytest.approx(usage["input_tokens"] + 2 * usage["output_tokens"])
    assert stats["sessions"]["alice"]["events"] == sum(event["session_id"] == "alice" for event in shop.events)
    assert sum(each["errors"] for each in stats["sessions"].values()) == 3
    assert stats["sessions"]["BUS"]["cost"] == model["cost"]


def test_a_price_that_is_not_known_is_said_and_not_guessed(logged: Program) -> None:
    stats = json.loads(logged.run("stats", "--json").stdout)
    page = logged.run("stats").stdout

    assert stats["models"]["scripted:script"]["cost"] is None
    assert "No price is known for scripted:script." in page


# trace and why


def test_a_trace_is_the_whole_chain_whichever_of_its_ids_is_given(logged: Program, shop: Shop) -> None:
    bad = shop.ids["bad"]
    failed = shop.one("EventHandlerFailedEvent")

    answers = [logged.run("trace", each, "--json") for each in (bad, failed["event_id"], failed["event_id"][:18])]

    assert len({answer.stdout for answer in answers}) == 1
    trace = json.loads(answers[0].stdout)
    assert trace["correlation_id"] == bad
    assert trace["events"] == sum(event["correlation_id"] == bad for event in shop.events)
    tree = [(step["depth"], step["kind"], step["name"]) for step in trace["steps"]]
    assert tree == [
        (0, "command", "PlaceOrderCommand"),
        (1, "span", "look into the store"),
        *[(2, "event", "StockCountedEvent")] * 4,
        (1, "command", "ReserveStockCommand"),
        (1, "event", "OrderPlacedEvent"),
        (2, "event", "EventHandlerFailedEvent"),
    ]
    errors = {step["name"]: step["error"] for step in trace["steps"] if step["error"]}
    assert errors.keys() == {"PlaceOrderCommand", "ReserveStockCommand", "EventHandlerFailedEvent"}
    assert errors["EventHandlerFailedEvent"] == "ConnectionError: no mail today"
    reserved = next(step for step in trace["steps"] if step["name"] == "ReserveStockCommand")
    assert 0.02 <= reserved["seconds"] < trace["seconds"]


def test_the_waterfall_shows_what_failed_and_folds_what_is_alike(logged: Program, shop: Shop) -> None:
    result = logged.run("trace", shop.ids["bad"])

    assert result.returncode == 0
    assert "├─ ReserveStockCommand item=gold" in result.stdout
    assert "✗ LookupError: there is no gold left <b>&" in result.stdout
    assert "StockCountedEvent × 4" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_tool_is_a_step_with_its_duration(logged: Program, shop: Shop) -> None:
    steps = json.loads(logged.run("trace", shop.ids["prompt"], "--json").stdout)["steps"]

    (tool,) = (step for step in steps if step["kind"] == "tool")
    assert (tool["name"], tool["error"]) == ("add", None)
    assert tool["seconds"] == pytest.approx(shop.one("ToolExecuteResultEvent")["duration"], abs=1e-5)


def test_each_request_to_a_model_is_a_step_with_its_tokens(logged: Program, shop: Shop) -> None:
    steps = json.loads(logged.run("trace", shop.ids["prompt"], "--json").stdout)["steps"]
    page = logged.run("trace", shop.ids["prompt"]).stdout

    calls = [step for step in steps if step["kind"] == "model"]
    told = [call["data"]["usage"] for call in calls]
    total = shop.one("LLMResponseEvent")["usage"]
    assert len(calls) == 2
    assert {name: sum(each[name] for each in told) for name in total} == total
    for usage in told:
        assert f"script {usage['input_tokens']} + {usage['output_tokens']} tokens" in page


def test_an_id_that_is_not_unique_or_not_there_is_a_failure_that_says_so(logged: Program, shop: Shop) -> None:
    several, none = logged.run("trace", shop.ids["bad"][:4]), logged.run("why", "nothing")

    assert (several.returncode, several.stdout) == (none.returncode, none.stdout) == (1, "")
    assert "give more of the one that is meant" in several.stderr
    assert shop.events[0]["event_id"] in several.stderr
    assert "no event in the log has an id that begins with 'nothing'" in none.stderr


def test_why_leads_from_the_first_cause_down_to_the_event(logged: Program, shop: Shop) -> None:
    failed = shop.one("EventHandlerFailedEvent")
    answer = json.loads(logged.run("why", failed["event_id"], "--json").stdout)
    text = logged.run("why", failed["event_id"]).stdout

    placed = shop.one("OrderPlacedEvent", item="gold")
    assert answer["complete"] is True
    assert [step["id"] for step in answer["steps"]] == [shop.ids["bad"], placed["event_id"], failed["event_id"]]
    assert answer["steps"][-1]["handler"].endswith("send_mail")
    assert re.findall(r"^ \d", text, re.MULTILINE) == [" 1", " 2", " 3"]
    assert "ConnectionError: no mail today" in text


def test_why_names_the_links_that_are_missing(logged: Program, shop: Shop) -> None:
    failed, placed = shop.one("EventHandlerFailedEvent"), shop.one("OrderPlacedEvent", item="gold")
    log = logged.folder / "logs" / "events.jsonl"
    kept = [line for line, event in zip(shop.lines, shop.events, strict=True) if event is not placed]
    log.write_bytes(b"\n".join(kept) + b"\n")

    result = logged.run("why", failed["event_id"], "--json")

    answer = json.loads(result.stdout)
    assert answer["complete"] is False
    assert [(step["kind"], step["id"]) for step in answer["steps"]] == [
        ("missing", placed["event_id"]),
        ("event", failed["event_id"]),
    ]
    assert f"{placed['event_id']} is named as a cause and is not in the log" in result.stderr


# the page


class Page(HTMLParser):
    """Checks while it reads that elements are properly nested, and collects what there is."""

    _void = frozenset({"meta", "br", "hr", "link", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture
def page(logged: Program, shop: Shop) -> Path:
    result = logged.run("trace", shop.ids["bad"], "--html", "trace.html")
    assert (result.returncode, result.stdout) == (0, "")
    return logged.folder / "trace.html"


def test_the_page_needs_nothing_else_and_runs_nothing(page: Path) -> None:
    text = page.read_text()
    parsed = Page(text)

    assert {tag for tag, _ in parsed.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "p", "details", "summary", "div", "span", "b"),
    }
    names = {name for _, attributes in parsed.tags for name in attributes}
    assert names <= {"lang", "charset", "http-equiv", "content", "name", "class", "id", "open"}
    assert not re.search(r"https?:|url\(|@import|<script|\bon\w+=|style=", text)
    (policy,) = (attributes["content"] for tag, attributes in parsed.tags if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_what_comes_from_the_log_is_text_on_the_page(page: Path) -> None:
    parsed = Page(page.read_text())

    assert "LookupError: there is no gold left <b>&" in parsed.text
    assert "StockCountedEvent × 4" in parsed.text
    assert "\x1b" not in parsed.text
    bars = [attributes["id"] for tag, attributes in parsed.tags if attributes.get("class") == "bar"]
    assert len(bars) == len(set(bars)) == 6


def test_the_page_is_shown_by_a_browser(page: Path) -> None:
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here: looked for {', '.join(_BROWSERS)}")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    result = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)

    assert Page(result.stdout).text.count("ReserveStockCommand") == 1
    assert "Content Security Policy" not in result.stderr
