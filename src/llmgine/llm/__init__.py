"""The engine for language models: providers, tools, context, and the loop that joins them on the bus."""

from llmgine.messages import SessionID

__all__ = ["SessionID"]
