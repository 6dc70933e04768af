"""A model that runs in this process: the small one that can be fetched, or any GGUF file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from llmgine.errors import ModelFileError, ProviderError, ProviderResponseError
from llmgine.llm.providers.base import Fold
from llmgine.llm.providers.llama import Llama, require_llama
from llmgine.llm.providers.model_store import fetch_weights, is_intact
from llmgine.llm.providers.tool_choice import ToolChoice
from llmgine.llm.types import Chunk, Finish, FinishReason, LLMMessage, ModelFormattedDictTool, Usage

__all__ = ["LocalProvider"]

_FETCHED = "smollm2"


class LocalProvider:
    """llama.cpp in this process: one reply at a time, the others wait in the order in which they came.

    The model is fetched, if need be, and loaded with the first request.

    Tools are chosen by the last message alone, one for each request; once a tool's result is in, the model answers.
    That is what very small models can do. For a large one, run a server and use `openai` with its base URL.

    Args:
        model: `smollm2`, a demonstration model of 135 million parameters, or the path of a GGUF file.
        progress: called in the event loop with the bytes done and the bytes in all, while the model is fetched.
        context_tokens: how much conversation and reply fit, in tokens.
        max_output_tokens: where a reply is cut off at the latest.
        temperature: 0 for the likeliest word each time.
        threads: one is best on a machine that does other work as well: with two, each waits for the slower.

    Raises:
        MissingExtraError: llama.cpp is not installed.
        ModelFileError: there is no such file, or it is not a GGUF file.
    """

    name = "local"

    def __init__(
        self,
        model: str = _FETCHED,
        *,
        progress: Callable[[int, int], None] | None = None,
        context_tokens: int = 4096,
        max_output_tokens: int = 1024,
        temperature: float = 0.2,
        threads: int = 1,
    ) -> None:
        require_llama()
        self.model = model
        self._path = None if model == _FETCHED else _gguf(model)
        self._progress = progress
        self._sizes = {"context_tokens": context_tokens, "threads": threads}
        self._max_output_tokens = max_output_tokens
        self._temperature = temperature
        self._turn = asyncio.Lock()
        self._llama: Llama | None = None
        self._closed = False

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation; see `Provider.stream`."""
        conversation = _plain(messages)
        spent = Usage()
        async with self._turn:
            llama = await self._loaded()
            if tools and messages[-1]["role"] == "user":
                choice = ToolChoice(tools)
                fold = Fold()
                question = choice.messages(conversation[-1]["content"])
                # Nothing is gained by chance in a choice.
                reply = llama.stream(
                    question, max_tokens=self._max_output_tokens, temperature=0.0, grammar=choice.grammar
                )
                async with aclosing(reply):
                    async for chunk in reply:
                        fold.add(chunk)
                chosen = fold.response()
                spent += chosen.usage or Usage()
                whole = chosen.finish_reason is not FinishReason.LENGTH
                if call := choice.read(chosen.text, whole=whole):
                    yield call
                    yield Finish(FinishReason.TOOL_CALLS if whole else FinishReason.LENGTH, spent, llama.name)
                    return
            reply = llama.stream(conversation, max_tokens=self._max_output_tokens, temperature=self._temperature)
            async with aclosing(reply):
                async for chunk in reply:
                    if isinstance(chunk, Finish):
                        yield Finish(chunk.reason, spent + (chunk.usage or Usage()), chunk.model)
                    else:
                        yield chunk

    async def aclose(self) -> None:
        """Stop what is being written, and release the model's memory."""
        self._closed = True
        llama, self._llama = self._llama, None
        if llama is not None:
            await asyncio.to_thread(llama.close)

    async def _loaded(self) -> Llama:
        if self._closed:
            msg = f"local:{self.model} has been closed. Make a new LocalProvider."
            raise ProviderError(msg, provider=self.name, model=self.model)
        if self._llama is None:
            self._llama = await self._load()
            if self._closed:  # meanwhile
                await self.aclose()
                return await self._loaded()
        return self._llama

    async def _load(self) -> Llama:
        path = self._path or await fetch_weights(self._progress)
        try:
            return await asyncio.to_thread(Llama, path, **self._sizes)
        except ModelFileError:
            if self._path is not None or await asyncio.to_thread(is_intact, path):
                raise
            path.unlink()
        path = await fetch_weights(self._progress)
        return await asyncio.to_thread(Llama, path, **self._sizes)


def _gguf(model: str) -> Path:
    path = Path(model).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        msg = f"There is no model at {path} ({error.strerror}). Expected {_FETCHED!r} or the path of a GGUF file."
        raise ModelFileError(msg, provider="local", model=model) from error
    if magic != b"GGUF":
        msg = f"{path} is not a model that llama.cpp can load: a GGUF file begins with 'GGUF', this one does not."
        raise ModelFileError(msg, provider="local", model=model)
    return path


def _plain(messages: Sequence[LLMMessage]) -> list[LLMMessage]:
    """Put a conversation into words that a model without tools understands: results become part of the question."""
    plain: list[LLMMessage] = []
    names: dict[str, str] = {}
    for message in messages:
        role, text = message["role"], _text(message)
        if calls := message.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in calls}
        elif role == "tool":
            text = f"The answer of {names.get(message.get('tool_call_id', ''), 'the tool')}: {text}"
            if plain and plain[-1]["role"] == "user":
                text = f"{plain.pop()['content']}\n\n{text}"
            plain.append({"role": "user", "content": text})
        else:
            plain.append({"role": "system" if role == "developer" else role, "content": text})
    return plain


def _text(message: LLMMessage) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):
        if unread := {part.get("type") for part in content} - {"text"}:
            msg = f"A local model reads text only; this conversation has {', '.join(map(str, unread))} in it."
            raise ProviderResponseError(msg, provider="local")
        content = "".join(part["text"] for part in content)
    return str(content).encode(errors="replace").decode()  # llama.cpp does not take half a surrogate pair
