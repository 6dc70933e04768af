"""A reply is on the screen once, whole, and never larger than the screen while it grows."""

from __future__ import annotations

import asyncio
import re
from io import StringIO
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmgine.cli.markdown import Lines, MarkdownStream
from llmgine.cli.reply import ReplyView, shortened
from llmgine.llm.engine import (
    EngineStatusEvent,
    LLMResponseEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
    TextChunkEvent,
)
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent, ToolProgressEvent
from llmgine.llm.types import Usage
from llmgine.messages import Event

WIDTH, HEIGHT = 60, 12
REPLY = """\
# A title

Two lines of **bold** and `code`,
and a vector<int>, and <b>no HTML</b>, in a paragraph that is long enough to be wrapped.

1. one
2. two
   - nested

   more of two
3. three

```python
def f(x):

    return x
```

| a | b |
|---|---|
| 1 | wide |

> quote
goes on

* lazily
continued
* list

---
Setext
======
[a link](http://example.org) at the end"""

FRAGMENTS = st.sampled_from(
    [
        *"*_`#|-\n>[]()!<&1. ~\\:", "\n\n", "```", "| a | b |\n", "|---|---|\n", "- ", "1. ", "> ", "    ", "[x]: /y\n",
        "![i](u)", "<b>", "&amp;", "\u2028", "\x85", "日本", "\t", "[[", "---\n", "===\n",
    ]
)  # fmt: skip


