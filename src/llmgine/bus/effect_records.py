"""What is kept of a prompt while it is answered, so that another process can go on with it, and the port to where.

What may be done twice is decided by whoever runs the tools. Here it is only known what may have been done: before a
tool runs that is written down, and what came of it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmgine.errors import ResourceConflictError
from llmgine.messages import SessionID

__all__ = ["Answer", "EffectLedger", "EffectRecord", "OpenRun", "Outcome", "TurnRecord", "of_another_session"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a tool call."""

    content: str = field(metadata={"content": True})
    """What the model reads of it."""
    succeeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRecord:
    """A tool call that may have run."""

    key: str
    """The same in whatever process the call is made."""
    run_id: str
    step: int
    tool: str
    arguments: str = field(metadata={"content": True})
    """As one JSON text, in which equal arguments look the same."""
    effect: str
    """As the tool declared it then: `"read"`, `"idempotent"` or `"unsafe"`."""
    outcome: Outcome | None = None
    """None if it is not known: it may be running, may have been killed, or never have begun."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """What the model asked for in one step of a run."""

    step: int
    message: dict[str, Any] = field(metadata={"content": True})
    """The model's message with its calls, as the conversation stores it."""
    keys: tuple[str, ...]
    """Of the effects of its calls, in their order; empty where a call could not be run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A prompt whose answer has not come."""

    run_id: str
    session_id: SessionID
    prompt: dict[str, Any] = field(metadata={"content": True})
    """As the conversation stores it."""
    turn: TurnRecord | None
    """The last one in which the model asked for tools; None if there was none."""
    effects: Mapping[str, EffectRecord]
    """Those of that turn that may have run, by their keys."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run has ended with."""

    text: str = field(metadata={"content": True})


class EffectLedger(Protocol):
    """Keeps runs and their effects. What a method has returned from is on disk, where there is one.

    What cannot be reached raises `StoreError`; nothing is half done then.
    """

    async def begin_run(self, run_id: str, session_id: SessionID, prompt: Mapping[str, Any]) -> OpenRun | Answer | None:
        """Keep a new run, in the place of one that is open in this session; or return what is known of it.

        A run that has ended without an answer begins anew. What its tools may have done stays known.

        Returns:
            None if the run begins; how far it had come, if it has not ended; its answer, if there was one. In the last
            two cases nothing is changed.

        Raises:
            ResourceConflictError: it belongs to another session.
        """
        ...

    async def begin_turn(self, run_id: str, turn: TurnRecord) -> bool:
        """Keep what the model asked for, before any of it runs. Return False if this step was kept before."""
        ...

    async def intend(self, record: EffectRecord) -> bool:
        """Write down that a call is about to run. Of all who do this, in whatever process, one is told True."""
        ...

    async def finish(self, key: str, outcome: Outcome) -> None:
        """Write down what came of a call."""
        ...

    async def outcome(self, key: str) -> Outcome | None:
        """Return what came of a call; None if that is not known."""
        ...

    async def open_run(self, session_id: SessionID) -> OpenRun | None:
        """Return the run of a session that has not ended; None if there is none."""
        ...

    async def end_run(self, run_id: str, answer: str | None = None) -> None:
        """Write down that a run needs nobody to go on with it. What it did stays known for a while.

        Args:
            run_id: of the run; nothing is changed if it has ended.
            answer: what it has ended with, if it was answered.
        """
        ...


def of_another_session(run_id: str) -> ResourceConflictError:
    """Return the error of a run that is begun in a session, and was in another one before."""
    msg = f"The prompt {run_id!r} was given in another session. Give each prompt an id of its own, or none."
    return ResourceConflictError(msg, resource_id=run_id)
