"""Opening a database: URLs, drivers, and what is never shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from llmgine.database.engine import file_of, masked, open_engine, open_existing, reason
from llmgine.errors import ConfigurationError, MissingExtraError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se%40cret@host/db?a=b", "postgresql://me:***@host/db?a=b"),
        ("postgresql://me:se:c@ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///./message_bus.db", "sqlite:///./message_bus.db"),
        ("sqlite:////home/me@work/bus.db", "sqlite:////home/me@work/bus.db"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_what_a_driver_says_is_shown_without_the_password() -> None:
    error = RuntimeError("no route for me with hush")
    assert reason(error, "postgresql://me:hush@host/db") == "no route for me with ***"


@pytest.mark.parametrize("url", ["nonsense me:hush@x", "unknown://me:hush@x", "postgresql+none://me:hush@x/y"])
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not a usable database URL") as caught:
        open_engine(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_reached_by_psycopg_3(scheme: str) -> None:
    assert open_engine(f"{scheme}://me@host/db").dialect.driver == "psycopg"


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"llmgine\[postgres\]"):
        open_engine("postgresql://me@host/db")


def test_a_path_is_taken_from_where_the_program_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = open_engine("sqlite:///./bus.db")
    monkeypatch.chdir("/")
    assert file_of(engine.url) == tmp_path / "bus.db"


def test_what_commits_is_on_disk(tmp_path: Path) -> None:
    with open_engine(f"sqlite:///{tmp_path / 'bus.db'}").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
    with open_engine(f"sqlite:///{tmp_path / 'bus.db'}?timeout=2").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 2000


@pytest.mark.parametrize("name", ["bus.db", "odd name?#%41.db"])
def test_looking_into_a_database_makes_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    url = make_url("sqlite://").set(database=str(path)).render_as_string()
    assert open_existing(url) is None
    path.touch()
    engine = open_existing(url)
    assert engine is not None
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert path.stat().st_size == 0
