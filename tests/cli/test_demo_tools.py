"""The clock knows its zones; the reader stays in the working folder."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgine.cli.demo_tools import DEMO_TOOLS, calculate, current_time, read_file
from llmgine.errors import ToolError
from llmgine.llm.tools.tool_manager import ToolManager


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ways out of it, beside a secret."""
    (tmp_path / "secret").write_text("the secret")
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "notes.txt").write_text("the notes")
    (work / "link").symlink_to(tmp_path / "secret")
    (work / "sub" / "up").symlink_to(tmp_path)
    (work / "inside").symlink_to(work / "notes.txt")
    (work / "circle").symlink_to(work / "circle")
    monkeypatch.chdir(work)
    return work


def test_every_demo_tool_can_be_described_to_a_model() -> None:
    manager = ToolManager()
    for tool in DEMO_TOOLS:
        manager.register_tool(tool)
    assert all(parameter.description for tool in manager.tools for parameter in tool.parameters)


def test_the_calculator_gives_the_digits() -> None:
    assert calculate("2**64 - 1") == "18446744073709551615"
    assert calculate("1 / 4") == "0.25"


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "asia/tokyo", "Tokyo", " tokyo "])
def test_a_zone_is_found_by_its_name_or_its_city(zone: str) -> None:
    assert "+09:00 (JST)" in current_time(zone)


def test_the_time_is_the_time() -> None:
    assert f"{datetime.now(UTC):%Y-%m-%d}" in current_time("UTC") or f"{datetime.now(UTC):%H:%M}" == "00:00"
    assert current_time("America/Argentina/Buenos_Aires")[-13:] == current_time("Buenos Aires")[-13:]
    assert current_time("local") == current_time() or current_time("") == current_time()


@pytest.mark.parametrize(
    ("zone", "hint"), [("Asia/Tokio", "Asia/Tokyo"), ("Pariss", "Europe/Paris"), ("??", "Expected")]
)
def test_an_unknown_zone_is_answered_with_a_hint(zone: str, hint: str) -> None:
    with pytest.raises(ToolError, match=hint):
        current_time(zone)


@pytest.mark.parametrize("zone", ["../../etc/passwd", "/etc/passwd", "America", "a\0b", "x" * 500])
def test_a_zone_is_never_a_path(zone: str) -> None:
    with pytest.raises(ToolError, match="there is no time zone"):
        current_time(zone)


@pytest.mark.usefixtures("folder")
def test_files_of_the_working_folder_can_be_read_and_its_folders_listed() -> None:
    assert read_file("notes.txt") == read_file("./sub/../notes.txt") == read_file("inside") == "the notes"
    assert read_file(str(Path.cwd() / "notes.txt")) == "the notes"
    assert read_file(".").splitlines() == ["circle", "inside", "link", "notes.txt", "sub/"]


@pytest.mark.parametrize(
    "path",
    ["..", "../secret", "link", "sub/up", "sub/up/secret", "sub/../../secret", "/", "/etc/passwd", "//etc/passwd"],
)
@pytest.mark.usefixtures("folder")
def test_no_path_leads_out_of_the_working_folder(path: str) -> None:
    with pytest.raises(ToolError, match="outside the working folder"):
        read_file(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "", "sub", "up", "work", "link", "secret", "notes.txt"]), max_size=8))
def test_no_path_at_all_gives_the_secret(folder: Path, parts: list[str]) -> None:
    for start in ("", "/", f"{folder}/"):
        try:
            text = read_file(start + "/".join(parts))
        except ToolError:
            continue
        assert "the secret" not in text
        assert "secret" not in text.splitlines()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nothing", "lists what there is"),
        ("circle", "cannot be read"),
        ("a\0b", "cannot be read"),
        ("notes.txt/x", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("pipe", "neither a file nor a folder"),
        ("picture", "not a text file"),
        ("nul", "not a text file"),
    ],
)
def test_what_cannot_be_read_is_refused_politely(folder: Path, path: str, reason: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "picture").write_bytes(b"\x89PNG\r\n\xff")
    (folder / "nul").write_bytes(b"text\0text")
    with pytest.raises(ToolError, match=reason):
        read_file(path)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_of_a_long_file_the_beginning_is_read_wherever_a_character_is_cut(folder: Path, before: int) -> None:
    (folder / "long").write_text("x" * before + "€" * 30_000)
    text = read_file("long")
    assert len(text.encode()) < 61_000
    assert text.endswith(f"of {90_000 + before:,} bytes]")
    (folder / "many").mkdir()
    for number in range(300):
        (folder / "many" / f"{number:03}").touch()
    assert read_file("many").splitlines()[-1] == "[and 100 more]"


def test_a_mark_of_the_encoding_is_no_part_of_the_text(folder: Path) -> None:
    (folder / "marked").write_bytes(b"\xef\xbb\xbftext")
    assert read_file("marked") == "text"
