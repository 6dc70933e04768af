import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from llmgine.llm.tools.result import as_data, as_text, bounded


class Color(Enum):
    RED = "red"


class Mode(StrEnum):
    FAST = "fast"


@dataclass
class Point:
    x: int
    on: date


class Model(BaseModel):
    path: Path


class Opaque:
    def __str__(self) -> str:
        return "an opaque thing"


def numbers() -> Iterator[int]:
    yield from (1, 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ([1, "a", None], '[1,"a",null]'),
        ({"a": (1, 2)}, '{"a":[1,2]}'),
        ({Color.RED: Mode.FAST}, '{"red":"fast"}'),
        (Mode.FAST, '"fast"'),
        (Point(1, date(2026, 1, 2)), '{"x":1,"on":"2026-01-02"}'),
        (Model(path=Path("a/b")), '{"path":"a/b"}'),
        (b"text", '"text"'),
        (b"\xff", '"_w=="'),
        ({"opaque": Opaque()}, '{"opaque":"an opaque thing"}'),
        (numbers(), "[1,2]"),
        (ValueError("bad"), '"ValueError: bad"'),
        ([1, KeyError("k")], """[1,"KeyError: 'k'"]"""),
    ],
)
def test_a_string_stays_and_anything_else_becomes_json(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_what_has_no_json_is_shown_as_python_shows_it() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert as_text(loop) == as_data(loop) == "[[...]]"


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(json_values.filter(lambda value: not isinstance(value, str)))
def test_json_values_can_be_read_back(value: Any) -> None:
    assert json.loads(as_text(value)) == as_data(value) == value


@given(st.text(), st.integers(1, 50))
@example("half a \ud83d pair", 20)
def test_a_text_is_bounded_and_can_be_encoded(text: str, limit: int) -> None:
    content = bounded(text, limit)
    content.encode()
    beginning, _, mark = content.rpartition("\n[")
    if len(text) > limit:
        assert beginning == text[:limit].encode(errors="backslashreplace").decode()
        assert mark == f"{len(text) - limit:,} of {len(text):,} characters left out]"
    else:
        assert content == text.encode(errors="backslashreplace").decode()
