"""Events by name: "resource.created" is one, "resource.*" any of two parts, "resource.**" whatever begins so."""

from __future__ import annotations

from llmgine.errors import ConfigurationError
from llmgine.messages import Event

__all__ = ["check_pattern", "hears"]


def check_pattern(pattern: str) -> None:
    """Refuse what can be no name.

    Raises:
        ConfigurationError: a part is empty or has a `*` beside other characters, or `**` is not the last part.
    """
    parts = pattern.split(".")
    if not all(parts) or any("*" in part and part not in {"*", "**"} for part in parts) or "**" in parts[:-1]:
        msg = (
            f"{pattern!r} is no name of events. A name has parts with dots between them, such as 'resource.created'; "
            "'*' stands for one part, and '**' at the end for any rest."
        )
        raise ConfigurationError(msg)


def hears(key: type[Event] | str, event_type: type[Event]) -> bool:
    """Tell whether what is registered for `key` hears events of a class: one that `key` stands for, or a subclass."""
    if not isinstance(key, str):
        return issubclass(event_type, key)
    bases = (
        base for base in event_type.__mro__ if issubclass(base, Event) and (base is not Event or event_type is Event)
    )
    return any(_matches(key, base.event_name) for base in bases)


def _matches(pattern: str, name: str) -> bool:
    wanted, parts = pattern.split("."), name.split(".")
    if wanted[-1] == "**":
        wanted.pop()
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(want in {"*", part} for want, part in zip(wanted, parts, strict=True))
