"""Recorded the first time, replayed from then on: for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmgine.errors import ConfigurationError
from llmgine.llm.providers.base import Provider
from llmgine.llm.recording.record import RecordingProvider, unchanged
from llmgine.llm.recording.replay import ReplayProvider

__all__ = ["recorded"]


def recorded(
    file: str | Path, provider: Callable[[], Provider], *, redact: Callable[[Any], Any] = unchanged
) -> RecordingProvider | ReplayProvider:
    """Return a provider that replays a recording or, where there is none, makes one; to be used in a `with` block.

    LLMGINE_RECORD=1 makes it anew, LLMGINE_RECORD=0 never makes one.

    Args:
        file: the recording.
        provider: makes the provider that answers while it is recorded. Its `aclose` is the caller's business.
        redact: see `RecordingProvider`.

    Raises:
        ConfigurationError: there is no recording and none may be made, or it cannot be read or written.
    """
    wish = os.environ.get("LLMGINE_RECORD", "")
    if wish not in {"", "0", "1"}:
        msg = f"LLMGINE_RECORD must be 1 (record anew) or 0 (never record), or not be set; it is {wish!r}."
        raise ConfigurationError(msg)
    there = Path(file).exists()
    if wish == "0" and not there:
        msg = f"There is no recording {file}, and LLMGINE_RECORD=0 forbids making one. Run this once without it."
        raise ConfigurationError(msg)
    if there and wish != "1":
        return ReplayProvider(file, redact=redact)
    return RecordingProvider(provider(), file, redact=redact)
