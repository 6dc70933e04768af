import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum, IntEnum
from inspect import Parameter, signature
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from llmgine.errors import ToolValidationError
from llmgine.llm.tools.validation import ArgumentValidator, coerce_value, decode_arguments

NONE: Any = None


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    NONE = 0
    Some = 1


class Swapped(Enum):
    A = "B"
    B = "A"


@dataclass
class Point:
    x: float
    y: float = 0.0


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    on: date
    pair: tuple[int, int]


integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
typed_values = st.one_of(
    st.tuples(st.just(int), integers),
    st.tuples(st.just(float), st.floats(allow_nan=False)),
    st.tuples(st.just(bool), st.booleans()),
    st.tuples(st.just(str), texts),
    st.tuples(st.just(str | None), st.none() | texts),
    st.tuples(st.just(list[int]), st.lists(integers)),
    st.tuples(st.just(set[Color]), st.sets(st.sampled_from(Color))),
    st.tuples(st.just(dict[str, list[bool]]), st.dictionaries(texts, st.lists(st.booleans()))),
    st.tuples(st.just(dict[int, str]), st.dictionaries(integers, texts)),
    st.tuples(st.just(tuple[int, str]), st.tuples(integers, texts)),
    st.tuples(st.just(Level), st.sampled_from(Level)),
    st.tuples(st.just(Point), st.builds(Point, *[st.floats(allow_nan=False, allow_infinity=False)] * 2)),
    st.tuples(st.just(datetime), st.datetimes(timezones=st.just(UTC))),
    st.tuples(st.just(timedelta), st.timedeltas(timedelta(-999), timedelta(999))),
    st.tuples(st.just(UUID), st.uuids()),
    st.tuples(st.just(Literal["a", 3]), st.sampled_from(["a", 3])),
)


def validator(**annotations: Any) -> ArgumentValidator:
    return ArgumentValidator(Parameter(name, Parameter.KEYWORD_ONLY, annotation=a) for name, a in annotations.items())


def problem(arguments: dict[str, Any], **annotations: Any) -> str:
    with pytest.raises(ToolValidationError) as caught:
        validator(**annotations).validate(arguments)
    return str(caught.value)


@given(st.lists(typed_values, max_size=5))
def test_values_come_back_from_their_json_as_they_were(pairs: list[tuple[Any, Any]]) -> None:
    annotations = {f"a{n}": annotation for n, (annotation, _) in enumerate(pairs)}
    values = {f"a{n}": value for n, (_, value) in enumerate(pairs)}
    assert validator(**annotations).validate(decode_arguments(to_json(values).decode())) == values


@given(typed_values)
def test_coercing_what_fits_already_changes_nothing(pair: tuple[Any, Any]) -> None:
    annotation, value = pair
    assert coerce_value(value, annotation) == value


@pytest.mark.parametrize(
    ("value", "annotation", "coerced"),
    [
        ("5", int, 5),
        (5.0, int, 5),
        ("2.5", float, 2.5),
        ("true", bool, True),
        ("no", bool, False),
        (94110, str, "94110"),
        ("blue", Color, Color.BLUE),
        ("BLUE", Color, Color.BLUE),
        ("Blue", Color, Color.BLUE),
        (Color.BLUE, Color, Color.BLUE),
        ("B", Swapped, Swapped.A),
        (1, Level, Level.Some),
        ("0", Level, Level.NONE),
        ("none", Level, Level.NONE),
        (["5", 6], list[int], [5, 6]),
        (["BLUE", "red"], tuple[Color, ...], (Color.BLUE, Color.RED)),
        ({"a": ["RED"]}, dict[str, list[Color]], {"a": [Color.RED]}),
        ("RED", Color | None, Color.RED),
        (None, Color | None, None),
        ("RED", Color | int, Color.RED),
        ("RED", Annotated[Color, Field(description="Which.")], Color.RED),
        ("7", Annotated[int, Field(gt=3)], 7),
        ({"x": "1"}, Point, Point(1.0)),
        ("2026-01-02", date, date(2026, 1, 2)),
        ({"any": "thing"}, Any, {"any": "thing"}),
    ],
)
def test_a_value_becomes_what_the_annotation_asks_for(value: Any, annotation: Any, coerced: Any) -> None:
    result = coerce_value(value, annotation)
    assert (result, type(result)) == (coerced, type(coerced))


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("five", int),
        (2.5, int),
        ("maybe", bool),
        ("green", Color),
        (5, Color),
        ({}, Point),
        (None, int),
        ("3", Literal[3]),
    ],
)
def test_a_value_that_does_not_fit_is_an_error(value: Any, annotation: Any) -> None:
    with pytest.raises(ToolValidationError, match="value"):
        coerce_value(value, annotation)


