"""The port to a language model: it streams. Whoever wants the reply in one piece folds the stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from llmgine.errors import IncompleteResponseError
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import (
    Chunk,
    Finish,
    LLMMessage,
    LLMResponse,
    ModelFormattedDictTool,
    TextDelta,
)

__all__ = ["Fold", "Provider", "complete"]


class Provider(Protocol):
    """A source of replies. One provider may serve many conversations at once."""

    name: str
    """The provider's name, as in `name:model`."""
    model: str

    def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation. The last chunk is a `Finish`.

        Closing the iterator, or cancelling the task that reads it, ends the request.

        Raises:
            ProviderError: the model could not answer; the subclass says why.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and memory. The provider cannot be used afterwards."""
        ...


class Fold:
    """Adds up the chunks of one reply."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._finish: Finish | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        if isinstance(chunk, TextDelta):
            self._text.append(chunk.text)
        elif isinstance(chunk, Finish):
            self._finish = chunk
        else:
            call = self._calls.setdefault(chunk.index, ["", "", ""])
            call[0] += chunk.id
            call[1] += chunk.name
            call[2] += chunk.arguments

    def response(self) -> LLMResponse:
        """Return the whole reply.

        Raises:
            IncompleteResponseError: the stream ended without a `Finish`.
        """
        if self._finish is None:
            msg = "The reply broke off: the connection ended before the model had finished. Ask again."
            raise IncompleteResponseError(msg, partial=self.text)
        calls = tuple(
            ToolCall(id=id_, name=name, arguments=arguments or "{}")
            for _, (id_, name, arguments) in sorted(self._calls.items())
        )
        return LLMResponse(self.text, calls, self._finish.reason, self._finish.usage, self._finish.model)


async def complete(
    provider: Provider, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()
) -> LLMResponse:
    """Return a provider's whole reply.

    Raises:
        ProviderError: the model could not answer, or its reply broke off.
    """
    fold = Fold()
    async for chunk in provider.stream(messages, tools=tools):
        fold.add(chunk)
    return fold.response()
