"""Asking whether a tool call may run, and waiting for the answer, from wherever it comes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from llmgine.bus import MessageBus
from llmgine.bus.answer_schema import form_of
from llmgine.bus.approval_records import ApprovalRecord, ApprovalState, ApprovalStore
from llmgine.bus.clocks import utc_now
from llmgine.bus.options import check_number
from llmgine.errors import ApprovalAnswerError, ApprovalError, ConfigurationError, LLMgineError, StoreError
from llmgine.llm.approvals.memory import MemoryApprovalStore
from llmgine.llm.approvals.messages import (
    DecideApprovalCommand,
    ToolApprovalAnswerEvent,
    ToolApprovalCommand,
    ToolApprovalEndedEvent,
    ToolApprovalRequestedEvent,
)
from llmgine.llm.approvals.requirement import current_digest, refusal
from llmgine.llm.tools.effects import call_digest
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import as_data
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.messages import ApprovalResult, SessionID, new_id
from llmgine.messages.approvals import ApprovalStatus
from llmgine.messages.ids import BUS

__all__ = ["Approvals"]

_log = logging.getLogger("llmgine.approvals")
_ANSWERED = frozenset({ApprovalState.APPROVED, ApprovalState.DENIED})
_EXPECTED = "a number of seconds above 0, or None"


class Approvals:
    """Requests for approval of tool calls on a bus, of which there is one.

    A request is answered by a `DecideApprovalCommand`, by a `ToolApprovalAnswerEvent`, by the application's handler of
    `ToolApprovalCommand`, or by another process that uses the same store, such as `llmgine approvals`. The first answer
    counts. One that is given in this process is heard at once. For those of other processes the store is looked at
    every `look_every` seconds, while somebody waits and at no other time.

    A wait that is cancelled withdraws its request; after `close` it does not.
    """

    def __init__(
        self,
        bus: MessageBus,
        store: ApprovalStore | None = None,
        *,
        expires_in: float | None = 86_400.0,
        look_every: float = 2.0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Register who hears the answers.

        Args:
            bus: where requests and their ends are told, and answers are heard.
            store: where they are kept; in memory by default.
            expires_in: seconds after which an answer, and the use of one, is too late; None for never.
            look_every: seconds between two looks at a store that other processes share.
            clock: tells the date.

        Raises:
            ConfigurationError: a number makes no sense.
            HandlerAlreadyRegisteredError: the bus has such already.
        """
        check_number("look_every", look_every, int | float, "a number of seconds, at least 0.01", least=0.01)
        _check_expiry(expires_in)
        self._bus = bus
        self._store = store if store is not None else MemoryApprovalStore(clock=clock)
        self._expires_in = expires_in
        self._look_every = look_every if self._store.shared else math.inf
        self._clock = clock
        self._waiting: dict[str, set[asyncio.Future[ApprovalRecord]]] = {}
        self._closed = False
        bus.register_command_handler(DecideApprovalCommand, self._on_command)
        bus.register_event_handler(ToolApprovalAnswerEvent, self._on_event)

    @property
    def expires_in(self) -> float | None:
        """Seconds after which an answer is too late, where the request says nothing else; None for never."""
        return self._expires_in

    @property
    def store(self) -> ApprovalStore:
        """Where the requests are kept."""
        return self._store

    def close(self) -> None:
        """Hear no more answers, and let requests whose waits are cancelled from now on stay pending.

        For a program that ends, and whose prompts are to be taken up again: to be called before these are cancelled.
        """
        if not self._closed:
            self._closed = True
            self._bus.unregister_command_handler(DecideApprovalCommand, self._on_command)
            self._bus.unregister_event_handler(ToolApprovalAnswerEvent, self._on_event)

    async def check(self, prepared: PreparedCall, context: ToolContext, *, note: str = "") -> str | None:
        """Ask about a call, and use the approval. To be called right before the call runs; whatever fails, refuses.

        Where the prompt is taken up again, with the same idempotency key, nobody is asked about what has been answered.

        Args:
            prepared: arguments that do not fit never get here.
            context: of the call, with its idempotency key.
            note: what whoever decides ought to know, such as that it may have run before.

        Returns:
            None if the call may run, once, now. Otherwise what the model is told.
        """
        try:
            record = await self.ask(
                prepared.tool.name,
                prepared.arguments,
                session_id=context.session_id,
                run_id=context.run_id,
                call_key=context.idempotency_key,
                digest=current_digest(prepared),
                note=note,
            )
            if record.state is not ApprovalState.APPROVED:
                return refusal(record)
            await self._store.consume(record.id, current_digest(prepared))  # what may have changed meanwhile
        except (ApprovalError, StoreError, TypeError) as error:
            _log.warning("Tool %s was not run: %s", prepared.tool.name, error)
            return f"Error: the call of {prepared.tool.name} was not run: it could not be approved ({error})"
        return None

    async def ask(
        self,
        tool_name: str,
        arguments: Mapping[str, Any],
        *,
        session_id: SessionID = BUS,
        run_id: str = "",
        call_key: str = "",
        approver: str | None = None,
        expires_in: float | None = None,
        note: str = "",
        digest: str | None = None,
        url: str = "",
        answer_schema: Mapping[str, Any] | None = None,
    ) -> ApprovalRecord:
        """Have somebody decide about a call, and wait for it. An approval still has to be used, by `store.consume`.

        Args:
            tool_name: of the tool.
            arguments: validated.
            session_id: of the prompt that asks.
            run_id: of the prompt that asks.
            call_key: what this very call has across restarts. A request with it that is pending is waited for again,
                and an answer to one that has not been used is returned.
            approver: who is to decide.
            expires_in: seconds; by default as with `Approvals`.
            note: what whoever decides ought to know.
            digest: as `call_digest` returns it, where that is known.
            url: a page that whoever approves has to visit.
            answer_schema: JSON schema of what an approval has to say, as `form_of` reads it, if more than yes.

        Returns:
            The request: approved, denied or expired.

        Raises:
            ApprovalError: the request is gone, or was withdrawn by somebody else.
            ConfigurationError: `expires_in` is no number of seconds, or the schema is not of the kind.
            StoreError: it could not be kept, or what has become of it is not known.
            TypeError: the arguments have no value that could be compared.
        """
        _check_expiry(expires_in)
        if answer_schema is not None:
            form_of(answer_schema)
        digest = digest or call_digest(tool_name, arguments)
        record = await self._store.latest(call_key) if call_key else None
        if record is not None and record.digest == digest:
            if record.state in _ANSWERED:
                return record
            if record.state is ApprovalState.PENDING:
                return await self._settle(record, is_new=False)
        seconds = self._expires_in if expires_in is None else expires_in
        now = self._clock()
        record = ApprovalRecord(
            id=new_id(),
            digest=digest,
            tool=tool_name,
            requested_at=now,
            arguments=as_data(dict(arguments)),
            session_id=session_id,
            run_id=run_id,
            call_key=call_key,
            approver=approver,
            note=note,
            expires_at=None if seconds is None else now + timedelta(seconds=seconds),
            url=url,
            answer_schema=None if answer_schema is None else dict(answer_schema),
        )
        return await self._settle(record, is_new=True)

    async def decide(
        self,
        approval_id: str,
        *,
        approve: bool,
        decided_by: str = "",
        reason: str = "",
        answer: Mapping[str, Any] | None = None,
    ) -> ApprovalRecord:
        """Answer a request, whether or not anybody here waits for it.

        Args:
            approval_id: of the request.
            approve: whether what is asked about may be.
            decided_by: who answers.
            reason: why, or why not.
            answer: what an approval says, where the request has an `answer_schema`. Default: that form's defaults.

        Raises:
            ApprovalAnswerError: the answer does not fit what is asked for; the request stays open.
            ApprovalError: there is no such request, it was answered or has ended, or it is too late.
            StoreError: that cannot be told.
        """
        is_told = approval_id in self._waiting  # by whoever waits
        record = await self._store.decide(
            approval_id, approve=approve, decided_by=decided_by, reason=reason, answer=answer
        )
        for answered in self._waiting.get(approval_id, ()):
            if not answered.done():
                answered.set_result(record)
        if not is_told:
            await self._tell_end(record, wait=False)
        return record

    async def pending(self, session_id: SessionID | None = None) -> list[ApprovalRecord]:
        """Return the requests that wait for an answer, the oldest first: of a session, or of all."""
        return await self._store.pending(session_id)

    async def decision_for(self, digest: str, session_id: SessionID) -> ApprovalRecord | None:
        """Return an approval in a session that has not been used, for whatever call has this digest; None without."""
        return await self._store.usable(digest, session_id)

    async def _on_command(self, command: DecideApprovalCommand) -> None:
        await self._take(command)

    async def _on_event(self, event: ToolApprovalAnswerEvent) -> None:
        await self._take(event)

    async def _take(self, said: DecideApprovalCommand | ToolApprovalAnswerEvent) -> None:
        await self.decide(
            said.approval_id,
            # Not `if said.approve`: whatever comes from outside and is not plainly True, is no approval.
            approve=said.approve is True,
            decided_by=said.decided_by,
            reason=said.reason,
            answer=said.answer,
        )

    async def _settle(self, record: ApprovalRecord, *, is_new: bool) -> ApprovalRecord:
        """Keep a request if it is new, wait for what becomes of it, and tell of that."""
        try:
            if is_new:
                await self._store.add(record)
            ended = await self._wait(record)
        except asyncio.CancelledError:
            if not self._closed and record.id not in self._waiting:
                await self._withdraw(record)
            raise
        await self._tell_end(ended, wait=True)
        if ended.state is ApprovalState.WITHDRAWN:
            msg = f"The request for approval {record.id} was withdrawn by somebody else who waited for it."
            raise ApprovalError(msg, approval_id=record.id)
        return ended

    async def _wait(self, record: ApprovalRecord) -> ApprovalRecord:
        """Wait for the answer, and see that everybody is asked who can give it."""
        answered: asyncio.Future[ApprovalRecord] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(record.id, set()).add(answered)
        helpers = [asyncio.create_task(_logged(self._tell_request, record))]
        if self._bus._registry.get_command_handler(ToolApprovalCommand, record.session_id) is not None:
            helpers.append(asyncio.create_task(_logged(self._consult, record)))
        try:
            return await self._answer(record, answered)
        finally:
            self._forget(record.id, answered)
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)

    async def _answer(self, record: ApprovalRecord, answered: asyncio.Future[ApprovalRecord]) -> ApprovalRecord:
        while True:
            left = math.inf
            if record.expires_at is not None:
                left = (record.expires_at - self._clock()).total_seconds()
            if left <= 0:
                return await self._store.end(record.id, ApprovalState.EXPIRED)
            timeout = min(left, self._look_every)
            await asyncio.wait([answered], timeout=None if timeout == math.inf else timeout)
            if answered.done():
                return answered.result()
            if self._store.shared:
                found = await self._look(record)
                if found.state is not ApprovalState.PENDING:
                    return found

    async def _look(self, record: ApprovalRecord) -> ApprovalRecord:
        try:
            found = await self._store.get(record.id)
        except StoreError:
            return record  # its outage is logged by the store; in the end, nobody has approved
        if found is None:
            msg = f"The request for approval {record.id} is gone from where it was kept."
            raise ApprovalError(msg, approval_id=record.id)
        return found

    async def _consult(self, record: ApprovalRecord) -> None:
        """Have the application's handler decide, through the middleware that all commands go through."""
        result = await self._bus.execute(ToolApprovalCommand.of(record))
        status = result.approval_status if isinstance(result, ApprovalResult) else ApprovalStatus.DENIED
        if status in {ApprovalStatus.PENDING, ApprovalStatus.EXPIRED}:
            return
        approve = status is ApprovalStatus.APPROVED and result.success
        answer: Any = result.result if record.answer_schema is not None else None
        who = record.approver or "handler"
        try:
            await self.decide(record.id, approve=approve, decided_by=who, reason=result.error or "", answer=answer)
        except ApprovalAnswerError as error:
            _log.warning("The handler of ToolApprovalCommand has not said what it had to: %s", error)
        except ApprovalError:
            pass  # somebody else was faster

    async def _withdraw(self, record: ApprovalRecord) -> None:
        try:
            await self._tell_end(await self._store.end(record.id, ApprovalState.WITHDRAWN), wait=False)
        except LLMgineError as error:  # which must not take the place of the cancellation
            _log.warning("The request for approval %s may not have been withdrawn: %s", record.id, error)

    def _forget(self, approval_id: str, answered: asyncio.Future[ApprovalRecord]) -> None:
        waiting = self._waiting[approval_id]
        waiting.discard(answered)
        if not waiting:
            del self._waiting[approval_id]

    async def _tell_request(self, record: ApprovalRecord) -> None:
        await self._bus.publish(ToolApprovalRequestedEvent.of(record))

    async def _tell_end(self, record: ApprovalRecord, *, wait: bool) -> None:
        await self._bus.publish(ToolApprovalEndedEvent.of(record), await_processing=wait)


async def _logged(ask: Callable[[ApprovalRecord], Awaitable[None]], record: ApprovalRecord) -> None:
    """Ask, and log a failure: whoever was to be asked could not be, but others may still answer."""
    try:
        await ask(record)
    except Exception:  # noqa: BLE001  # handlers of the application's may raise anything, and nobody waits for it here
        _log.exception("A request for approval did not reach everybody")


def _check_expiry(expires_in: float | None) -> None:
    if expires_in is not None:
        check_number("expires_in", expires_in, int | float, _EXPECTED)
        if not 0 < expires_in <= timedelta.max.total_seconds() / 1000:
            msg = f"expires_in must be {_EXPECTED}, not beyond what dates reach; got {expires_in!r}."
            raise ConfigurationError(msg)
