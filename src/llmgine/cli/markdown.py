"""Markdown that is still being written, on a terminal that scrolls.

What can no longer change is printed once, for good; only the block being written is drawn again and again, and of that
never more than fits on the screen. So a long reply neither flickers nor appears twice in the scroll-back.
"""

from __future__ import annotations

from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.syntax import Syntax

__all__ = ["Lines", "MarkdownStream"]

Block = list[Token]
Lines = list[list[Segment]]

# Models write `vector<int>` and mean it: taken for HTML, it would vanish.
_parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])


class MarkdownStream:
    """Turns a growing text into lines that are final and lines that may still change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pending = ""  # the text from the first block on that is not finished
        self._printed = 0  # how many lines of it are final all the same, having scrolled away
        self._begun = False  # whether any block has been finished

    def add(self, text: str) -> None:
        """Take the next piece of the text; its lines end with a line feed only."""
        self._pending += text

    def advance(self, height: int) -> tuple[Lines, Lines]:
        """Return the lines that have become final, and those after them that may still change, at most `height`."""
        blocks = _blocks(self._pending)
        finished = len(blocks) - 1
        if finished > 0 and "\n" not in self._text_from(blocks[-1]):
            finished -= 1  # the last line is not whole: it may yet turn out to go on with the block before
        final = self._finish(blocks[: max(0, finished)])
        if not blocks:
            return final, []
        blocks = blocks[max(0, finished) :]
        self._pending = self._text_from(blocks[0])
        lines = self._render(blocks)
        if blocks[0][0].type == "table_open":
            return final, lines[-height:]  # its columns may still change their width
        scrolled = max(self._printed, len(lines) - height)
        final += lines[self._printed : scrolled]
        self._printed = scrolled
        return final, lines[scrolled:]

    def finish(self) -> Lines:
        """Return the lines that were not final yet, and begin anew."""
        lines = self._finish(_blocks(self._pending))
        self._pending, self._printed, self._begun = "", 0, False
        return lines

    def _finish(self, blocks: list[Block]) -> Lines:
        lines = self._render(blocks)
        final = lines[self._printed :]
        self._printed = max(0, self._printed - len(lines))
        self._begun = self._begun or bool(blocks)
        return final

    def _render(self, blocks: list[Block]) -> Lines:
        """Return the lines of blocks, an empty one between each block and the one before it."""
        lines: Lines = []
        for block in blocks:
            document = _Document("", hyperlinks=False)
            document.parsed = block
            rendered = [_trimmed(line) for line in self._console.render_lines(document, pad=False)]
            while rendered and not rendered[-1]:
                rendered.pop()
            while rendered and not rendered[0]:
                del rendered[0]
            lines += [[], *rendered] if self._begun or lines else rendered
        return lines

    def _text_from(self, block: Block) -> str:
        first = block[0].map[0] if block[0].map else 0
        return "\n".join(self._pending.split("\n")[first:])


def _blocks(text: str) -> list[Block]:
    """Return the tokens of each paragraph, list, table, ... of the top level."""
    blocks: list[Block] = []
    for token in _parser.parse(text):
        if token.level == 0 and token.nesting >= 0:
            blocks.append([])
        blocks[-1].append(token)
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"  # models that break a line mean it
    return blocks


def _trimmed(line: list[Segment]) -> list[Segment]:
    """Return a line without the spaces at its end, which would get into what people copy."""
    line = list(line)
    while line and not line[-1].text.rstrip():
        line.pop()
    if line:
        line[-1] = line[-1]._replace(text=line[-1].text.rstrip())
    return line


class _Code(CodeBlock):
    """Code as it was written, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme="ansi_dark", background_color="default", word_wrap=True)


class _Title(Heading):
    """A heading on the left, like the text below it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Document(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "fence": _Code,
        "code_block": _Code,
        "heading_open": _Title,
    }
