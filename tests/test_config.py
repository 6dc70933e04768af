"""Settings: where they come from, in which order, and what people are told when one is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from llmgine.bootstrap import ApplicationConfig
from llmgine.config import VARIABLES, load_settings
from llmgine.errors import ConfigurationError
from llmgine.observability import LogLevel

if TYPE_CHECKING:
    from decimal import Decimal


class Colour(Enum):
    RED = "r"
    BLUE = "b"


@dataclass
class Server:
    url: str
    port: int = 80
    tls: bool = True


@dataclass
class Settings:
    name: str = "default"
    size: int = 1
    fast: bool = False
    colour: Colour = Colour.RED
    tags: list[str] = field(default_factory=list[str])
    server: Server | None = None
    schema: str = "names that pydantic's models have themselves are no trouble"
    computed: str = field(default="not a setting", init=False)


@dataclass
class WithSecret:
    api_key: SecretStr
    limit: int = 5


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name[:7] != "LLMGINE"})
    return tmp_path


def refusal(kind: type = Settings, path: str = ".", /, **arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(kind, path, **arguments)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


# The order

SOURCES = ["argument", "environment", ".env", "TOML", "default"]


@pytest.mark.parametrize(("stronger", "weaker"), list(pairwise(SOURCES)))
def test_each_source_wins_over_the_next(stronger: str, weaker: str, folder: Path) -> None:
    arguments = {}
    for source in (stronger, weaker):
        match source:
            case "argument":
                arguments["name"] = source
            case "environment":
                os.environ["LLMGINE_NAME"] = source
            case ".env":
                (folder / ".env").write_text(f"LLMGINE_NAME={source}\n")
            case "TOML":
                (folder / "llmgine.toml").write_text(f'[llmgine]\nname = "{source}"\n')
            case _:
                pass

    assert load_settings(Settings, **arguments).name == stronger


@given(st.dictionaries(st.sampled_from(["name", "size", "tags"]), st.sets(st.sampled_from(SOURCES[:-1]))))
def test_every_field_is_decided_by_itself(
    tmp_path_factory: pytest.TempPathFactory, given_in: dict[str, set[str]]
) -> None:
    def values(source: str) -> dict[str, Any]:
        rank = SOURCES.index(source)
        all_of_them: dict[str, Any] = {"name": f"n{rank}", "size": 10 + rank, "tags": [f"t{rank}"]}
        return {name: value for name, value in all_of_them.items() if source in given_in.get(name, ())}

    def lines(source: str) -> dict[str, str]:
        return {f"LLMGINE_{name.upper()}": str(value).replace("'", '"') for name, value in values(source).items()}

    place = tmp_path_factory.mktemp("settings")
    (place / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in lines(".env").items()))
    (place / "llmgine.toml").write_text(
        "[llmgine]\n" + "".join(f"{name} = {value!r}\n" for name, value in values("TOML").items())
    )
    os.environ.update(lines("environment"))
    try:
        found = load_settings(Settings, place, **values("argument"))
    finally:
        for name in lines("environment"):
            del os.environ[name]

    expected: dict[str, Any] = {"name": "default", "size": 1, "tags": []}
    for source in reversed(SOURCES[:-1]):
        expected |= values(source)
    assert {name: getattr(found, name) for name in expected} == expected


def test_llmgine_toml_wins_over_pyproject(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.llmgine]\nname = "project"\nsize = 3\n')
    assert load_settings(Settings) == Settings(name="project", size=3)

    (folder / "llmgine.toml").write_text('[llmgine]\nname = "own"\n')
    assert load_settings(Settings) == Settings(name="own")


def test_the_files_are_looked_for_in_the_folder_that_is_named(folder: Path) -> None:
    (folder / "llmgine.toml").write_text('[llmgine]\nname = "here"\n')
    (folder / "app").mkdir()
    (folder / "app" / "other.toml").write_text("[llmgine]\nsize = 2\n")
    (folder / "app" / ".env").write_text("LLMGINE_NAME=there\n")

    assert load_settings(Settings).name == "here"
    assert load_settings(Settings, "app") == Settings(name="there")
    assert load_settings(Settings, folder / "app" / "other.toml") == Settings(name="there", size=2)


# What values may be


def test_text_becomes_what_the_field_is(folder: Path) -> None:
    os.environ |= {
        "LLMGINE_SIZE": "12",
        "LLMGINE_FAST": "yes",
        "LLMGINE_COLOUR": "blue",
        "LLMGINE_TAGS": '["a", "b"]',
        "LLMGINE_SERVER": '{"url": "http://a"}',
        "LLMGINE_NAME": "",
        "LLMGINE_SCHEMA": "12",
    }
    expected = Settings(size=12, fast=True, colour=Colour.BLUE, tags=["a", "b"], server=Server("http://a"), schema="12")

    assert load_settings(Settings) == expected


def test_toml_holds_tables_and_lists(folder: Path) -> None:
    (folder / "llmgine.toml").write_text(
        '[llmgine]\ntags = ["a"]\ncolour = "R"\n[llmgine.server]\nurl = "u"\nport = 81\n'
    )

    assert load_settings(Settings) == Settings(tags=["a"], server=Server("u", 81))


def test_an_application_config_is_loaded_by_name(folder: Path) -> None:
    @dataclass
    class Own(ApplicationConfig):
        greeting: str = "Hello"

    os.environ["LLMGINE_LOG_LEVEL"] = "DEBUG"
    (folder / "llmgine.toml").write_text('[llmgine]\nfile_handler_log_dir = "elsewhere"\ngreeting = "Good day"\n')
    config = Own.load(name="mine")

    assert type(config) is Own
    assert config == Own("mine", log_level=LogLevel.DEBUG, file_handler_log_dir="elsewhere", greeting="Good day")
    assert Own.load(folder, file_handler_log_dir=folder).file_handler_log_dir == folder


def test_what_a_dataclass_checks_itself_it_still_checks(folder: Path) -> None:
    @dataclass
    class Picky:
        size: int = 1

        def __post_init__(self) -> None:
            if self.size > 5:
                msg = "size is at most 5"
                raise ConfigurationError(msg)

    assert refusal(Picky, size=6) == "size is at most 5"


# What is wrong


def test_every_mistake_is_told_in_a_line_with_its_source_and_what_was_expected(folder: Path) -> None:
    os.environ |= {"LLMGINE_FAST": "perhaps", "LLMGINE_TAGS": "a, b"}
    (folder / ".env").write_text("LLMGINE_COLOUR=green\n")
    (folder / "llmgine.toml").write_text('[llmgine]\nname = 5\n[llmgine.server]\ntls = "x"\nhost = "h"\n')

    toml = "in [llmgine] of llmgine.toml"
    assert set(refusal(size="big").splitlines()) == {
        "LLMGINE_TAGS in the environment is not valid: expected JSON, such as a list or an object.",
        "LLMGINE_FAST in the environment is not valid: expected a valid boolean, unable to interpret input.",
        "LLMGINE_COLOUR in .env is not valid: expected 'r' or 'b'.",
        f"name {toml} is not valid: expected a valid string.",
        f"server {toml}, at url, is not valid: it is missing.",
        f"server {toml}, at tls, is not valid: expected a valid boolean, unable to interpret input.",
        f"server {toml}, at host, is not valid: there is no such key.",
        "size in the arguments is not valid: expected a valid integer, unable to parse string as an integer.",
    }


def test_an_unknown_key_is_named_with_the_nearest_right_one(folder: Path) -> None:
    (folder / ".env").write_text("LLMGINE_NAEM=x\nLLMGINE_ZZZ=1\nUNRELATED=1\n")
    (folder / "llmgine.toml").write_text("[llmgine]\nsizes = 3\n")
    known = "colour, fast, name, schema, server, size, tags"
    variables = sorted([*(f"LLMGINE_{name.upper()}" for name in known.split(", ")), *VARIABLES])

    assert refusal(zzz=1).splitlines() == [
        f"zzz in the arguments is not a setting of Settings; there are {known}.",
        "LLMGINE_NAEM in .env is not a setting of Settings; did you mean LLMGINE_NAME?",
        f"LLMGINE_ZZZ in .env is not a setting of Settings; there are {', '.join(variables)}.",
        "sizes in [llmgine] of llmgine.toml is not a setting of Settings; did you mean size?",
    ]


def test_the_environment_may_hold_more(folder: Path) -> None:
    os.environ["LLMGINE_OF_ANOTHER_PROGRAM"] = "1"
    assert load_settings(Settings) == Settings()


def test_a_field_that_is_not_set_is_told_with_where_to_set_it(folder: Path) -> None:
    assert refusal(WithSecret) == (
        "api_key is not set, and has no default. Set LLMGINE_API_KEY in the environment or in .env, or api_key in the "
        "table [llmgine] of llmgine.toml."
    )


@pytest.mark.parametrize("wrong", ["environment", ".env", "TOML", "argument"])
def test_no_error_shows_a_value(wrong: str, folder: Path) -> None:
    program = (
        "from dataclasses import dataclass\n"
        "from pydantic import SecretStr\n"
        "from llmgine.config import load_settings\n"
        "@dataclass\n"
        "class Settings:\n"
        "    key: SecretStr\n"
        "    pin: int\n"
        "    keys: dict[str, int]\n"
    )
    environment = {"PATH": os.environ["PATH"]}
    arguments = ""
    match wrong:
        case "environment":
            environment |= {"LLMGINE_KEY": "s3cret", "LLMGINE_PIN": "s3cret", "LLMGINE_KEYS": "s3cret"}
        case ".env":
            (folder / ".env").write_text('LLMGINE_KEY=s3cret\nLLMGINE_PIN=s3cret\nLLMGINE_KEYS=\'{"a": "s3cret"}\'\n')
        case "TOML":
            (folder / "llmgine.toml").write_text('[llmgine]\nkey=["s3cret"]\npin="s3cret"\nkeys={a="s3cret"}\n')
        case _:
            arguments = 'key=["s3cret"], pin="s3cret", keys="s3cret"'
    done = subprocess.run(
        [sys.executable, "-c", f"{program}load_settings(Settings, '.', {arguments})"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    report = done.stderr.replace(arguments or "-", "")  # the source line of a traceback is the program's own
    assert "ConfigurationError: " in report
    assert "PIN" in report.upper()
    assert "s3cret" not in report


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "llmgine.toml").write_text("[llmgine\n")
    assert re.fullmatch(r"llmgine\.toml is not TOML: .*line 1.*\.", refusal())
    (folder / "llmgine.toml").write_bytes(b"[llmgine]\nname = '\xff'\n")
    assert refusal() == "llmgine.toml is not text in UTF-8."
    (folder / "llmgine.toml").write_text('name = "outside of the table"\n')
    assert refusal() == "llmgine.toml has no table [llmgine]. Put the settings below a line that says [llmgine]."
    (folder / "llmgine.toml").write_text("llmgine = 5\n")
    assert refusal().startswith("llmgine.toml has no table [llmgine].")
    (folder / "llmgine.toml").unlink()
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert load_settings(Settings) == Settings()
    assert refusal(Settings, "pyproject.toml").startswith("pyproject.toml has no table [tool.llmgine].")
    (folder / ".env").write_bytes(b"LLMGINE_NAME=\xff\n")
    assert refusal() == ".env is not text in UTF-8."
    assert refusal(Settings, "nowhere") == "There is neither a folder nor a TOML file 'nowhere' to read settings from."


def test_empty_files_are_no_mistake(folder: Path) -> None:
    for name in (".env", "llmgine.toml"):
        (folder / name).touch()
    assert load_settings(Settings) == Settings()


def test_a_folder_called_dotenv_is_no_file_of_settings(folder: Path) -> None:
    (folder / ".env").mkdir()
    assert load_settings(Settings) == Settings()


def test_what_is_no_dataclass_is_refused(folder: Path) -> None:
    class Plain:
        pass

    assert refusal(Plain) == "Plain is no dataclass: settings are the fields of one. Put @dataclass above it."


def test_types_that_nobody_can_read_are_told(folder: Path) -> None:
    @dataclass
    class Hidden:
        price: Decimal | None = None

    with pytest.raises(ConfigurationError, match="types of Hidden cannot be read: name 'Decimal' is not defined"):
        load_settings(Hidden)


# The package's own variables


def test_what_dotenv_says_to_the_package_itself_is_put_into_the_environment(folder: Path) -> None:
    os.environ |= {"LLMGINE_DB_URL": "sqlite:///mine.db", "LLMGINE_MODEL": ""}
    (folder / ".env").write_text(
        "LLMGINE_DB_URL=sqlite:///theirs.db\nLLMGINE_MODEL=local:smollm2\nLLMGINE_TOOL_MAX_CONCURRENCY=3\n"
    )
    load_settings(Settings)

    assert os.environ["LLMGINE_DB_URL"] == "sqlite:///mine.db"
    assert os.environ["LLMGINE_MODEL"] == "local:smollm2"
    assert os.environ["LLMGINE_TOOL_MAX_CONCURRENCY"] == "3"


def test_settings_that_are_refused_change_nothing(folder: Path) -> None:
    (folder / ".env").write_text("LLMGINE_MODEL=local:smollm2\nLLMGINE_NAEM=x\n")
    refusal()
    assert "LLMGINE_MODEL" not in os.environ


def test_every_variable_that_the_package_reads_is_known() -> None:
    source = Path(__file__).parents[1] / "src" / "llmgine"
    read = {
        name
        for path in source.rglob("*.py")
        if path.name not in {"config.py", "bootstrap.py"} and "templates" not in path.parts
        for name in re.findall(r"\bLLMGINE_[A-Z_]+[A-Z]\b", path.read_text())
    }

    assert read <= VARIABLES
    assert "LLMGINE_MODEL" in read
