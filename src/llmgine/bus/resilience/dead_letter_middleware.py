"""Commands that fail become dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmgine.bus.interfaces import CommandHandler, HandlerMiddleware
from llmgine.bus.resilience.dead_letters import DeadLetters
from llmgine.bus.resilience.outcomes import NextForCommand, attempt, attempts_made, failed, noted
from llmgine.bus.resilience.rules import Action, Rule, action_for, check_rules, discarded
from llmgine.messages import Command, CommandResult

__all__ = ["DeadLetterMiddleware"]


class DeadLetterMiddleware(HandlerMiddleware):
    """Keeps commands that failed in all their attempts; it belongs around the layer that makes these.

    The letter is on disk before the failure is reported. The result then says so: `"Command failed after 3 attempts:
    ValueError: text"`, with the metadata "attempts", "last_error" and "dead_letter": True. If it is False,
    "dead_letter_error" says why. No letters are a command that a circuit breaker refused at once, and one that its rule
    gives up on. Events are not kept.
    """

    def __init__(self, letters: DeadLetters, *, rules: Sequence[Rule] = ()) -> None:
        """Take what keeps the letters, and the rules, which are best those of the layer that tries again.

        Raises:
            ConfigurationError: `rules` holds something else.
        """
        self._letters = letters
        self._rules = check_rules(rules)

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        began = self._letters.clock()
        result = await attempt(command, handler, next_middleware)
        if not failed(result):
            return result
        action = action_for(result, self._rules)
        if action is Action.DISCARD:
            return discarded(result, command)
        attempts = attempts_made(result, command)
        if action is Action.GIVE_UP or not attempts:
            return result
        entry, problem = await self._letters.record(command, result, attempts, began)
        result = noted(result, attempts=entry.attempts, last_error=entry.error, dead_letter=problem is None)
        if problem is not None:
            result.metadata["dead_letter_error"] = problem
        result.error = f"Command failed after {entry.attempts} attempts: {entry.error}"
        return result
