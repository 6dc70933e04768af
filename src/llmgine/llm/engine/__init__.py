"""Engines: what answers a prompt, by way of a provider and tools, on the bus."""

from llmgine.llm.engine.commands import PromptCommand
from llmgine.llm.engine.events import (
    EngineEvent,
    EngineStatusEvent,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
    TextChunkEvent,
)
from llmgine.llm.engine.loop import LLMEngine

__all__ = [
    "EngineEvent",
    "EngineStatusEvent",
    "LLMEngine",
    "LLMResponseEvent",
    "ModelCallEndedEvent",
    "PromptCancelledEvent",
    "PromptCommand",
    "PromptFailedEvent",
    "TextChunkEvent",
]
