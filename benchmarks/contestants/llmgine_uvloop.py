"""LLMgine on uvloop."""

from contestants.contestant import left_out
from contestants.llmgine import LLMgine


class LLMgineUvloop(LLMgine):
    cannot = left_out("measured as LLMgine", "sessions", "queued-memory", "growth", "import")
    loop = "uvloop"


contestant = LLMgineUvloop
