"""`llmgine chat` with a model in its own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Program

pytest.importorskip("xllamacpp")


@pytest.mark.model
def test_the_embedded_model_answers_and_is_called_what_it_is(program: Program, weights: Path) -> None:
    program.environment["LLMGINE_CACHE_DIR"] = str(weights.parent)
    asked = program.run("chat", "--model", "local:smollm2", "--json", "Hello!")
    events = [json.loads(line) for line in asked.stdout.splitlines()]
    assert asked.returncode == 0
    assert events[-1]["event_type"] == "LLMResponseEvent"
    assert events[-1]["text"]
    terminal = program.terminal("chat", "--model", "local:smollm2", "--no-tools", "Hello!")
    terminal.expect("local:smollm2, as asked for\\nThis is a small demonstration model")
    assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"<html>", "GGUF"), (b"GGUF" + bytes(1000), "model.gguf")]
)
def test_a_model_file_that_is_none_is_one_line_and_exit_code_1(
    program: Program, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (program.folder / "model.gguf").write_bytes(content)
    asked = program.run("chat", "--model", "local:model.gguf", "Hello!")
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1), asked.stderr
    assert asked.stderr.startswith("llmgine: ")
    assert reason in asked.stderr
