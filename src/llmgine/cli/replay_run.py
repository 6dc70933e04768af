"""`llmgine replay-run`: a recorded prompt through today's engine, without the network, up to the first difference."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from llmgine.cli.failure import ExitCode
from llmgine.cli.models import Model
from llmgine.cli.record import Outcome, open_chat
from llmgine.cli.signals import until_stopped
from llmgine.cli.stderr import printable
from llmgine.cli.tool_specs import tool_functions
from llmgine.errors import ConfigurationError
from llmgine.llm.providers import ModelChoice
from llmgine.llm.recording import ReplayMismatchError, ReplayProvider
from llmgine.llm.recording.difference import first_difference
from llmgine.llm.recording.file import PromptRun
from llmgine.llm.recording.normal import normal_data
from llmgine.observability.redact import redact

__all__ = ["run_replay_run"]


def run_replay_run(file: str, tools: tuple[str, ...], mcp: str | None, *, as_json: bool) -> int:
    """Run it again, say what has come of it, and return the exit code.

    Raises:
        ConfigurationError: the file is no recording of `llmgine record`.
    """
    replay = ReplayProvider(file, redact=redact)
    run = replay.recording.prompt
    if run is None:
        msg = f"{file} has no prompt in it: it was not made by llmgine record. Replay it in the test that recorded it."
        raise ConfigurationError(msg)
    return asyncio.run(until_stopped(_replay(replay, run, tools, mcp, as_json=as_json)))


async def _replay(
    replay: ReplayProvider, run: PromptRun, tools: tuple[str, ...], mcp: str | None, *, as_json: bool
) -> int:
    outcome = Outcome()
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # what modules print when they are imported is no part of the answer
        functions = tool_functions(tools, builtin=run.builtin_tools)
        async with open_chat(functions, run.system, mcp) as chat:
            chat.tools = replay.tools(chat.tools)
            await chat.use(Model(replay, ModelChoice(f"{replay.name}:{replay.model}", "as recorded")))
            result = await chat.ask(run.prompt, outcome.look_at)
    if (result.error or "").startswith("CancelledError"):
        return ExitCode.INTERRUPTED
    difference = _difference(replay, run, outcome)
    if as_json:
        out.write(json.dumps(_told(replay, run, outcome, difference)) + "\n")
    elif difference is not None:
        out.write(printable(str(difference)) + "\n")
    else:
        answer = outcome.answer if outcome.answer is not None else f"failed, as recorded: {outcome.error}"
        text = printable(answer) if out.isatty() else answer
        out.write(text.rstrip("\n") + "\nno difference\n")
    return ExitCode.OK if difference is None else ExitCode.FAILURE


def _difference(replay: ReplayProvider, run: PromptRun, outcome: Outcome) -> ReplayMismatchError | None:
    """Return the first difference of the run, or that of what came of it."""
    try:
        replay.assert_complete()
    except ReplayMismatchError as error:
        return error
    recorded = normal_data({"answer": run.answer, "error": run.error})
    now = normal_data(redact({"answer": outcome.answer, "error": outcome.error}))
    if found := first_difference(recorded, now):
        return replay.differs("the end of the run", "was something else", None, found)
    return None


def _told(
    replay: ReplayProvider, run: PromptRun, outcome: Outcome, difference: ReplayMismatchError | None
) -> dict[str, Any]:
    found = None
    if difference is not None:
        found = {
            "where": difference.where,
            "recorded": difference.recorded,
            "now": difference.now,
            "text": str(difference),
        }
    return {
        "file": str(replay.recording.path),
        "model": f"{replay.name}:{replay.model}",
        "prompt": run.prompt,
        "requests": replay.requests,
        "answer": outcome.answer,
        "error": outcome.error,
        "difference": found,
    }
