"""Tokens are counted by the provider where it can, else estimated by an estimate that learns and is hard to mislead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.llm.context.message import IMAGE_TOKENS
from llmgine.llm.context.tokens import Measure, TokenEstimate, measure
from llmgine.llm.types import LLMConversation

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def test_texts_calls_tools_and_images_are_measured() -> None:
    messages: LLMConversation = [
        {"role": "user", "content": [{"type": "text", "text": "12345"}, IMAGE]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "long id", "type": "function", "function": {"name": "abc", "arguments": "{}"}}],
        },
    ]

    assert measure(messages) == Measure(characters=5 + 3 + 2, messages=2, images=1)
    assert measure(messages, [{"a": 1}]).characters == 10 + len('[{"a": 1}]')
    assert TokenEstimate()(messages) == 3 + 3 + 2 * 4 + IMAGE_TOKENS


def test_it_begins_with_four_characters_a_token_and_learns() -> None:
    estimate = TokenEstimate()
    text = Measure(characters=12_000, messages=10)
    assert estimate.of(text) == 3_000 + 43

    for _ in range(5):
        estimate.observe(text, 6_000 + 43)

    assert estimate.characters_per_token == 2
    assert estimate.of(text) == 6_043


@pytest.mark.parametrize(
    ("measured", "tokens"),
    [
        (Measure(12_000, 1), 0),
        (Measure(12_000, 1), 107),  # of what was cached nothing is reported
        (Measure(12_000, 1), 10**9),
        (Measure(60, 1), 60),  # too short to tell
        (Measure(12_000, 1, images=1), 8_000),
    ],
)
def test_reports_that_say_nothing_about_texts_change_nothing(measured: Measure, tokens: int) -> None:
    estimate = TokenEstimate()
    for _ in range(9):
        estimate.observe(measured, tokens)

    assert estimate.characters_per_token == 4


def test_one_odd_report_among_many_changes_little() -> None:
    estimate = TokenEstimate()
    for tokens in [3_000, 3_000, 3_000, 20_000, 3_000]:
        estimate.observe(Measure(12_000, 1), tokens + 7)

    assert estimate.characters_per_token == 4


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 100), st.integers(-5, 10**6))))
def test_whatever_is_reported_the_estimate_stays_within_bounds(reports: list[tuple[int, int, int]]) -> None:
    estimate = TokenEstimate()
    for characters, messages, tokens in reports:
        estimate.observe(Measure(characters, messages), tokens)

    assert 0.5 <= estimate.characters_per_token <= 8
    assert estimate.of(Measure(1_000, 1)) <= 2_007
