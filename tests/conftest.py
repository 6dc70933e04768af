"""What all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmgine.bus import MessageBus


@pytest.fixture
async def bus() -> AsyncIterator[MessageBus]:
    """A bus of the test's own, running."""
    bus = MessageBus.isolated()
    await bus.start()
    yield bus
    await bus.stop()
