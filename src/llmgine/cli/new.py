"""`llmgine new`: an application to begin with, copied from one that is kept, tested and runs as it is."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from keyword import iskeyword
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmgine.cli.failure import ExitCode
from llmgine.cli.stderr import printable
from llmgine.errors import ConfigurationError

__all__ = ["run_new"]

_TEMPLATE = Path(__file__).parent / "templates" / "my_app"
"""An application that is called as its folder is; this name is all that a copy changes."""
_LEFT_BEHIND = re.compile(r"__pycache__|\.\w+_cache|.*\.(pyc|jsonl)")
"""What running, testing and checking leave beside the files of the template."""
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def run_new(path: str) -> int:
    """Write an application into a new folder, and say what to do next; return the exit code.

    Args:
        path: the folder, whose last part is the application's name. It may exist if it is empty.

    Raises:
        ConfigurationError: the name is none for a Python package, or the folder holds something.
        OSError: a file cannot be written. Then none is left.
    """
    folder = Path(path).expanduser().resolve()
    _check_name(folder.name, path)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        msg = (
            f"{folder} exists already and {what}; nothing was written. Choose another name, or move it out of the way."
        )
        raise ConfigurationError(msg)
    files = list(_files(_TEMPLATE))
    _write(files, folder)
    _report(path, folder, files)
    return ExitCode.OK


def _check_name(name: str, path: str) -> None:
    if not _NAME.fullmatch(name):
        wrong = "is not the name of a Python package: lower-case letters, digits and _, not beginning with a digit"
    elif iskeyword(name):
        wrong = "is a word of the Python language"
    elif name in sys.stdlib_module_names or name == "llmgine":
        wrong = "is the name of a module that exists already"
    else:
        return
    better = Path(path).parent / _suggestion(name)
    msg = f"{name!r} {wrong}. Try: llmgine new {shlex.quote(str(better))}"
    raise ConfigurationError(msg)


def _suggestion(name: str) -> str:
    """Return a name like the given one that a package may have."""
    plain = (
        unicodedata.normalize("NFKD", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).encode("ascii", "ignore").decode()
    )
    better = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_") or "my_app"
    if better[0].isdigit():
        better = f"app_{better}"
    return f"{better}_app" if iskeyword(better) or better in {*sys.stdlib_module_names, "llmgine"} else better


def _files(folder: Path) -> Iterator[Path]:
    """Give the files of a template, relative to it: a folder's own, then those of the folders in it."""
    kept = [entry for entry in folder.iterdir() if not _LEFT_BEHIND.fullmatch(entry.name)]
    for entry in sorted(kept, key=lambda entry: (entry.is_dir(), entry.name)):
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry.relative_to(_TEMPLATE)


def _write(files: list[Path], folder: Path) -> None:
    try:
        for file in files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            content = (_TEMPLATE / file).read_bytes()
            target.write_bytes(content.replace(_TEMPLATE.name.encode(), folder.name.encode()))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # which was not there, or empty
        raise


def _report(path: str, folder: Path, files: list[Path]) -> None:
    console = Console(highlight=False)
    console.print(Text.assemble("Made ", (printable(str(folder)), "bold"), ":"), soft_wrap=True)
    for file in files:
        console.print(Text(f"  {file.as_posix()}", "dim"), soft_wrap=True)
    console.print("Next:")
    commands = ["python main.py", "python -m pytest  # if pytest is installed: pip install -r requirements.txt"]
    if folder != Path.cwd():
        commands.insert(0, f"cd {shlex.quote(path)}")
    for command in commands:
        console.print(Text(f"  {printable(command)}", "cyan"), soft_wrap=True)
