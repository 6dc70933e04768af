"""Settings: one dataclass, each field from the nearest source that names it, all checked before anything starts.

Nothing here ever shows a value, since it may be a secret.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from llmgine.errors import ConfigurationError

__all__ = ["VARIABLES", "load_settings"]

T = TypeVar("T")

_PREFIX = "llmgine_"
VARIABLES = frozenset(
    {
        "LLMGINE_CACHE_DIR",
        "LLMGINE_DB_SCHEMA",
        "LLMGINE_DB_URL",
        "LLMGINE_DEBUG",
        "LLMGINE_EVENT_LOG_MAX_DAYS",
        "LLMGINE_EVENT_LOG_MAX_EVENTS",
        "LLMGINE_EVENT_LOG_MAX_MB",
        "LLMGINE_MODEL",
        "LLMGINE_PERSIST_EVENTS",
        "LLMGINE_RECORD",
        "LLMGINE_RECORD_CONTENT",
        "LLMGINE_TOOL_MAX_CONCURRENCY",
        "LLMGINE_TOOL_TIMEOUT_SECONDS",
    }
)
"""What the package itself reads from the environment. In a `.env` these are no mistakes."""
_CONFIG = ConfigDict(
    arbitrary_types_allowed=True,
    extra="forbid",  # also in the dataclasses that fields hold
)


def load_settings(kind: type[T], path: str | os.PathLike[str] = ".", /, **arguments: Any) -> T:
    """Make an instance of a dataclass, each field from the first of these that names it.

    1. `arguments`
    2. the environment: `LLMGINE_LOG_LEVEL` for the field `log_level`
    3. the file `.env`, in the same words
    4. TOML: the table `[llmgine]` of `llmgine.toml`, or without that file `[tool.llmgine]` of `pyproject.toml`
    5. the field's default

    A variable that is empty is not set; for a field that holds more than one value it is JSON. Names and values of enum
    members may be written in capitals or not. The environment belongs to other programs as well, so it may hold more
    than there are fields; the others may not. What `.env` says of `VARIABLES` is put into the environment, where
    nothing is set there.

    Args:
        kind: the dataclass.
        path: the folder of the three files, or a TOML file; then `.env` is beside it.
        arguments: by the names of fields.

    Raises:
        ConfigurationError: a key is unknown, missing or of the wrong type (every such key is named, with its source and
            what was expected, in a line of its own), or a file cannot be read.
    """
    if not is_dataclass(kind):
        msg = f"{kind.__name__} is no dataclass: settings are the fields of one. Put @dataclass above it."
        raise ConfigurationError(msg)
    settings = _Settings(kind)
    folder, toml_file = _places(Path(path))
    settings.take_table(arguments, "in the arguments")
    settings.take_variables(EnvSettingsSource(settings.model, env_ignore_empty=True), "in the environment")
    own: dict[str, str] = {}
    dotenv = folder / ".env"
    if dotenv.is_file():
        source = _read(dotenv, lambda: DotEnvSettingsSource(settings.model, dotenv, env_ignore_empty=True))
        own = settings.check_variables(source, f"in {dotenv}")
        settings.take_variables(source, f"in {dotenv}")
    if toml_file is not None:
        table, where = _table(toml_file, given=toml_file == Path(path))
        settings.take_table(table, where)
    values = settings.validated()
    for name, value in own.items():
        os.environ[name] = os.environ.get(name) or value
    return kind(**values)


@dataclass
class _Settings:
    """What has been found for the fields of a dataclass so far, and what was wrong with it."""

    kind: Any
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    origins: dict[str, str] = field(default_factory=dict[str, str])
    mistakes: list[str] = field(default_factory=list[str])
    refused: set[str] = field(default_factory=set[str])
    """Fields of which a mistake has been told."""

    def __post_init__(self) -> None:
        try:
            hints = get_type_hints(self.kind, include_extras=True)
        except NameError as error:
            msg = f"The types of {self.kind.__name__} cannot be read: {error}. Import it also outside of TYPE_CHECKING."
            raise ConfigurationError(msg) from error
        self.hints = {each.name: hints[each.name] for each in fields(self.kind) if each.init and each.name[0] != "_"}
        optional = {
            each.name for each in fields(self.kind) if (each.default, each.default_factory) != (MISSING, MISSING)
        }
        # The prefix is part of the names, so that no field is called like an attribute of the model.
        definitions: dict[str, Any] = {
            _PREFIX + name: (hint, None if name in optional else ...) for name, hint in self.hints.items()
        }
        # The sources ask no more of the class than of any model.
        self.model: Any = create_model("_Settings", __config__=_CONFIG, **definitions)

    def take_table(self, table: Mapping[str, Any], where: str) -> None:
        """Take every key of a table, unless a nearer source has it."""
        for name, value in table.items():
            if name in self.hints:
                self._take(name, value, f"{name} {where}")
            else:
                self._unknown(name, where, self.hints)

    def take_variables(self, source: EnvSettingsSource, where: str) -> None:
        """Take every variable that is named like a field, unless a nearer source has it."""
        for key, info in self.model.model_fields.items():
            name, variable = key.removeprefix(_PREFIX), key.upper()
            value, _, is_complex = source.get_field_value(info, key)
            if value is None or name in self.values:
                continue
            try:
                value = source.prepare_field_value(key, info, value, is_complex)
            except ValueError:
                self._take(name, None, "")
                self.refused.add(name)
                self.mistakes.append(f"{variable} {where} is not valid: expected JSON, such as a list or an object.")
            else:
                self._take(name, value, f"{variable} {where}")

    def check_variables(self, source: EnvSettingsSource, where: str) -> dict[str, str]:
        """Name what has the prefix and is no field. Return what is meant for the package itself."""
        own: dict[str, str] = {}
        for variable, value in source.env_vars.items():
            if variable.upper() in VARIABLES:
                own[variable.upper()] = value or ""
            elif variable.startswith(_PREFIX) and variable not in self.model.model_fields:
                known = [*(name.upper() for name in self.model.model_fields), *VARIABLES]
                self._unknown(variable.upper(), where, known)
        return own

    def validated(self) -> dict[str, Any]:
        """Return the values of the fields that were found.

        Raises:
            ConfigurationError: everything that is wrong.
        """
        checked: Any = None
        try:
            checked = self.model(**{_PREFIX + name: value for name, value in self.values.items()})
        except ValidationError as error:
            self._explain(error)
        if self.mistakes:  # outside of the `except`: what pydantic raised knows the values
            raise ConfigurationError("\n".join(self.mistakes))
        return {name: getattr(checked, _PREFIX + name) for name in self.values}

    def _take(self, name: str, value: Any, origin: str) -> None:
        if name not in self.values:
            self.values[name] = _spelled(self.hints[name], value)
            self.origins[name] = origin

    def _unknown(self, name: str, where: str, known: Iterable[str]) -> None:
        bare = {each.casefold().removeprefix(_PREFIX): each for each in sorted(known)}  # what they share says nothing
        near = get_close_matches(name.casefold().removeprefix(_PREFIX).replace("-", "_"), bare, n=1)
        hint = f"did you mean {bare[near[0]]}?" if near else f"there are {', '.join(bare.values())}."
        self.mistakes.append(f"{name} {where} is not a setting of {self.kind.__name__}; {hint}")

    def _explain(self, error: ValidationError) -> None:
        problems: dict[str, list[str]] = {}
        for each in error.errors(include_input=False, include_context=False, include_url=False):
            name = str(each["loc"][0]).removeprefix(_PREFIX)
            if name in self.refused:
                continue
            if name not in self.values:
                self.mistakes.append(
                    f"{name} is not set, and has no default. Set {_PREFIX.upper()}{name.upper()} in the environment or "
                    f"in .env, or {name} in the table [llmgine] of llmgine.toml."
                )
                continue
            inside = _inside(self.values[name], each["loc"][1:])
            origin = f"{self.origins[name]}, at {inside}," if inside else self.origins[name]
            problems.setdefault(origin, []).append(_problem(each["type"], each["msg"]))
        for origin, texts in problems.items():  # more than one where a field has a union of types
            self.mistakes.append(f"{origin} is not valid: {'; or '.join(dict.fromkeys(texts))}.")


def _problem(kind: str, text: str) -> str:
    """Return what pydantic found, in our words."""
    match kind:
        case "missing":
            return "it is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return "there is no such key"
        case "path_type":
            return "expected a path"
        case _:
            return text.replace("Input should", "it should", 1).replace("it should be", "expected", 1)


def _spelled(hint: Any, value: Any) -> Any:
    """Return the member of an enum that a text names, whatever its case; anything else as it is."""
    if isinstance(hint, type) and issubclass(hint, Enum) and isinstance(value, str):
        for member in hint:
            if value.casefold() in {member.name.casefold(), str(member.value).casefold()}:
                return member
    return value


def _inside(value: Any, location: tuple[Any, ...]) -> str:
    """Return where in a value something is, such as `servers.0.url`. Pydantic's locations also name types."""
    parts: list[str] = []
    for part in location:
        if not isinstance(value, dict if isinstance(part, str) else list):
            break
        parts.append(str(part))
        inner: Any = value
        try:
            value = inner[part]
        except (KeyError, IndexError):
            break
    return ".".join(parts)


