"""What was recorded, said again to whoever asks the same; and the first difference to whoever does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmgine.llm.recording.difference import ABSENT, Difference, first_difference
from llmgine.llm.recording.errors import ReplayMismatchError
from llmgine.llm.recording.failures import failure_of
from llmgine.llm.recording.file import RecordedRequest, RecordedTool, Recording
from llmgine.llm.recording.normal import normal_data, normal_request, plain
from llmgine.llm.recording.record import unchanged
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import Chunk, Finish, LLMMessage, ModelFormattedDictTool

__all__ = ["ReplayProvider", "ReplayTools"]

_PATIENCE_S = 5.0
"""For whoever stopped something in the recording to do it again."""
_RESULT_FIELDS = {each.name for each in fields(ToolResult)} - {"call"}


class ReplayProvider:
    """Answers as a recording does, in the same pieces, without the network.

    The first difference is raised where it happens, and at everything that comes after it. As engines and buses turn
    errors into results, it is raised again at the end of the `with` block, where it also counts what was left over.

    Args:
        file: the recording.
        strict: whether requests must be the same; else only how many there are matters.
        timing: whether to take as long as it took.
        redact: the one that it was recorded with.

    Raises:
        ConfigurationError: the file is no recording.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        strict: bool = True,
        timing: bool = False,
        redact: Callable[[Any], Any] = unchanged,
    ) -> None:
        self.recording = Recording.load(file)
        self.name, self.model = self.recording.provider, self.recording.model
        self.supports_json_schema = self.recording.supports_json_schema
        self.requests = 0
        """How many have begun."""
        self.difference: ReplayMismatchError | None = None
        """The first one."""
        self._strict = strict
        self._timing = timing
        self._redact = redact
        self._tools_left: list[RecordedTool] | None = None

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = (), **options: Any
    ) -> AsyncGenerator[Chunk, None]:
        """Stream the reply that was recorded.

        Raises:
            ReplayMismatchError: this is not what was asked when it was recorded, or something before it was not.
            Exception: what the recorded provider raised.
        """
        number, request = self._next({"messages": list(messages), "tools": list(tools), **options})
        began = asyncio.get_running_loop().time()
        finished = False
        told = 0
        try:
            for at, chunk in request.chunks:
                await self._keep_time(began, at)
                told += 1
                finished = finished or isinstance(chunk, Finish)
                yield chunk
        except GeneratorExit:
            if not finished and request.how != "stopped":
                self._stopped_early(number, request, told)
            raise
        await self._keep_time(began, request.at)
        if request.how == "failed" and request.error is not None:
            raise failure_of(request.error)
        if request.how == "stopped":
            await self.stopped_again(f"request {number}", "was read no further than this", request.line)

    def tools(self, manager: ToolManager, *, run: bool = False) -> ReplayTools:
        """Return the same tools, answered from the recording.

        Args:
            manager: the tools.
            run: whether to run them, and to compare what comes of it.
        """
        return ReplayTools(manager, self, run=run)

    def expect_tools(self) -> None:
        """Count it as a difference if not all tools of the recording are called."""
        if self._tools_left is None:
            self._tools_left = list(self.recording.tools)

    def called(self, prepared: PreparedCall) -> RecordedTool:
        """Return what was recorded of a call: the first of this turn that is the same, and was not taken before.

        Raises:
            ReplayMismatchError: there is none, or there was a difference before.
        """
        if self.difference is not None:
            raise self.difference
        self.expect_tools()
        left = self._tools_left or []
        call = {"name": prepared.tool.name, "arguments": self._compared(prepared.sent)}
        turn = [tool for tool in left if tool.after == self.requests]
        for tool in turn:
            if self._recorded_call(tool) == call:
                left.remove(tool)
                return tool
        where = f"the tool '{prepared.tool.name}' after request {self.requests}"
        nearest = next((tool for tool in turn if tool.name == prepared.tool.name), turn[0] if turn else None)
        if nearest is None:
            raise self.differs(where, "was not called", None, Difference("call", ABSENT, call))
        found = first_difference(self._recorded_call(nearest), call) or Difference("call", ABSENT, call)
        raise self.differs(where, "was not called like this", nearest.line, found)

    def came_out(self, tool: RecordedTool, result: ToolResult) -> None:
        """Compare what came of a tool with what was recorded.

        Raises:
            ReplayMismatchError: it is something else.
        """
        recorded = None if tool.result is None else {key: tool.result[key] for key in ("succeeded", "content")}
        now = {"succeeded": result.succeeded, "content": result.content}
        if found := first_difference(normal_data(recorded), self._compared(now)):
            raise self.differs(f"the tool '{tool.name}'", "had another result", tool.line, found)

    async def stopped_again(self, where: str, what: str, line: int) -> None:
        """Wait to be cancelled, as what was recorded was.

        Raises:
            ReplayMismatchError: nobody does.
        """
        await asyncio.sleep(_PATIENCE_S)
        raise self.differs(where, what, line, Difference("end", "stopped", f"not stopped within {_PATIENCE_S:g} s"))

    def differs(self, where: str, what: str, line: int | None, found: Difference) -> ReplayMismatchError:
        """Note a difference, and return the first one that there was.

        Args:
            where: in the run, such as `request 2`.
            what: was recorded there; the rest of the sentence.
            line: of the file.
            found: the difference.
        """
        if self.difference is None:
            place = f"{self.recording.path}" + ("" if line is None else f", line {line}")
            self.difference = ReplayMismatchError(
                f"The run differs from its recording ({place}): {where} {what}.\n{found}",
                where=f"{where}: {found.path}",
                recorded=None if found.recorded is ABSENT else found.recorded,
                now=None if found.now is ABSENT else found.now,
            )
        return self.difference

    def assert_complete(self) -> None:
        """Check that there was no difference, and that everything was asked for that was recorded.

        Raises:
            ReplayMismatchError: something is left, or there was a difference before.
        """
        if self.difference is None and self.requests < len(self.recording.requests):
            first = self.recording.requests[self.requests]
            counts = Difference("requests", len(self.recording.requests), self.requests)
            raise self.differs(f"request {self.requests + 1}", "was made, and now is not", first.line, counts)
        if self.difference is None and self._tools_left:
            tool = self._tools_left[0]
            where = f"the tool '{tool.name}' after request {tool.after}"
            call = Difference("call", self._recorded_call(tool), ABSENT)
            raise self.differs(where, "was called, and now is not", tool.line, call)
        if self.difference is not None:
            raise self.difference

    async def aclose(self) -> None:
        """Do nothing; there is nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.assert_complete()
        elif self.difference is not None and error is not self.difference and isinstance(error, Exception):
            raise self.difference from error  # the test has seen what came of it

    def _next(self, asked: dict[str, Any]) -> tuple[int, RecordedRequest]:
        if self.difference is not None:
            raise self.difference
        self.requests += 1
        number, there_are = self.requests, len(self.recording.requests)
        if self.recording.version < 2:
            asked.pop("max_output_tokens", None)
        now = normal_request(self._asked(asked))
        if number > there_are:
            last = now["messages"][-1] if now["messages"] else None
            asked_last = Difference("messages[-1]", ABSENT, last)
            raise self.differs(f"request {number}", f"was not made, the last is {there_are}", None, asked_last)
        request = self.recording.requests[number - 1]
        if self._strict and (found := first_difference(normal_request(request.asked), now)):
            role = _role(found.path, request.asked, now)
            raise self.differs(f"request {number}", f"was something else{role}", request.line, found)
        return number, request

    def _asked(self, asked: dict[str, Any]) -> dict[str, Any]:
        data = plain(asked)
        tools = data.pop("tools")
        return {**self._redact(data), "tools": tools}

    def _compared(self, data: Any) -> Any:
        return normal_data(self._redact(plain(data)))

    def _recorded_call(self, tool: RecordedTool) -> dict[str, Any]:
        return {"name": tool.name, "arguments": normal_data(tool.arguments)}

    def _stopped_early(self, number: int, request: RecordedRequest, told: int) -> None:
        found = Difference("pieces", len(request.chunks), told)
        self.differs(f"request {number}", "was read to its end", request.line, found)

    async def _keep_time(self, began: float, at: float) -> None:
        if self._timing:
            await asyncio.sleep(began + at - asyncio.get_running_loop().time())


class ReplayTools(ToolManager):
    """The tools of another manager, answered from a recording. What is said to one manager holds for both.

    A result's `value` is as JSON has it. Calls that are refused before a tool runs are refused as always.
    """

    __slots__ = ("_manager", "_replay", "_run")  # outside of what both share

    def __init__(self, manager: ToolManager, replay: ReplayProvider, *, run: bool = False) -> None:
        self.__dict__ = vars(manager)
        self._manager = manager
        self._replay = replay
        self._run = run
        replay.expect_tools()

    async def run_prepared(self, prepared: PreparedCall, context: ToolContext | None = None) -> ToolResult:
        """Return what was recorded, or run the call and compare; see `ToolManager.run_prepared`.

        Raises:
            ReplayMismatchError: no such call was recorded, or something else came of it.
        """
        recorded = self._replay.called(prepared)
        if self._run:
            result = await self._manager.run_prepared(prepared, context)
            self._replay.came_out(recorded, result)
            return result
        if recorded.result is None:
            await self._replay.stopped_again(f"the tool '{recorded.name}'", "was cancelled", recorded.line)
        values = {name: value for name, value in (recorded.result or {}).items() if name in _RESULT_FIELDS}
        return ToolResult(prepared.call, **values)


def _role(path: str, asked: dict[str, Any], now: dict[str, Any]) -> str:
    """Return whose message a path such as `messages[3].content` leads to."""
    index = path.removeprefix("messages[").partition("]")[0]
    if not index.isdigit():
        return ""
    messages = asked["messages"] if int(index) < len(asked["messages"]) else now["messages"]
    return f" (a message of the {messages[int(index)].get('role', 'unknown')})"
