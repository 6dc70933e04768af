"""Processes are killed by the hundred, alone, in twos and in fives: nothing is lost, nothing early, nothing twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from .conftest import Places
from .journal import read
from .laws import check
from .nursery import Nursery
from .steps import ASKED, MIDDLE, STAGES, TOLD, Step

KILLED = -signal.SIGKILL
LEASE_S = 1.0
STEPS: list[Step] = [
    *((operation, stage) for operation in ("add", "settle", "cancel", "letter", "forget letter") for stage in STAGES),
    *(("claim", stage) for stage in (*STAGES, MIDDLE)),
    ("delivery", ASKED),
    ("handler", ASKED),
    ("handler", TOLD),
    ("batch", MIDDLE),
]
RARE: list[Step] = [(operation, stage) for operation in ("renew", "release") for stage in STAGES]
"""Steps that are reached once in a life."""


class Town:
    """Where the processes of a shop live and die."""

    def __init__(self, nursery: Nursery, folder: Path, url: str, schema: str) -> None:
        self.kills = 200 if url.startswith("sqlite") else 120
        self.seed = time.time_ns()
        self.random = random.Random(self.seed)  # noqa: S311  # a test's
        self.killed: set[int] = set()
        self.journal = folder / "journal"
        self._nursery = nursery
        self._told = {"journal": str(self.journal), "url": url, "schema": schema, "lease": LEASE_S}
        self._number = count(1)

    def start(self, task: str, step: Step | None = None) -> tuple[int, int]:
        """Start a child; it kills itself at a step. Return its number and its process."""
        number = next(self._number)
        nth = 1 if step in RARE else self.random.randint(1, 3)
        told: dict[str, Any] = {**self._told, "child": number, "seed": f"{self.seed} {number}", "step": step}
        return number, self._nursery.start("shop", task=task, nth=nth, **told)

    def run(self, task: str, step: Step | None = None) -> int:
        """Start a child, and wait for its end."""
        number, process = self.start(task, step)
        return self._bury(number, self._nursery.wait(process))

    def run_several(self, processes: int) -> None:
        """Start children, and kill those that have not killed themselves, at any moment."""
        steps = [self.random.choice([None, *STEPS, *RARE]) for _ in range(processes)]
        children = [self.start("work", step) for step in steps]
        self.random.shuffle(children)
        for number, process in children:
            time.sleep(self.random.uniform(0, 0.25 / processes))
            assert self._bury(number, self._nursery.kill(process)) in {KILLED, 0}

    def _bury(self, number: int, ended: int) -> int:
        if ended == KILLED:
            self.killed.add(number)
        return ended


@pytest.fixture
def town(nursery: Nursery, places: Places, tmp_path: Path) -> Town:
    return Town(nursery, tmp_path, *places())


def test_however_many_are_killed_nothing_is_lost_nothing_early_and_little_twice(
    town: Town, record_property: Callable[[str, object], None]
) -> None:
    print("seed", town.seed)  # noqa: T201  # for whoever wants the same again
    assert town.run("schedule") == 0
    for step in [*STEPS, *RARE]:
        assert town.run("work", step) == KILLED, f"{step} was not reached"
    while len(town.killed) < town.kills * 0.6:
        town.run_several(2)
    while len(town.killed) < town.kills:
        town.run_several(5)
    assert town.run("drain") == 0

    tally = check(read(town.journal), town.killed, lease=LEASE_S)
    print(len(town.killed), "killed", tally)  # noqa: T201  # how much was shown
    record_property("killed", len(town.killed))
    record_property("tally", tally)
    assert tally.twice <= len(town.killed) * 100  # what one process claims at once
    assert {*tally.steps} >= {": ".join(step) for step in [*STEPS, *RARE]}
