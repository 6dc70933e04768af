"""What a docstring says about a function and its parameters, in the Google, NumPy and reST styles."""

import re
from itertools import pairwise

__all__ = ["parse_docstring"]

_PARAMETER_SECTIONS = frozenset(
    {"args", "arguments", "keyword args", "keyword arguments", "other parameters", "parameters", "params"}
)
_OTHER_SECTIONS = frozenset(
    {
        "attributes", "example", "examples", "note", "notes", "raises", "references", "return", "returns",
        "see also", "todo", "warning", "warnings", "warns", "yield", "yields",
    }
)  # fmt: skip
_FIELD = re.compile(
    r":(?:(param|parameter|arg|argument|key|keyword)|type|returns?|rtype|raises?|except|exception|yields?|ytype|meta)"
    r"\b([^:]*):\s*(.*)"
)
_GOOGLE_ENTRY = re.compile(r"(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)")
_NUMPY_ENTRY = re.compile(r"(\w+(?:\s*,\s*\w+)*)\s*(?::.*)?()")


def parse_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Return the text before the first section, and the descriptions of parameters by name.

    Expects the indentation that `inspect.cleandoc` leaves.
    """
    description: list[str] = []
    parameters: dict[str, list[str]] = {}
    target = description  # what the lines that follow belong to
    entry: re.Pattern[str] | None = None  # how a parameter begins in the section that we are in
    margin: int | None = None  # where it begins: the indentation of the section's first line

    for line, next_line in pairwise([*docstring.splitlines(), ""]):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        title = text.removesuffix(":").lower()
        underlined = re.fullmatch(r"-{3,}", next_line.strip()) is not None
        if field := _FIELD.fullmatch(text):
            is_parameter, subject, first = field.groups()
            target, entry = [first], None
            if is_parameter and subject.strip():
                parameters[subject.split()[-1]] = target
        elif indent == 0 and title in _PARAMETER_SECTIONS and (underlined or text.endswith(":")):
            target, entry, margin = [], _NUMPY_ENTRY if underlined else _GOOGLE_ENTRY, None
        elif indent == 0 and text and (underlined or (title in _OTHER_SECTIONS and text.endswith(":"))):
            target, entry = [], None
        elif entry is None or not text:
            target.append(text)
        else:
            margin = indent if margin is None else margin
            if indent < margin:
                target, entry = [], None
            elif indent == margin and (match := entry.fullmatch(text)):
                target = [match[2]]
                parameters.update(dict.fromkeys(re.split(r"\s*,\s*", match[1]), target))
            else:
                target.append(text)

    return "\n".join(description).strip(), {
        name: text for name, told in parameters.items() if (text := " ".join(" ".join(told).split()))
    }
