"""Where the chat keeps what outlives it: the XDG folders, or their like on Windows."""

from __future__ import annotations

import os
from pathlib import Path

from llmgine.errors import ConfigurationError

__all__ = ["data_folder", "state_folder"]


def data_folder() -> Path:
    """Return the folder of the conversations, and make it if need be.

    Raises:
        ConfigurationError: it cannot be made.
    """
    return _folder("XDG_DATA_HOME", ".local/share")


def state_folder() -> Path:
    """Return the folder of what was typed, and make it if need be.

    Raises:
        ConfigurationError: it cannot be made.
    """
    return _folder("XDG_STATE_HOME", ".local/state")


def _folder(variable: str, default: str) -> Path:
    given = os.environ.get(variable) or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    try:
        folder = (Path(given) if given else Path.home() / default) / "llmgine"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        msg = f"No folder for the chat's data can be made ({error}). Name one in {variable}."
        raise ConfigurationError(msg) from error
    return folder