class Screen:
    """As much of a terminal as these programs use: what scrolls off is kept, what is moved over is overwritten."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0

    def feed(self, output: str) -> None:
        for control, text in re.findall(r"(\x1b\[[?0-9;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", output):
            if text:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + text + line[self.column + len(text) :]
                self.column += len(text)
                assert self.column <= WIDTH
            elif control == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif control == "\r":
                self.column = 0
            elif control[-1] == "A":
                self.row -= int(control[2:-1])
                assert self.row > len(self.lines) - 1 - HEIGHT, "what has scrolled away cannot be reached"
            elif control == "\x1b[2K":
                self.lines[self.row] = ""
            else:
                assert control[-1] in "mhl", control

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


def console() -> Console:
    return Console(
        file=StringIO(), force_terminal=True, width=WIDTH, height=HEIGHT, color_system="standard", legacy_windows=False
    )


def text_of(lines: Lines) -> list[str]:
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def at_once(text: str) -> list[str]:
    stream = MarkdownStream(console())
    stream.add(text)
    return text_of(stream.finish())


@given(st.lists(st.integers(0, len(REPLY)), max_size=30), st.integers(4, 40))
def test_however_a_reply_arrives_it_ends_up_the_same(cuts: list[int], height: int) -> None:
    stream = MarkdownStream(console())
    lines: list[str] = []
    places = sorted({0, *cuts, len(REPLY)})
    for start, end in pairwise(places):
        stream.add(REPLY[start:end])
        final, changing = stream.advance(height)
        lines += text_of(final)
        assert len(changing) <= height
    assert lines + text_of(stream.finish()) == at_once(REPLY)


@given(st.lists(st.lists(FRAGMENTS, max_size=12).map("".join), max_size=8), st.integers(1, 15))
def test_no_text_is_too_odd_to_be_drawn(pieces: list[str], height: int) -> None:
    stream = MarkdownStream(console())
    for piece in pieces:
        stream.add(piece)
        assert len(stream.advance(height)[1]) <= height
    stream.finish()


def test_the_text_is_all_there_and_nothing_is_taken_for_html() -> None:
    lines = at_once(REPLY)
    assert "and a vector<int>, and <b>no HTML</b>, in a paragraph that" in lines
    assert lines[lines.index("def f(x):") :][:3] == ["def f(x):", "", "    return x"]
    assert "a link (http://example.org) at the end" in lines


@pytest.mark.parametrize("kind", ["{}. item", "{}\n", "{} text {}  \n", "    code {}", "| {} | {} |"])
def test_a_block_larger_than_the_screen_appears_once_and_whole(kind: str) -> None:
    text = "Before\n\n" + ("| a | b |\n|---|---|\n" if "|" in kind else "")
    text += "\n".join(kind.format(number, number) for number in range(100, 150))
    stream = MarkdownStream(console())
    lines: list[str] = []
    for piece in re.findall(r".{1,7}", text, re.DOTALL):
        stream.add(piece)
        final, changing = stream.advance(HEIGHT)
        lines += text_of(final)
        assert len(changing) <= HEIGHT
    lines += text_of(stream.finish())
    assert re.findall(r"\b1\d\d\b", "\n".join(lines)) == re.findall(r"\b1\d\d\b", text)


async def shown(*events: Event | None) -> str:
    """Return what is on the screen after the events; None stands for a while in which it is redrawn."""
    terminal, screen = console(), Screen()
    async with ReplyView(terminal) as view:
        for event in events:
            if event is None:
                await asyncio.sleep(0.1)
            else:
                view.show(event)
    assert isinstance(terminal.file, StringIO)
    screen.feed(terminal.file.getvalue())
    return screen.text()


async def test_a_reply_that_is_redrawn_on_the_way_is_on_the_screen_once() -> None:
    events: list[Event | None] = []
    for piece in re.findall(r".{1,60}", REPLY * 2, re.DOTALL):
        events += [TextChunkEvent(text=piece), None]
    response = LLMResponseEvent(usage=Usage(1200, 30), time_to_first_token=0.25, tokens_per_second=20.0)
    screen = await shown(EngineStatusEvent(status="calling model"), None, *events, response)
    figures = "1,200 tokens in · 30 out · first after 0.25 s · 20 tokens/s"
    assert screen.split("\n") == [*at_once(REPLY * 2), "", figures]


def result(**fields: Any) -> ToolExecuteResultEvent:
    return ToolExecuteResultEvent(execution_succeed=fields["tool_name"] == "add", **fields)


async def test_how_far_a_tool_has_got_is_in_the_place_of_its_arguments_until_it_is_done() -> None:
    target = console()
    assert isinstance(target.file, StringIO)

    def drawn(view: ReplyView) -> list[str]:
        with target.capture() as captured:
            target.print(view)
        return [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", captured.get()).splitlines()]

    async with ReplyView(target) as view:
        view.show(ToolCallEvent(tool_call_id="1", tool_name="count", arguments='{"a": 1}'))
        assert any('count {"a": 1} · ' in line for line in drawn(view))
        view.show(
            ToolProgressEvent(tool_call_id="1", tool_name="count", progress=2, total=6, message="a \x1b[31mshelf")
        )
        assert any("count: 2 of 6, a shelf · " in line for line in drawn(view))
        view.show(result(tool_call_id="1", tool_name="count"))
        view.show(ToolProgressEvent(tool_call_id="1", tool_name="count", progress=3))
        assert not any("count" in line for line in drawn(view))


async def test_a_tool_call_becomes_a_pane_with_arguments_duration_and_result() -> None:
    screen = await shown(
        TextChunkEvent(text="Let me see."),
        ToolCallEvent(tool_call_id="1", tool_name="add", arguments='{"a": 1}'),
        None,
        result(tool_name="add", tool_args={"a": 1, "b": [2, "ü"]}, tool_result="line\n" * 50, duration=1.234),
        result(tool_name="sub", tool_args={"__raw__": "{oops"}, tool_result="Error: \x1b[31mbad\a", duration=0.5),
        TextChunkEvent(text="Done."),
        LLMResponseEvent(),
    )
    lines = screen.split("\n")
    assert lines[:2] == ["Let me see.", ""]
    assert lines[2].startswith("╭─ add ──")
    assert lines[3:6] == [f"│ {text:<56} │" for text in ("a = 1", 'b = [2, "ü"]', "line")]
    assert [line.strip("│ ") for line in lines if "more characters" in line] == ["line… [200 more characters]"]
    assert [line.strip("╰╯─ ") for line in lines if line.startswith("╰")] == ["1.23 s", "failed, 0.50 s"]
    assert f"│ {'Error: bad':<56} │" in lines
    assert lines[-1] == "Done."


@pytest.mark.parametrize(
    ("end", "line"),
    [
        (PromptCancelledEvent(text="Half"), "stopped"),
        (PromptFailedEvent(error="X: y", text="Half"), "Half"),
        (LLMResponseEvent(time_to_first_token=1.0), "first after 1.00 s"),
    ],
)
async def test_a_reply_that_is_cut_off_stays_on_the_screen(end: Event, line: str) -> None:
    screen = await shown(TextChunkEvent(text="Half"), None, end)
    assert screen.startswith("Half")
    assert line in screen.split("\n")


@pytest.mark.parametrize("end", [PromptCancelledEvent(), PromptFailedEvent(error="X: y"), LLMResponseEvent()])
async def test_what_is_said_after_the_end_finds_a_clean_line(end: Event) -> None:
    target = console()
    assert isinstance(target.file, StringIO)
    async with ReplyView(target) as view:
        view.show(EngineStatusEvent(status="calling model"))
        while "thinking" not in target.file.getvalue():  # noqa: ASYNC110  # no event tells of a drawing
            await asyncio.sleep(0)
        view.show(end)
        target.file.write("said on stderr\n")
    screen = Screen()
    screen.feed(target.file.getvalue())

    assert "said on stderr" in screen.text().split("\n")
    assert "thinking" not in screen.text()


async def test_no_reply_can_command_the_terminal() -> None:
    assert (
        await shown(TextChunkEvent(text="a\x1b[2J\x1b]0;title\x07b\x9b31mc\rd"), LLMResponseEvent())
        == "a]0;titleb31mcd"
    )


def test_what_is_shortened_says_by_how_much() -> None:
    assert shortened("a\nb\nc\n", 5) == "a\nb\nc"
    assert shortened("a\nb\nc", 2) == "a\nb… [2 more characters]"
    assert shortened("x" * 3000, 2) == "x" * 800 + "… [2,200 more characters]"