def _places(path: Path) -> tuple[Path, Path | None]:
    """Return the folder of `.env`, and the TOML file if there is one."""
    if path.is_file():
        return path.parent, path
    if not path.is_dir():
        msg = f"There is neither a folder nor a TOML file {str(path)!r} to read settings from."
        raise ConfigurationError(msg)
    files = (path / name for name in ("llmgine.toml", "pyproject.toml"))
    return path, next((file for file in files if file.is_file()), None)


def _table(file: Path, *, given: bool) -> tuple[Mapping[str, Any], str]:
    """Return the table of settings in a TOML file, and where that is. Only a `pyproject.toml` may be without one."""
    document = _read(file, lambda: tomllib.loads(file.read_text(encoding="utf-8")))
    of_project = file.name == "pyproject.toml"
    header = "[tool.llmgine]" if of_project else "[llmgine]"
    outer: Any = document.get("tool", {}) if of_project else document
    table: Any = outer.get("llmgine", None if document and (given or not of_project) else {})
    if not isinstance(table, dict):
        msg = f"{file} has no table {header}. Put the settings below a line that says {header}."
        raise ConfigurationError(msg)
    return table, f"in {header} of {file}"


def _read(file: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "is not text in UTF-8"
    except tomllib.TOMLDecodeError as error:
        reason = f"is not TOML: {error}"
    msg = f"{file} {reason}."
    raise ConfigurationError(msg)
