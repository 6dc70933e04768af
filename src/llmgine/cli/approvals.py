"""`llmgine approvals`: the requests for approval of tool calls in a database, without what looks like a secret."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState
from llmgine.cli.approval_answer import answer_of, described, user_name, visible
from llmgine.cli.database import in_database, match_ids
from llmgine.cli.failure import ExitCode
from llmgine.cli.listing import Column, iso, local, print_json, print_list, shortest_ids, until
from llmgine.cli.log_text import one_line
from llmgine.cli.stderr import notice
from llmgine.database.stores import Database
from llmgine.messages import SessionID
from llmgine.observability.redact import redact

__all__ = ["run_approvals_decide", "run_approvals_list", "run_approvals_show"]

_STYLES = {ApprovalState.PENDING: "yellow", ApprovalState.APPROVED: "green", ApprovalState.UNREADABLE: "red"}


def run_approvals_list(*, session: str | None, every: bool, as_json: bool) -> int:
    """List requests, the oldest first; return the exit code.

    Raises:
        ConfigurationError: there is no such database.
        StoreError: it cannot be reached.
    """
    scope = None if session is None else SessionID(session)
    records = in_database(
        lambda database: database.approvals.list(scope) if every else database.approvals.pending(scope)
    )
    if not records:
        notice("no request matches" if every or session else "nothing waits for approval")
    _print([_clean(record) for record in records], as_json=as_json)
    return ExitCode.OK


def run_approvals_show(identity: str, *, as_json: bool) -> int:
    """Print everything that is known of a request; return the exit code.

    Raises:
        ConfigurationError: there is no such database.
        LLMgineError: there is no such request, or there are several.
    """
    record = _clean(_find(identity))
    if as_json:
        print_json(_as_data(record))
        return ExitCode.OK
    console = Console(highlight=False)
    for line in _page(record):
        console.print(line, soft_wrap=True)
    return ExitCode.OK


def run_approvals_decide(
    identity: str, *, approve: bool, reason: str, as_json: bool, settings: Sequence[str] = ()
) -> int:
    """Answer a request; return the exit code.

    Args:
        identity: what its id begins with.
        approve: yes or no.
        reason: why, or why not.
        as_json: whether to print what has become of it as JSON.
        settings: what an approval says, each NAME=VALUE; without any, whoever is at a terminal is asked for it.

    Raises:
        ApprovalAnswerError: what is said does not fit what is asked for.
        ApprovalError: it was answered before, has ended, or has expired.
        ConfigurationError: there is no such database, or it is not asked for what is set.
        LLMgineError: there is no such request, or there are several.
    """
    chosen = _find(identity)
    answer: dict[str, Any] | None = None
    if approve and chosen.state is ApprovalState.PENDING:
        _introduce(_clean(chosen))
        answer = answer_of(chosen.form, settings)
    decide = partial(_decide, chosen.id, approve=approve, decided_by=user_name(), reason=reason, answer=answer)
    record = _clean(in_database(decide))
    if as_json:
        print_json(_as_data(record))
    else:
        said = "" if record.answer is None else f" with {_said(record.answer)}"
        print(f"{record.state}: {one_line(record.tool)} {_said(record.arguments)}{said}")  # noqa: T201
    return ExitCode.OK


async def _decide(name: str, database: Database, **decision: Any) -> ApprovalRecord:
    return await database.approvals.decide(name, **decision)


def _introduce(record: ApprovalRecord) -> None:
    """Say, to whoever is at a terminal and has to do more than agree, what it is about."""
    if record.answer_schema is not None or record.url:
        for line in filter(None, [f"{record.tool} {_said(record.arguments)}", record.note, record.url]):
            notice(one_line(line))


def _find(identity: str) -> ApprovalRecord:
    """Return the request that is meant: of those that begin so, one that waits before those that do not."""
    records = in_database(lambda database: database.approvals.list())
    waiting = [record for record in records if record.state is ApprovalState.PENDING]
    known = waiting if any(record.id.startswith(identity) for record in waiting) else records
    by_id = {record.id: record for record in known}
    return by_id[match_ids([identity], by_id, "request for approval")[0]]


def _clean(record: ApprovalRecord) -> ApprovalRecord:
    """Return a request without what looks like a secret."""
    note, reason = redact.text(record.note), redact.text(record.reason)
    return replace(record, arguments=redact(record.arguments), note=note, reason=reason, answer=redact(record.answer))


def _said(arguments: dict[str, Any], *, indent: int | None = None) -> str:
    """Return arguments as JSON, all of them, for people."""
    return visible(json.dumps(arguments, indent=indent, ensure_ascii=False))


def _as_data(record: ApprovalRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state.value,
        "tool": record.tool,
        "arguments": record.arguments,
        "session_id": record.session_id,
        "run_id": record.run_id,
        "approver": record.approver,
        "note": record.note,
        "url": record.url,
        "answer_schema": record.answer_schema,
        "digest": record.digest,
        "requested_at": iso(record.requested_at),
        "expires_at": record.expires_at and iso(record.expires_at),
        "decided_at": record.decided_at and iso(record.decided_at),
        "decided_by": record.decided_by,
        "reason": record.reason,
        "answer": record.answer,
        "used_at": record.used_at and iso(record.used_at),
    }


def _print(records: Sequence[ApprovalRecord], *, as_json: bool) -> None:
    now = datetime.now(UTC)
    short = shortest_ids(record.id for record in records)
    columns = [
        Column[ApprovalRecord](title="ID", plain=lambda each: each.id, shown=lambda each: short(each.id), style="dim"),
        Column[ApprovalRecord](title="TOOL", plain=lambda each: each.tool, style="bold"),
        Column[ApprovalRecord](title="SESSION", plain=lambda each: each.session_id, style="cyan"),
        Column[ApprovalRecord](
            title="ASKED", plain=lambda each: iso(each.requested_at), shown=lambda each: local(each.requested_at)
        ),
        Column[ApprovalRecord](
            title="EXPIRES",
            plain=lambda each: each.expires_at and iso(each.expires_at),
            shown=lambda each: until(each.expires_at, now) if each.expires_at else "never",
        ),
        Column[ApprovalRecord](
            title="STATE",
            plain=lambda each: each.state.value,
            shown=lambda each: Text(each.state.value, _STYLES.get(each.state, "")),
        ),
        Column[ApprovalRecord](
            title="ARGUMENTS",
            plain=lambda each: _said(each.arguments),
            gives_way=True,
        ),
    ]
    print_list(records, columns, _as_data, as_json=as_json)


def _page(record: ApprovalRecord) -> list[Text]:
    decided = record.decided_at and f"{local(record.decided_at)} by {record.decided_by or 'somebody'}"
    facts = {
        "state": record.state.value,
        "session": record.session_id,
        "run": record.run_id,
        "asked": local(record.requested_at),
        "expires": "never" if record.expires_at is None else local(record.expires_at),
        "approver": record.approver or "anybody",
        "note": record.note,
        "visit": record.url,
        "answered": decided,
        "reason": record.reason,
        "said": "" if record.answer is None else _said(record.answer),
        "used": record.used_at and local(record.used_at),
        "digest": record.digest,
    }
    lines = [Text.assemble((one_line(record.tool), "bold cyan"), f" {one_line(record.id)}")]
    for name, value in facts.items():
        if value:
            style = _STYLES.get(record.state, "") if name == "state" else "yellow" if name == "note" else ""
            lines.append(Text.assemble((f"{name:8}  ", "dim"), (one_line(value), style)))
    if record.form is not None and record.form.fields:
        lines.append(Text("\nasked for", "dim"))
        lines += [Text.assemble((visible(each.name), "bold"), "  ", described(each)) for each in record.form.fields]
    return [*lines, Text("\narguments", "dim"), Text(_said(record.arguments, indent=2))]
