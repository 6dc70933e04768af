"""What an approval has to say: from `--answer name=value`, or asked for at the terminal, field by field."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from typing import Any

import typer

from llmgine.bus.answer_form import AnswerForm, FieldType, FormField
from llmgine.errors import ConfigurationError

__all__ = ["answer_of", "described", "typed_value", "user_name", "visible"]


def answer_of(form: AnswerForm | None, settings: Sequence[str]) -> dict[str, Any] | None:
    """Return what is answered, which need not fit; None for a form's defaults, and where nothing is asked for.

    Args:
        form: what is asked for.
        settings: each NAME=VALUE; with none, whoever is at a terminal is asked.

    Raises:
        ConfigurationError: a setting has no value, or names what is not asked for.
    """
    if settings:
        return _set(form, settings)
    if form is None or not (sys.stdin is not None and sys.stdin.isatty()):
        return None
    asked = {field.name: _ask(field) for field in form.fields}
    return {name: value for name, value in asked.items() if value is not None}


def described(field: FormField) -> str:
    """Return what a field asks for, on one line."""
    about = f"{field.title}: {field.description}" if field.title and field.description else field.title
    default = "" if field.default is None else f"; default: {_shown(field.default)}"
    needed = "" if field.required else "; may be left out"
    text = f"{about or field.description} — " if about or field.description else ""
    return visible(" ".join(f"{text}{field.expected}{default}{needed}".split()))


def typed_value(field: FormField, text: str) -> tuple[Any, str]:
    """Return what somebody has typed for a field, with commas between choices, and what is wrong with it.

    Nothing at all is the default, or None: the field is left out.
    """
    if not text and (field.default is not None or not field.required):
        return field.default, ""
    if not text:
        return None, f"something has to be said here: {field.expected}"
    several = field.type is FieldType.ARRAY
    value = field.parse([each.strip() for each in text.split(",") if each.strip()] if several else [text])
    return value, field.problem(value)


def visible(text: str) -> str:
    """Return a text in which what a terminal would obey, or not show, is an escape."""
    return "".join(each if each.isprintable() or each == "\n" else f"\\u{ord(each):04x}" for each in text)


def user_name() -> str:
    """Return who is at the terminal, for the record; "" if the system does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


def _set(form: AnswerForm | None, settings: Sequence[str]) -> dict[str, Any]:
    fields = {} if form is None else {field.name: field for field in form.fields}
    texts: dict[str, list[str]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            msg = f"--answer {setting}: expected NAME=VALUE, such as --answer count=3"
            raise ConfigurationError(msg)
        if name not in fields:
            asked = f"Asked for: {', '.join(map(visible, fields))}." if fields else "Only yes or no is asked for."
            msg = f"--answer {setting}: there is no field {name!r}. {asked}"
            raise ConfigurationError(msg)
        texts.setdefault(name, []).append(text)
    given = {name: fields[name].parse(values) for name, values in texts.items()}
    return {**(form.defaults if form is not None else {}), **given}


def _ask(field: FormField) -> Any:
    """Return what somebody types for a field, once it fits; None if it is left out."""
    typer.echo(f"{visible(field.name)}: {described(field)}", err=True)
    while True:
        value, problem = typed_value(
            field, typer.prompt("", prompt_suffix="> ", default="", show_default=False, err=True)
        )
        if not problem:
            return value
        typer.echo(visible(problem), err=True)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)
