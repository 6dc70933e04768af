"""What a bus adds to a request for approval: everybody is told that it was made, and how it was decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmgine.bus.interfaces import CommandHandler
from llmgine.messages import Command, Event
from llmgine.messages.approvals import (
    ApprovalAcceptedEvent,
    ApprovalCommand,
    ApprovalDeniedEvent,
    ApprovalExpiredEvent,
    ApprovalRequestEvent,
    ApprovalResult,
    ApprovalStatus,
    execute_approval_command,
)

__all__ = ["approving"]

_EVENTS = {
    ApprovalStatus.APPROVED: ApprovalAcceptedEvent,
    ApprovalStatus.DENIED: ApprovalDeniedEvent,
    ApprovalStatus.EXPIRED: ApprovalExpiredEvent,
}


def approving(handler: CommandHandler, announce: Callable[[Event, Command[Any]], object]) -> CommandHandler:
    """Return a handler that has `handler` decide, and announces the request, the decision and the callback."""

    async def ask(command: ApprovalCommand) -> ApprovalResult:
        session = command.session_id
        announce(ApprovalRequestEvent(approval_command=command, session_id=session), command)
        result = await execute_approval_command(command, handler)
        kind = _EVENTS.get(result.approval_status)
        if kind is not None:
            announce(kind(approval_command=command, session_id=session), command)
        callback = command.callback(result.approval_status)
        if callback is not None:
            announce(callback, command)
        return result

    return ask
