"""An application in which things fail: `python failing_shop.py` leaves a database and a log in the working folder.

Gold can be sold once there is a file `gold`. Prints the ids of some of its messages as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llmgine.bus import MessageBus
from llmgine.bus.resilience import CircuitBreakerConfig, Policy
from llmgine.messages import Command, Event, SessionID

ALICE, BOB = SessionID("alice"), SessionID("bob")


@dataclass
class SellCommand(Command[str]):
    item: str = ""
    count: int = 1
    when: datetime = field(default_factory=lambda: datetime(2026, 5, 4, tzinfo=UTC))


@dataclass
class WeighCommand(Command[float]):
    item: str = ""


@dataclass
class SoldEvent(Event):
    item: str = ""


@dataclass
class ReminderEvent(Event):
    text: str = ""


bus = MessageBus(
    policy=Policy(dead_letters=True),
    policies={WeighCommand: Policy(circuit_breaker=CircuitBreakerConfig(failure_threshold=2))},
    log_dir="logs" if __name__ == "__main__" else None,
    enable_console_metrics=False,
    enable_console_traces=False,
)
bare = MessageBus.isolated()


@bus.command_handler
async def sell(command: SellCommand) -> str:
    print("selling", command.item, flush=True)  # noqa: T201
    if command.item == "sand":  # which takes for ever
        await asyncio.Event().wait()
    if command.item == "gold" and not Path("gold").exists():
        msg = f"there is no gold \x1b[31mleft\x1b[0m for {command.count}"
        raise LookupError(msg)
    await bus.publish(SoldEvent(command.item, session_id=command.session_id))
    return "sold"


@bus.command_handler
def weigh(command: WeighCommand) -> float:
    msg = f"the scales are broken, so {command.item} has no weight"
    raise OSError(msg)


@bus.on(SoldEvent)
def count_sales(event: SoldEvent) -> None:
    with Path("sales").open("a") as file:
        file.write(f"{event.item} {event.metadata.get('replay', False)}\n")


@bus.on(SoldEvent)
def send_invoice(event: SoldEvent) -> None:
    if event.metadata.get("replay"):
        msg = "no invoice twice"
        raise ValueError(msg)


async def main() -> None:
    await bus.start()
    gold = [SellCommand("gold", count, session_id=ALICE) for count in (1, 2)]
    other = SellCommand("gold", 3, session_id=BOB)
    for command in (*gold, other):
        await bus.execute(command)
    for session in (ALICE, BOB):
        await bus.execute(SellCommand("tea", session_id=session))
    for _ in range(3):
        await bus.execute(WeighCommand("tea"))
    soon = ReminderEvent("water the plants", session_id=ALICE)
    later = ReminderEvent("pay", session_id=BOB)
    now = datetime.now(UTC)
    await bus.schedule(soon, at=now + timedelta(hours=2))
    await bus.schedule(later, at=now + timedelta(days=3), every=86400)
    await bus.stop()
    ids = {"gold": [each.id for each in gold], "other": other.id, "soon": soon.id, "later": later.id}
    print(json.dumps(ids), file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # the failures are meant
    asyncio.run(main())
