"""`--tools` finds what the user means, and says in a line why it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmgine.cli.tool_specs import load_tools
from llmgine.errors import ConfigurationError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with modules in it, which are forgotten afterwards."""
    modules = dict(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tools.py").write_text(
        "from json import dumps\nfrom my_part import other\n"
        "def first(): ...\nasync def second(): ...\ndef _hidden(): ...\n"
        "class Box:\n    def method(self): ...\nbox = Box()\n"
    )
    (tmp_path / "my_part.py").write_text("def other(): ...\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "raising.py").write_text("x = 1\n1 / 0\n")
    (tmp_path / "exiting.py").write_text("raise SystemExit('bye\\nbye')\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "needing.py").write_text("import no_such_library\n")
    (tmp_path / "json.py").write_text("def mine(): ...\n")
    yield tmp_path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]


def names(spec: str) -> list[str]:
    return [function.__name__ for function in load_tools(spec)]


def test_a_module_of_the_working_folder_offers_the_public_functions_that_it_defines() -> None:
    assert names("my_tools") == ["first", "second"]


def test_a_function_is_taken_by_its_name_wherever_it_was_defined() -> None:
    assert names("my_tools:other") == ["other"]
    assert names("my_tools:box.method") == ["method"]
    assert names("os.path:basename") == ["basename"]


def test_a_file_is_a_module_whatever_its_name(folder: Path) -> None:
    assert names("my_tools.py:first") == names(f"{folder}/my_tools.py:first") == ["first"]
    assert names("json.py") == ["mine"]
    assert load_tools("json.py:mine") == load_tools("./json.py")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "expected module:function"),
        (":first", "expected module:function"),
        ("my-tools", "expected module:function"),
        ("my_tools:", "expected module:function"),
        ("missing", "there is no module 'missing'"),
        ("my_tools.missing", "there is no module 'my_tools.missing'"),
        ("missing.py", "there is no such file"),
        ("my_tools:third", "there is no 'third' in it; its public functions: first, second"),
        ("empty", "defines no public function"),
        ("empty:x.y", "its public functions: none"),
        ("raising", r"importing it failed: ZeroDivisionError: division by zero \(raising.py, line 2\)"),
        ("exiting", r"importing it failed: SystemExit: bye \(exiting.py, line 1\)"),
        ("broken", r"importing it failed: SyntaxError: .*\(broken.py, line 1\)"),
        ("broken.py", r"importing it failed: SyntaxError: .*\(broken.py, line 1\)"),
        ("needing", "importing it failed: ModuleNotFoundError: No module named 'no_such_library'"),
    ],
)
def test_what_cannot_be_loaded_is_explained_in_one_line(spec: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        load_tools(spec)
    assert "\n" not in str(caught.value)
