"""Engines that stream a model's reply: rows and contestants of their own, and a table."""

from contestants import LIMIT, LLMGINE

CONTESTANTS = (LIMIT, LLMGINE, "pydantic-ai-slim", "openai-agents", "langgraph")
