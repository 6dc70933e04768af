"""A question of a server's, put to a person by way of the approvals."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState
from llmgine.llm.approvals import Approvals
from llmgine.llm.tools.effects import call_digest
from llmgine.llm.tools.tool_context import ToolContext

__all__ = ["MAX_OPEN", "ServerQuestion"]

MAX_OPEN = 16
"""Questions of one server, to people or to the model, that may wait for an answer at the same time."""


@dataclass(frozen=True, kw_only=True)
class ServerQuestion:
    """What a server wants to know, or to be allowed."""

    server: str
    kind: str
    """What MCP calls it: "elicitation", "sampling"."""
    arguments: Mapping[str, Any]
    """What whoever decides is shown."""
    content: Any = None
    """What is decided about, where not all of it is shown."""
    note: str = ""
    url: str = ""
    answer_schema: Mapping[str, Any] | None = None

    async def put(self, approvals: Approvals, context: ToolContext) -> ApprovalRecord | None:
        """Ask, and return what has become of it; None if there is no time for it. An approval is used.

        Put again after a restart, in the same call, it is the same request. The time that it takes is the prompt's and
        not the tool's.

        Raises:
            ApprovalError: somebody else has withdrawn the request, or used the approval.
            StoreError: it could not be kept, or what has become of it is not known.
        """
        # A slash is in no name of a tool: what a server asks is never taken for a call, nor the other way round.
        what = f"{self.server}/{self.kind}"
        digest = call_digest(
            what, {"shown": self.arguments, "content": self.content, "url": self.url, "schema": self.answer_schema}
        )
        with context.waiting_for_person() as deadline:
            expires_in = approvals.expires_in
            if deadline is not None:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return None
                expires_in = left if expires_in is None else min(left, expires_in)
            record = await approvals.ask(
                what,
                self.arguments,
                session_id=context.session_id,
                run_id=context.run_id,
                call_key=f"{context.idempotency_key}/{digest}" if context.idempotency_key else "",
                expires_in=expires_in,
                note=f"During a call of {context.tool_name}. {self.note}" if context.tool_name else self.note,
                digest=digest,
                url=self.url,
                answer_schema=self.answer_schema,
            )
            if record.state is ApprovalState.APPROVED:
                return await approvals.store.consume(record.id, digest)
            return record
