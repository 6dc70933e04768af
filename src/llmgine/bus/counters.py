"""Numbers that are counted and numbers that are set, each with a value for every label set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from threading import Lock

from llmgine.errors import ConfigurationError

__all__ = ["Counter", "Gauge", "LabelSet", "Labels", "MetricValue", "label_set"]

Labels = Mapping[str, str]
LabelSet = tuple[tuple[str, str], ...]

_MAX_LABEL_SETS = 1000
_OVERFLOW: LabelSet = (("overflow", "true"),)


@dataclass(frozen=True, slots=True)
class MetricValue:
    """The value of a metric under one label set."""

    labels: dict[str, str]
    value: float


class _Labelled:
    __slots__ = ("_labelled", "_lock", "description", "name")

    def __init__(self, name: str, description: str = "") -> None:
        self.name = name
        self.description = description
        self._lock = Lock()
        self._labelled: dict[LabelSet, float] = {}

    def labelled(self) -> list[MetricValue]:
        """Return the value of every label set, in the order of their first use."""
        with self._lock:
            return [MetricValue(dict(labels), value) for labels, value in self._labelled.items()]


class Counter(_Labelled):
    """A number that only goes up.

    `inc` may be called from any thread and loses nothing.
    """

    __slots__ = ("_locked", "unlocked")

    def __init__(self, name: str, description: str = "") -> None:
        super().__init__(name, description)
        self.unlocked: float = 0
        """What one thread alone adds without a lock, as `counter.unlocked += 1`; part of `value`."""
        self._locked: float = 0

    @property
    def value(self) -> float:
        """The total, with and without labels."""
        return self.unlocked + self._locked

    def inc(self, value: float = 1, labels: Labels | None = None) -> None:
        """Add to the total, and to what the label set has.

        Raises:
            ConfigurationError: `value` is negative, infinite or NaN.
        """
        if not 0 <= value < inf:
            msg = f"{self.name} counts upwards, by finite numbers; got {value!r}. What goes down is a gauge."
            raise ConfigurationError(msg)
        with self._lock:
            self._locked += value
            if labels:
                key = label_set(labels, self._labelled)
                self._labelled[key] = self._labelled.get(key, 0) + value

    def reset(self) -> None:
        """Begin again at 0, without label sets."""
        with self._lock:
            self.unlocked = self._locked = 0
            self._labelled.clear()


class Gauge(_Labelled):
    """A number that goes up and down. The values of label sets stand beside its own and do not add to it.

    Every method may be called from any thread.
    """

    __slots__ = ("_function", "_own")

    def __init__(self, name: str, description: str = "") -> None:
        super().__init__(name, description)
        self._function: Callable[[], float] | None = None
        self._own: float | None = None

    @property
    def value(self) -> float:
        """What was set, or else what the function says, or else 0."""
        own = self._own
        if own is not None:
            return own
        return 0 if self._function is None else self._function()

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask `function` whenever the gauge is read, as long as nothing is set. What it raises, reading raises."""
        self._function = function

    def set(self, value: float, labels: Labels | None = None) -> None:
        """Set the gauge, or what its label set has."""
        with self._lock:
            if labels:
                self._labelled[label_set(labels, self._labelled)] = value
            else:
                self._own = value

    def inc(self, value: float = 1, labels: Labels | None = None) -> None:
        """Add to the gauge, or to what its label set has."""
        start = 0 if labels else self.value
        with self._lock:
            if labels:
                key = label_set(labels, self._labelled)
                self._labelled[key] = self._labelled.get(key, 0) + value
            else:
                self._own = (start if self._own is None else self._own) + value

    def dec(self, value: float = 1, labels: Labels | None = None) -> None:
        """Take from the gauge, or from what its label set has."""
        self.inc(-value, labels)

    def reset(self) -> None:
        """Forget what was set; a gauge with a function asks it again."""
        with self._lock:
            self._own = None
            self._labelled.clear()


def label_set(labels: Labels, kept: Mapping[LabelSet, object]) -> LabelSet:
    """Return the key of a label set among those kept; that of the overflow where it is new and there are too many."""
    key = tuple(sorted(labels.items()))
    return key if key in kept or len(kept) < _MAX_LABEL_SETS else _OVERFLOW
