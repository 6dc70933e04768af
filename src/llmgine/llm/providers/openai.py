"""OpenAI, and every server that speaks its chat completions: vLLM, Ollama, llama.cpp, LM Studio and others."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llmgine.errors import (
    ConfigurationError,
    ContextLengthError,
    IncompleteResponseError,
    MissingExtraError,
    ProviderError,
    ProviderResponseError,
    ProviderUnavailableError,
    RateLimitedError,
)
from llmgine.llm.providers.loopback import is_this_machine
from llmgine.llm.types import (
    Chunk,
    Finish,
    FinishReason,
    LLMMessage,
    ModelFormattedDictTool,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from llmgine.messages import new_id

__all__ = ["OpenAIProvider"]

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class OpenAIProvider:
    """A model behind the chat completions API.

    Requests that fail before the reply begins are tried again by the SDK, `max_retries` times; never one whose reply
    has begun.

    Args:
        model: the server's name for it.
        base_url: the server, such as `http://127.0.0.1:11434/v1`; by default OPENAI_BASE_URL, else OpenAI itself.
        api_key: by default OPENAI_API_KEY; servers other than OpenAI may do without.
        timeout: seconds without a sign of life; connecting gets at most ten.
        max_retries: see above.

    Raises:
        ConfigurationError: OpenAI itself is asked without a key.
        MissingExtraError: the SDK is not installed.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 2,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("openai", "The OpenAI provider") from error
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        api_key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
        if api_key is None:
            msg = f"openai:{model} needs a key: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server that needs none."
            raise ConfigurationError(msg)
        self.model = model
        self._openai: Any = openai
        self._timeout = timeout
        patience = openai.Timeout(timeout, connect=min(timeout, 10.0))
        # A proxy from the environment would look for this machine's servers on its own.
        direct = openai.DefaultAsyncHttpxClient(trust_env=False) if is_this_machine(base_url or "") else None
        self._client = openai.AsyncOpenAI(
            api_key=api_key, base_url=base_url, timeout=patience, max_retries=max_retries, http_client=direct
        )

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation; see `Provider.stream`."""
        request: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        if tools:
            request["tools"] = list(tools)
        try:
            response = await self._client.chat.completions.create(
                **request, stream=True, stream_options={"include_usage": True}
            )
        except self._openai.OpenAIError as error:
            raise self._explained(error) from error
        except UnicodeError as error:
            msg = f"The conversation has characters that cannot be sent: {error}"
            raise ProviderResponseError(msg, provider=self.name, model=self.model) from error
        text = ""
        reading = _Reading()
        try:
            async for chunk in reading.chunks(response):
                if isinstance(chunk, TextDelta):
                    text += chunk.text
                yield chunk
        except self._openai.APIStatusError as error:
            raise self._explained(error) from error
        except Exception as error:
            # Whatever the SDK, its HTTP library or a decoder raises now means one thing: the reply does not go on.
            if reading.finish is None:
                detail = str(error).rstrip(".") or type(error).__name__
                msg = f"The reply of {self.model} broke off: {detail}. What had arrived is kept; ask again."
                raise IncompleteResponseError(msg, partial=text, provider=self.name, model=self.model) from error
        finally:
            await response.close()
        if not reading.begun:
            msg = f"{self._server} answers, but not with chat completions. Base URLs of such servers often end in /v1."
            raise ProviderResponseError(msg, provider=self.name, model=self.model)
        if reading.finish is not None:
            yield reading.finish

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def _server(self) -> str:
        """The base URL, for people: without what may be a password."""
        return str(self._client.base_url.copy_with(userinfo=b"")).rstrip("/")

    def _explained(self, error: Any) -> ProviderError:  # noqa: PLR0911  # one for each thing that goes wrong
        who: Any = {"provider": self.name, "model": self.model}
        server = self._server
        if isinstance(error, self._openai.APITimeoutError):
            return ProviderUnavailableError(f"{server} did not answer within {self._timeout:g} s.", **who)
        if isinstance(error, self._openai.APIConnectionError):
            cause = error.__cause__ or error
            return ProviderUnavailableError(f"{server} cannot be reached: {cause}. Is the network there?", **who)
        if not isinstance(error, self._openai.APIStatusError):
            return ProviderResponseError(f"{server} could not be used: {error}", **who)
        status: int = error.status_code
        said = _message(error)
        if status in {401, 403}:
            msg = f"{server} refused the key ({status}). Set OPENAI_API_KEY to one that may use {self.model}."
            return ProviderResponseError(msg, status=status, **who)
        if status == 404:
            return ProviderResponseError(f"{server} has no model '{self.model}': {said}", status=status, **who)
        if status == 429:
            wait = _retry_after(error.response.headers)
            when = "" if wait is None else f" Try again in {wait:g} s."
            return RateLimitedError(f"{server} asks for fewer requests: {said}{when}", retry_after=wait, **who)
        if error.code == "context_length_exceeded" or "context length" in said or "context size" in said:
            msg = f"The conversation is longer than {self.model} can read: {said}"
            return ContextLengthError(msg, status=status, **who)
        return ProviderResponseError(f"{server} answered with an error ({status}): {said}", status=status, **who)


class _Reading:
    """Turns what a server streams into chunks, forgiving what compatible servers do differently."""

    def __init__(self) -> None:
        self.begun = False
        """Whether the server has sent anything."""
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._model = ""
        self._ids: list[str] = []
        self._named: set[int] = set()
        self._places: dict[int, int] = {}

    @property
    def finish(self) -> Finish | None:
        """How the reply ended, once the server has said so."""
        if self._reason is None:
            return None
        reason = FinishReason.TOOL_CALLS if self._ids else _REASONS.get(self._reason, FinishReason.STOP)
        return Finish(reason, self._usage, self._model)

    async def chunks(self, response: AsyncIterable[Any]) -> AsyncGenerator[Chunk, None]:
        """Yield text and tool calls; keep the end for `finish`, because the usage comes after it."""
        async for part in response:
            self.begun = True
            self._model = getattr(part, "model", None) or self._model
            if (counted := getattr(part, "usage", None)) is not None:
                self._usage = Usage(counted.prompt_tokens or 0, counted.completion_tokens or 0)
            for choice in getattr(part, "choices", None) or ():
                self._reason = choice.finish_reason or self._reason
                delta = choice.delta
                if delta is None:
                    continue
                for text in (delta.content, getattr(delta, "refusal", None)):
                    if text:
                        yield TextDelta(text)
                for piece in delta.tool_calls or ():
                    yield self._tool_call(piece)

    def _tool_call(self, piece: Any) -> ToolCallDelta:
        """Find the call that a piece belongs to: by its index, unless the server gives none or one index to all."""
        place = self._places.get(piece.index) if piece.index is not None else len(self._ids) - 1
        function = piece.function
        named = bool(function is not None and function.name)
        begins = (
            place is None
            or place < 0
            or bool(piece.id and piece.id != self._ids[place])
            or (piece.index is None and not piece.id and named)
        )
        if begins:
            place = len(self._ids)
            self._ids.append(piece.id or f"call_{new_id()}")
            if piece.index is not None:
                self._places[piece.index] = place
        place = place or 0
        name = (function.name or "") if function is not None and place not in self._named else ""
        if name:
            self._named.add(place)
        arguments = function.arguments if function is not None else ""
        if arguments and not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        return ToolCallDelta(place, self._ids[place] if begins else "", name, arguments or "")


def _message(error: Any) -> str:
    body = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error.message)


def _retry_after(headers: Any) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After` (RFC 9110, section 10.2.3: seconds or a date)."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return float(milliseconds) / 1000
        if not (after := headers.get("retry-after")):
            return None
        if after.replace(".", "", 1).isdigit():
            return float(after)
        return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
