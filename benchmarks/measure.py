"""One measurement: `python measure.py ROW CONTESTANT [--quick]` prints its figures as JSON. Started by `schedule`."""

import argparse
import asyncio
import json
import os
from importlib import import_module
from typing import Any

from durable.rows import ROWS as DURABLE_ROWS
from engine.rows import ROWS as ENGINE_ROWS
from measurements import QUICK, Size
from rows import ROWS, Row


async def measure(row: Row, contestant: Any, size: Size) -> None:
    figures = await row.measure(contestant, size)
    print(json.dumps({"figures": figures}), flush=True)
    os._exit(0)  # how a library stops is not measured, and some do not without being asked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("row")
    parser.add_argument("contestant")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    row = next(row for row in (*ROWS, *DURABLE_ROWS, *ENGINE_ROWS) if row.name == arguments.row)
    contestant = import_module(f"{row.package}.{arguments.contestant.replace('-', '_')}").contestant()
    if row.name in contestant.cannot:
        print(json.dumps({"cannot": contestant.cannot[row.name]}))
    else:
        with asyncio.Runner(loop_factory=import_module(contestant.loop).new_event_loop) as runner:
            runner.run(measure(row, contestant, QUICK if arguments.quick else Size()))


if __name__ == "__main__":
    main()
