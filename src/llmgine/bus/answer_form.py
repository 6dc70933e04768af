"""What an approval is to say besides yes: a flat form, of texts, numbers, yes or no, and choices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, TypeAlias
from urllib.parse import urlsplit

__all__ = ["AnswerForm", "Choice", "FieldType", "FormField", "Scalar"]

Scalar: TypeAlias = str | int | float | bool

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_TOLD = 50
"""How many choices are told."""
_WORDS = {"true": True, "yes": True, "y": True, "false": False, "no": False, "n": False}


class FieldType(StrEnum):
    """What a field's value is, as JSON Schema calls it."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    ARRAY = "array"
    """Several of the choices."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the values that a field may have."""

    value: Scalar
    title: str

    def __str__(self) -> str:
        return str(self.value) if self.title == str(self.value) else f"{self.value} ({self.title})"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """One thing that is asked for."""

    name: str
    type: FieldType
    title: str = ""
    description: str = ""
    required: bool = False
    choices: tuple[Choice, ...] = ()
    """All that there are; empty if it may be anything."""
    default: Any = None
    """None if there is none."""
    format: str = ""
    """Of a text: "email", "uri", "date" or "date-time"; others are not checked."""
    at_least: float | None = None
    """The smallest number, the shortest text's characters, or the fewest choices."""
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def expected(self) -> str:
        """What is expected, in words: "a whole number, at least 1", "one of: red, green"."""
        if self.choices:
            several = self.type is FieldType.ARRAY
            more = ["…"] if len(self.choices) > _TOLD else []
            names = ", ".join([*map(str, self.choices[:_TOLD]), *more])
            return f"some of: {names}{self._limits(' choices')}" if several else f"one of: {names}"
        kind = _FORMATS[self.format][0] if self.format in _FORMATS else _KINDS[self.type]
        return kind + self._limits(" characters" if self.type is FieldType.STRING else "")

    def problem(self, value: Any) -> str:
        """Return what is wrong with a value; "" if nothing is."""
        return "" if self._fits(value) else f"expected {self.expected}"

    def parse(self, texts: Sequence[str]) -> Any:
        """Return the value that somebody has typed; several texts where several choices may be made.

        What makes no sense is returned as it is, for `problem` to find.
        """
        if self.type is FieldType.ARRAY:
            return [self._chosen(text) for text in texts]
        text = texts[-1]
        if self.choices:
            return self._chosen(text)
        if self.type is FieldType.BOOLEAN:
            return _WORDS.get(text.strip().lower(), text)
        if self.type is FieldType.STRING:
            return text
        try:
            return int(text) if self.type is FieldType.INTEGER else _number(text)
        except ValueError:
            return text

    def _chosen(self, text: str) -> Scalar:
        by_value = {str(each.value): each.value for each in self.choices}
        by_title = {each.title: each.value for each in self.choices}
        return by_value.get(text, by_title.get(text, text))

    def _fits(self, value: Any) -> bool:
        if self.type is FieldType.ARRAY:
            return isinstance(value, list) and self._fits_choices(value)
        if self.choices:
            return self._is_choice(value)
        if self.type is FieldType.BOOLEAN:
            return isinstance(value, bool)
        if self.type is FieldType.STRING:
            return isinstance(value, str) and self._within(len(value)) and self._has_format(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        whole = isinstance(value, int) or value.is_integer()
        return (whole or (self.type is FieldType.NUMBER and math.isfinite(value))) and self._within(value)

    def _fits_choices(self, values: list[Any]) -> bool:
        distinct = all(value not in values[:index] for index, value in enumerate(values))
        return distinct and self._within(len(values)) and all(map(self._is_choice, values))

    def _is_choice(self, value: Any) -> bool:
        return any(type(value) is type(each.value) and value == each.value for each in self.choices)

    def _within(self, size: float) -> bool:
        return (
            (self.at_least is None or size >= self.at_least)
            and (self.at_most is None or size <= self.at_most)
            and (self.above is None or size > self.above)
            and (self.below is None or size < self.below)
        )

    def _has_format(self, text: str) -> bool:
        return self.format not in _FORMATS or _FORMATS[self.format][1](text)

    def _limits(self, unit: str) -> str:
        limits = {"at least": self.at_least, "at most": self.at_most, "more than": self.above, "less than": self.below}
        return "".join(f", {words} {limit:g}{unit}" for words, limit in limits.items() if limit is not None)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The fields that are asked for, in their order."""

    fields: tuple[FormField, ...]

    @property
    def defaults(self) -> dict[str, Any]:
        """The values of the fields that have one by default."""
        return {field.name: field.default for field in self.fields if field.default is not None}

    def problems(self, answer: Mapping[str, Any]) -> dict[str, str]:
        """Return what is wrong with an answer, by the field; empty if it fits."""
        names = [field.name for field in self.fields]
        found = {
            name: f"there is no such field; there are: {', '.join(names) or 'none'}"
            for name in answer
            if name not in names
        }
        for field in self.fields:
            if field.name in answer:
                problem = field.problem(answer[field.name])
            else:
                problem = f"is missing: expected {field.expected}" if field.required else ""
            if problem:
                found[field.name] = problem
        return found


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_moment(text: str) -> bool:
    try:
        return "T" in text.upper() and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) and bool(parts.netloc or parts.path) and not re.search(r"\s", text)


_KINDS = {
    FieldType.STRING: "a text",
    FieldType.INTEGER: "a whole number",
    FieldType.NUMBER: "a number",
    FieldType.BOOLEAN: "yes or no",
}
_FORMATS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "email": ("an e-mail address", lambda text: _EMAIL.fullmatch(text) is not None),
    "uri": ("a URL such as https://example.com", _is_uri),
    "date": ("a date such as 2026-11-20", _is_date),
    "date-time": ("a date and time such as 2026-11-20T14:30:00Z", _is_moment),
}
