"""One reply on a terminal, as it comes in: its text, a pane per tool call, and at the end what it took."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.segment import SegmentLines
from rich.spinner import Spinner
from rich.text import Text

from llmgine.cli.markdown import Lines, MarkdownStream
from llmgine.cli.stderr import printable
from llmgine.cli.tool_progress import progress_of
from llmgine.llm.approvals import ToolApprovalEndedEvent
from llmgine.llm.engine import (
    EngineStatusEvent,
    LLMResponseEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
    TextChunkEvent,
)
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent, ToolProgressEvent
from llmgine.messages import Event

if TYPE_CHECKING:
    from llmgine.cli.approval_question import ApprovalQuestions

__all__ = ["ReplyView", "shortened"]

_FRAME_S = 0.08
_PANE_LINES = 10
_PANE_CHARS = 800


class ReplyView:
    """Draws a reply while in its `async with` block; what is shown for good stays, the rest is redrawn below it."""

    def __init__(self, console: Console, questions: ApprovalQuestions | None = None) -> None:
        """Take what is needed.

        Args:
            console: what to draw on.
            questions: who else has the terminal for a while.
        """
        self._console = console
        self._questions = questions
        self._live = self._new_live()
        self._held: list[Event] | None = None
        """What happens while the terminal is left to something else."""
        self._text = MarkdownStream(console)
        self._unsettled: Lines = []
        self._running: dict[str, str] = {}  # tool calls without a result, by id
        self._doing = "thinking"
        self._since = monotonic()
        self._spinner: Spinner | None = Spinner("dots", style="cyan")
        self._ticking: asyncio.Task[None] | None = None
        self._quiet = ExitStack()

    def show(self, event: Event) -> None:
        """Take in an event; what it changes is drawn at once or with the next frame."""
        if self._held is not None:
            self._held.append(event)
            return
        match event:
            case TextChunkEvent():
                self._text.add(printable(event.text))
                self._doing = "writing"
            case EngineStatusEvent():
                self._doing = "thinking" if event.status == "calling model" else event.status
            case ToolCallEvent():
                self._settle()
                self._running[event.tool_call_id] = shortened(f"{event.tool_name} {event.arguments}", 1)
            case ToolProgressEvent() if event.tool_call_id in self._running:
                self._running[event.tool_call_id] = shortened(progress_of(event), 1)
            case ToolExecuteResultEvent():
                self._running.pop(event.tool_call_id, None)
                self._console.print(_pane(event), *([] if self._running else [""]))
            case LLMResponseEvent():
                self._stop()
                self._console.print(_figures(event))
            case ToolApprovalEndedEvent():
                by = f" by {event.decided_by}" if event.decided_by else ""
                self._console.print(Text(printable(f"{event.tool_name}: {event.outcome}{by}"), "dim"))
            case PromptCancelledEvent():
                self._stop()
                self._console.print(Text("stopped", "yellow"))
            case PromptFailedEvent():
                self._stop()
            case _:
                pass

    @contextmanager
    def aside(self) -> Generator[None]:
        """Leave the terminal to something else within the block. What happens meanwhile is shown after it."""
        if self._ticking is not None:
            self._ticking.cancel()
        self._settle()
        self._live.stop()
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            if self._spinner is not None:
                self._begin()
            for event in held:
                self.show(event)

    async def __aenter__(self) -> Self:
        self._quiet.enter_context(_unseen_keys())
        if self._questions is not None:
            self._quiet.enter_context(self._questions.beside(self.aside))
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spinner = None
        with self._quiet, ExitStack() as stack:
            stack.callback(self._live.stop)
            if self._ticking is not None:
                self._ticking.cancel()
                await asyncio.wait((self._ticking,))
                if not self._ticking.cancelled():
                    self._ticking.result()  # raises what it raised
            self._settle()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield SegmentLines(self._unsettled, new_lines=True)
        if self._spinner is not None:
            doing = "; ".join(self._running.values()) or self._doing
            status = Text(f"{doing} · {monotonic() - self._since:.0f} s · Ctrl-C stops", "dim", no_wrap=True)
            status.truncate(options.max_width - 2, overflow="ellipsis")
            self._spinner.update(text=status)
            yield self._spinner

    def _new_live(self) -> Live:
        return Live(self, console=self._console, auto_refresh=False, transient=True)

    def _begin(self) -> None:
        self._live = self._new_live()  # one that was stopped would take its last lines for still there
        self._live.start()
        self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            began = monotonic()
            final, self._unsettled = self._text.advance(max(1, self._console.height - 3))
            if final:
                self._console.print(SegmentLines(final, new_lines=True), end="")
            else:
                self._live.refresh()
            # However long a reply becomes, drawing it takes at most a fifth of the time.
            await asyncio.sleep(max(_FRAME_S, 4 * (monotonic() - began)))

    def _stop(self) -> None:
        """Print what is left of the text, and draw no more: what follows, on stderr too, finds a clean line."""
        if self._ticking is not None:
            self._ticking.cancel()
        self._spinner = None
        try:
            self._settle()
        finally:
            self._live.stop()

    def _settle(self) -> None:
        """Print what is left of the text, for good."""
        final, self._unsettled = self._text.finish(), []
        if final:
            self._console.print(SegmentLines([*final, []], new_lines=True), end="")


@contextmanager
def _unseen_keys() -> Generator[None]:
    """Keep the terminal from writing into the reply what is typed meanwhile; the next prompt gets it."""
    try:
        # In the background, the terminal is not ours to set.
        ours = sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # AttributeError: no standard input, or Windows
        ours = False
    if not ours:
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pane(event: ToolExecuteResultEvent) -> RenderableType:
    body = Text()
    for name, value in event.tool_args.items():
        told = value if name == "__raw__" else f"{name} = {json.dumps(value, ensure_ascii=False, default=str)}"
        body.append(shortened(f"{told}", 3) + "\n", "cyan")
    body.append(shortened(event.tool_result, _PANE_LINES), "" if event.execution_succeed else "red")
    return Panel(
        body,
        title=Text(printable(event.tool_name), "bold"),
        title_align="left",
        subtitle=Text(f"{event.duration:.2f} s" if event.execution_succeed else f"failed, {event.duration:.2f} s"),
        subtitle_align="right",
        border_style="dim" if event.execution_succeed else "red",
    )


def _figures(event: LLMResponseEvent) -> Text:
    parts: list[str] = []
    if event.usage.total_tokens:
        parts += [f"{event.usage.input_tokens:,} tokens in", f"{event.usage.output_tokens:,} out"]
    if event.time_to_first_token is not None:
        parts.append(f"first after {event.time_to_first_token:.2f} s")
    if event.tokens_per_second is not None:
        parts.append(f"{event.tokens_per_second:.0f} tokens/s")
    return Text(" · ".join(parts), "dim")


def shortened(text: str, max_lines: int, max_chars: int = _PANE_CHARS) -> str:
    """Return the beginning of a text, safe to print, with a mark that says how much was left out."""
    text = printable(text).rstrip()
    lines = text[:max_chars].split("\n")[:max_lines]
    shown = "\n".join(lines)
    left_out = len(text) - len(shown)
    return f"{shown}… [{left_out:,} more characters]" if left_out else shown
