"""The limit: the SDK's own stream, and no library around it."""

from openai import AsyncOpenAI

from engine.contestant import MODEL, PROMPT, Engine, Hear


class Limit(Engine):
    async def start(self, base_url: str) -> None:
        self.client = AsyncOpenAI(base_url=base_url, api_key="none")

    async def ask(self, hear: Hear) -> None:
        stream = await self.client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": PROMPT}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async with stream:
            async for chunk in stream:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    hear(text)


contestant = Limit
