"""Every example runs, and prints what its lines that begin with `# prints: ` say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dev_mode import run_in_dev_mode

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    expected = re.findall(r"^# prints: (.*)$", example.read_text(), re.MULTILINE)
    done = run_in_dev_mode(example, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected
    assert expected
