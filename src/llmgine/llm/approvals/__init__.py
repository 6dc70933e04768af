"""Approval of tool calls: a durable record for each request, bound to the exact call, used once, in time."""

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState, ApprovalStore
from llmgine.llm.approvals.approvals import Approvals
from llmgine.llm.approvals.memory import MemoryApprovalStore
from llmgine.llm.approvals.messages import (
    DecideApprovalCommand,
    ToolApprovalAnswerEvent,
    ToolApprovalCommand,
    ToolApprovalEndedEvent,
    ToolApprovalEvent,
    ToolApprovalRequestedEvent,
)
from llmgine.llm.approvals.requirement import needs_approval

__all__ = [
    "ApprovalRecord",
    "ApprovalState",
    "ApprovalStore",
    "Approvals",
    "DecideApprovalCommand",
    "MemoryApprovalStore",
    "ToolApprovalAnswerEvent",
    "ToolApprovalCommand",
    "ToolApprovalEndedEvent",
    "ToolApprovalEvent",
    "ToolApprovalRequestedEvent",
    "needs_approval",
]
