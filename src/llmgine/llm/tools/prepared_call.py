"""A tool call that can be run as it stands: the tool is known and the arguments fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmgine.llm.tools.effects import canonical_json, digest_of, effect_key
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.toolCall import ToolCall

__all__ = ["PreparedCall", "effect_keys"]


@dataclass(frozen=True)
class PreparedCall:
    """What is about to be done: for a person to agree to, and for a ledger to write down."""

    call: ToolCall
    tool: Tool
    arguments: dict[str, Any]
    """As the tool receives them."""
    sent: dict[str, Any]
    """As the model sent them: JSON data."""
    canonical: str
    """The arguments as one JSON text, for `effect_key`: as they were when the call was prepared."""

    @classmethod
    def of(cls, call: ToolCall, tool: Tool, sent: dict[str, Any]) -> PreparedCall:
        """Check the arguments.

        Raises:
            ToolValidationError: they do not fit.
            Exception: what the application's own code in the annotations raises.
        """
        arguments = tool.validator.validate(sent)
        try:
            canonical = canonical_json(arguments)
        except TypeError:  # objects of the application's that have no value: what made them has
            canonical = canonical_json(sent)
        return cls(call, tool, arguments, sent, canonical)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tool and the arguments, in hexadecimal: what an agreement holds for."""
        return digest_of(self.tool.name, self.canonical)


def effect_keys(run_id: str, step: int, calls: Iterable[PreparedCall]) -> list[str]:
    """Return the keys of the effects of one turn's calls, in their order, as `effect_key` makes them."""
    seen: Counter[tuple[str, str]] = Counter()
    keys: list[str] = []
    for prepared in calls:
        same = prepared.tool.name, prepared.canonical
        keys.append(effect_key(run_id, step, *same, seen[same]))
        seen[same] += 1
    return keys
