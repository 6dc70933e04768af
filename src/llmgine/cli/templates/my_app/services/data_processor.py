"""Processing of texts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What there is to say about a text."""

    words: int
    longest: str
    """Its first word of the greatest length, without punctuation."""


class DataProcessor:
    """Summarises texts."""

    def __init__(self, max_words: int) -> None:
        """Set how many words a text may have."""
        self._max_words = max_words

    def summarise(self, text: str) -> Summary:
        """Return how many words a text has, and the longest.

        Raises:
            ValueError: it has too many words, or none.
        """
        words = [word.strip(".,;:!?") for word in text.split()]
        if not 0 < len(words) <= self._max_words:
            msg = f"A text has 1 to {self._max_words} words; this one has {len(words)}."
            raise ValueError(msg)
        return Summary(len(words), max(words, key=len))
