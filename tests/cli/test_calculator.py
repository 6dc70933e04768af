"""The calculator does Python's arithmetic, does nothing else, and cannot be made to hang."""

from __future__ import annotations

import cmath
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.cli.calculator import evaluate
from llmgine.errors import ToolError

numbers = st.one_of(st.integers(0, 10**6).map(str), st.floats(0, 1e6).map(repr))
expressions = st.recursive(
    numbers,
    lambda parts: st.one_of(
        st.tuples(parts, st.sampled_from(["+", "-", "*", "/", "//", "%", " - ", " * "]), parts).map("".join),
        # In parentheses, for a tower of powers would keep Python itself busy for ever.
        st.tuples(parts.map("({})".format), st.integers(-3, 3).map("**{}".format)).map("".join),
        parts.map("({})".format),
        parts.map("-{}".format),
        parts.map("abs({})".format),
    ),
    max_leaves=8,
).filter(lambda text: len(text) <= 500)


@given(expressions)
def test_every_expression_comes_to_what_python_makes_of_it(expression: str) -> None:
    try:
        expected = eval(expression)  # noqa: S307  # the text is made of numbers and operators, above
    except (ZeroDivisionError, OverflowError):
        with pytest.raises(ToolError):
            evaluate(expression)
        return
    try:
        value = evaluate(expression)
    except ToolError as error:
        huge = isinstance(expected, int) and expected.bit_length() > 4096
        unreal = isinstance(expected, complex) or not cmath.isfinite(expected)
        assert huge or unreal or "**" in expression, error  # noqa: PT017  # it may raise, for a reason
    else:
        assert (value, type(value)) == (expected, type(expected))


@given(st.text(max_size=600))
def test_no_text_makes_it_raise_anything_but_a_tool_error(text: str) -> None:
    with suppress(ToolError):
        evaluate(text)


@pytest.mark.parametrize(
    "expression", ["9**9**9", "9**9**9**9", "2**100000", "(10**1200)*(10**1200)", "1e308*10", "1e999", "2.0**5000"]
)
def test_what_grows_without_bound_is_refused_at_once(expression: str) -> None:
    with pytest.raises(ToolError, match="too large"):
        evaluate(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "", "1 +", "1; 2", "x", "True + 1", "1j", "'a' * 9", "[1] * 9", "(1, 2)", "1 < 2", "1 if 1 else 2", "lambda: 1",
        "f'{1}'", "().__class__", "__import__('os').getcwd()", "open('/etc/passwd')", "abs", "abs()", "abs(x=1)",
        "abs(*[1])", "min(1)", "sqrt('a')", "1 << 9", "~1", "(" * 300, "9" * 501,
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused_with_a_reason(expression: str) -> None:
    with pytest.raises(ToolError, match=r"\w"):
        evaluate(expression)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2^10", 1024), ("6 × 7", 42), ("9 ÷ 3", 3.0), ("5 − 2", 3), ("sqrt(2)**2", 2.0), ("max(1, 2, min(9, 3))", 3)],
)
def test_it_reads_what_people_and_models_write(expression: str, value: float) -> None:
    assert evaluate(expression) == pytest.approx(value)


def test_the_limit_is_the_size_of_the_result_and_not_of_the_exponent() -> None:
    assert evaluate("2**4095") == 2**4095
    assert evaluate("1**(10**300)") == 1
    assert evaluate("-" * 499 + "1") == -1
    with pytest.raises(ToolError, match="division by zero"):
        evaluate("1 / (2 - 2)")
    with pytest.raises(ToolError, match="no real result"):
        evaluate("(-8) ** 0.5")
