"""What may be said of an MCP server, and the files in which it is said."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.errors import ConfigurationError
from llmgine.llm.tools.effects import Effect
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.file import read_mcp_file

SECRET = "ghp_hunter2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mcp.json"


def write(file: Path, **servers: Any) -> Path:
    file.write_text(json.dumps({"mcpServers": servers}))
    return file


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "command"),
        ({"command": "a", "url": "http://localhost/mcp"}, "command"),
        ({"command": 3}, "command"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": "a", "args": "one two"}, "args"),
        ({"command": "a", "args": [1]}, "args"),
        ({"command": "a", "env": {"PORT": 80}}, "env"),
        ({"command": "a", "env": {"A=B": "c"}}, "env"),
        ({"command": "a", "env": ["A=B"]}, "env"),
        ({"command": "a", "cwd": 1}, "cwd"),
        ({"command": "a", "headers": {"A": "b"}}, "headers"),
        ({"url": "http://localhost/mcp", "env": {"A": "b"}}, "env"),
        ({"url": "http://localhost/mcp", "args": ["b"]}, "args"),
        ({"url": "localhost:80/mcp"}, "url"),
        ({"url": "ws://localhost/mcp"}, "url"),
        ({"url": "http:///mcp"}, "url"),
        ({"url": "http://[::1/mcp"}, "url"),
        ({"url": "http://localhost:99999/"}, "url"),
        ({"url": "http://localhost/a b"}, "url"),
        ({"url": "http://localhost/", "headers": {"A b": "c"}}, "headers"),
        ({"url": "http://localhost/", "headers": {"A": f"{SECRET}\r\nX: y"}}, "headers"),
        ({"url": "http://localhost/", "headers": {"A": f"{SECRET}é"}}, "headers"),
        ({"command": "a", "prefix": "a b"}, "prefix"),
        ({"command": "a", "prefix": "a" * 61}, "prefix"),
        ({"command": "a", "include": "read_*"}, "include"),
        ({"command": "a", "exclude": [None]}, "exclude"),
        ({"command": "a", "timeout": 0}, "timeout"),
        ({"command": "a", "timeout": math.nan}, "timeout"),
        ({"command": "a", "timeout": SECRET}, "timeout"),
        ({"command": "a", "connect_timeout": -1}, "connect_timeout"),
        ({"command": "a", "connect_timeout": True}, "connect_timeout"),
        ({"command": "a", "connect_timeout": None}, "connect_timeout"),
        ({"command": "a", "effects": {"x": "harmless"}}, "effects"),
        ({"command": "a", "effects": "read"}, "effects"),
        ({"command": "a", "trust_annotations": "false"}, "trust_annotations"),
        ({"command": "a", "requires_approval": "false"}, "requires_approval"),
        ({"command": "a", "sampling": 1}, "sampling"),
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_refused_by_name_without_its_value(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\b{named}\b") as caught:
        MCPServerConfig(**options)

    assert SECRET not in str(caught.value)


def test_lists_and_names_of_effects_become_what_the_type_says() -> None:
    given: Any = {"args": ["x"], "include": ["a*"], "exclude": [], "requires_approval": ["b"], "effects": {"*": "read"}}

    config = MCPServerConfig(command="a", timeout=math.inf, **given)

    assert (config.args, config.include, config.exclude, config.requires_approval) == (("x",), ("a*",), (), ("b",))
    assert config.effects == {"*": Effect.READ}


def test_what_is_given_can_be_changed_afterwards_without_changing_the_config() -> None:
    variables = {"TOKEN": SECRET}
    config = MCPServerConfig(command="a", env=variables)

    variables["TOKEN"] = "another"

    assert config.env == {"TOKEN": SECRET}


def test_secrets_are_not_in_the_repr() -> None:
    assert SECRET not in repr(MCPServerConfig(command="a", env={"TOKEN": SECRET}))
    assert SECRET not in repr(MCPServerConfig(url="http://localhost/", headers={"Authorization": SECRET}))


def test_a_file_of_another_program_is_read_as_it_is(file: Path) -> None:
    write(
        file,
        git={"command": "uvx", "args": ["mcp-server-git"], "env": {"A": "b"}, "cwd": "/srv"},
        old={"command": "nowhere", "disabled": True, "args": 3},
        docs={"type": "http", "url": "https://example.com/mcp", "headers": {"X-Key": "k"}},
    )

    servers = read_mcp_file(file)

    assert list(servers.items()) == [
        ("git", MCPServerConfig(command="uvx", args=("mcp-server-git",), env={"A": "b"}, cwd="/srv")),
        ("docs", MCPServerConfig(url="https://example.com/mcp", headers={"X-Key": "k"})),
    ]


def test_our_options_are_keys_in_both_spellings(file: Path) -> None:
    options: dict[str, Any] = {"effects": {"*": "read"}, "include": ["a"], "exclude": ["b"], "sampling": True}
    write(
        file,
        camel={"command": "a", "connectTimeout": 5, "requiresApproval": ["w*"], "trustAnnotations": True, **options},
        snake={"command": "a", "connect_timeout": 5, "requires_approval": ["w*"], "trust_annotations": True, **options},
    )

    servers = read_mcp_file(file)

    assert servers["camel"] == servers["snake"]
    assert servers["camel"].requires_approval == ("w*",)


@pytest.mark.parametrize(
    ("written", "value", "read"),
    [
        ("${KEY}", "k", "k"),
        ("${env:KEY}", "k", "k"),
        ("Bearer ${KEY}!", "k", "Bearer k!"),
        ("${KEY}${KEY}", "k", "kk"),
        ("${KEY:-other}", "k", "k"),
        ("${KEY:-other}", None, "other"),
        ("${KEY:-other}", "", "other"),
        ("${KEY:-}", None, ""),
        ("${KEY}", "", ""),
        ("${KEY}", "${HOME}", "${HOME}"),  # what a variable holds is not looked at again
        ("$KEY ${1} ${}", "k", "$KEY ${1} ${}"),
    ],
)
def test_variables_stand_for_what_the_environment_says(
    file: Path, monkeypatch: pytest.MonkeyPatch, written: str, value: str | None, read: str
) -> None:
    monkeypatch.delenv("KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("KEY", value)
    write(file, a={"command": "x", "args": [written], "env": {"A": written}})

    config = read_mcp_file(file)["a"]

    assert config.args == (read,)
    assert config.env == {"A": read}


@given(st.text(st.characters(exclude_characters="$\0", exclude_categories=["Cs"])))
def test_any_text_without_a_variable_stays_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = write(tmp_path_factory.getbasetemp() / f"any{os.getpid()}.json", a={"command": "x", "args": [text]})

    assert read_mcp_file(file)["a"].args == (text,)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "line 1"),
        ("[]", "mcpServers"),
        ("{}", "mcpServers"),
        ('{"mcpServers": []}', "mcpServers"),
        ('{"mcpServers": {"a": 1}}', "'a'"),
        ('{"mcpServers": {"": {"command": "x"}}}', "name"),
        ('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', "'a' is there twice"),
        ('{"mcpServers": {"a": {"command": "x", "disabled": "yes"}}}', "'a': disabled"),
        (
            '{"mcpServers": {"a": {"command": "x", "env": {"T": "${NOT_SET_ANYWHERE}"}}}}',
            r"'a': env\.T: .*NOT_SET_ANYW",
        ),
        ('{"mcpServers": {"a": {"command": "x", "args": ["1", "${NOT_SET_ANYWHERE}"]}}}', r"args\[1\]: .*NOT_SET_ANYW"),
        ('{"mcpServers": {"a": {"command": "x", "timeout": "SECRET"}}}', "'a': timeout"),
        ('{"mcpServers": {"a": {"command": "x", "connectTimeout": 1, "connect_timeout": 2}}}', "two spellings"),
        ('{"mcpServers": {"a": {"type": "sse", "url": "http://localhost/sse"}}}', "sse"),
        ('{"mcpServers": {"a": {"type": "SECRET", "url": "http://localhost/"}}}', "'a': type"),
        ('{"mcpServers": {"a": {"type": ["stdio"], "url": "http://localhost/"}}}', "'a': type"),
        ('{"mcpServers": {"a": {"type": "stdio", "url": "http://localhost/"}}}', "'stdio' needs command"),
        ('{"mcpServers": {"a": {"type": "http", "command": "x"}}}', "'http' needs url"),
        ("[" * 100_000, "mcp.json"),
    ],
    ids=lambda given: str(given)[:80],
)
def test_a_mistake_is_told_with_its_place_and_without_a_value(file: Path, content: str, told: str) -> None:
    file.write_text(content.replace("SECRET", SECRET))

    with pytest.raises(ConfigurationError, match=told) as caught:
        read_mcp_file(file)

    assert str(caught.value).startswith(str(file))
    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_there_is_a_mistake_too(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"mcp\.json"):
        read_mcp_file(file)


def test_an_unknown_key_is_named_with_the_nearest_and_passed_over(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(file, a={"command": "x", "requireApproval": SECRET, "alwaysAllow": [SECRET], "server": {"a": SECRET}})

    with caplog.at_level(logging.WARNING):
        assert read_mcp_file(file) == {"a": MCPServerConfig(command="x")}

    assert "'requireApproval'" in caplog.messages[0]
    assert "'requiresApproval'" in caplog.messages[0]
    assert "'alwaysAllow'" in caplog.messages[1]
    assert "'server'" in caplog.messages[2]
    assert not any(SECRET in message for message in caplog.messages)
