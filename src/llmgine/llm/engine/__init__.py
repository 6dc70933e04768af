"""Engines: what answers a prompt, by way of a provider and tools, on the bus."""

from llmgine.llm.engine.base import Engine
from llmgine.llm.engine.commands import (
    ClearHistoryCommand,
    PromptCommand,
    ResumeCommand,
    SystemPromptCommand,
    ToolChatEngineCommand,
)
from llmgine.llm.engine.engines import LLMEngine, SinglePassEngine, ToolChatEngine
from llmgine.llm.engine.events import (
    EngineEvent,
    EngineStatusEvent,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PartialOutputEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
    ReplyRestartedEvent,
    TextChunkEvent,
    ToolChatEngineStatusEvent,
)
from llmgine.llm.engine.memory_ledger import MemoryEffectLedger

__all__ = [
    "ClearHistoryCommand",
    "Engine",
    "EngineEvent",
    "EngineStatusEvent",
    "LLMEngine",
    "LLMResponseEvent",
    "MemoryEffectLedger",
    "ModelCallEndedEvent",
    "PartialOutputEvent",
    "PromptCancelledEvent",
    "PromptCommand",
    "PromptFailedEvent",
    "ReplyRestartedEvent",
    "ResumeCommand",
    "SinglePassEngine",
    "SystemPromptCommand",
    "TextChunkEvent",
    "ToolChatEngine",
    "ToolChatEngineCommand",
    "ToolChatEngineStatusEvent",
]
