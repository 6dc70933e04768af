import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmgine.bus.resilience import RetryConfig
from llmgine.errors import ToolRegistrationError
from llmgine.llm.tools import Effect, ToolCall, ToolManager
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_options import tool
from llmgine.llm.tools.tool_register import ToolRegister


class Base:
    def inherited(self) -> str:
        return "inherited"


class Counter(Base):
    factor = 2

    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, number: int) -> int:
        """Add a number."""
        self.count += number
        return self.count

    async def read(self) -> int:
        return self.count

    @staticmethod
    def double(number: int) -> int:
        return number * 2

    @classmethod
    def scale(cls, number: int) -> int:
        return number * cls.factor

    @property
    def costly(self) -> int:
        raise AssertionError("a property must not be read")

    def _private(self) -> None: ...


class Marked:
    @tool
    def plain(self) -> str:
        return "plain"

    @tool(name="renamed", effect=Effect.READ, retries=2, timeout=3, max_concurrency=4, requires_approval=True)
    def other(self) -> None:
        """Do it."""

    @tool(description="Said here.")
    def _hidden(self) -> None:
        """Not this."""

    def public(self) -> None: ...


def call(name: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(id="1", name=name, arguments=arguments)


# Objects and modules


async def test_the_public_methods_of_an_object_become_tools() -> None:
    manager = ToolManager()
    tools = manager.register_tools(Counter(1))
    assert [tool.name for tool in tools] == ["inherited", "add", "read", "double", "scale"]
    assert manager.tools == tuple(tools)
    assert await manager.execute_tool_call(call("add", '{"number": "2"}')) == 3
    assert await manager.execute_tool_call(call("read")) == 3
    assert await manager.execute_tool_call(call("double", '{"number": 2}')) == 4
    assert await manager.execute_tool_call(call("scale", '{"number": 3}')) == 6


def test_where_methods_are_marked_only_those_become_tools_with_their_options() -> None:
    plain, renamed, hidden = ToolManager().register_tools(Marked())
    assert [tool.name for tool in (plain, renamed, hidden)] == ["plain", "renamed", "_hidden"]
    assert (plain.effect, plain.retry.max_retries, plain.requires_approval) == (Effect.UNSAFE, 0, False)
    assert (renamed.effect, renamed.retry.max_retries, renamed.timeout) == (Effect.READ, 2, 3)
    assert (renamed.max_concurrency, renamed.requires_approval, renamed.description) == (4, True, "Do it.")
    assert hidden.description == "Said here."
    assert renamed.info == {
        "name": "renamed", "description": "Do it.", "effect": "read", "requires_approval": True, "in_process": False,
    }  # fmt: skip


def test_marking_changes_nothing_else_and_options_given_at_registration_go_first() -> None:
    marked = Marked()
    assert marked.plain() == "plain"
    registered = ToolRegister().register_tool(marked.other, name="mine", timeout=9)
    assert (registered.name, registered.timeout, registered.effect) == ("mine", 9, Effect.READ)


def test_a_partial_or_a_wrapper_of_what_is_marked_is_marked_too() -> None:
    @functools.wraps(Marked.other)
    def wrapper(*args: Any) -> None: ...

    for function in (functools.partial(functools.partial(Marked.other, Marked())), functools.partial(wrapper, None)):
        registered = Tool.from_function(function)
        assert (registered.name, registered.requires_approval, registered.effect) == ("renamed", True, Effect.READ)


def test_two_objects_of_a_class_are_told_apart_by_a_prefix() -> None:
    manager = ToolManager()
    manager.register_tools(Marked(), prefix="a_")
    manager.register_tools(Marked(), prefix="b_")
    assert [tool.name for tool in manager.tools] == [
        "a_plain",
        "a_renamed",
        "a__hidden",
        "b_plain",
        "b_renamed",
        "b__hidden",
    ]


def test_all_of_an_objects_functions_are_registered_or_none() -> None:
    class Broken:
        def fine(self) -> None: ...
        def broken(self, *items: int) -> None: ...

    manager = ToolManager()
    with pytest.raises(ToolRegistrationError, match="'broken' cannot be a tool"):
        manager.register_tools(Broken())
    manager.register_tools(Counter(0))
    with pytest.raises(ToolRegistrationError, match=r"'inherited' already.*prefix="):
        manager.register_tools(Base())
    assert len(manager.tools) == 5


def make_module(text: str) -> ModuleType:
    module = ModuleType("made_for_a_test")
    exec(text, module.__dict__)  # noqa: S102  # a module as it would be imported
    return module


def test_the_public_functions_of_a_module_become_tools_but_not_what_it_imports() -> None:
    text = "from textwrap import dedent\nimport os\nclass C: ...\ndef b(): ...\ndef _c(): ...\ndef a(): ...\n"
    assert [tool.name for tool in ToolManager().register_tools(make_module(text))] == ["b", "a"]


def test_the_marked_functions_of_a_module_become_tools_wherever_they_are_from() -> None:
    module = make_module("from llmgine.llm.tools.tool_options import tool\n@tool\ndef _a(): ...\ndef b(): ...\n")
    vars(module)["imported"] = tool(name="imported")(lambda: None)
    assert [tool.name for tool in ToolManager().register_tools(module)] == ["_a", "imported"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Counter, r"Counter is a class.*register_tools\(Counter\(…\)\)"),
        (object(), "no public functions"),
        (make_module("x = 1"), "no public functions"),
    ],
)
def test_what_has_no_functions_is_refused(source: object, reason: str) -> None:
    with pytest.raises(ToolRegistrationError, match=reason):
        ToolManager().register_tools(source)


