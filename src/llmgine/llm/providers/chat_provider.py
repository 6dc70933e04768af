"""What providers that speak chat completions have in common, whatever library asks the server for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from llmgine.bus.options import check_number
from llmgine.errors import (
    ConfigurationError,
    IncompleteResponseError,
    ProviderError,
    ProviderResponseError,
    ProviderUnavailableError,
)
from llmgine.llm.providers.chat_request import chat_request
from llmgine.llm.providers.chat_stream import Reading
from llmgine.llm.providers.errors import StalledError
from llmgine.llm.providers.refusals import Asked, explained, status_of, told
from llmgine.llm.providers.stalls import SilenceError, StallTimer
from llmgine.llm.types import Chunk, JSONSchema, LLMMessage, ModelFormattedDictTool

__all__ = ["ChatProvider"]

# The longest that an SDK waits between two attempts, if the server asks for it.
_LONGEST_WAIT_S = 60.0


class ChatProvider(ABC):
    """A model behind the chat completions API, or behind something that looks like it.

    Every request ends: in a `Finish` or in a `ProviderError`. It is given up when opening it takes longer than all its
    attempts may, and when the reply stalls.
    """

    name: str
    supports_json_schema: bool
    _ceiling: str = "max_tokens"
    """What the longest reply is called in a request."""
    _key_hint = "Set the provider's key in the environment, or pass api_key."

    def __init__(
        self, model: str, *, timeout: float, stall_timeout: float, max_retries: int, supports_json_schema: bool
    ) -> None:
        for option, given in (("timeout", timeout), ("stall_timeout", stall_timeout)):
            check_number(option, given, int | float, "a number of seconds above 0")
            if not given:
                msg = f"{option} must be above 0; got {given!r}."
                raise ConfigurationError(msg)
        check_number("max_retries", max_retries, int, "a whole number, 0 or more")
        self.model = model
        self.supports_json_schema = supports_json_schema
        self._timeout = timeout
        self._stall_timeout = stall_timeout
        self._opening_timeout = (max_retries + 1) * timeout + max_retries * _LONGEST_WAIT_S

    async def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ModelFormattedDictTool] = (),
        max_output_tokens: int | None = None,
        response_format: JSONSchema | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation; see `SchemaProvider.stream`."""
        limits = {self._ceiling: max_output_tokens}
        response = await self._opened(chat_request(self.model, messages, tools, response_format, **limits))
        reading = Reading()
        begun = False
        try:
            with StallTimer(self._stall_timeout) as timer:
                async for part in response:
                    timer.pause()
                    begun = True
                    for chunk in reading.add(part):
                        yield chunk
                    timer.wait()
        # Whatever the SDK, its HTTP library or a decoder raises now means one thing: the reply does not go on.
        except Exception as error:
            if reading.finish is None:
                raise self._broken_off(error, reading) from error
        finally:
            await self._close(response)
        finish = reading.finish if self._has_ended(response) else None
        if finish is not None:
            yield finish
        elif begun and reading.visible:
            raise self._broken_off(None, reading)
        else:
            msg = f"{self._server} answers, but not with chat completions. Base URLs of such servers often end in /v1."
            raise ProviderResponseError(msg, provider=self.name, model=self.model)

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""

    @abstractmethod
    async def _open(self, request: dict[str, Any]) -> Any:
        """Return the stream of the reply's parts, once the server has begun it."""

    @abstractmethod
    async def _close(self, response: Any) -> None:
        """End a reply, read or not."""

    @property
    @abstractmethod
    def _server(self) -> str:
        """Who is asked, for people: without what may be a password."""

    def _has_ended(self, response: Any) -> bool:  # noqa: ARG002  # for those that make up an end where none was
        return True

    async def _opened(self, request: dict[str, Any]) -> Any:
        limit = asyncio.timeout(self._opening_timeout)
        try:
            async with limit:
                return await self._open(request)
        except UnicodeError as error:
            msg = f"The conversation has characters that cannot be sent: {error}"
            raise ProviderResponseError(msg, provider=self.name, model=self.model) from error
        except Exception as error:
            if limit.expired():
                msg = f"{self._server} did not answer within {self._opening_timeout:g} s."
                raise ProviderUnavailableError(msg, provider=self.name, model=self.model) from error
            # The SDK's own errors, and those of what it is built on, which some of them let through.
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> ProviderError:
        asked = Asked(
            server=self._server, provider=self.name, model=self.model, key=self._key_hint, timeout=self._timeout
        )
        return explained(error, asked)

    def _broken_off(self, error: Exception | None, reading: Reading) -> ProviderError:
        """Return what the end of a reply that has no end means."""
        who: Any = {"provider": self.name, "model": self.model}
        partial = "".join(reading.text)
        if isinstance(error, SilenceError):
            seconds = self._stall_timeout
            msg = f"The reply of {self.model} stalled: nothing came for {seconds:g} s. What had arrived is kept."
            return StalledError(msg, timeout=seconds, partial=partial, **who)
        if error is not None and not reading.visible and status_of(error) is not None:
            return self._explained(error)
        detail = "the server stopped without saying that it had finished"
        if error is not None:
            detail = told(error) or type(error).__name__
        msg = f"The reply of {self.model} broke off: {detail}. What had arrived is kept; ask again."
        return IncompleteResponseError(msg, partial=partial, **who)
