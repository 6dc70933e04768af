"""What a contestant does in these rows."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

Hear = Callable[[str], None]
"""Is told each piece of the reply's text."""

MODEL = "test-model"
PROMPT = "How is the weather in Kyoto?"


class Engine(Protocol):
    """One library, set up for a server that speaks OpenAI's chat completions. It asks by way of the SDK `openai`."""

    cannot: ClassVar[Mapping[str, str]] = {}
    """The name of each row, or figure of a row, that is left out, and why."""
    loop: ClassVar[str] = "asyncio"

    async def start(self, base_url: str) -> None:
        """Get ready for that server."""
        raise NotImplementedError

    async def ask(self, hear: Hear) -> None:
        """Ask the model in a conversation of its own; return at the end of the reply."""
        raise NotImplementedError