# Options


def work() -> None: ...


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"timeout": 0}, "timeout must be above 0"),
        ({"timeout": math.nan}, "timeout must be above 0"),
        ({"max_concurrency": 0}, "max_concurrency must be a whole number, 1 or more, not 0"),
        ({"max_concurrency": 1.5}, "max_concurrency must be a whole number"),
        ({"retries": -1, "effect": "read"}, "retries must be a whole number, 0 or more, or a RetryConfig"),
        ({"retries": "many", "effect": "read"}, "retries must be"),
        ({"effect": "harmless"}, "effect must be one of read, idempotent, unsafe, not 'harmless'"),
        ({"retries": 1}, r'effect is unsafe.*must not be tried again.*effect="read"'),
        ({"retries": RetryConfig(), "effect": "unsafe"}, "effect is unsafe"),
    ],
)
def test_options_are_checked_at_registration(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ToolRegistrationError, match=f"'work' cannot be a tool: its {reason}"):
        ToolManager().register_tool(work, **options)


def test_an_option_that_there_is_not_is_refused() -> None:
    options: dict[str, Any] = {"timeuot": 3}
    for register in (ToolManager().register_tool, lambda function, **given: tool(**given)(function)):
        with pytest.raises(TypeError, match="timeuot"):
            register(work, **options)


# Unknown tools


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("get_wether", " Did you mean 'get_weather'?"),
        ("GET_WEATHER", " Did you mean 'get_weather'?"),
        ("functions.get_weather", " Did you mean 'get_weather'?"),
        ("order", ""),
        ("", ""),
        ("x" * 100_000, ""),
    ],
)
def test_an_unknown_tool_is_answered_with_the_nearest(asked: str, hint: str) -> None:
    register = ToolRegister()
    register.register_tool(work, name="get_weather")
    register.register_tool(work, name="send-mail")
    text = f"Error: Tool '{asked}' not found.{hint} Available tools: get_weather, send-mail."
    assert register.explain_unknown(asked) == text


# In a process


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "importable_tools.py").write_text("def work(): ...\nalias = lambda: None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "importable_tools", raising=False)
    import importable_tools  # type: ignore[import-not-found]

    assert isinstance(importable_tools, ModuleType)
    return importable_tools


def test_what_another_process_can_import_may_run_there(module: ModuleType) -> None:
    assert Tool.from_function(module.work, in_process=True).in_process


def main_function() -> Callable[[], None]:
    def function() -> None: ...

    function.__module__, function.__qualname__ = "__main__", "function"
    return function


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda: None, "defined inside another function|is no plain"),
        (Marked().plain, "is not what .*Marked.plain is"),
        (main_function(), "main file"),
    ],
)
def test_what_another_process_could_not_find_is_refused(function: Any, reason: str) -> None:
    with pytest.raises(ToolRegistrationError, match=f"in_process.*({reason})"):
        Tool.from_function(function, name="work", in_process=True)
