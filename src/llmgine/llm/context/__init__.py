"""What a model is told: the conversation so far."""

from llmgine.llm.context.memory import ChatMessage, Role, SimpleChatHistory, SimpleMemory, StoredChatHistory
from llmgine.llm.context.store import HistoryStore

__all__ = ["ChatMessage", "HistoryStore", "Role", "SimpleChatHistory", "SimpleMemory", "StoredChatHistory"]
