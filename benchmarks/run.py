"""`make bench`: measure LLMgine beside the limit and its peers, in one run, and print three tables."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import environment
from contestants import CONTESTANTS, LIMIT
from durable import CONTESTANTS as DURABLE_CONTESTANTS
from durable.rows import ROWS as DURABLE_ROWS
from engine import CONTESTANTS as ENGINE_CONTESTANTS
from engine.rows import ROWS as ENGINE_ROWS
from measurements import QUICK, Size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rows import ROWS, Row
from schedule import Outcomes, measure_all
from table import table

README = Path(__file__).parent / "README.md"
TABLES = {"last run": ROWS, "last run, durability": DURABLE_ROWS, "last run, engine": ENGINE_ROWS}
"""By how each is marked in the README."""
EVERY_ROW = tuple(row for rows in TABLES.values() for row in rows)
EVERYBODY = tuple(dict.fromkeys((*CONTESTANTS, *DURABLE_CONTESTANTS, *ENGINE_CONTESTANTS)))


def main() -> None:
    arguments = parse()
    rows = [row for row in EVERY_ROW if row.name in arguments.rows]
    contestants = [name for name in EVERYBODY if name == LIMIT or name in arguments.contestants]
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    environment.prepare()
    outcomes = measure(rows, contestants, rounds=rounds, quick=arguments.quick)
    if arguments.json:
        print(json.dumps([{"row": r, "contestant": c, **asdict(outcome)} for (r, c), outcome in outcomes.items()]))
        return
    size = QUICK if arguments.quick else Size()
    for mark, known in TABLES.items():
        if measured := [row for row in known if row in rows]:
            columns = [name for name in measured[0].contestants if name in contestants]
            text = f"{table(measured, columns, outcomes, size)}\n\n{circumstances(rounds, columns)}"
            print(text, end="\n\n")
            if arguments.write:
                write(mark, text)


def write(mark: str, text: str) -> None:
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = README.read_text().split(begin)
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def parse() -> argparse.Namespace:
    rows = [row.name for row in EVERY_ROW]
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure LLMgine beside the limit and its peers, and print three tables.",
        epilog='Through make: make bench ARGS="--quick --rows execute,publish"',
    )
    parser.add_argument("--quick", action="store_true", help="fewer operations and three rounds: a first impression")
    parser.add_argument("--rounds", type=int, help="how many rounds (default: 5)")
    parser.add_argument("--rows", type=some_of(rows), default=rows, help=f"some of: {','.join(rows)}")
    parser.add_argument(
        "--contestants",
        type=some_of(EVERYBODY),
        default=EVERYBODY,
        help=f"some of: {','.join(EVERYBODY)}; the limit is always there",
    )
    parser.add_argument("--json", action="store_true", help="print the figures of every round instead of the table")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {README.name} too")
    return parser.parse_args()


def some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            msg = f"no such name: {', '.join(sorted(unknown))}"
            raise argparse.ArgumentTypeError(msg)
        return chosen

    return names


def measure(rows: Sequence[Row], contestants: Sequence[str], *, rounds: int, quick: bool) -> Outcomes:
    """Measure, with the progress on stderr."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        each = sum(name in contestants for row in rows for name in row.contestants)
        task = progress.add_task("", total=rounds * each, completed=-1)

        def starting(number: int, row: Row, contestant: str) -> None:
            description = f"round {number + 1} of {rounds}: {row.name}, {contestant}"
            progress.update(task, advance=1, description=description)

        outcomes = measure_all(rows, contestants, rounds=rounds, quick=quick, starting=starting)
        progress.update(task, advance=1, description="")
    return outcomes


def circumstances(rounds: int, contestants: Sequence[str]) -> str:
    """Say when and where the table was measured, and with which versions."""
    versions = environment.versions()
    packages = ", ".join(f"{name} {versions[name]}" for name in contestants if name in versions)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{os.cpu_count()} cores, {processor()}, {platform.system()}"
    return f"{datetime.now(UTC).date()}, median of {rounds} rounds. {python}. {machine}. {packages}."


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
