"""Requests for approval: decided by their handler, in time or not, and everybody is told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmgine.bus import HandlerMiddleware, MessageBus, ResilientMessageBus
from llmgine.messages import ApprovalCommand, ApprovalResult, Command, CommandResult, Event
from llmgine.messages.approvals import (
    ApprovalAcceptedEvent,
    ApprovalDeniedEvent,
    ApprovalEvent,
    ApprovalExpiredEvent,
    ApprovalRequestEvent,
    ApprovalStatus,
    execute_approval_command,
)


@dataclass
class DeleteApproval(ApprovalCommand):
    path: str


@dataclass
class Decided(Event):
    how: str


def request(**options: Any) -> DeleteApproval:
    callbacks = {f"on_{how}_callback": Decided(how) for how in ("approval", "denial", "expiry")}
    return DeleteApproval("/etc/passwd", approver="ada", **{**callbacks, **options})


def approve(command: ApprovalCommand) -> ApprovalResult:
    return ApprovalResult(success=True, approval_status=ApprovalStatus.APPROVED)


def deny(command: ApprovalCommand) -> ApprovalResult:
    return ApprovalResult(success=False, error="no", approval_status=ApprovalStatus.DENIED)


async def fail(command: ApprovalCommand) -> ApprovalResult:
    msg = "who asks?"
    raise PermissionError(msg)


async def never(command: ApprovalCommand) -> ApprovalResult:
    await asyncio.Event().wait()
    raise AssertionError


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=0.02)


CASES: dict[str, tuple[Callable[[Any], Any], dict[str, Any], ApprovalStatus, str | None, type[Event], str]] = {
    "approved": (approve, {}, ApprovalStatus.APPROVED, None, ApprovalAcceptedEvent, "approval"),
    "denied": (deny, {}, ApprovalStatus.DENIED, "no", ApprovalDeniedEvent, "denial"),
    "failed": (fail, {}, ApprovalStatus.DENIED, "PermissionError: who asks?", ApprovalDeniedEvent, "denial"),
    "yes": (lambda _: True, {}, ApprovalStatus.APPROVED, None, ApprovalAcceptedEvent, "approval"),
    "no": (lambda _: False, {}, ApprovalStatus.DENIED, "Approval request denied", ApprovalDeniedEvent, "denial"),
    "expired": (
        never,
        {"expires_at": None},
        ApprovalStatus.EXPIRED,
        "Approval request expired",
        ApprovalExpiredEvent,
        "expiry",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_request_is_decided_and_everybody_is_told_once(bus: MessageBus, case: str) -> None:
    handler, options, status, error, event, callback = CASES[case]
    seen: list[Event] = []
    bus.register_command_handler(DeleteApproval, handler)
    bus.register_event_handler(ApprovalEvent, seen.append)
    bus.register_event_handler(Decided, seen.append)
    command = request(**{name: soon() for name in options})
    result = await bus.execute(command)
    await bus.wait_for_events()

    assert isinstance(result, ApprovalResult)
    assert (result.approval_status, result.error) == (status, error)
    assert result.success is (status is ApprovalStatus.APPROVED)
    assert result.command_id == command.command_id
    assert [type(each) for each in seen] == [ApprovalRequestEvent, event, Decided]
    assert isinstance(seen[2], Decided)
    assert seen[2].how == callback
    assert isinstance(seen[0], ApprovalRequestEvent)
    assert seen[0].approval_command is command


async def test_one_that_has_expired_already_is_not_decided(bus: MessageBus) -> None:
    asked: list[Command[Any]] = []
    bus.register_command_handler(DeleteApproval, asked.append)
    command = request(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    result = await bus.execute(command)

    assert command.is_expired()
    assert result.error == "Approval request expired"
    assert asked == []


async def test_the_handler_of_an_expired_request_is_cancelled(bus: MessageBus) -> None:
    cancelled = asyncio.Event()

    async def wait(command: ApprovalCommand) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    bus.register_command_handler(DeleteApproval, wait)
    await bus.execute(request(expires_at=soon()))

    assert cancelled.is_set()


async def test_a_timeout_inside_of_the_handler_is_no_expiry() -> None:
    def time_out(command: ApprovalCommand) -> None:
        raise TimeoutError

    result = await execute_approval_command(request(), time_out)

    assert result.approval_status is ApprovalStatus.DENIED


async def test_middleware_sees_requests_like_every_other_command(bus: MessageBus) -> None:
    seen: list[str] = []

    class Note(HandlerMiddleware):
        async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> CommandResult[Any]:
            seen.append(type(command).__name__)
            result: CommandResult[Any] = await next_middleware(command, handler)
            return result

    bus.add_command_middleware(Note())
    bus.register_command_handler(DeleteApproval, approve)
    result = await bus.execute(request())

    assert seen == ["DeleteApproval"]
    assert isinstance(result, ApprovalResult)


async def test_nobody_is_asked_twice_because_the_answer_was_no() -> None:
    bus, asked = ResilientMessageBus.isolated(), list[Command[Any]]()

    def refuse(command: ApprovalCommand) -> bool:
        asked.append(command)
        return False

    bus.register_command_handler(DeleteApproval, refuse)
    result = await bus.execute(request())

    assert isinstance(result, ApprovalResult)
    assert len(asked) == 1
    assert bus.dead_letter_queue_size == 0
