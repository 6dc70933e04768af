"""The order of the measurements: every round goes through all rows, and through the contestants within each row."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from environment import PYTHON
from measurements import Figures
from rows import Row

MEASURE = Path(__file__).parent / "measure.py"
MISSING = "–"
DEADLINE = 30
"""Seconds on the clock after which a measurement is stopped: the contestant is slower than that."""


@dataclass
class Outcome:
    """What one contestant did in one row."""

    rounds: list[Figures] = field(default_factory=list)
    instead: str = ""
    """What the table shows because there are no figures; then those of earlier rounds do not count either."""
    reason: str = ""


Outcomes = dict[tuple[str, str], Outcome]
"""By the names of row and contestant."""


def measure_all(
    rows: Sequence[Row],
    contestants: Sequence[str],
    *,
    rounds: int,
    quick: bool,
    starting: Callable[[int, Row, str], None],
) -> Outcomes:
    """Measure everything, one process at a time; `starting` is told of each."""
    pairs = [(row, contestant) for row in rows for contestant in row.contestants if contestant in contestants]
    outcomes = {(row.name, contestant): Outcome() for row, contestant in pairs}
    for number in range(rounds):
        for row, contestant in pairs:
            starting(number, row, contestant)
            outcome = outcomes[row.name, contestant]
            if not outcome.instead:
                measure(row, contestant, outcome, quick=quick)
    return outcomes


def measure(row: Row, contestant: str, outcome: Outcome, *, quick: bool) -> None:
    command = [str(PYTHON), "-W", "ignore", str(MEASURE), row.name, contestant, *(["--quick"] if quick else [])]
    try:
        process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        outcome.instead = f"> {DEADLINE} s"
        return
    if process.returncode:
        outcome.instead = "failed"
        outcome.reason = (process.stderr.strip().splitlines() or ["without a word"])[-1]
    else:
        answer = json.loads(process.stdout)
        if "cannot" in answer:
            outcome.instead, outcome.reason = MISSING, answer["cannot"]
        else:
            outcome.rounds.append(answer["figures"])
