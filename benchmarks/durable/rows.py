"""The rows of the second table."""

from rows import Figure, Row

from durable import CONTESTANTS, measurements


def layer(name: str, title: str) -> Figure:
    return Figure(name=name, title=f"— {title}", unit="µs", goal=1.0)


ROWS = tuple(
    Row(name=name, measure=measure, figures=figures, package="durable", contestants=CONTESTANTS)
    for name, measure, figures in (
        (
            "policies",
            measurements.policies,
            (
                Figure(name="layer", title="execute: a layer that does nothing adds", unit="µs"),
                layer("retry", "a retry policy"),
                layer("circuit-breaker", "a circuit breaker"),
                layer("concurrency", "a concurrency limit"),
                layer("timeout", "a timeout"),
                layer("dead-letters", "dead letters"),
                layer("statistics", "error statistics"),
                Figure(name="resilient", title="— all of ResilientMessageBus", unit="µs"),
            ),
        ),
        (
            "schedule",
            measurements.schedule,
            (
                Figure(
                    name="schedule-gathered",
                    title="{scheduled:,} scheduled events at once, on disk",
                    unit="/s",
                    goal=5_000,
                    least=True,
                ),
                Figure(name="schedule-tasks", title="— by 100 tasks", unit="/s", goal=5_000, least=True),
                Figure(name="schedule-alone", title="— one after another", unit="/s"),
            ),
        ),
        (
            "waiting",
            measurements.waiting,
            (
                Figure(name="waiting-start", title="start with {waiting:,} scheduled events", unit="s", goal=1.0),
                Figure(name="waiting-rest", title="— at rest, CPU time per second", unit="ms", goal=1.0),
            ),
        ),
        (
            "event-log",
            measurements.event_log,
            (
                Figure(name="event-log-publisher", title="log in a database: publish takes longer by", unit="µs"),
                Figure(name="event-log-process", title="— the same, with the thread that writes", unit="µs"),
                Figure(name="event-log-rows", title="— rows written", unit="/s"),
            ),
        ),
        (
            "dead-letter",
            measurements.dead_letter,
            (
                Figure(
                    name="dead-letter", title="a failing command, until its dead letter is on disk", unit="ms", goal=1.0
                ),
                Figure(name="dead-letter-p99", title="— 99th percentile", unit="ms"),
            ),
        ),
        (
            "outbox",
            measurements.outbox,
            (
                Figure(name="outbox", title="an event adds to the user's transaction", unit="µs"),
                Figure(name="outbox-relay", title="— from the outbox to the handler", unit="/s"),
            ),
        ),
    )
)
