"""Law 30, across a crash: what may be done twice is, and what must not be is not, wherever the process was killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from llmgine.bus import MessageBus
from llmgine.bus.effect_records import EffectRecord, Outcome, TurnRecord
from llmgine.errors import ConfigurationError, EngineBusyError, StoreError
from llmgine.llm.approvals import Approvals, DecideApprovalCommand, ToolApprovalRequestedEvent
from llmgine.llm.context import ChatMessage, Role, SimpleChatHistory, conversation_faults
from llmgine.llm.engine import ClearHistoryCommand, LLMEngine, MemoryEffectLedger, PromptCommand, ResumeCommand
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolContext, ToolManager
from llmgine.llm.tools.prepared_call import PreparedCall, effect_keys
from llmgine.messages import SessionID

A = SessionID("a")
_PROGRAM = Path(__file__).parent / "resumed_program.py"

# Killed

TOOLS = ("read_book", "set_row", "send_mail")
POINTS = [
    *("before begin_run 1", "after begin_run 1", "asked 0 1", "before begin_turn 1", "after begin_turn 1"),
    *(f"{stage} {tool} 1" for tool in TOOLS for stage in ("before intend", "after intend", "done")),
    *(f"{stage} finish {tool} 1" for tool in TOOLS for stage in ("before", "after")),
    *("before save 1", "after save 1", "asked 1 1", "before begin_turn 2", "after begin_turn 2"),
    *("before intend send_mail 2", "after intend send_mail 2", "done send_mail 2"),
    *("before finish send_mail 2", "after finish send_mail 2", "before save 2", "after save 2"),
    *("asked 2 1", "before save 3", "after save 3", "before end_run 1", "after end_run 1"),
]
TWICE = [
    "after intend send_mail 1 + before save 1",
    "done send_mail 1 + after save 1",
    "done send_mail 1 + asked 1 1",
    "done send_mail 1 + done send_mail 1",
    "after begin_turn 1 + done set_row 1",
    "after begin_turn 1 + done send_mail 1",
    "after begin_turn 1 + after begin_turn 1",
    "after save 1 + after begin_turn 1",
    "before save 2 + before save 1",
    "before save 2 + asked 2 1",
    "before end_run 1 + before end_run 1",
]

AGAIN = [
    *(f"again {stage} {what} 1" for stage in ("before", "after") for what in ("begin_run", "end_run")),
    *("again after begin_turn 1", "again after intend send_mail 1", "again done send_mail 1", "again asked 1 1"),
    *("again before save 3", "again done send_mail 1 + done send_mail 1", "again before end_run 1 + before end_run 1"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(_PROGRAM), str(tmp_path_factory.mktemp("runs")), "nowhere", *POINTS, *TWICE, *AGAIN]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return {report["point"]: report for report in map(json.loads, ran.stdout.splitlines())}


def test_the_points_are_all_that_there_are(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["nowhere"]
    assert sorted(report["points"]) == sorted(POINTS)
    assert (report["mails"], report["answer"], report["open"]) == (["ann", "bob"], None, False)  # nothing was left


@pytest.mark.parametrize("point", [*POINTS, *TWICE, *AGAIN])
def test_whoever_is_killed_sends_no_mail_twice_and_another_goes_on(
    reports: dict[str, dict[str, Any]], point: str
) -> None:
    report = reports[point]
    assert all(report["killed"])
    if point in {"before begin_run 1", "after end_run 1"}:
        assert (report["answer"], report["error"]) == (None, None)  # nothing was left to go on with
        return

    assert report["error"] is None
    assert report["answer"].startswith("Told: ")
    assert report["faults"] == []
    assert report["stored"] == ["user", "assistant", "tool", "tool", "tool", "assistant", "tool", "assistant"]
    assert report["ids"] == len(report["stored"])
    assert report["open"] is False
    # The unsafe one: once, or not at all if it was not known whether it had been, and then the model was told so.
    assert len(report["mails"]) == len(set(report["mails"]))
    for to, told in {"ann": report["told"][2], "bob": report["told"][3]}.items():
        if told == f"sent to {to}":
            assert to in report["mails"]
        else:
            assert told == (
                "Error: send_mail may have run: the program ended before the outcome was known. It was not run again."
            )
    # The idempotent one: with one key. The reader: as often as need be.
    assert len(set(report["rows"])) == 1
    assert report["told"][:2] == ["a book", "set"]


def test_the_model_is_not_asked_twice_for_what_was_kept_of_its_answers(reports: dict[str, dict[str, Any]]) -> None:
    unkept = {"0": ("asked 0 1", "before begin_turn 1"), "1": ("asked 1 1", "before begin_turn 2")}
    unkept["2"] = ("asked 2 1", "before save 3")
    for point in POINTS[1:]:
        twice = [turn for turn, points in unkept.items() if point in points]
        assert reports[point]["asked"] == sorted(["0", "1", "2", *twice])
    for points, again in zip(TWICE, ([], [], ["1"], [], [], [], [], [], [], ["2"], []), strict=True):
        asked = reports[points]["asked"]
        assert (points, asked) == (points, sorted(["0", "1", "2", *again]))


def test_a_mail_is_sent_by_the_second_process_if_the_first_one_had_not_begun(
    reports: dict[str, dict[str, Any]],
) -> None:
    for point in ("after begin_turn 1", "before intend send_mail 1", "after finish send_mail 1", "before save 1"):
        assert reports[point]["mails"] == ["ann", "bob"]
    for point in ("done send_mail 1", "before finish send_mail 1"):
        assert reports[point]["told"][2].startswith("Error: send_mail may have run")
        assert reports[point]["mails"] == ["ann", "bob"]
    assert reports["after intend send_mail 1"]["mails"] == ["bob"]


# Taken up in the same process: what the other one had begun is written down by hand


class Left:
    """What a process has left that was killed while a turn's tools ran."""

    def __init__(self, bus: MessageBus, calls: Sequence[ToolCall], **options: Any) -> None:
        self.ran: list[tuple[str, str]] = []
        self.tools = ToolManager()
        for effect in ("read", "idempotent", "unsafe"):
            self.tools.register_tool(self._tool, name=effect, effect=effect)
        self.tools.register_tool(self._tool, name="asks", requires_approval=True)
        self.ledger = MemoryEffectLedger()
        self.provider = ScriptedProvider([Reply("All done.")])
        self.history = SimpleChatHistory()
        self.engine = LLMEngine(
            bus, self.provider, session_id=A, tools=self.tools, history=self.history, ledger=self.ledger, **options
        )
        self.calls = calls
        self.found = [self.tools.prepare(call) for call in calls]
        keys = iter(effect_keys("r", 1, [each for each in self.found if isinstance(each, PreparedCall)]))
        self.keys = [next(keys) if isinstance(each, PreparedCall) else "" for each in self.found]

    async def _tool(self, context: ToolContext, text: str = "") -> str:
        """Do it."""
        self.ran.append((context.tool_name, context.idempotency_key))
        return f"ran {text}"

    async def begin(self, *intended: int, known: Sequence[int] = ()) -> Left:
        prompt = ChatMessage(Role.USER, "Do it.")
        await self.ledger.begin_run("r", A, prompt.to_stored())
        message = ChatMessage(Role.ASSISTANT, None, tuple(self.calls))
        assert await self.ledger.begin_turn("r", TurnRecord(1, message.to_stored(), tuple(self.keys)))
        for place in intended:
            await self.intend(place)
        for place in known:
            await self.ledger.finish(self.keys[place], Outcome("known", succeeded=True))
        return self

    async def intend(self, place: int, effect: str | None = None) -> None:
        key = self.keys[place]
        name = self.calls[place].name
        record = EffectRecord(
            key=key, run_id="r", step=1, tool=name, arguments="{}", effect=effect or name.replace("asks", "unsafe")
        )
        await self.ledger.intend(record)

    @property
    def told(self) -> list[str]:
        return [str(message.content) for message in self.history.messages if message.role is Role.TOOL]


