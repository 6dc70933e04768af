"""What the crash tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest
from sqlalchemy import text

from llmgine.database.engine import open_engine, transaction

from .nursery import Nursery

if not hasattr(os, "fork"):
    collect_ignore_glob = ["test_*.py"]  # they kill as only Unix does

Places: TypeAlias = "Callable[[], tuple[str, str]]"
"""Returns the URL and the schema of a database with nothing in it, another one each time."""


@pytest.fixture(scope="package")
def nursery() -> Iterator[Nursery]:
    """Where processes are started and killed."""
    nursery = Nursery("shop", "outbox_shop")
    yield nursery
    nursery.close()


@pytest.fixture(params=["sqlite", "postgres"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Places]:
    """Where processes keep their things."""
    if request.param == "sqlite":
        yield lambda: (f"sqlite:///{tmp_path / uuid4().hex}.db", "crash")
        return
    url = request.getfixturevalue("postgres_url")
    schemas: list[str] = []

    def another() -> tuple[str, str]:
        schemas.append(f"crash_{uuid4().hex}")
        return url, schemas[-1]

    yield another
    with open_engine(url).connect() as connection, transaction(connection):
        for schema in schemas:
            connection.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
