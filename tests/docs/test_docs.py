"""What the documents say is run: every Python block; and every test and file that they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks/README.md",
]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{page.read_text()[: match.start()].count(chr(10)) + 1}")
    for page in PAGES
    for match in re.finditer(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    for block in [match[1]]
]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    expected = re.findall(r"# prints: (.*)", block)
    assert [line for line in done.stdout.splitlines() if line.strip()] == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_and_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`([a-z_…]*(?:test_[a-z_]+|…)[a-z_…]*)`", text):
        pattern = re.escape(name).replace("…", "[a-z_0-9]*")
        assert re.search(rf"def {pattern if name.startswith('test_') else 'test_' + pattern}\(", TESTS), name
    for path in re.findall(r"`((?:tests|docs|src|benchmarks|requirements|examples)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path