def call(name: str, id_: str = "1", arguments: str = "{}") -> ToolCall:
    return ToolCall(id_, name=name, arguments=arguments)


THREE = [call("read", "1"), call("idempotent", "2"), call("unsafe", "3")]


async def test_what_is_known_is_told_again_and_nothing_runs(bus: MessageBus) -> None:
    left = await Left(bus, THREE).begin(0, 1, 2, known=[0, 1, 2])

    assert await left.engine.resume(A) == "All done."
    assert (left.ran, left.told) == ([], ["known"] * 3)
    assert conversation_faults(left.history.get_messages()) == []
    assert await left.engine.resume(A) is None
    assert len(left.provider.requests) == 1


async def test_what_can_be_repeated_runs_again_with_its_key_and_the_rest_does_not(bus: MessageBus) -> None:
    left = await Left(bus, THREE).begin(0, 1, 2)

    assert await left.engine.resume(A) == "All done."
    assert left.ran == [("read", left.keys[0]), ("idempotent", left.keys[1])]
    assert left.told[2].startswith("Error: unsafe may have run")


async def test_what_had_not_begun_runs(bus: MessageBus) -> None:
    left = await Left(bus, THREE).begin()
    assert await left.engine.resume(A) == "All done."
    assert left.ran == [(each.name, key) for each, key in zip(THREE, left.keys, strict=True)]


