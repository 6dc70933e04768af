"""The names of OpenTelemetry's semantic conventions, old and new, and which of them are asked for.

Sources: Semantic Conventions 1.24.0 and 1.42.0 for messaging; 1.41.0, and the repository `semantic-conventions-genai`
of 2026, for generative AI. Both families are in development. No name of theirs is written anywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["GEN_AI_NEW", "GEN_AI_OLD", "MESSAGING_NEW", "MESSAGING_OLD", "OPT_IN", "GenAI", "Messaging", "Vocabulary"]

OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"
"""A comma-separated list: "gen_ai_latest_experimental", "messaging", "messaging/dup"."""

# Spans
SESSION_SPAN: Final = "session_{}"
COMMAND_SPAN: Final = "command_{}"
EVENT_SPAN: Final = "event_{}"
AGENT_SPAN: Final = "invoke_agent"
CHAT_SPAN: Final = "chat {}"
TOOL_SPAN: Final = "execute_tool {}"

# Any span
ERROR_TYPE: Final = "error.type"
SESSION_ID: Final = "session.id"
CODE_FUNCTION: Final = "code.function.name"
EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
SERVICE_NAME: Final = "service.name"

UNFINISHED: Final = "llmgine.unfinished"
"""Why a span ended before what it stands for: "closed", "too many open spans", "begun again". Ours."""

RETRY: Final = "llmgine.retry"
"""An event on a command's span: an attempt has failed, and there will be another. Ours, as are the following."""
DEAD_LETTER: Final = "llmgine.dead_letter"
"""An event on a command's span: it has failed for good, and is a dead letter."""
ATTEMPTS: Final = "llmgine.attempts"
"""How many there have been."""
RETRY_DELAY: Final = "llmgine.retry.delay"
"""Seconds until the next."""

# Messaging, in both vocabularies
MESSAGING_SYSTEM: Final = "messaging.system"
LLMGINE: Final = "llmgine"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_OF_MESSAGE: Final = "messaging.message.conversation_id"

# Generative AI, in both vocabularies
OPERATION: Final = "gen_ai.operation.name"
CHAT: Final = "chat"
INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"
PROVIDER: Final = "gen_ai.provider.name"
CONVERSATION: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
USAGE_KIND: Final = "gen_ai.token.type"
TOOL_ERROR: Final = "tool_error"
OTHER_ERROR: Final = "_OTHER"

# MCP, on the span of a tool that a server runs
MCP_METHOD: Final = "mcp.method.name"
MCP_CALL: Final = "tools/call"
MCP_VERSION: Final = "mcp.protocol.version"
TRANSPORT: Final = "network.transport"
MCP_SERVER: Final = "llmgine.mcp.server"
"""What the server is called here. Ours."""

# Bounds of histograms, as the conventions advise
MESSAGING_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
GEN_AI_SECONDS: Final = tuple(0.01 * 2**power for power in range(14))
TOKENS: Final = tuple(float(4**power) for power in range(14))


@dataclass(frozen=True, slots=True)
class Messaging:
    """What the messaging conventions call the handling of a message."""

    operation_name: str | None
    operation_type: str
    processing: str
    """The value of `operation_type`."""
    subscription: str | None
    duration: str
    """A histogram, in seconds."""


@dataclass(frozen=True, slots=True)
class GenAI:
    """What the conventions for generative AI have renamed. None is what a vocabulary has no name for."""

    agent_id: str | None
    agent_provider: str | None
    """The provider, on the span of an agent in this process."""
    inference_duration: str
    """A histogram, in seconds."""
    tool_duration: str | None
    usage: str | None
    """A histogram of tokens, by `USAGE_KIND`."""
    input_tokens: str | None
    """A counter of tokens, as is `output_tokens`."""
    output_tokens: str | None


MESSAGING_OLD: Final = Messaging(
    operation_name=None,
    operation_type="messaging.operation",
    processing="deliver",
    subscription=None,
    duration="messaging.deliver.duration",
)
MESSAGING_NEW: Final = Messaging(
    operation_name="messaging.operation.name",
    operation_type="messaging.operation.type",
    processing="process",
    subscription="messaging.destination.subscription.name",
    duration="messaging.process.duration",
)
GEN_AI_OLD: Final = GenAI(
    agent_id="gen_ai.agent.id",
    agent_provider=PROVIDER,
    inference_duration="gen_ai.client.operation.duration",
    tool_duration=None,
    usage="gen_ai.client.token.usage",
    input_tokens=None,
    output_tokens=None,
)
GEN_AI_NEW: Final = GenAI(
    agent_id=None,
    agent_provider=None,
    inference_duration="gen_ai.client.inference.duration",
    tool_duration="gen_ai.execute_tool.duration",
    usage=None,
    input_tokens="gen_ai.client.inference.usage.input_tokens",
    output_tokens="gen_ai.client.inference.usage.output_tokens",
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names to write."""

    messaging: tuple[Messaging, ...] = (MESSAGING_OLD,)
    """Both, where both are asked for."""
    gen_ai: GenAI = GEN_AI_OLD

    @classmethod
    def asked_for(cls, environ: Mapping[str, str] = os.environ) -> Vocabulary:
        """Return what `OPT_IN` says; the old names where it says nothing, as the conventions want it."""
        asked = {item.strip() for item in environ.get(OPT_IN, "").split(",")}
        messaging: tuple[Messaging, ...] = (MESSAGING_OLD,)
        if "messaging/dup" in asked:
            messaging = (MESSAGING_OLD, MESSAGING_NEW)
        elif "messaging" in asked:
            messaging = (MESSAGING_NEW,)
        return cls(messaging, GEN_AI_NEW if "gen_ai_latest_experimental" in asked else GEN_AI_OLD)

    def processing(self, operation: str, destination: str, subscription: str = "") -> dict[str, str]:
        """Return the attributes of handling a message.

        Args:
            operation: "execute" or "handle".
            destination: the type of the message.
            subscription: who handles it.
        """
        attributes = {MESSAGING_SYSTEM: LLMGINE, DESTINATION: destination}
        for names in self.messaging:
            attributes[names.operation_type] = names.processing
            if names.operation_name is not None:
                attributes[names.operation_name] = operation
            if names.subscription is not None and subscription:
                attributes[names.subscription] = subscription
        return attributes
