"""Runs of an engine, written down and run again without the network: the way to test an engine.

    with recorded("tests/recordings/weather.jsonl", lambda: OpenAIProvider("gpt-5")) as provider:
        engine = LLMEngine(bus, provider, tools=provider.tools(tools))

The first time, it is recorded; from then on it is replayed, and fails where the engine does something else.

**What is written.** Every request with its messages, tools and options; every piece of the replies as it came; the
results of tools; the errors. That is the whole conversation, in a file that only its owner can read. Keys and headers
never get near it. What else must not be in it is for `redact` to take out, such as `redact` of
`llmgine.observability.redact`; what the model said stays as it was, or the run could not be the same.

**What makes no difference.** The model's ids of tool calls, other ids (UUIDs, 32 hexadecimal digits), dates with a
time of day, the order of keys and of tools, how the JSON of arguments is spelled, and whether a field is null or
absent. An id that stands twice in a request must do so again. A date alone does make a difference: give the engine a
fixed one.

**Order.** The n-th request gets the n-th reply. The calls of a turn may come in any order.
"""

from llmgine.llm.recording.errors import ReplayMismatchError
from llmgine.llm.recording.record import RecordingProvider, RecordingTools
from llmgine.llm.recording.recorded import recorded
from llmgine.llm.recording.replay import ReplayProvider, ReplayTools

__all__ = [
    "RecordingProvider",
    "RecordingTools",
    "ReplayMismatchError",
    "ReplayProvider",
    "ReplayTools",
    "recorded",
]
