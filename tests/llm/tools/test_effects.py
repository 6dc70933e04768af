import enum
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from llmgine.llm.tools.effects import Effect, call_digest, canonical_json, effect_key


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    tags: set[str]


class Model(BaseModel):
    path: Path
    points: list[Point]


class Opaque:
    pass


def test_only_an_unsafe_effect_must_not_be_repeated() -> None:
    assert [effect for effect in Effect if not effect.repeatable] == [Effect.UNSAFE]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(st.text(), json_values, max_size=4)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(arguments)
def test_the_order_of_keys_changes_nothing(given: dict[str, Any]) -> None:
    assert canonical_json(reordered(given)) == canonical_json(given)
    assert canonical_json(given).isascii()


@given(arguments, arguments)
def test_what_differs_has_another_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (call_digest("t", one) == call_digest("t", other)) == (canonical_json(one) == canonical_json(other))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Color.RED, '"red"'),
        (enum.IntEnum("N", "ONE").ONE, "1"),  # type: ignore[attr-defined]  # made at run time
        (Point(1, {"b", "a"}), '{"tags":["a","b"],"x":1}'),
        (Model(path=Path("a/b"), points=[Point(2, set())]), '{"path":"a/b","points":[{"tags":[],"x":2}]}'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (b"\xff", '"_w=="'),
        (frozenset({(1, "b"), (1, "a")}), '[[1,"a"],[1,"b"]]'),
        ({1: "one"}, '{"1":"one"}'),
        (float("nan"), "NaN"),
        ("é", '"\\u00e9"'),
    ],
)
def test_whatever_arguments_can_be_has_one_text(value: Any, text: str) -> None:
    assert canonical_json({"value": value}) == f'{{"value":{text}}}'


def test_two_secrets_are_not_the_same() -> None:
    assert call_digest("pay", {"pin": SecretStr("1")}) != call_digest("pay", {"pin": SecretStr("2")})


def test_what_has_only_an_identity_is_refused() -> None:
    with pytest.raises(TypeError, match="Opaque has no canonical form"):
        call_digest("t", {"it": Opaque()})


def test_the_digest_is_of_the_tool_too() -> None:
    assert call_digest("read", {}) != call_digest("delete", {})


keys = st.tuples(st.text(), st.integers(0, 3), st.text(), st.text(), st.integers(0, 3))


@given(keys, keys)
def test_every_part_of_an_effects_key_counts(
    one: tuple[str, int, str, str, int], other: tuple[str, int, str, str, int]
) -> None:
    assert (effect_key(*one) == effect_key(*other)) == (one == other)


def test_keys_and_digests_are_the_same_in_every_process() -> None:
    program = (
        "from llmgine.llm.tools.effects import *; "
        "print(call_digest('t', {'s': {'a', 'b', 'c'}}), effect_key('r', 1, 't', '{}', 0))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert runs == {f"{call_digest('t', {'s': ['a', 'b', 'c']})} {effect_key('r', 1, 't', '{}', 0)}\n"}
