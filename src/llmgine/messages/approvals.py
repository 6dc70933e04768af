"""Asking whoever decides whether something may be done. The answer is a result that says so."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, ClassVar

from llmgine.messages.commands import Command, CommandResult
from llmgine.messages.events import Event

__all__ = [
    "ApprovalAcceptedEvent",
    "ApprovalCommand",
    "ApprovalDeniedEvent",
    "ApprovalEvent",
    "ApprovalExpiredEvent",
    "ApprovalRequestEvent",
    "ApprovalResult",
    "ApprovalStatus",
    "execute_approval_command",
]


class ApprovalStatus(Enum):
    """What has become of a request."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


@dataclass
class ApprovalResult(CommandResult[Any]):
    """What came of a request. It is a success if it was approved."""

    approval_status: ApprovalStatus = ApprovalStatus.PENDING


@dataclass(kw_only=True)
class ApprovalCommand(Command[Any]):
    """A request for approval. Its handler decides, and may take its time.

    The handler returns an `ApprovalResult`, or True or False. What it raises denies.
    """

    _asks: ClassVar[bool] = True

    approver: str | None = None
    """Who is to decide."""
    expires_at: datetime | None = None
    """When it is too late; naive for local time."""
    on_approval_callback: Event | None = None
    """Published when it has been approved."""
    on_denial_callback: Event | None = None
    on_expiry_callback: Event | None = None

    def is_expired(self) -> bool:
        """Return whether it is too late."""
        return self.seconds_left() <= 0

    def seconds_left(self) -> float:
        """Return how much time there is to decide; infinitely much if it does not expire."""
        if self.expires_at is None:
            return math.inf
        return (self.expires_at.astimezone(UTC) - datetime.now(UTC)).total_seconds()

    def callback(self, status: ApprovalStatus) -> Event | None:
        """Return the event that is to be published, as it was decided."""
        callbacks = {
            ApprovalStatus.APPROVED: self.on_approval_callback,
            ApprovalStatus.DENIED: self.on_denial_callback,
            ApprovalStatus.EXPIRED: self.on_expiry_callback,
        }
        return callbacks.get(status)


@dataclass
class ApprovalEvent(Event):
    """Something happened to a request."""

    approval_command: ApprovalCommand | None = None


@dataclass
class ApprovalRequestEvent(ApprovalEvent):
    """Somebody is asked for approval."""


@dataclass
class ApprovalAcceptedEvent(ApprovalEvent):
    """A request was approved."""


@dataclass
class ApprovalDeniedEvent(ApprovalEvent):
    """A request was denied."""


@dataclass
class ApprovalExpiredEvent(ApprovalEvent):
    """Nobody decided in time."""


async def execute_approval_command(command: ApprovalCommand, handler: Callable[[Any], Any]) -> ApprovalResult:
    """Have a handler decide, in the caller's task, and cancel it when the request expires."""
    left = command.seconds_left()
    limit = asyncio.timeout(None if left == math.inf else left)
    try:
        if left <= 0:
            return _expired(command)
        async with limit:
            outcome = handler(command)
            if hasattr(type(outcome), "__await__"):
                outcome = await outcome
    except Exception as error:  # noqa: BLE001  # whatever a handler raises, it has not approved
        if isinstance(error, TimeoutError) and limit.expired():
            return _expired(command)
        result = ApprovalResult(
            success=False, error=f"{type(error).__name__}: {error}", approval_status=ApprovalStatus.DENIED
        )
        result._exception = error
        return _of(result, command)
    return _of(_decided(outcome), command)


def _decided(outcome: object) -> ApprovalResult:
    if isinstance(outcome, ApprovalResult):
        return outcome
    approved = outcome.success if isinstance(outcome, CommandResult) else outcome is True
    status = ApprovalStatus.APPROVED if approved else ApprovalStatus.DENIED
    if isinstance(outcome, CommandResult):
        return ApprovalResult(approved, outcome.result, outcome.error, approval_status=status)
    return ApprovalResult(approved, error=None if approved else "Approval request denied", approval_status=status)


def _expired(command: ApprovalCommand) -> ApprovalResult:
    result = ApprovalResult(success=False, error="Approval request expired", approval_status=ApprovalStatus.EXPIRED)
    return _of(result, command)


def _of(result: ApprovalResult, command: ApprovalCommand) -> ApprovalResult:
    CommandResult.of(result, command)
    return result
