import inspect
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.llm.tools.docstring import parse_docstring

names = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
sentences = st.lists(st.from_regex(r"[A-Za-z0-9,.;()]{1,8}", fullmatch=True), min_size=1, max_size=8).map(
    lambda words: "It is " + " ".join(words)
)
types = st.sampled_from(["int", "list[int]", "dict[str, int]", "Callable[[int], str], optional"])


def google(parameters: dict[str, tuple[str, str]]) -> str:
    lines = [f"    {name} ({kind}): {text}\n        and more." for name, (kind, text) in parameters.items()]
    return "\n".join(["Do it.", "", "Args:", *lines, "", "Returns:", "    limit: nothing"])


def numpy(parameters: dict[str, tuple[str, str]]) -> str:
    lines = [f"{name} : {kind}\n    {text}\n    and more." for name, (kind, text) in parameters.items()]
    return "\n".join(["Do it.", "", "Parameters", "----------", *lines, "", "Returns", "-------", "int", "    Nothing"])


def rest(parameters: dict[str, tuple[str, str]]) -> str:
    lines = [f":param {kind} {name}: {text}\n    and more." for name, (kind, text) in parameters.items()]
    return "\n".join(["Do it.", "", *lines, ":returns: nothing", ":rtype: int"])


@given(st.dictionaries(names, st.tuples(types, sentences), min_size=1, max_size=4))
def test_the_three_styles_say_the_same(parameters: dict[str, tuple[str, str]]) -> None:
    said = {name: " ".join(f"{text} and more.".split()) for name, (_, text) in parameters.items()}
    for style in (google, numpy, rest):
        assert parse_docstring(style(parameters)) == ("Do it.", said), style.__name__


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    description, parameters = parse_docstring(text)
    assert len(description) <= len(text)
    assert all(parameters.values())


def test_the_description_is_all_text_before_the_first_section() -> None:
    def function() -> None:
        """Look it up.

        Ask for one city:
        the nearest one counts, see :class:`City`.

        Returns:
            The weather.
        """

    description, parameters = parse_docstring(inspect.getdoc(function) or "")
    assert description == "Look it up.\n\nAsk for one city:\nthe nearest one counts, see :class:`City`."
    assert parameters == {}


@pytest.mark.parametrize(
    "docstring",
    [
        "Args:\n    x: One,\n\n        two,\n    three.\n    y: Four.\nAfterwards.",
        "Do.\n\nArguments:\n  x: One, two,\n   three.\n  y (int): Four.\n\nExample:\n  y: five",
        "Other Parameters\n----------------\nx\n    One, two, three.\ny : {1, 2}\n    Four.\n\nNotes\n---\nNo.",
        ":arg x: One, two,\nthree.\n:type x: int\n:keyword y: Four.\n:raises ValueError: always",
    ],
)
def test_a_description_goes_on_until_the_next_parameter_or_section(docstring: str) -> None:
    assert parse_docstring(docstring)[1] == {"x": "One, two, three.", "y": "Four."}


def test_a_colon_or_a_title_within_a_text_begins_nothing() -> None:
    docstring = "Returns\n\nArguments\n\nArgs:\n    x: One,\n        note: two."
    assert parse_docstring(docstring) == ("Returns\n\nArguments", {"x": "One, note: two."})


def test_numpy_parameters_may_share_a_description() -> None:
    assert parse_docstring("Parameters\n----------\nx, y : float\n    Metres.")[1] == {"x": "Metres.", "y": "Metres."}


def test_a_parameter_without_a_description_has_none() -> None:
    assert parse_docstring("Do.\n\nArgs:\n    x:\n    y: Four.\n")[1] == {"y": "Four."}
