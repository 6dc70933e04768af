"""A provider that plays a script: for tests and demos, the same every time, and loud when a conversation leaves it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmgine.errors import ConfigurationError, ProviderError
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import (
    Chunk,
    Finish,
    FinishReason,
    JSONSchema,
    LLMMessage,
    ModelFormattedDictTool,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from llmgine.messages import new_id

__all__ = ["Reply", "Request", "ScriptDriftError", "ScriptedProvider"]


class ScriptDriftError(ProviderError):
    """The conversation is not the one that the script was written for."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a provider was asked."""

    messages: list[LLMMessage]
    tools: list[ModelFormattedDictTool]
    max_output_tokens: int | None = None
    response_format: JSONSchema | None = None


@dataclass(frozen=True)
class Reply:
    """One reply of the script.

    Its text is streamed word by word. Its tokens are counted as words, unless `usage` says otherwise. Where it is
    longer than a request allows it ends there, without its tool calls.
    """

    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    expects: str | Callable[[list[LLMMessage]], bool] | None = None
    """What the last message must say, or what must be true of all of them."""
    error: ProviderError | None = None
    """Raised after the text, in place of the end."""
    hold: asyncio.Event | None = None
    """Waited for after the text, before the end."""
    cut_off: bool = False
    """End after the text without saying so, as a lost connection does."""
    usage: Usage | None = None
    finish_reason: FinishReason | None = None


class ScriptedProvider:
    """Plays replies, one a request, to one conversation at a time or to several in a known order."""

    name = "scripted"
    supports_json_schema = True

    def __init__(self, replies: Sequence[Reply], model: str = "script") -> None:
        self.model = model
        self.requests: list[Request] = []
        """What was asked so far."""
        self._replies = list(replies)

    @classmethod
    def from_file(cls, path: str | Path) -> ScriptedProvider:
        """Read a script: a JSON list of replies.

        Each is an object with any of `text`, `tool_calls` (`[{"name": …, "arguments": {…}}]`), `expects` (a text),
        `error` (a text), `hold` (true: never end), `cut_off` (true).

        Raises:
            ConfigurationError: the file cannot be read, or is no script.
        """
        try:
            script = json.loads(Path(path).read_text(encoding="utf-8"))
            replies = [_reply(step) for step in script]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            msg = f"{path} is not a script for the scripted provider: {error!r}. Expected a JSON list of replies."
            raise ConfigurationError(msg) from error
        return cls(replies, str(path))

    async def stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[ModelFormattedDictTool] = (),
        max_output_tokens: int | None = None,
        response_format: JSONSchema | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Play the next reply. It is not held to a form: a script says what comes.

        Raises:
            ScriptDriftError: there is none, or it expects something else.
            ProviderError: the script says so.
        """
        request = Request(
            messages=list(messages),
            tools=list(tools),
            max_output_tokens=max_output_tokens,
            response_format=response_format,
        )
        self.requests.append(request)
        reply = self._next()
        pieces = re.findall(r"\s*\S+\s*$|\s*\S+", reply.text) or ([reply.text] if reply.text else [])
        usage = reply.usage or self._count(reply)
        longest = usage.output_tokens if max_output_tokens is None else max_output_tokens
        for piece in pieces[:max_output_tokens]:
            yield TextDelta(piece)
        if reply.hold is not None:
            await reply.hold.wait()
        if reply.error is not None:
            raise reply.error
        if reply.cut_off:
            return
        if usage.output_tokens > longest or len(pieces) > longest:
            yield Finish(FinishReason.LENGTH, replace(usage, output_tokens=longest), self.model)
            return
        for index, call in enumerate(reply.tool_calls):
            yield ToolCallDelta(index, call.id, call.name, call.arguments)
        reason = FinishReason.TOOL_CALLS if reply.tool_calls else FinishReason.STOP
        yield Finish(reply.finish_reason or reason, usage, self.model)

    def assert_complete(self) -> None:
        """Check that the whole script was played.

        Raises:
            ScriptDriftError: replies are left.
        """
        if self._replies:
            msg = f"{len(self._replies)} replies of the script were never asked for; the next is {self._replies[0]!r}."
            raise ScriptDriftError(msg, provider=self.name, model=self.model)

    async def aclose(self) -> None:
        """Do nothing; there is nothing to release."""

    def _next(self) -> Reply:
        messages = self.requests[-1].messages
        last = messages[-1].get("content") if messages else None
        if not self._replies:
            msg = f"The script has ended after {len(self.requests) - 1} replies, and was asked again: {last!r}."
            raise ScriptDriftError(msg, provider=self.name, model=self.model)
        expects = self._replies[0].expects
        if not (expects is None or (expects(messages) if callable(expects) else expects == last)):
            wanted = "something else" if callable(expects) else repr(expects)
            msg = f"The script expects {wanted} as request {len(self.requests)}; the last message was {last!r}."
            raise ScriptDriftError(msg, provider=self.name, model=self.model)
        return self._replies.pop(0)

    def _count(self, reply: Reply) -> Usage:
        read = sum(len(str(message.get("content") or "").split()) for message in self.requests[-1].messages)
        return Usage(read, len(reply.text.split()))


def _reply(step: dict[str, Any]) -> Reply:
    unknown = step.keys() - {"text", "tool_calls", "expects", "error", "hold", "cut_off"}
    if unknown:
        msg = f"unknown keys {sorted(unknown)}"
        raise ValueError(msg)
    return Reply(
        step.get("text", ""),
        [
            ToolCall(id=call.get("id") or new_id(), name=call["name"], arguments=json.dumps(call.get("arguments", {})))
            for call in step.get("tool_calls", ())
        ],
        expects=step.get("expects"),
        error=ProviderError(step["error"], provider="scripted") if "error" in step else None,
        hold=asyncio.Event() if step.get("hold") else None,
        cut_off=bool(step.get("cut_off")),
    )
