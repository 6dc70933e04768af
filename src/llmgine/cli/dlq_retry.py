"""`llmgine dlq retry`: commands that failed for good are executed again, by the application that they belong to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from llmgine.bus import MessageBus
from llmgine.bus.resilience.dead_letters import DeadLetters
from llmgine.cli.database import check_there
from llmgine.cli.failure import ExitCode
from llmgine.cli.letters import Letter, LetterChoice, print_letters
from llmgine.cli.listing import counted, print_json
from llmgine.cli.log_text import one_line
from llmgine.cli.progress import Counted
from llmgine.cli.signals import until_stopped
from llmgine.cli.stderr import notice, warn
from llmgine.cli.user_bus import find_bus
from llmgine.errors import BusError, ConfigurationError

__all__ = ["run_dlq_retry"]


@dataclass
class _Retried:
    letters: list[Letter] = field(default_factory=list[Letter])
    """Those that are meant."""
    succeeded: list[Letter] = field(default_factory=list[Letter])
    failed: list[tuple[Letter, str]] = field(default_factory=list[tuple[Letter, str]])
    """Each with the reason."""

    def __str__(self) -> str:
        done = len(self.succeeded) + len(self.failed)
        left = f", {len(self.letters) - done:,} not tried" if done < len(self.letters) else ""
        return f"{counted(len(self.succeeded), 'command')} succeeded, {len(self.failed):,} failed again{left}"

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "succeeded": [letter.command_id for letter in self.succeeded],
            "failed": [
                {"command_id": letter.command_id, "command_type": letter.command_type, "error": error}
                for letter, error in self.failed
            ],
            "not_tried": [letter.command_id for letter in self.letters[len(self.succeeded) + len(self.failed) :]],
        }


def run_dlq_retry(spec: str, choice: LetterChoice, *, dry_run: bool, as_json: bool) -> int:
    """Execute the commands of dead letters again, and print what came of it; return the exit code.

    Args:
        spec: `module:bus`.
        choice: which letters.
        dry_run: only list them.
        as_json: print one JSON object.

    Raises:
        ConfigurationError: there is no such bus, or it keeps no dead letters.
        LLMgineError: an id stands for no letter, or for several.
    """
    retried = _Retried()
    try:
        with redirect_stdout(sys.stderr):  # what the application prints is no part of the answer
            work = _retry(find_bus("dlq retry", spec), spec, choice, retried, dry_run=dry_run)
            code = asyncio.run(until_stopped(work))
    finally:  # also where it was interrupted: how far it came
        if dry_run:
            print_letters(retried.letters, as_json=as_json)
        elif as_json:
            print_json(retried.as_data())
        elif retried.letters:
            print(retried)  # noqa: T201
    if dry_run:
        notice(f"{counted(len(retried.letters), 'dead letter')} would be retried")
    elif not retried.letters:
        notice("there are no dead letters")
    return code


async def _retry(
    making: Coroutine[Any, Any, MessageBus], spec: str, choice: LetterChoice, retried: _Retried, *, dry_run: bool
) -> int:
    bus = await making
    letters = bus.dead_letters
    if letters is None:
        msg = (
            f"dlq retry {spec}: its bus keeps no dead letters. Give it a policy that does: "
            "MessageBus(policy=Policy(dead_letters=True)), or a ResilientMessageBus()."
        )
        raise ConfigurationError(msg)
    if bus._is_application and bus._kept.database is None:
        check_there()
    try:
        retried.letters = choice.of([Letter.of_entry(entry) for entry in await letters.entries()])
        if dry_run or not retried.letters:
            return ExitCode.OK
        await bus.start()
        with Counted("dead letters", len(retried.letters)) as progress, progress.among_others():
            for letter in retried.letters:
                problem = await _execute(letter, letters, bus)
                if problem is None:
                    retried.succeeded.append(letter)
                else:
                    retried.failed.append((letter, problem))
                    warn(f"{letter.command_type} {letter.command_id}: {one_line(problem)}")
                progress.advance()
    finally:
        await bus.stop()
    return ExitCode.FAILURE if retried.failed else ExitCode.OK


async def _execute(letter: Letter, letters: DeadLetters, bus: MessageBus) -> str | None:
    """Execute the command of a letter again. Return what is wrong, or None if it succeeded.

    Raises:
        StoreError: the database cannot be reached.
    """
    if lossy := letter.metadata.get("lossy"):
        missing = ", ".join(lossy) if isinstance(lossy, list) else lossy
        return f"it could not be stored whole: {missing} is missing; give it a value with llmgine dlq edit"
    try:
        result = await letters.retry(letter.command_id, bus.execute)
    except BusError as error:
        return str(error)
    if result is None:
        return "it is not there any more; somebody has retried or discarded it"
    return None if result.success else result.error or "no reason given"
