"""One model in memory: llama.cpp, in this process, in a thread of its own for every reply."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmgine.errors import (
    ContextLengthError,
    MissingExtraError,
    ModelFileError,
    ProviderError,
    ProviderResponseError,
)
from llmgine.llm.types import Chunk, Finish, FinishReason, LLMMessage, TextDelta, Usage

__all__ = ["Llama", "require_llama"]

# Between two batches of a prompt a reply can be stopped. On a processor, larger ones gain nothing.
_BATCH_TOKENS = 64
# Where conversations take turns, each finds its own beginning again instead of having it read anew.
_PROMPT_CACHE_MIB = 256
_COUNT_TIMEOUT_S = 10.0


def require_llama() -> Any:
    """Return llama.cpp's binding.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import xllamacpp  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError("local", "A model in this process") from error
    return xllamacpp


class Llama:
    """A loaded model. Its methods may be called from one event loop at a time, one reply after another.

    Loading takes long and holds the interpreter's lock: a third of a second for a hundred megabytes.

    Args:
        path: a GGUF file.
        context_tokens: how much conversation and reply it can have in view, in tokens; memory is reserved for it.
        threads: how many to compute with.

    Raises:
        ModelFileError: the file cannot be loaded.
    """

    def __init__(self, path: Path, *, context_tokens: int, threads: int) -> None:
        binding = require_llama()
        self.name = path.stem
        params = binding.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context_tokens
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = _PROMPT_CACHE_MIB
        params.prefill_assistant = False
        params.fit_params = params.warmup = False  # neither changes anything here but the time that loading takes
        params.verbosity = -1
        # The binding always opens an HTTP server on a loopback port. The key to it stays here.
        self._key = secrets.token_hex(16)
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = False
        params.n_threads_http = 1
        params.endpoint_metrics = True
        try:
            self._server: Any = binding.Server(params)
            # Its loop answers this. If it were ended before the loop runs, it would never end, and hold the
            # interpreter's lock meanwhile.
            self._server.handle_metrics()
        except (RuntimeError, ValueError) as error:
            msg = (
                f"{path} cannot be loaded as a model. Either the file is damaged, or it is of a kind that this "
                "version of llama.cpp does not know, or there is too little memory for it."
            )
            raise ModelFileError(msg, provider="local", model=self.name) from error
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    async def stream(
        self, messages: Sequence[LLMMessage], *, max_tokens: int, repeat_penalty: float = 1.0, grammar: str = ""
    ) -> AsyncGenerator[Chunk, None]:
        """Stream a reply: text, then a `Finish`. Closing the iterator returns when the computing has stopped.

        Raises:
            ContextLengthError: the messages alone are too long.
            ProviderResponseError: llama.cpp refuses the request.
        """
        request: dict[str, Any] = {
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,  # so that there is a callback, and a chance to stop, while the prompt is read
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "repeat_penalty": repeat_penalty,
        }
        if grammar:
            request["grammar"] = grammar
        if self._server is None:
            return
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self._stop = stop = threading.Event()

        def put(event: dict[str, Any] | Exception | None) -> bool:
            """Hand an event to the reader; return whether to stop."""
            try:
                loop.call_soon_threadsafe(events.put_nowait, event)
            except RuntimeError:  # the loop is closed
                return True
            # The interpreter waits for this thread before it exits. (As a daemon it would crash it instead.)
            return stop.is_set() or not threading.main_thread().is_alive()

        def compute() -> None:
            try:
                self._server.handle_chat_completions(request, put)
            except Exception as error:  # noqa: BLE001  # raised where the reply is read
                put(error)
            finally:
                put(None)

        self._thread = threading.Thread(target=compute, name=f"llmgine-{self.name}")
        self._thread.start()
        event: dict[str, Any] | Exception | None = {}
        reason = ""
        usage: Usage | None = None
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    raise self._refused({"message": str(event)}) from event
                if "error" in event:
                    raise self._refused(event["error"])
                if counted := event.get("usage"):
                    usage = Usage(counted["prompt_tokens"], counted["completion_tokens"])
                for choice in event["choices"]:
                    reason = choice["finish_reason"] or reason
                    if text := choice["delta"].get("content"):
                        yield TextDelta(text)
        finally:
            stop.set()
            while event is not None:
                event = await events.get()
        if reason:
            yield Finish(FinishReason.LENGTH if reason == "length" else FinishReason.STOP, usage, self.name)

    def count_tokens(self, messages: Sequence[LLMMessage]) -> int:
        """Return how many tokens a request with these messages has. Takes milliseconds; for a thread.

        Raises:
            ProviderResponseError: llama.cpp does not say.
        """
        server = self._server  # which is not freed meanwhile
        try:
            if server is None:
                raise ConnectionError("it has been closed")
            address = urlsplit(server.listening_address)
            with closing(HTTPConnection(address.hostname or "", address.port, timeout=_COUNT_TIMEOUT_S)) as connection:
                headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
                # The binding has no function for it.
                body = json.dumps({"messages": list(messages)})
                connection.request("POST", "/v1/chat/completions/input_tokens", body, headers)
                return int(json.loads(connection.getresponse().read())["input_tokens"])
        except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
            msg = f"{self.name} cannot count the tokens of this: {error!r}"
            raise ProviderResponseError(msg, provider="local", model=self.name) from error

    def close(self) -> None:
        """Stop computing and release the memory. A reply that is being read breaks off."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._server = None

    def _refused(self, error: Mapping[str, Any]) -> ProviderError:
        if error.get("type") == "exceed_context_size_error":
            msg = (
                f"The conversation is longer than {self.name} can read: it has {error['n_prompt_tokens']:,} tokens, "
                f"and {error['n_ctx']:,} fit. Shorten it or begin a new one."
            )
            return ContextLengthError(msg, provider="local", model=self.name)
        msg = f"{self.name} cannot answer this: {error.get('message', 'llama.cpp gives no reason')}"
        return ProviderResponseError(msg, provider="local", model=self.name)
