"""The port to a language model: it streams. Whoever wants the reply in one piece folds the stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, TypeGuard

from llmgine.errors import ConfigurationError, IncompleteResponseError
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import (
    Chunk,
    Finish,
    FinishReason,
    JSONSchema,
    LLMMessage,
    LLMResponse,
    ModelFormattedDictTool,
    Restart,
    TextDelta,
)

__all__ = ["Fold", "Provider", "SchemaProvider", "complete", "given_options", "takes_schemas"]


class Provider(Protocol):
    """A source of replies. One provider may serve many conversations at once."""

    name: str
    """The provider's name, as in `name:model`."""
    model: str

    def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ModelFormattedDictTool] = (),
        max_output_tokens: int | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation. The last chunk is a `Finish`.

        Closing the iterator, or cancelling the task that reads it, ends the request.

        Args:
            messages: the conversation.
            tools: what the model may call.
            max_output_tokens: how long the reply may be, thinking included: what is longer ends there, with the reason
                "length". None: as long as the provider lets it; engines leave the keyword out then.

        Raises:
            ProviderError: the model could not answer; the subclass says why.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and memory. The provider cannot be used afterwards."""
        ...


class SchemaProvider(Provider, Protocol):
    """A provider that can hold a reply to a form. One that cannot is a `Provider` without the keyword."""

    supports_json_schema: bool
    """Whether it may be asked for a `response_format`; the model behind it may not be able to."""

    def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ModelFormattedDictTool] = (),
        max_output_tokens: int | None = None,
        response_format: JSONSchema | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation; see `Provider.stream`.

        Args:
            messages: the conversation.
            tools: what the model may call.
            max_output_tokens: how long the reply may be.
            response_format: what the text of the reply must fit, where the reply is not a tool call.
        """
        ...


def takes_schemas(provider: Provider) -> TypeGuard[SchemaProvider]:
    """Return whether a provider may be asked for a `response_format`."""
    return bool(getattr(provider, "supports_json_schema", False))


def given_options(**options: Any) -> dict[str, Any]:
    """Return the options that are given. One that is None is left out: a provider may not know it."""
    return {name: value for name, value in options.items() if value is not None}


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
        elif isinstance(chunk, Restart):
            self._text.clear()
            self._calls.clear()
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
        pieces = [call for _, call in sorted(self._calls.items())]
        calls = [ToolCall(id=id_, name=name, arguments=arguments or "{}") for id_, name, arguments in pieces]
        cut_short = self._finish.reason in {FinishReason.LENGTH, FinishReason.CONTENT_FILTER}
        if calls and cut_short and not pieces[-1][2]:
            # Cut off before its arguments, which is not the same as having none.
            calls[-1] = replace(calls[-1], arguments="{")
        return LLMResponse(self.text, tuple(calls), self._finish.reason, self._finish.usage, self._finish.model)


async def complete(
    provider: Provider,
    messages: Sequence[LLMMessage],
    *,
    tools: Sequence[ModelFormattedDictTool] = (),
    max_output_tokens: int | None = None,
    response_format: JSONSchema | None = None,
) -> LLMResponse:
    """Return a provider's whole reply; for the arguments, see `SchemaProvider.stream`.

    Raises:
        ConfigurationError: the provider takes no `response_format`.
        ProviderError: the model could not answer, or its reply broke off.
    """
    if response_format is not None and not takes_schemas(provider):
        msg = (
            f"{provider.name}:{provider.model} cannot be held to a JSON schema. Ask it to call a tool with it instead."
        )
        raise ConfigurationError(msg)
    fold = Fold()
    options = given_options(max_output_tokens=max_output_tokens, response_format=response_format)
    async with aclosing(provider.stream(messages, tools=tools, **options)) as chunks:
        async for chunk in chunks:
            fold.add(chunk)
    return fold.response()
