"""What a model is told: the conversation so far, as much of it as it can read."""

from llmgine.llm.context.events import ContextCompactedEvent
from llmgine.llm.context.memory import SimpleChatHistory, SimpleMemory
from llmgine.llm.context.message import ChatMessage, Content, Role
from llmgine.llm.context.store import ForkingStore, HistoryStore, SummaryStore
from llmgine.llm.context.stored import StoredChatHistory
from llmgine.llm.context.summary import Summarise, Summary
from llmgine.llm.context.tokens import TokenCounter, TokenEstimate
from llmgine.llm.context.validity import conversation_faults
from llmgine.llm.context.window import ContextView, ContextWindow

__all__ = [
    "ChatMessage",
    "Content",
    "ContextCompactedEvent",
    "ContextView",
    "ContextWindow",
    "ForkingStore",
    "HistoryStore",
    "Role",
    "SimpleChatHistory",
    "SimpleMemory",
    "StoredChatHistory",
    "Summarise",
    "Summary",
    "SummaryStore",
    "TokenCounter",
    "TokenEstimate",
    "conversation_faults",
]