def test_a_strict_model_takes_what_json_can_only_write_loosely() -> None:
    arguments = {"strict": {"on": "2026-01-02", "pair": [1, 2]}}
    assert validator(strict=Strict).validate(arguments) == {"strict": Strict(on=date(2026, 1, 2), pair=(1, 2))}


def test_defaults_are_filled_in_and_an_optional_argument_may_be_null() -> None:
    def look(city: str, limit: int = NONE, near: str = "here") -> None: ...

    check = ArgumentValidator(signature(look).parameters.values())
    assert check.validate({"city": "Paris"}) == {"city": "Paris", "limit": None, "near": "here"}
    assert check.validate({"city": "Paris", "limit": None})["limit"] is None


def test_an_error_names_the_argument_what_was_expected_and_what_came() -> None:
    assert problem({"days": "soon"}, days=int) == (
        "the arguments do not fit:\n"
        "- days: Input should be a valid integer, unable to parse string as an integer; got 'soon'"
    )


def test_an_error_says_where_inside_an_argument_the_trouble_is() -> None:
    assert "- points.1.x: required, but missing" in problem({"points": [{"x": 1}, {}]}, points=list[Point])
    assert "- color: Input should be 'red' or 'blue'; got 'green'" in problem({"color": "green"}, color=Color | int)


def test_every_argument_that_does_not_fit_is_reported() -> None:
    told = problem({"citty": "Paris", "days": []}, city=str, days=int)
    assert "- city: required, but missing" in told
    assert "- days: Input should be a valid integer; got []" in told
    assert "- citty: unknown argument; known are: city, days" in told


def test_an_error_is_short_however_much_is_wrong() -> None:
    told = problem({"numbers": ["x" * 10_000] * 10_000}, numbers=list[int])
    assert len(told) < 2000
    assert told.endswith("- and 9990 more")


@pytest.mark.parametrize("nothing", ["", "  \n", "null", "{}", '""', '"null"', '"{}"'])
def test_nothing_means_no_arguments(nothing: str) -> None:
    assert decode_arguments(nothing) == {}


json_values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)


@given(json_objects)
def test_an_object_is_understood_also_when_it_is_encoded_twice(arguments: dict[str, Any]) -> None:
    text = json.dumps(arguments)
    assert decode_arguments(text) == arguments
    assert decode_arguments(json.dumps(text)) == arguments


@given(json_objects.map(json.dumps), st.integers(min_value=1))
def test_an_object_that_breaks_off_is_an_error(text: str, end: int) -> None:
    with pytest.raises(ToolValidationError, match="not valid JSON"):
        decode_arguments(text[: end % len(text) or 1])


@pytest.mark.parametrize("text", ["[1]", "5", "true", '"[1]"', '"5"'])
def test_json_that_is_no_object_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(ToolValidationError, match=r"must be one JSON object, not (\[1\]|5|True)"):
        decode_arguments(text)


@pytest.mark.parametrize("text", ['{"a": 1', "{'a': 1}", "city=Paris", "[" * 100_000, '"{"', "\ud800"])
def test_text_that_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises(ToolValidationError, match="not valid JSON"):
        decode_arguments(text)
