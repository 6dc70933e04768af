"""A model in this process: the embedded SmolLM2, or any GGUF file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from weakref import WeakKeyDictionary

from llmgine.errors import ModelFileError, ProviderError, ProviderResponseError
from llmgine.llm.providers.llama import Llama, require_llama
from llmgine.llm.providers.model_store import fetch_weights, is_intact
from llmgine.llm.providers.tool_choice import ToolChoice
from llmgine.llm.providers.tool_grammar import json_grammar
from llmgine.llm.types import (
    Chunk,
    Finish,
    FinishReason,
    JSONSchema,
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
    it has a tool's result it talks. A reply that is asked for in a form is bound to a grammar too.

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
    supports_json_schema = True

    def __init__(
        self,
        model: str = EMBEDDED,
        *,
        progress: Callable[[int, int], None] | None = None,
        context_tokens: int = 4096,
        threads: int = 1,
    ) -> None:
        require_llama()
        self.model = model
        self._path = None if model == EMBEDDED else _gguf_file(model)
        self._progress = progress
        self._context_tokens = context_tokens
        self._threads = threads
        self._llama: Llama | None = None
        self._closed = False
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ModelFormattedDictTool] = (),
        max_output_tokens: int | None = None,
        response_format: JSONSchema | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply to a conversation; see `SchemaProvider.stream`.

        Unless it is said how long a reply may be, it ends after 512 tokens, with the reason "length". What it takes to
        choose a tool is part of it.
        """
        async with self._turn():
            llama = await self._loaded()
            spent = Usage()
            longest = _ANSWER_TOKENS if max_output_tokens is None else max_output_tokens
            if tools and messages and messages[-1]["role"] == "user":
                call_tokens = min(_CALL_TOKENS, max_output_tokens or _CALL_TOKENS)
                call, reason, spent = await self._choose(llama, _text(messages[-1]), tools, call_tokens)
                if call is not None:
                    yield call
                    yield Finish(reason, spent, self.model)
                    return
                if max_output_tokens is not None:
                    longest = max_output_tokens - spent.output_tokens
                if longest <= 0:
                    yield Finish(FinishReason.LENGTH, spent, self.model)
                    return
            # Talking freely, a small model goes round in circles; a tool's result it has to repeat.
            penalty = 1.0 if messages and messages[-1]["role"] == "tool" else 1.1
            grammar = ""
            if response_format is not None:
                grammar, penalty = json_grammar(response_format.schema), 1.0  # a form repeats its quotes and commas
            reply = llama.stream(_plain(messages), max_tokens=longest, repeat_penalty=penalty, grammar=grammar)
            async with aclosing(reply) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, Finish):
                        yield Finish(chunk.reason, spent + (chunk.usage or Usage()), self.model)
                    else:
                        yield chunk

    async def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()
    ) -> int:
        """Return how many tokens a request with these messages and tools has; see `TokenCounter`.

        With tools the model is asked twice; then it is the longer one of the two requests.

        Raises:
            ProviderError: the model cannot be loaded, has been closed, or cannot read these messages.
        """
        llama = self._llama
        if llama is None:  # else it is known without waiting for one's turn
            async with self._turn():
                llama = await self._loaded()
        requests = [_plain(messages)]
        if tools and messages and messages[-1]["role"] == "user":
            requests.append(ToolChoice(tools).messages(_text(messages[-1])))
        return max([await asyncio.to_thread(llama.count_tokens, request) for request in requests])

    async def aclose(self) -> None:
        """Stop what is being written, and release the model's memory."""
        # Not in turn: whoever has it may have stopped reading without saying so.
        self._closed = True
        llama, self._llama = self._llama, None
        if llama is not None:
            await asyncio.to_thread(llama.close)

    def _turn(self) -> asyncio.Lock:
        # A lock belongs to the loop it was first waited for in.
        return self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def _loaded(self) -> Llama:
        if self._llama is None and not self._closed:
            self._llama = await self._load()
        if self._llama is None or self._closed:
            await self.aclose()  # it may have been closed while it was loading
            msg = f"local:{self.model} has been closed. Make a new LocalProvider."
            raise ProviderError(msg, provider=self.name, model=self.model)
        return self._llama

    async def _load(self) -> Llama:
        if self._path is not None:
            return await asyncio.to_thread(self._open, self._path)
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
        self, llama: Llama, request: str, tools: Sequence[ModelFormattedDictTool], longest: int
    ) -> tuple[ToolCallDelta | None, FinishReason, Usage]:
        choice = ToolChoice(tools)
        answer = ""
        end: Finish | None = None
        question = choice.messages(request)
        async for chunk in llama.stream(question, max_tokens=longest, grammar=choice.grammar):
            if isinstance(chunk, TextDelta):
                answer += chunk.text
            elif isinstance(chunk, Finish):
                end = chunk
        whole = end is not None and end.reason is FinishReason.STOP
        reason = FinishReason.TOOL_CALLS if whole else FinishReason.LENGTH
        return choice.read(answer, whole=whole), reason, (end and end.usage) or Usage()


def _plain(messages: Sequence[LLMMessage]) -> LLMConversation:
    """Return a conversation without tool calls, which the model's template does not know.

    What tools said for a question that has been answered is in the answer. What they said for the last one is put into
    the question, in the one form of several that a model of this size makes something of.
    """
    plain: LLMConversation = []
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(_text(message))
        elif not message.get("tool_calls"):
            results.clear()
            plain.append({"role": message["role"], "content": _text(message)})
    if results and plain:
        question, result = plain[-1]["content"], "\n".join(results)
        task = "Repeat the result as a sentence that answers the question."
        plain[-1]["content"] = f"Question: {question}\nResult: {result}\n{task}"
    return plain


def _text(message: LLMMessage) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):
        if unread := sorted({str(part.get("type")) for part in content} - {"text"}):
            msg = f"A local model reads text only; this conversation has {', '.join(unread)} in it."
            raise ProviderResponseError(msg, provider="local")
        content = "".join(part["text"] for part in content)
    return str(content).encode(errors="replace").decode()  # llama.cpp takes no half of a surrogate pair


def _gguf_file(model: str) -> Path:
    path = Path(model).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        msg = f"{path} cannot be read as a model: {error.strerror}. Expected 'smollm2' or the path of a GGUF file."
        raise ModelFileError(msg, provider="local", model=model) from error
    if magic != b"GGUF":
        msg = f"{path} is not a GGUF file."
        raise ModelFileError(msg, provider="local", model=model)
    return path
