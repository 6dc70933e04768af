"""The line that says how far something has come."""

from __future__ import annotations

import sys
from io import StringIO

import pytest

from llmgine.cli import progress
from llmgine.cli.progress import Counted


class Screen(StringIO):
    """Takes what is written to a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_line_gives_way_to_what_others_write(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    screen = Screen()
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    monkeypatch.setattr(sys, "stderr", screen)

    with Counted("letters", 4) as bar, bar.among_others():
        print("early")  # noqa: T201
        bar.advance()
        now = 1.0
        bar.advance()
        print("late", file=sys.stderr)  # noqa: T201
        now = 2.0
        bar.advance()
    print("after", file=sys.stderr)  # noqa: T201

    half, three_quarters = ("━" * 12 + "╌" * 12 + "  50%"), ("━" * 18 + "╌" * 6 + "  75%")
    assert screen.getvalue() == (
        "early\n"
        f"\r\x1b[K{half} of 4 letters, 2.0/s, 1 s left\r\x1b[Klate\n"
        f"\r\x1b[K{three_quarters} of 4 letters, 1.5/s, 1 s left\r\x1b[Kafter\n"
    )


def test_where_nobody_watches_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with Counted("letters", 4) as bar, bar.among_others():
        bar.advance(4)
        print("said")  # noqa: T201

    assert capsys.readouterr() == ("", "said\n")
