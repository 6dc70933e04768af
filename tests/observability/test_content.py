"""What people and models say is recorded where somebody asked for it, and elsewhere only how long it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson
import pytest

from llmgine.bus import MessageBus
from llmgine.llm.engine import LLMResponseEvent, PromptCancelledEvent, PromptCommand, PromptFailedEvent, TextChunkEvent
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent
from llmgine.messages import Command, CommandResult, Event
from llmgine.messages.events import CommandResultEvent, CommandStartedEvent, EventHandlerFailedEvent
from llmgine.observability.content import content_fields, content_mark, content_wanted
from llmgine.observability.serialize import to_dict, to_line

SAID = "What was said."

CONVERSATION: list[Event] = [
    TextChunkEvent(text=SAID),
    LLMResponseEvent(text=SAID),
    PromptCancelledEvent(text=SAID),
    PromptFailedEvent(text=SAID, error="TimeoutError"),
    ToolCallEvent(arguments=SAID, tool_name="say"),
    ToolExecuteResultEvent(tool_args={"text": SAID}, tool_result=SAID, tool_name="say"),
    CommandStartedEvent(command=PromptCommand(prompt=SAID)),
    CommandResultEvent(command_result=CommandResult(success=True, result=SAID)),
    EventHandlerFailedEvent(event=TextChunkEvent(text=SAID)),
]


@dataclass
class Note:
    text: Any = field(default=None, metadata={"content": True})
    about: str = "x"


@dataclass(frozen=True, slots=True)
class Frozen:
    text: str = field(default=SAID, metadata={"content": True})


@dataclass
class Noted(Event):
    note: Any = None


@pytest.mark.parametrize("event", CONVERSATION, ids=lambda event: type(event).__name__)
def test_no_event_of_a_conversation_says_what_was_said_unless_it_is_asked_to(event: Event) -> None:
    silent = to_line(event, record_content=False)
    assert SAID.encode() not in silent
    assert b"of content>" in silent
    assert orjson.loads(silent) == to_dict(event, record_content=False)
    assert SAID.encode() in to_line(event)
    assert to_line(event) == to_line(event, record_content=True)


def test_everything_else_is_recorded() -> None:
    event = ToolExecuteResultEvent(tool_args={"a": 1, "b": 2}, tool_result="", tool_name="say", duration=0.5)
    assert to_dict(event, record_content=False) == to_dict(event) | {"tool_args": "<2 values of content>"}


@pytest.mark.parametrize("note", [Note(SAID), Frozen(), [Note(SAID)], {"a": (Note(SAID),)}])
def test_marked_fields_are_found_wherever_a_dataclass_is(note: object) -> None:
    event = Noted(note=note)
    assert b"<14 characters of content>" in to_line(event, record_content=False)
    assert SAID.encode() not in to_line(event, record_content=False)
    assert SAID.encode() in to_line(event)


@pytest.mark.parametrize(
    ("value", "mark"),
    [
        ("x", "<1 character of content>"),
        ("ä" * 120, "<120 characters of content>"),
        (b"xx", "<2 bytes of content>"),
        ([1], "<1 value of content>"),
        ({"a": 1, "b": 2}, "<2 values of content>"),
        (object(), "<content>"),
        ("", ""),
        ([], []),
        (None, None),
        (7, 7),
        (True, True),
    ],
)
def test_the_mark_tells_the_size(value: object, mark: object) -> None:
    assert content_mark(value) == mark
    assert to_dict(Noted(note=Note(value)), record_content=False)["note"] == {"text": mark, "about": "x"}


def test_results_that_are_not_texts_are_recorded() -> None:
    event = CommandResultEvent(command_result=CommandResult(success=True, result={"order": 7}))
    assert to_dict(event, record_content=False)["command_result"]["result"] == {"order": 7}


@dataclass
class Summarize(Command[str]):
    result_is_content: ClassVar[bool] = True


@dataclass
class Rename(Command[str]):
    pass


@dataclass
class Answered(CommandResult[str]):
    about: str = field(default="", metadata={"content": True})


@pytest.mark.parametrize(("kind", "recorded"), [(Summarize, False), (PromptCommand, False), (Rename, True)])
async def test_a_text_result_is_recorded_unless_the_commands_class_says_that_it_is_content(
    kind: type[Command[str]], recorded: bool
) -> None:
    bus = MessageBus.isolated()
    ended: list[CommandResultEvent] = []
    bus.register_event_handler(CommandResultEvent, ended.append)
    bus.register_command_handler(kind, lambda _: SAID)
    await bus.start()
    result = await bus.execute(kind())
    await bus.stop()

    assert result.result == SAID
    told = to_dict(ended[0], record_content=False)["command_result"]
    assert told["result"] == (SAID if recorded else "<14 characters of content>")
    assert told["command_id"] == result.command_id
    assert (SAID.encode() in to_line(ended[0], record_content=False)) == recorded
    assert SAID.encode() in to_line(ended[0])


async def test_what_fails_is_recorded_whatever_its_result_would_have_been() -> None:
    bus = MessageBus.isolated()
    ended: list[CommandResultEvent] = []
    bus.register_event_handler(CommandResultEvent, ended.append)
    await bus.start()
    await bus.execute(Summarize())
    await bus.stop()

    assert b"No handler registered for command Summarize" in to_line(ended[0], record_content=False)


def test_what_is_marked_in_a_result_stays_content_though_the_result_is_none() -> None:
    ended = CommandResultEvent(
        command_result=Answered(success=True, result="seven", about=SAID), result_is_content=False
    )
    told = to_dict(ended, record_content=False)["command_result"]
    assert (told["result"], told["about"]) == ("seven", "<14 characters of content>")


def test_the_fields_of_a_class_are_known() -> None:
    assert content_fields(ToolExecuteResultEvent) == ("tool_args", "tool_result")
    assert content_fields(Event) == content_fields(str) == ()


def test_content_is_wanted_when_it_is_asked_for_or_else_when_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LLMGINE_RECORD_CONTENT", raising=False)
    assert [content_wanted(asked) for asked in (None, False, True)] == [False, False, True]
    monkeypatch.setenv("LLMGINE_RECORD_CONTENT", "1")
    assert [content_wanted(asked) for asked in (None, False, True)] == [True, False, True]