async def test_the_same_call_made_twice_in_a_turn_is_two_effects(bus: MessageBus) -> None:
    left = await Left(bus, [call("unsafe", "1"), call("unsafe", "2")]).begin(0)
    await left.engine.resume(A)
    assert left.ran == [("unsafe", left.keys[1])]
    assert left.told[0].startswith("Error: unsafe may have run")
    assert left.told[1] == "ran "


@pytest.mark.parametrize(("approve", "runs"), [(True, 1), (False, 0)])
async def test_a_person_is_asked_and_told_that_it_may_have_run(bus: MessageBus, approve: bool, runs: int) -> None:
    asked: list[ToolApprovalRequestedEvent] = []

    async def decide(event: ToolApprovalRequestedEvent) -> None:
        asked.append(event)
        await bus.execute(DecideApprovalCommand(approval_id=event.approval_id, approve=approve, reason="no"))

    bus.register_event_handler(ToolApprovalRequestedEvent, decide)
    left = await Left(bus, THREE, approvals=Approvals(bus)).begin(0, 1, 2, known=[0, 1])

    assert await left.engine.resume(A) == "All done."
    assert [each.note for each in asked] == ["It may have run before."]
    assert left.ran == [("unsafe", left.keys[2])] * runs
    assert left.told[2] == ("ran " if approve else "Error: the call of unsafe was denied: no It may have run before.")


async def test_what_needs_approval_and_has_run_is_not_asked_about_again(bus: MessageBus) -> None:
    left = await Left(bus, [call("asks")], approvals=Approvals(bus)).begin(0, known=[0])
    assert await left.engine.resume(A) == "All done."
    assert (left.ran, left.told) == ([], ["known"])


async def test_a_tool_that_was_unsafe_then_or_is_now_does_not_run_again(bus: MessageBus) -> None:
    left = await Left(bus, [call("read", "1"), call("unsafe", "2")]).begin()
    await left.intend(0, "unsafe")
    await left.intend(1, "read")
    await left.engine.resume(A)
    assert left.ran == []


async def test_a_call_that_could_not_be_run_then_is_not_run_now(bus: MessageBus) -> None:
    left = await Left(bus, [call("unsafe")]).begin()
    left.ledger = left.engine.ledger = MemoryEffectLedger()
    left.keys = [""]
    await left.begin()
    await left.engine.resume(A)
    assert left.ran == []
    assert left.told == ["Error: not run: the call could not be understood when it was made."]


async def test_a_tool_that_is_gone_may_have_run(bus: MessageBus) -> None:
    left = await Left(bus, [call("unsafe")]).begin(0)
    left.engine.tools = ToolManager()
    await left.engine.resume(A)
    assert left.told[0].startswith("Error: unsafe may have run")


