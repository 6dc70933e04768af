"""What is measured beside the spans, by way of the application's meter provider."""

from __future__ import annotations

from opentelemetry.metrics import Counter, Histogram, MeterProvider

from llmgine import __version__
from llmgine.llm.types import Usage
from llmgine.observability import semconv

__all__ = ["Metrics"]


class Metrics:
    """The instruments that a vocabulary has."""

    def __init__(self, provider: MeterProvider, vocabulary: semconv.Vocabulary) -> None:
        meter = provider.get_meter(semconv.LLMGINE, __version__)
        names = vocabulary.gen_ai
        self._vocabulary = vocabulary
        self._processing = [
            meter.create_histogram(
                messaging.duration,
                "s",
                "How long a message was handled.",
                explicit_bucket_boundaries_advisory=semconv.MESSAGING_SECONDS,
            )
            for messaging in vocabulary.messaging
        ]
        self._inference = meter.create_histogram(
            names.inference_duration,
            "s",
            "How long a model took to answer.",
            explicit_bucket_boundaries_advisory=semconv.GEN_AI_SECONDS,
        )
        self._tool: Histogram | None = None
        if names.tool_duration is not None:
            self._tool = meter.create_histogram(
                names.tool_duration,
                "s",
                "How long a tool ran.",
                explicit_bucket_boundaries_advisory=semconv.GEN_AI_SECONDS,
            )
        self._usage: Histogram | None = None
        if names.usage is not None:
            self._usage = meter.create_histogram(
                names.usage,
                "{token}",
                "How many tokens a request to a model took.",
                explicit_bucket_boundaries_advisory=semconv.TOKENS,
            )
        self._tokens: tuple[Counter, Counter] | None = None
        if names.input_tokens is not None and names.output_tokens is not None:
            self._tokens = (
                meter.create_counter(names.input_tokens, "{token}", "Tokens read."),
                meter.create_counter(names.output_tokens, "{token}", "Tokens written."),
            )

    def processed(self, seconds: float, operation: str, destination: str, problem: str | None) -> None:
        """Count a command, or one handler's run for an event."""
        attributes = self._vocabulary.processing(operation, destination)
        for histogram in self._processing:
            histogram.record(seconds, _with_error(attributes, problem))

    def inferred(self, seconds: float, about: dict[str, str], problem: str | None) -> None:
        """Count one request to a model."""
        self._inference.record(seconds, _with_error({**about, semconv.OPERATION: semconv.CHAT}, problem))

    def used(self, usage: Usage, about: dict[str, str]) -> None:
        """Count the tokens of a request to a model, where the provider does."""
        if not usage.total_tokens:
            return
        attributes = {**about, semconv.OPERATION: semconv.CHAT}
        if self._usage is not None:
            self._usage.record(usage.input_tokens, {**attributes, semconv.USAGE_KIND: "input"})
            self._usage.record(usage.output_tokens, {**attributes, semconv.USAGE_KIND: "output"})
        if self._tokens is not None:
            read, written = self._tokens
            read.add(usage.input_tokens, attributes)
            written.add(usage.output_tokens, attributes)

    def ran_tool(self, seconds: float, name: str, problem: str | None) -> None:
        """Count one run of a tool."""
        if self._tool is not None:
            attributes = {semconv.OPERATION: semconv.EXECUTE_TOOL, semconv.TOOL_NAME: name}
            self._tool.record(seconds, _with_error(attributes, problem))


def _with_error(attributes: dict[str, str], problem: str | None) -> dict[str, str]:
    return attributes if problem is None else {**attributes, semconv.ERROR_TYPE: problem}
