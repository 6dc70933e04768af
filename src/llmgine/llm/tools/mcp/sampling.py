"""What a server would have a model write, the application's model writes: where that is allowed, and paid for."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmgine.bus.approval_records import ApprovalState
from llmgine.errors import ApprovalError, BudgetExceededError, ConfigurationError, LLMgineError, StoreError
from llmgine.llm.approvals import Approvals
from llmgine.llm.providers.images import image_part
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.server_question import MAX_OPEN, ServerQuestion
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.types import FinishReason, LLMMessage, LLMResponse

if TYPE_CHECKING:
    from mcp_types import CreateMessageRequestParams, CreateMessageResult, ErrorData, SamplingMessage

__all__ = ["METHOD", "AskModel", "Complete", "OnSampling"]

logger = logging.getLogger("llmgine.mcp")

Complete: TypeAlias = Callable[[Sequence[LLMMessage], int, ToolContext], Awaitable[LLMResponse]]
"""Has a model answer: the messages, how many tokens it may write, and the call that this is a part of."""

_Answer: TypeAlias = "Awaitable[CreateMessageResult | ErrorData]"
OnSampling: TypeAlias = "Callable[[str, MCPServerConfig, CreateMessageRequestParams, ToolContext | None], _Answer]"
"""Answers what a server wants written: its name, how it is configured, what it wants, and during which call if known.
"""

METHOD: Final = "sampling/createMessage"
"""What `MCPServerConfig.requires_approval` calls it."""

# Codes of JSON-RPC 2.0, section 5.1
_INVALID_REQUEST: Final = -32600
_INVALID_PARAMS: Final = -32602
_INTERNAL_ERROR: Final = -32603
_REJECTED: Final = -1
"""The code for a person's no, as the protocol's examples have it."""
_STOPPED = {FinishReason.LENGTH: "maxTokens", FinishReason.CONTENT_FILTER: "contentFilter"}


class _RefusedError(Exception):
    """What the server is told."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class AskModel:
    """Has a model write what servers ask for: text, of texts and pictures; without tools, which no server may bring.

    Which model it is, and how it writes, the application decides, so a server's preferences are passed over.
    """

    def __init__(self, complete: Complete, approvals: Approvals | None = None) -> None:
        """Prepare to answer.

        Args:
            complete: has the model write.
            approvals: who is asked where a person must agree.
        """
        self._complete = complete
        self._approvals = approvals
        self._open: Counter[str] = Counter()

    async def __call__(
        self, server: str, config: MCPServerConfig, params: CreateMessageRequestParams, context: ToolContext | None
    ) -> CreateMessageResult | ErrorData:
        """Return what the model has written, or why not. Only a cancellation is raised.

        Args:
            server: its name here.
            config: whether it may ask at all, and whether a person must agree each time.
            params: what it asks.
            context: of the call during which it asks, if that is known. Its deadline holds for the answer too.
        """
        from mcp_types import CreateMessageResult, ErrorData, TextContent

        context = context or ToolContext()
        self._open[server] += 1
        try:
            response = await self._answer(server, config, params, context)
        except _RefusedError as refused:
            logger.warning("%s: its request to the model was refused: %s", server, refused)
            return ErrorData(code=refused.code, message=str(refused))
        finally:
            self._open[server] -= 1
        return CreateMessageResult(
            role="assistant",
            content=TextContent(text=response.text),
            model=response.model,
            stop_reason=_STOPPED.get(response.finish_reason, "endTurn"),
        )

    async def _answer(
        self, server: str, config: MCPServerConfig, params: CreateMessageRequestParams, context: ToolContext
    ) -> LLMResponse:
        if not config.sampling:
            raise _RefusedError(_INVALID_REQUEST, "This server may not use the model.")
        if params.tools or params.tool_choice is not None:
            raise _RefusedError(_INVALID_PARAMS, "The model takes no tools from servers. Ask without them.")
        if self._open[server] > MAX_OPEN:
            raise _RefusedError(_INTERNAL_ERROR, f"{MAX_OPEN} requests to the model are under way already.")
        if params.max_tokens < 1:
            raise _RefusedError(_INVALID_PARAMS, "maxTokens must be at least 1.")
        messages = _messages(params)
        now = asyncio.get_running_loop().time
        left = None if context.deadline is None else context.deadline - now()
        if config.must_be_approved(METHOD):
            await self._approve(server, messages, params.max_tokens, context)
        try:
            async with asyncio.timeout(left):
                return await self._complete(messages, params.max_tokens, context)
        except TimeoutError as error:
            raise _RefusedError(_INTERNAL_ERROR, "The model has not answered in time.") from error
        except BudgetExceededError as error:
            raise _RefusedError(_INTERNAL_ERROR, "There is no budget left for it.") from error
        except LLMgineError as error:  # what it says may be about the application's account
            logger.warning("%s: the model could not answer what it asked", server, exc_info=error)
            raise _RefusedError(_INTERNAL_ERROR, "The model could not answer.") from error

    async def _approve(
        self, server: str, messages: Sequence[LLMMessage], max_tokens: int, context: ToolContext
    ) -> None:
        if self._approvals is None:
            raise _RefusedError(_INVALID_REQUEST, "A person has to agree to it, and there is nobody to ask.")
        question = ServerQuestion(
            server=server,
            kind="sampling",
            arguments={"messages": [_shown(message) for message in messages], "max_tokens": max_tokens},
            content=list(messages),
            note=f"The MCP server {server} wants the model to answer this, and gets the answer.",
        )
        try:
            record = await question.put(self._approvals, context)
        except (ApprovalError, StoreError) as error:
            raise _RefusedError(_INTERNAL_ERROR, "It could not be approved.") from error
        if record is None or record.state is not ApprovalState.USED:
            raise _RefusedError(_REJECTED, "The user has not agreed to it.")


def _messages(params: CreateMessageRequestParams) -> list[LLMMessage]:
    system = [{"role": "system", "content": params.system_prompt}] if params.system_prompt else []
    return [*system, *map(_message, params.messages)]


def _message(message: SamplingMessage) -> LLMMessage:
    parts: list[dict[str, Any]] = []
    for block in message.content_as_list:
        if block.type == "text":
            parts.append({"type": "text", "text": block.text})
        elif block.type == "image" and message.role == "user":
            parts.append(_picture(block.data))
        else:
            what = f"{block.type} of the {message.role}"
            raise _RefusedError(_INVALID_PARAMS, f"The model reads texts, and pictures of the user; not {what}.")
    if all(part["type"] == "text" for part in parts):
        return {"role": message.role, "content": "\n".join(part["text"] for part in parts)}
    return {"role": message.role, "content": parts}


def _picture(data: str) -> dict[str, Any]:
    try:
        return image_part(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError, ConfigurationError) as error:
        msg = "A picture must be a PNG, JPEG, GIF or WebP in base64, and not too large."
        raise _RefusedError(_INVALID_PARAMS, msg) from error


def _shown(message: LLMMessage) -> LLMMessage:
    """Return a message as whoever decides reads it: of pictures, that there are some."""
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": [each if each["type"] == "text" else {"type": "a picture"} for each in content]}
