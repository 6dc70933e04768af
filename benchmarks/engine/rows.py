"""The rows of the third table."""

from rows import Figure, Row

from engine import CONTESTANTS, measurements

ROWS = (
    Row(
        name="stream",
        measure=measurements.stream,
        figures=(
            Figure(name="chunk", title="a chunk of a reply, arriving alone", unit="µs", goal=20.0),
            Figure(name="chunk-at-once", title="— among many that have arrived", unit="µs", goal=20.0),
            Figure(name="first-chunk", title="from the call to its first chunk (wall clock)", unit="ms", goal=1.0),
            Figure(name="short-call", title="a call of 10 chunks", unit="ms"),
        ),
        package="engine",
        contestants=CONTESTANTS,
    ),
    Row(
        name="streams",
        measure=measurements.many,
        figures=(
            Figure(name="many-cpu", title="{streams:,} sessions stream at once, 12 chunks each: CPU time", unit="s"),
            Figure(name="many-pace", title="— how well it keeps up", unit="×"),
            Figure(name="many-memory", title="— memory per session", unit="KB"),
            Figure(name="many-fairness", title="— fairness at half time: Jain's index", unit=""),
            Figure(name="many-least", title="— chunks by then, fewest to most", unit="×"),
            Figure(name="many-ends", title="— time to the end, first to last", unit="×"),
        ),
        package="engine",
        contestants=CONTESTANTS,
    ),
)
