"""Arithmetic from text, and nothing but arithmetic: the syntax tree is walked, never run, and sizes are bounded."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from llmgine.errors import ToolError

__all__ = ["evaluate"]

_MAX_CHARS = 500
_MAX_BITS = 4096
"""Of a whole number, also on the way to the result: about 1,200 digits."""

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "max": max, "min": min, "sqrt": math.sqrt}
_CONSTANTS = {"e": math.e, "pi": math.pi}
_TYPOGRAPHY = str.maketrans({"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-"})
_TOO_LARGE = "a number on the way to the result is too large"


def evaluate(expression: str) -> float:
    """Return what the expression comes to; an int where Python's own arithmetic gives one.

    Raises:
        ToolError: it is no arithmetic, has no real result, or its numbers are too large.
    """
    if len(expression) > _MAX_CHARS:
        msg = f"the expression has {len(expression):,} characters; at most {_MAX_CHARS} are read"
        raise ToolError(msg)
    try:
        return _value(ast.parse(expression.translate(_TYPOGRAPHY).strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        msg = f"{expression!r} is not arithmetic: write numbers, + - * / // % ** and parentheses"
        raise ToolError(msg) from error
    except ZeroDivisionError as error:
        msg = "division by zero"
        raise ToolError(msg) from error
    except OverflowError as error:
        raise ToolError(_TOO_LARGE) from error


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp() if type(node.op) in _UNARY:
            return _UNARY[type(node.op)](_value(node.operand))
        case ast.BinOp() if type(node.op) in _BINARY:
            left, right = _value(node.left), _value(node.right)
            if isinstance(node.op, ast.Pow):
                _refuse_huge_power(left, right)
            return _bounded(_BINARY[type(node.op)](left, right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS and arguments:
            try:
                return _bounded(_FUNCTIONS[name](*map(_value, arguments)))
            except (TypeError, ValueError) as error:
                msg = f"{ast.unparse(node)}: {error}"
                raise ToolError(msg) from error
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case _:
            msg = (
                f"{ast.unparse(node)!r} is not arithmetic: this knows numbers, + - * / // % **, parentheses, "
                f"{', '.join(sorted(_FUNCTIONS))}, {' and '.join(sorted(_CONSTANTS))}"
            )
            raise ToolError(msg)


def _refuse_huge_power(base: float, exponent: float) -> None:
    # `bit_length` is at most twice the logarithm, so this lets through whatever can be within bounds.
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and int(base).bit_length() * exponent > 2 * _MAX_BITS:
        raise ToolError(_TOO_LARGE)


def _bounded(value: Any) -> float:
    if isinstance(value, complex):
        msg = "there is no real result"
        raise ToolError(msg)
    if not math.isfinite(value) if isinstance(value, float) else value.bit_length() > _MAX_BITS:
        raise ToolError(_TOO_LARGE)
    number: float = value
    return number
