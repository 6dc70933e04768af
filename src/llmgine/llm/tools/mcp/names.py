"""Names of tools: a server's may be longer than a model's, and have dots in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

__all__ = ["model_names"]

_LONGEST = 64
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_DIGITS = 8


def model_names(names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Return, by their names on a server, the names that models know the tools by: 1 to 64 of `A-Za-z0-9_-`.

    A name that will do is kept. In others, what will not do becomes `_`; where that is too long, or the same for two
    tools, the end is replaced by the beginning of the SHA-256 of the name on the server.
    """
    wanted = {name: prefix + _NOT_IN_NAMES.sub("_", name) for name in names}
    often = Counter(wanted.values())
    return {
        name: given
        if len(given) <= _LONGEST and (often[given] == 1 or given == prefix + name)
        else _marked(name, given)
        for name, given in wanted.items()
    }


def _marked(name: str, given: str) -> str:
    return f"{given[: _LONGEST - _DIGITS - 1]}_{sha256(name.encode()).hexdigest()[:_DIGITS]}"
