"""`llmgine breakers`: the last known state of each circuit breaker, as the log of an application tells it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from llmgine.cli.listing import Column, iso, print_list, until
from llmgine.cli.logs import log_files, report
from llmgine.cli.progress import Progress
from llmgine.cli.stderr import say
from llmgine.observability.log_files import LogFile
from llmgine.observability.log_filter import LogFilter, instant_of
from llmgine.observability.log_reader import LogReader

__all__ = ["run_breakers"]

_STYLES = {"open": "bold red", "half_open": "yellow", "closed": "green"}


@dataclass
class _Breaker:
    name: str
    state: str = ""
    since: datetime | None = None
    failures: int = 0
    """When it last changed its state."""
    opened: int = 0
    """How often, half-open trials that failed included."""
    culprit: str | None = None
    """The id of the command that opened it last; None if somebody did by hand."""
    reason: str | None = None
    """What that command said."""

    def change(self, event: dict[str, Any]) -> None:
        """Take in what a `CircuitBreakerChangedEvent` says."""
        self.state = str(event.get("state"))
        self.since = instant_of(event)
        failures = event.get("failure_count")
        self.failures = failures if isinstance(failures, int) else 0
        if self.state == "open":
            self.opened += 1
            culprit = event.get("causation_id")
            self.culprit, self.reason = culprit if isinstance(culprit, str) else None, None


def run_breakers(path: str, *, as_json: bool) -> int:
    """Print the circuit breakers that have ever changed their state; return the exit code.

    Raises:
        ConfigurationError: there is no such log.
    """
    files = log_files(Path(path).expanduser())
    breakers: dict[str, _Breaker] = {}
    with Progress(files) as progress:
        reader = LogReader(files, LogFilter(types=("CircuitBreakerChangedEvent",)), progress.advance)
        for line in reader:
            name = str(line.data.get("name"))
            breakers.setdefault(name, _Breaker(name)).change(line.data)
        _explain(breakers, files, progress)
    if not breakers:
        say("the log tells of no circuit breaker that has changed its state: all that there are are closed")
    now = datetime.now(UTC)
    columns = [
        Column[_Breaker](title="BREAKER", plain=lambda each: each.name),
        Column[_Breaker](
            title="STATE",
            plain=lambda each: each.state,
            shown=lambda each: Text(each.state, _STYLES.get(each.state, "")),
        ),
        Column[_Breaker](
            title="SINCE",
            plain=lambda each: each.since and iso(each.since),
            shown=lambda each: until(each.since, now) if each.since else "",
        ),
        Column[_Breaker](title="FAILURES", plain=lambda each: each.failures, right=True),
        Column[_Breaker](title="OPENED", plain=lambda each: each.opened, right=True),
        Column[_Breaker](title="LAST OPENED BY", plain=lambda each: each.reason, gives_way=True),
    ]
    print_list(sorted(breakers.values(), key=_urgency), columns, _as_data, as_json=as_json)
    return report(reader)


def _explain(breakers: dict[str, _Breaker], files: list[LogFile], progress: Progress) -> None:
    """Look up what the commands that opened breakers came to."""
    culprits = {each.culprit: each for each in breakers.values() if each.culprit}
    if not culprits:
        return
    progress.restart()
    for line in LogReader(files, LogFilter(types=("CommandErrorEvent",)), progress.advance):
        result = line.data.get("command_result")
        if isinstance(result, dict) and (breaker := culprits.get(str(result.get("command_id")))):
            breaker.reason = str(result.get("error"))


def _urgency(breaker: _Breaker) -> tuple[int, str]:
    return list(_STYLES).index(breaker.state) if breaker.state in _STYLES else len(_STYLES), breaker.name


def _as_data(breaker: _Breaker) -> dict[str, Any]:
    return {
        "name": breaker.name,
        "state": breaker.state,
        "since": breaker.since and iso(breaker.since),
        "failure_count": breaker.failures,
        "opened": breaker.opened,
        "command_id": breaker.culprit,
        "reason": breaker.reason,
    }
