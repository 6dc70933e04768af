"""A model in this process: the embedded SmolLM2, or any GGUF file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from weakref import WeakKeyDictionary

from llmgine.errors import ModelFileError
from llmgine.llm.providers.llama import Llama, require_llama
from llmgine.llm.providers.model_store import fetch_weights, is_intact
from llmgine.llm.providers.tool_choice import ToolChoice
from llmgine.llm.types import (
    Chunk,
    Finish,
    FinishReason,
    LLMConversation,
    LLMMessage,
    ModelFormattedDictTool,
    TextDelta,
    ToolCallDelta,
    Usage,
)

__all__ = ["EMBEDDED", "LocalProvider"]

EMBEDDED = "smollm2"
"""The name of the embedded model: a demonstration, of 135 million parameters."""

_ANSWER_TOKENS = 512
_CALL_TOKENS = 256


class LocalProvider:
    """A language model that runs here, one reply at a time; whoever asks meanwhile waits for their turn.

    The model is loaded when it is first asked, and fetched before that if it is the embedded one. With tools it first
    chooses one of them, or to talk, bound to a grammar, because a model this small does not call tools by itself. Once
    it has a tool's result it talks.

    Args:
        model: `"smollm2"`, the embedded one, or the path of a GGUF file.
        progress: told the bytes done and the bytes in all, while the embedded model is fetched.
        context_tokens: how long a conversation and its reply may be together.
        threads: one is best where other work is done too, because llama.cpp waits actively for the slowest of several.

    Raises:
        MissingExtraError: xllamacpp is not installed.
        ModelFileError: there is no such file, or it is not a GGUF file.
    """

    name = "local"

    def __init__(
        self,
        model: str = EMBEDDED,
        *,
        progress: Callable[[int, int], None] | None = None,
        context_tokens: int = 4096,
        threads: int = 1,
    ) -> None:
        require_llama()
        if model != EMBEDDED:
            _check_file(Path(model))
        self.model = model
        self._progress = progress
        self._context_tokens = context_tokens
        self._threads = threads
        self._llama: Llama | None = None
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation; see `Provider.stream`."""
        async with self._turn():
            if self._llama is None:
                self._llama = await self._load()
            spent = Usage()
            if tools and messages and messages[-1]["role"] == "user":
                call, spent = await self._choose(self._llama, str(messages[-1].get("content") or ""), tools)
                if call is not None:
                    yield call
                    yield Finish(FinishReason.TOOL_CALLS, spent, self.model)
                    return
            # Talking freely, a small model goes round in circles; a tool's result it has to repeat.
            penalty = 1.0 if messages and messages[-1]["role"] == "tool" else 1.1
            reply = self._llama.stream(_plain(messages), max_tokens=_ANSWER_TOKENS, repeat_penalty=penalty)
            async with aclosing(reply) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, Finish):
                        yield Finish(chunk.reason, spent + (chunk.usage or Usage()), self.model)
                    else:
                        yield chunk

    async def aclose(self) -> None:
        """Release the model's memory, once nobody is being answered."""
        async with self._turn():
            if self._llama is not None:
                self._llama.close()
                self._llama = None

    def _turn(self) -> asyncio.Lock:
        # A lock belongs to the loop it was first waited for in.
        return self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def _load(self) -> Llama:
        if self.model != EMBEDDED:
            return await asyncio.to_thread(self._open, Path(self.model))
        path = await fetch_weights(self._progress)
        try:
            return await asyncio.to_thread(self._open, path)
        except ModelFileError:
            if await asyncio.to_thread(is_intact, path):
                raise
        path.unlink(missing_ok=True)
        return await asyncio.to_thread(self._open, await fetch_weights(self._progress))

    def _open(self, path: Path) -> Llama:
        return Llama(path, context_tokens=self._context_tokens, threads=self._threads)

    async def _choose(
        self, llama: Llama, request: str, tools: Sequence[ModelFormattedDictTool]
    ) -> tuple[ToolCallDelta | None, Usage]:
        choice = ToolChoice(tools)
        answer = ""
        end: Finish | None = None
        question = choice.messages(request)
        async for chunk in llama.stream(question, max_tokens=_CALL_TOKENS, grammar=choice.grammar):
            if isinstance(chunk, TextDelta):
                answer += chunk.text
            elif isinstance(chunk, Finish):
                end = chunk
        whole = end is not None and end.reason is FinishReason.STOP
        return choice.read(answer, whole=whole), (end and end.usage) or Usage()


def _plain(messages: Sequence[LLMMessage]) -> LLMConversation:
    """Return a conversation without tool calls, which the model's template does not know.

    What tools said for a question that has been answered is in the answer. What they said for the last one is put into
    the question, in the one form of several that a model of this size makes something of.
    """
    plain: LLMConversation = []
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(message["content"])
        elif not message.get("tool_calls"):
            results.clear()
            plain.append({"role": message["role"], "content": message.get("content") or ""})
    if results and plain:
        question, result = plain[-1]["content"], "\n".join(results)
        task = "Repeat the result as a sentence that answers the question."
        plain[-1]["content"] = f"Question: {question}\nResult: {result}\n{task}"
    return plain


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        msg = f"{path} cannot be read as a model: {error.strerror}. Expected 'smollm2' or the path of a GGUF file."
        raise ModelFileError(msg, provider="local", model=str(path)) from error
    if magic != b"GGUF":
        msg = f"{path} is not a GGUF file."
        raise ModelFileError(msg, provider="local", model=str(path))
