"""What the prompts of an engine have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from llmgine.bus import MessageBus
from llmgine.bus.effect_records import EffectLedger
from llmgine.llm.approvals import Approvals
from llmgine.llm.budgets import Budget, Limits
from llmgine.llm.context import ContextWindow
from llmgine.llm.engine.events import EngineStatusEvent
from llmgine.llm.providers.base import Provider
from llmgine.llm.tools.tool_manager import ToolManager

__all__ = ["Setting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the prompts of an engine have in common."""

    bus: MessageBus
    provider: Provider
    engine_id: str
    tools: ToolManager | None = None
    max_turns: int = 10
    """How often the model may be asked for one prompt."""
    max_output_tokens: int | None = None
    """How long each reply may be; as long as the provider lets it, by default."""
    window: ContextWindow | None = None
    """How much of a conversation the model reads; all of it by default."""
    budget: Budget | None = None
    """What all of them together may spend."""
    limits: Limits | None = None
    """What each of them may spend."""
    budgets: WeakValueDictionary[str, Budget] = field(default_factory=WeakValueDictionary[str, Budget])
    """Of those that are being answered, by their run's id; what is done for them by the way is paid from there."""
    approvals: Approvals | None = None
    """Who agrees to the tool calls that need it."""
    ledger: EffectLedger | None = None
    """Where it is kept what was begun, for another process to go on with."""
    status_event: type[EngineStatusEvent] = EngineStatusEvent
