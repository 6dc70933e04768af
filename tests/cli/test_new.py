"""`llmgine new`: what it makes works, is checked as strictly as the package itself, and overwrites nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import llmgine.cli.new
from llmgine.cli.new import run_new
from llmgine.errors import ConfigurationError

if TYPE_CHECKING:
    from .conftest import Program

PUBLISHED = {
    "main.py",
    "config.py",
    "bootstrap.py",
    "commands/__init__.py",
    "commands/process_data.py",
    "events/__init__.py",
    "events/data_processed.py",
    "handlers/__init__.py",
    "handlers/process_data_handler.py",
    "services/data_processor.py",
    "logs/.gitignore",
    "requirements.txt",
    "README.md",
}
"""What every new application has."""


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_app(app: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python's in the application's folder, with nothing but the environment that is given."""
    return subprocess.run(
        [sys.executable, "-B", *command],
        cwd=app,
        env={"PATH": os.environ["PATH"], "HOME": str(app.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A new application, not called like the template."""
    assert run_new(str(tmp_path / "word_count")) == 0
    capsys.readouterr()
    return tmp_path / "word_count"


# What it makes


def test_it_has_the_published_layout_and_its_own_name(app: Path) -> None:
    files = contents(app)

    assert files.keys() >= PUBLISHED
    assert not [name for name, content in files.items() if b"my_app" in content or "my_app" in name]
    assert b'name: str = "word_count"' in files["config.py"]
    assert files["README.md"].startswith(b"# word_count\n")


def test_it_runs_at_once_and_logs_what_happens(app: Path) -> None:
    done = in_app(app, "-W", "error", "main.py")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "12 words, the longest is 'something'\n"
    (log,) = (app / "logs").glob("*.jsonl")
    kinds = [json.loads(line)["event_type"] for line in log.read_text().splitlines()]
    assert kinds == [
        "TraceEvent",
        "CommandStartedEvent",
        "DataProcessedEvent",
        "LogEvent",
        "CommandResultEvent",
        "TraceEvent",
    ]


def test_it_runs_from_any_folder(app: Path) -> None:
    done = subprocess.run([sys.executable, "-B", app / "main.py"], cwd=app.parent, check=True, capture_output=True)

    assert done.stdout.startswith(b"12 words")
    assert list((app / "logs").glob("*.jsonl"))
    assert not (app.parent / "logs").exists()


def test_its_settings_are_read_and_its_failure_is_an_exit_code(app: Path) -> None:
    done = in_app(app, "main.py", LLMGINE_MAX_WORDS="3")
    assert done.returncode == 1
    assert done.stderr == "The text was not processed: ValueError: A text has 1 to 3 words; this one has 12.\n"

    (app / "llmgine.toml").write_text("[llmgine]\nmax_word = 3\n")
    done = in_app(app, "main.py")
    assert done.returncode == 2
    assert done.stderr == (
        f"max_word in [llmgine] of {app / 'llmgine.toml'} is not a setting of Settings; did you mean max_words?\n"
    )


def test_its_own_tests_pass(app: Path) -> None:
    done = in_app(app, "-m", "pytest", "-q", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_it_is_lint_free_formatted_and_strictly_typed(app: Path) -> None:
    for command in (["ruff", "check", "--no-cache"], ["ruff", "format", "--check", "--no-cache"], ["mypy", "."]):
        done = in_app(app, "-m", *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_running_it_leaves_behind_is_not_for_version_control(app: Path) -> None:
    in_app(app, "main.py")
    subprocess.run(["git", "init", "--quiet"], cwd=app, check=True)
    subprocess.run(["git", "add", "."], cwd=app, check=True)
    kept = subprocess.run(["git", "ls-files"], cwd=app, check=True, capture_output=True, text=True).stdout.split()

    assert set(kept) >= PUBLISHED
    assert not [name for name in kept if name.endswith(".jsonl")]


def test_what_was_left_beside_the_template_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "my_app"
    for name in ("main.py", "__pycache__/main.pyc", ".mypy_cache/a", "logs/.gitignore", "logs/events.jsonl"):
        (template / name).parent.mkdir(parents=True, exist_ok=True)
        (template / name).write_text("my_app")
    monkeypatch.setattr(llmgine.cli.new, "_TEMPLATE", template)
    run_new(str(tmp_path / "other"))

    assert contents(tmp_path / "other") == {"main.py": b"other", "logs/.gitignore": b"other"}


# What it says, and what it refuses


def test_it_says_what_it_made_and_what_to_do_next(program: Program) -> None:
    done = program.run("new", "apps/my_app")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"Made {program.folder / 'apps' / 'my_app'}:"
    assert {line.strip() for line in lines} >= PUBLISHED
    assert lines[-4:-1] == ["Next:", "  cd apps/my_app", "  python main.py"]
    for file in (line.strip() for line in lines[1:-4]):
        assert (program.folder / "apps" / "my_app" / file).is_file()
    assert program.shell("cd apps/my_app && $PYTHON main.py").returncode == 0


def test_an_empty_folder_may_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_new(".") == 0
    assert b"here" in (tmp_path / "here" / "config.py").read_bytes()


def test_a_folder_that_holds_something_is_left_as_it_is(program: Program) -> None:
    (program.folder / "mine").mkdir()
    (program.folder / "mine" / "main.py").write_text("mine")
    done = program.run("new", "mine")

    assert done.returncode == 2
    assert f"{program.folder / 'mine'} exists already and is not empty; nothing was written." in done.stderr
    assert contents(program.folder) == {"mine/main.py": b"mine"}

    (program.folder / "file").touch()
    assert "exists already and is a file; nothing was written." in program.run("new", "file").stderr


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("my-app", "my_app"),
        ("MyApp", "my_app"),
        ("My Great App!", "my_great_app"),
        ("Café", "cafe"),
        ("2fast", "app_2fast"),
        ("class", "class_app"),
        ("json", "json_app"),
        ("llmgine", "llmgine_app"),
        ("日本", "my_app"),
        ("apps/my-app", "apps/my_app"),
    ],
)
def test_a_name_that_no_package_can_have_is_refused_with_a_better_one(
    name: str, better: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=rf"Try: llmgine new {better}$"):
        run_new(name)

    assert list(tmp_path.iterdir()) == []
    assert run_new(better) == 0


def test_nothing_is_left_where_it_could_not_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "data_processed.py":
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        run_new(str(tmp_path / "my_app"))

    assert list(tmp_path.iterdir()) == []


def test_help_tells_what_it_makes(program: Program) -> None:
    done = program.run("new", "--help")

    assert done.returncode == 0
    for word in ("NAME", "command", "handler", "service", "event", "tests", "Example"):
        assert word in done.stdout
