"""A choice among tools is asked for in one form, and read back from it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgine.llm.providers.tool_choice import ToolChoice

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather.\n\nAnd more about it.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
        },
    },
}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_every_tool_is_listed_in_one_line() -> None:
    system = ToolChoice([WEATHER, named("bare")]).messages("Hello")[0]["content"]

    assert "\n- get_weather(city: string, days: value): Tell the weather.\n" in system
    assert "\n- bare(): \n" in system
    assert "And more" not in system


def test_only_the_end_of_the_question_depends_on_the_request() -> None:
    """So that the beginning has to be read once only."""
    choice = ToolChoice([WEATHER])
    *one, last = choice.messages("Is it raining?")

    assert one == choice.messages("Hello")[:-1]
    assert last == {"role": "user", "content": "Is it raining?"}


def test_the_examples_are_in_the_form_that_is_asked_for() -> None:
    examples = [m["content"] for m in ToolChoice([WEATHER]).messages("Hello") if m["role"] == "assistant"]

    assert examples
    for example in examples:
        assert set(json.loads(example)) == {"tool", "arguments"}


def test_a_call_is_read_with_its_arguments_as_they_stand() -> None:
    call = ToolChoice([WEATHER]).read('{"tool": "get_weather", "arguments": {"city": "Oslo"}}', whole=True)

    assert call is not None
    assert (call.name, call.arguments) == ("get_weather", '{"city": "Oslo"}')
    assert call.id


def test_two_calls_never_share_an_id() -> None:
    choice = ToolChoice([WEATHER])
    calls = [choice.read('{"tool": "get_weather", "arguments": {}}', whole=True) for _ in range(2)]

    assert len({call.id for call in calls if call is not None}) == 2


@pytest.mark.parametrize(
    ("cut", "arguments"),
    [('{"tool": "get_weather", "arguments": {"city": "Os', '{"city": "Os'), ('{"tool": "get_weather"', "")],
)
def test_a_call_that_was_cut_short_gives_what_it_has(cut: str, arguments: str) -> None:
    call = ToolChoice([WEATHER]).read(cut, whole=False)

    assert call is not None
    assert call.arguments == arguments


@pytest.mark.parametrize("answer", ['{"tool": "greet"', '{"tool": "gr', "", "Hello!"])
def test_anything_else_means_to_talk(answer: str) -> None:
    assert ToolChoice([WEATHER]).read(answer, whole=True) is None


def test_a_tool_may_have_the_name_of_a_way_to_talk() -> None:
    choice = ToolChoice([named("greet")])

    assert choice.read('{"tool": "greet", "arguments": {}}', whole=True) is not None
    assert choice.messages("Hello")[0]["content"].count("- greet(") == 1
    assert choice.grammar.count('\\"greet\\"') == 1


def test_there_is_always_a_way_to_talk() -> None:
    listed = ToolChoice([]).messages("Hello")[0]["content"]
    names = [line[2:].partition("(")[0] for line in listed.splitlines() if line.startswith("- ")]
    choice = ToolChoice([named(name) for name in names])

    assert '{\\"tool\\": ' in choice.grammar
    assert '"\\"talk\\""' in choice.grammar
