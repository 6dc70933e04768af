"""LLMgine when somebody reads its metrics, so that every handler is timed."""

from contestants.contestant import left_out
from contestants.llmgine import LLMgine


class LLMgineMetrics(LLMgine):
    cannot = left_out("measured as LLMgine", "sessions", "queued-memory", "growth", "import", "idle", "log")

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        await super().start(handlers=handlers, suspend=suspend)
        await self.bus.get_metrics()


contestant = LLMgineMetrics
