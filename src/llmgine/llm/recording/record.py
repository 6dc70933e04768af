"""What a model and tools say, written down while they say it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmgine.errors import ConfigurationError
from llmgine.llm.providers.base import Provider
from llmgine.llm.recording.chunks import chunk_data
from llmgine.llm.recording.failures import failure_data
from llmgine.llm.recording.file import Ending, PromptRun, RecordingFile
from llmgine.llm.recording.normal import plain
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import Chunk, Finish, LLMMessage, ModelFormattedDictTool

__all__ = ["RecordingProvider", "RecordingTools", "unchanged"]


def unchanged(data: Any) -> Any:
    """Return the data."""
    return data


class RecordingProvider:
    """A provider that passes everything on to another, and writes it down.

    At the end of its `with` block the recording is saved, or forgotten if the block raises. The provider is not closed
    by that: `aclose` does it.

    Args:
        provider: who answers.
        file: where to; there is something new only once it is saved.
        redact: returns data without what must not be written. It gets messages, options, tools' arguments and results,
            and errors; not what the model says. Replaying takes the same one.
        clock: seconds.

    Raises:
        ConfigurationError: it cannot be written there.
    """

    def __init__(
        self,
        provider: Provider,
        file: str | Path,
        *,
        redact: Callable[[Any], Any] = unchanged,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.model = provider.name, provider.model
        self.supports_json_schema = bool(getattr(provider, "supports_json_schema", False))
        self.requests = 0
        """How many have begun."""
        self._provider = provider
        self._redact = redact
        self._clock = clock
        self._open: dict[int, float] = {}
        self._file = RecordingFile(
            file, provider=self.name, model=self.model, supports_json_schema=self.supports_json_schema
        )

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = (), **options: Any
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply; see `Provider.stream`. Options are passed on.

        Raises:
            ConfigurationError: the recording has ended.
        """
        if self._file.closed:
            msg = f"{self._file.path}: the recording has ended, and the model is asked again. Ask within its block."
            raise ConfigurationError(msg)
        self.requests += 1
        number = self.requests
        self._open[number] = self._clock()
        asked = self._redact({"messages": plain(list(messages)), **plain(options)})
        self._file.write("request", n=number, messages=asked.pop("messages"), tools=list(tools), **asked)
        how: Ending = "stopped"
        failure: dict[str, Any] | None = None
        try:
            async with aclosing(self._provider.stream(messages, tools=tools, **options)) as chunks:
                async for chunk in chunks:
                    self._file.write("chunk", n=number, at=self._seconds(number), chunk=chunk_data(chunk))
                    if isinstance(chunk, Finish):
                        how = "complete"
                    yield chunk
            how = "complete"
        except Exception as error:
            how, failure = "failed", self._redact(failure_data(error))
            raise
        finally:
            self._end(number, how, failure)

    def tools(self, manager: ToolManager) -> RecordingTools:
        """Return the same tools, whose results are written down as well."""
        return RecordingTools(manager, self)

    def tool_has_run(self, after: int, prepared: PreparedCall, result: ToolResult | None) -> None:
        """Write down what came of a tool; None if it was cancelled.

        Args:
            after: how many requests had begun when it was called.
            prepared: the call.
            result: what came of it.
        """
        data: Any = {"arguments": plain(prepared.sent), "result": None}
        if result is not None:
            values = {each.name: getattr(result, each.name) for each in fields(result) if each.name != "call"}
            data["result"] = plain(values)
        self._file.write("tool", after=after, name=prepared.tool.name, **self._redact(data))

    def prompt_has_ended(self, run: PromptRun) -> None:
        """Write down what a run was about, so that it can be run again from the file alone."""
        self._file.write("prompt", **self._redact(vars(run)))

    def save(self) -> None:
        """End the recording, and keep it."""
        for number in list(self._open):
            self._end(number, "stopped", None)
        self._file.save()

    def discard(self) -> None:
        """End the recording, and forget it."""
        self._file.discard()

    async def aclose(self) -> None:
        """Close the provider that answers."""
        await self._provider.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file.closed:
            return
        if kind is None:
            self.save()
        else:
            self.discard()

    def _seconds(self, number: int) -> float:
        return round(self._clock() - self._open.get(number, self._clock()), 4)

    def _end(self, number: int, how: Ending, failure: dict[str, Any] | None) -> None:
        self._file.write("end", n=number, at=self._seconds(number), how=how, error=failure)
        self._open.pop(number, None)


class RecordingTools(ToolManager):
    """The tools of another manager, whose results are written down. What is said to one manager holds for both.

    Calls that are refused before a tool runs are not written down: a replay refuses them again.
    """

    __slots__ = ("_manager", "_recording")  # outside of what both share

    def __init__(self, manager: ToolManager, recording: RecordingProvider) -> None:
        self.__dict__ = vars(manager)
        self._manager = manager
        self._recording = recording

    async def run_prepared(self, prepared: PreparedCall, context: ToolContext | None = None) -> ToolResult:
        """Run a call and write down what came of it; see `ToolManager.run_prepared`."""
        after = self._recording.requests
        result: ToolResult | None = None
        try:
            result = await self._manager.run_prepared(prepared, context)
            return result
        finally:
            self._recording.tool_has_run(after, prepared, result)
