"""LLMgine: a command to an engine of all sessions, and the events that it causes."""

from engine.contestant import MODEL, PROMPT, Engine, Hear
from llmgine.bus import MessageBus
from llmgine.llm.engine import LLMEngine, PromptCommand, TextChunkEvent
from llmgine.llm.providers.openai import OpenAIProvider


class LLMgine(Engine):
    async def start(self, base_url: str) -> None:
        self.bus = MessageBus.isolated()
        await self.bus.start()
        LLMEngine(self.bus, OpenAIProvider(MODEL, base_url=base_url))

    async def ask(self, hear: Hear) -> None:
        async with self.bus.create_session() as session:
            stream = self.bus.stream(PromptCommand(prompt=PROMPT, session_id=session.session_id))
            async with stream:
                async for event in stream:
                    if isinstance(event, TextChunkEvent):
                        hear(event.text)
            if not stream.result.success:
                raise RuntimeError(stream.result.error)


contestant = LLMgine
