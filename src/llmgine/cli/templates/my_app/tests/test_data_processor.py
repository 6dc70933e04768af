"""Services are tested by themselves."""

import pytest

from services.data_processor import DataProcessor, Summary


def test_a_text_is_summarised() -> None:
    assert DataProcessor(max_words=5).summarise("One, two, three!") == Summary(words=3, longest="three")


@pytest.mark.parametrize("text", ["", "one two three"])
def test_a_text_without_words_or_with_too_many_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 2 words"):
        DataProcessor(max_words=2).summarise(text)
