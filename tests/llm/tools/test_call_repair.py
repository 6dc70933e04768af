import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.tools.call_repair import readable_call, unique_calls

ids = st.sampled_from(["", " ", "a", "b", "c"])


@given(st.lists(ids, max_size=8), st.sets(ids))
def test_every_call_gets_an_id_of_its_own_and_keeps_a_good_one(given: list[str], taken: set[str]) -> None:
    calls = [ToolCall(id=id_, name=str(number)) for number, id_ in enumerate(given)]
    repaired = unique_calls(calls, taken)
    assert [(call.name, call.arguments) for call in repaired] == [(call.name, call.arguments) for call in calls]
    new = [call.id for call in repaired]
    assert len({*new}) == len(new)
    assert all(id_.strip() for id_ in new)
    assert not taken.intersection(new)
    for id_ in {"a", "b", "c"}.intersection(given) - taken:
        assert new[given.index(id_)] == id_


@pytest.mark.parametrize(
    ("arguments", "readable"),
    [
        ('{ "a": 1 }', '{ "a": 1 }'),
        ("", "{}"),
        ("  ", "{}"),
        ("null", "{}"),
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ('{"a": ', '{"__raw__": "{\\"a\\": "}'),
        ("[1]", '{"__raw__": "[1]"}'),
        ('{"a": NaN}', '{"__raw__": "{\\"a\\": NaN}"}'),
    ],
)
def test_arguments_become_an_object_that_any_provider_can_read(arguments: str, readable: str) -> None:
    call = ToolCall(id="1", name="t", arguments=arguments)
    assert readable_call(call) == ToolCall(id="1", name="t", arguments=readable)


@given(st.text(), st.text())
@example("[" * 100_000, "{" * 100_000)
@example('{"a": "\ud83d"}', "\ud83d")
def test_whatever_a_model_writes_can_be_sent_back(arguments: str, name: str) -> None:
    call = readable_call(ToolCall(id="1", name=name, arguments=arguments))
    call.arguments.encode()
    assert isinstance(json.loads(call.arguments, parse_constant=pytest.fail), dict)
    assert 1 <= len(call.name) <= 64
    assert call.name.isascii()
    assert readable_call(call) == call


@pytest.mark.parametrize("arguments", ["", "{", '{"n": NaN}', '{"n": Infinity}', "[]", "3", '{"n": 1e999}', "\ud83d"])
async def test_broken_arguments_end_in_a_text_for_the_model(arguments: str) -> None:
    manager = ToolManager()
    manager.register_tool(lambda n: n, name="untyped")

    def count(n: int) -> int:
        return n

    manager.register_tool(count)
    result = await manager.run(ToolCall(id="", name="count", arguments=arguments))
    assert not result.succeeded
    assert result.content.startswith("Error executing count: ")
    assert isinstance((await manager.run(ToolCall(id="", name="untyped", arguments=arguments))).content, str)
