"""The settings of the application."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from llmgine.bootstrap import ApplicationConfig


@dataclass
class Settings(ApplicationConfig):
    """What can be set: in `llmgine.toml`, in `.env`, or in the environment, as `LLMGINE_MAX_WORDS=500`."""

    name: str = "my_app"
    enable_console_handler: bool = False
    file_handler_log_dir: str | PathLike[str] = Path(__file__).parent / "logs"
    max_words: int = 10_000
    """A longer text is refused."""
