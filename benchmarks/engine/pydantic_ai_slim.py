"""pydantic-ai: an agent's `run_stream`, with its text as it comes."""

from importlib import import_module
from typing import Any

from openai import AsyncOpenAI

from engine.contestant import MODEL, PROMPT, Engine, Hear

pydantic_ai: Any = import_module("pydantic_ai")
models: Any = import_module("pydantic_ai.models.openai")
providers: Any = import_module("pydantic_ai.providers.openai")


class PydanticAI(Engine):
    async def start(self, base_url: str) -> None:
        client = AsyncOpenAI(base_url=base_url, api_key="none")
        model = models.OpenAIChatModel(MODEL, provider=providers.OpenAIProvider(openai_client=client))
        self.agent = pydantic_ai.Agent(model)

    async def ask(self, hear: Hear) -> None:
        async with self.agent.run_stream(PROMPT) as result:
            async for text in result.stream_text(delta=True, debounce_by=None):
                hear(text)


contestant = PydanticAI
