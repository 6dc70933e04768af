"""openai-agents: a streamed run, without its tracing."""

from importlib import import_module
from typing import Any

from openai import AsyncOpenAI

from engine.contestant import MODEL, PROMPT, Engine, Hear

agents: Any = import_module("agents")


class OpenAIAgents(Engine):
    async def start(self, base_url: str) -> None:
        agents.set_tracing_disabled(disabled=True)
        client = AsyncOpenAI(base_url=base_url, api_key="none")
        model = agents.OpenAIChatCompletionsModel(MODEL, openai_client=client)
        self.agent = agents.Agent(name="assistant", model=model)

    async def ask(self, hear: Hear) -> None:
        async for event in agents.Runner.run_streamed(self.agent, PROMPT).stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                hear(event.data.delta)


contestant = OpenAIAgents
