from typing import Annotated, Any, Protocol

import pytest

from llmgine.errors import ConfigurationError, ToolRegistrationError
from llmgine.llm.tools import Inject, ToolCall, ToolContext, ToolManager
from llmgine.llm.tools.tool import Tool
from llmgine.messages import SessionID


class Store(Protocol):
    def get(self, key: str) -> str: ...


class Database:
    def get(self, key: str) -> str:
        return f"value of {key}"


class Config:
    """What pydantic could describe, and a model must not see all the same."""

    key: str = "secret"


def read(key: str, database: Annotated[Database, Inject], context: ToolContext) -> str:
    """Read it.

    Args:
        key: Which one.
        database: Where it is.
        context: Who asks.
    """
    return f"{database.get(key)} for {context.session_id}"


def call(arguments: str = "{}", name: str = "read") -> ToolCall:
    return ToolCall(id="1", name=name, arguments=arguments)


@pytest.fixture
def manager() -> ToolManager:
    return ToolManager()


async def test_what_is_injected_is_hidden_from_the_model_and_given_to_the_tool(manager: ToolManager) -> None:
    manager.provide(Database, Database())
    manager.register_tool(read)
    [tool] = manager.tools
    assert [parameter.name for parameter in tool.parameters] == ["key"]
    assert "database" not in str(tool.schema)
    assert "Where it is" not in str(tool.schema)
    result = await manager.run(call('{"key": "k"}'), ToolContext(session_id=SessionID("s")))
    assert result.content == "value of k for s"
    assert result.arguments == {"key": "k"}


@pytest.mark.parametrize("name", ["database", "context"])
async def test_a_model_cannot_set_what_is_injected(manager: ToolManager, name: str) -> None:
    manager.provide(Database, Database())
    manager.register_tool(read)
    result = await manager.run(call(f'{{"key": "k", "{name}": null}}'))
    assert not result.succeeded
    assert f"{name}: unknown argument; known are: key" in result.content


def test_what_nobody_provides_is_refused_at_registration(manager: ToolManager) -> None:
    with pytest.raises(ToolRegistrationError, match=r"'read' cannot.*'database'.*provide\(Database, …\) before"):
        manager.register_tool(read)
    assert manager.tools == ()


async def test_a_parameter_with_a_default_need_not_be_provided(manager: ToolManager) -> None:
    def look(database: Annotated[Database | None, Inject] = None) -> bool:
        return database is not None

    manager.register_tool(look, name="without")
    manager.provide(Database, Database())
    manager.register_tool(look, name="with")
    assert [(await manager.run(call(name=name))).value for name in ("without", "with")] == [False, True]
    assert all(tool.json_schema["properties"] == {} for tool in manager.tools)


async def test_a_factory_makes_one_for_each_attempt_of_its_context(manager: ToolManager) -> None:
    async def connect(context: ToolContext) -> Database:
        if context.attempt == 1:
            raise ConnectionError("down")
        return Database()

    manager.provide(Database, factory=connect)
    manager.provide(Config, factory=lambda _: Config())
    manager.register_tool(read, retries=1, effect="read")

    def look(config: Annotated[Config, "of the application", Inject()]) -> str:
        return config.key

    manager.register_tool(look)
    result = await manager.run(call('{"key": "k"}'))
    assert (result.content, result.attempts) == ("value of k for BUS", 2)
    assert (await manager.run(call(name="look"))).value == "secret"


async def test_a_factory_that_fails_is_a_failure_of_the_tool(manager: ToolManager) -> None:
    def connect(context: ToolContext) -> Database:
        raise ConnectionError("down")

    manager.provide(Database, factory=connect)
    manager.register_tool(read)
    assert (await manager.run(call('{"key": "k"}'))).content == "Error executing read: ConnectionError: down"


async def test_a_protocol_can_be_provided(manager: ToolManager) -> None:
    def look(store: Annotated[Store, Inject]) -> str:
        return store.get("k")

    manager.provide(Store, Database())
    manager.register_tool(look)
    assert (await manager.run(call(name="look"))).value == "value of k"


@pytest.mark.parametrize("options", [{}, {"value": None}, {"value": Database(), "factory": lambda _: Database()}])
def test_there_is_one_thing_to_provide(manager: ToolManager, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="either a value for Database, or factory="):
        manager.provide(Database, **options)


@pytest.mark.parametrize("kind", [Database, ToolContext])
def test_a_type_is_provided_once(manager: ToolManager, kind: type) -> None:
    if kind is Database:
        manager.provide(kind, Database())
    with pytest.raises(ConfigurationError, match="only once"):
        manager.provide(kind, Database())


def test_the_context_alone_needs_nothing_provided() -> None:
    def look(context: ToolContext) -> None: ...
    def look_again(*, context: ToolContext | None) -> None: ...

    assert Tool.from_function(look).parameters == Tool.from_function(look_again).parameters == ()
