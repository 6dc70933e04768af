"""Whether a tool call has to be approved, and what the model is told if it was not."""

from __future__ import annotations

import logging
from typing import Any

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState
from llmgine.llm.tools.effects import call_digest
from llmgine.llm.tools.prepared_call import PreparedCall

__all__ = ["current_digest", "needs_approval", "refusal"]

_log = logging.getLogger("llmgine.approvals")


def needs_approval(prepared: PreparedCall) -> bool:
    """Return whether a tool's `requires_approval` asks for this call, be it True or a function of the arguments.

    Only False lets a call through; a function that raises, or returns anything else, does not.
    """
    required: Any = prepared.tool.requires_approval
    if callable(required):
        try:
            required = required(prepared.arguments)
        except Exception:  # noqa: BLE001  # it is the application's, and whatever it raises, it has not said no
            _log.exception("requires_approval of tool %s has failed; the call needs approval", prepared.tool.name)
            return True
    return required is not False


def current_digest(prepared: PreparedCall) -> str:
    """Return the digest of a call as it is now, whatever has happened to its arguments since it was prepared.

    Raises:
        TypeError: the arguments have no value that could be compared.
    """
    try:
        return call_digest(prepared.tool.name, prepared.arguments)
    except TypeError:  # objects of the application's that have no value: what made them has
        return call_digest(prepared.tool.name, prepared.sent)


def refusal(record: ApprovalRecord) -> str:
    """Return what a model is told of a call that was not approved."""
    if record.state is ApprovalState.DENIED:
        return f"Error: the call of {record.tool} was denied" + (f": {record.reason}" if record.reason else ".")
    return f"Error: the call of {record.tool} was not run: nobody has approved it in time."