async def test_an_unsafe_call_that_another_process_makes_meanwhile_is_not_made_here(
    bus: MessageBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Left(bus, [call("unsafe"), call("unsafe", "2")])
    await left.begin()
    original = left.ledger.open_run

    async def open_run(session_id: SessionID) -> Any:
        opened = await original(session_id)
        await left.intend(0)  # once we have looked
        await left.intend(1)
        await left.ledger.finish(left.keys[1], Outcome("theirs", succeeded=True))
        return opened

    monkeypatch.setattr(left.ledger, "open_run", open_run)
    await left.engine.resume(A)
    assert left.ran == []
    assert left.told[0].startswith("Error: unsafe may have run")
    assert left.told[1] == "theirs"


async def test_who_is_behind_another_process_stops_and_ends_nothing(
    bus: MessageBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await Left(bus, [call("unsafe")]).begin(0, known=[0])
    left.provider._replies.insert(0, Reply(tool_calls=[call("unsafe")]))
    original = left.ledger.open_run

    async def open_run(session_id: SessionID) -> Any:
        opened = await original(session_id)
        turn = TurnRecord(2, ChatMessage(Role.ASSISTANT, None, (call("read"),)).to_stored(), ("k",))
        assert await left.ledger.begin_turn("r", turn)
        return opened

    monkeypatch.setattr(left.ledger, "open_run", open_run)
    with pytest.raises(EngineBusyError, match="Another process is answering"):
        await left.engine.resume(A)
    assert left.ran == []
    assert left.history.messages[-1].role is Role.TOOL  # what comes next is for the other one to say
    assert await original(A) is not None


async def test_an_effect_that_cannot_be_written_down_does_not_happen(
    bus: MessageBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await Left(bus, [call("unsafe")]).begin()

    async def intend(_: EffectRecord) -> bool:
        raise StoreError("the disk is full")

    monkeypatch.setattr(left.ledger, "intend", intend)
    with pytest.raises(StoreError):
        await left.engine.resume(A)
    assert left.ran == []
    assert conversation_faults(left.history.get_messages()) == []


async def test_a_result_is_not_lost_because_it_could_not_be_written_down_or_the_prompt_was_cancelled(
    bus: MessageBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await Left(bus, [call("unsafe")]).begin()

    async def finish(_: str, __: Outcome) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(left.ledger, "finish", finish)
    assert await left.engine.resume(A) == "All done."
    assert left.told == ["ran "]

    writing = asyncio.Event()

    async def never(_: str, __: Outcome) -> None:
        writing.set()
        await asyncio.Event().wait()

    left = await Left(MessageBus.isolated(), [call("unsafe")]).begin()
    await left.engine.bus.start()
    monkeypatch.setattr(left.ledger, "finish", never)
    resumed = asyncio.create_task(left.engine.resume(A))
    await writing.wait()
    resumed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await resumed
    assert left.told == ["ran "]
    assert await left.ledger.open_run(A) is None
    await left.engine.bus.stop()


async def test_the_command_resumes_in_the_form_that_is_asked_for(bus: MessageBus) -> None:
    class City(BaseModel):
        name: str

    left = await Left(bus, THREE).begin(0, known=[0])
    left.provider._replies[:] = [Reply('{"name": "Kyoto"}')]
    result = await bus.execute(ResumeCommand(City, session_id=A))
    assert result.result == City(name="Kyoto")
    assert (await bus.execute(ResumeCommand(session_id=A))).result is None


async def test_a_prompt_that_ends_leaves_nothing_open_and_a_new_one_takes_the_place_of_one_that_did_not(
    bus: MessageBus,
) -> None:
    left = await Left(bus, [call("unsafe")]).begin(0)
    result = await bus.execute(PromptCommand(prompt="Something else.", session_id=A))
    assert result.result == "All done."
    assert await left.engine.resume(A) is None
    await bus.execute(PromptCommand(prompt="Fails: the script has ended.", session_id=A))
    assert await left.engine.resume(A) is None


async def test_to_forget_a_conversation_is_to_forget_what_was_begun_in_it(bus: MessageBus) -> None:
    left = await Left(bus, [call("unsafe")]).begin(0)
    assert (await bus.execute(ClearHistoryCommand(session_id=A))).success
    assert await left.engine.resume(A) is None


async def test_without_a_ledger_there_is_nothing_to_resume_from(bus: MessageBus) -> None:
    engine = LLMEngine(bus, ScriptedProvider([]), session_id=A)
    with pytest.raises(ConfigurationError, match="There is no ledger"):
        await engine.resume(A)
