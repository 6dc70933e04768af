"""What is said about approvals of tool calls on the bus. Fields marked `content` hold what a model wants to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState
from llmgine.messages import ApprovalCommand, Command, Event

__all__ = [
    "DecideApprovalCommand",
    "ToolApprovalAnswerEvent",
    "ToolApprovalCommand",
    "ToolApprovalEndedEvent",
    "ToolApprovalEvent",
    "ToolApprovalRequestedEvent",
]


@dataclass(kw_only=True)
class ToolApprovalCommand(ApprovalCommand):
    """Somebody is to decide about a tool call now.

    Executed only where the application handles it, or `ApprovalCommand`. A handler that returns an `ApprovalResult`
    that is pending leaves the decision to others.
    """

    approval_id: str = ""
    tool_name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any], metadata={"content": True})
    note: str = ""
    url: str = field(default="", metadata={"content": True})
    """A page that whoever approves has to visit; from outside, so show all of it, and do not open it by yourself."""
    answer_schema: dict[str, Any] | None = field(default=None, metadata={"content": True})
    """JSON schema of what the `result` of an approval has to be; None where it says no more than yes."""

    @classmethod
    def of(cls, record: ApprovalRecord) -> Self:
        """Return the command that asks about a request."""
        return cls(
            approver=record.approver,
            expires_at=record.expires_at,
            approval_id=record.id,
            tool_name=record.tool,
            arguments=record.arguments,
            note=record.note,
            url=record.url,
            answer_schema=record.answer_schema,
            session_id=record.session_id,
        )


@dataclass
class DecideApprovalCommand(Command[None]):
    """Answer a request for approval.

    Fails if it was answered before, if it has ended, and if it is too late; also if an approval does not say what it
    has to, which leaves the request open.
    """

    approval_id: str
    approve: bool
    reason: str = field(default="", metadata={"content": True})
    """The model is told."""
    decided_by: str = ""
    answer: dict[str, Any] | None = field(default=None, metadata={"content": True})
    """What an approval says, by the name of the field, where something is asked for. Default: its defaults."""


@dataclass
class ToolApprovalEvent(Event):
    """Something happened to a request for approval of a tool call."""

    approval_id: str = ""
    tool_name: str = ""


@dataclass
class ToolApprovalRequestedEvent(ToolApprovalEvent):
    """A tool call waits for somebody's approval. The request has been kept."""

    arguments: dict[str, Any] = field(default_factory=dict[str, Any], metadata={"content": True})
    approver: str | None = None
    """Who is to decide; None for anybody."""
    expires_at: datetime | None = None
    run_id: str = ""
    note: str = ""
    url: str = field(default="", metadata={"content": True})
    """A page that whoever approves has to visit; from outside, so show all of it, and do not open it by yourself."""
    answer_schema: dict[str, Any] | None = field(default=None, metadata={"content": True})
    """JSON schema of what an approval has to say; None where it says no more than yes."""

    @classmethod
    def of(cls, record: ApprovalRecord) -> Self:
        """Return the event that tells of a request."""
        return cls(
            approval_id=record.id,
            tool_name=record.tool,
            arguments=record.arguments,
            approver=record.approver,
            expires_at=record.expires_at,
            run_id=record.run_id,
            note=record.note,
            url=record.url,
            answer_schema=record.answer_schema,
            session_id=record.session_id,
        )


@dataclass
class ToolApprovalEndedEvent(ToolApprovalEvent):
    """A request has been answered, or has ended without an answer."""

    outcome: ApprovalState = ApprovalState.EXPIRED
    """APPROVED, DENIED, EXPIRED or WITHDRAWN."""
    decided_by: str = ""
    reason: str = field(default="", metadata={"content": True})

    @classmethod
    def of(cls, record: ApprovalRecord) -> Self:
        """Return the event that tells what has become of a request."""
        return cls(
            approval_id=record.id,
            tool_name=record.tool,
            outcome=record.state,
            decided_by=record.decided_by,
            reason=record.reason,
            session_id=record.session_id,
        )


@dataclass
class ToolApprovalAnswerEvent(Event):
    """Somebody answers a request: what `DecideApprovalCommand` does, for those who publish and do not execute.

    Of the bus's own session, unless it is published in a handler: events of a session wait for those before them.
    """

    approval_id: str = ""
    approve: bool = False
    reason: str = field(default="", metadata={"content": True})
    decided_by: str = ""
    answer: dict[str, Any] | None = field(default=None, metadata={"content": True})
