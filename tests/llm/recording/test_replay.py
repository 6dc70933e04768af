"""A recorded run can be run again without what answered it, is the same, and fails where it is not."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.errors import (
    ContextLengthError,
    IncompleteResponseError,
    ModelFileError,
    ProviderError,
    ProviderUnavailableError,
    RateLimitedError,
)
from llmgine.llm.budgets import Limits
from llmgine.llm.engine import LLMEngine
from llmgine.llm.providers import FallbackProvider, OverloadedError, Provider, StalledError, complete, takes_schemas
from llmgine.llm.recording import RecordingProvider, ReplayMismatchError, ReplayProvider, replay
from llmgine.llm.tools import ToolCall
from llmgine.llm.types import Chunk, Finish, FinishReason, JSONSchema, Restart, TextDelta, Usage
from recording.runs import Pieces, Step, calls, lines, mutated, run, said, tools_of

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


async def record(file: Path, *replies: list[Step], prompts: tuple[str, ...] = ("Hello",)) -> list[dict[str, Any]]:
    with RecordingProvider(Pieces(*replies), file) as provider:
        return await run(provider, provider.tools(tools_of()[0]), *prompts)


async def replayed(file: Path, *prompts: str, **options: Any) -> list[dict[str, Any]]:
    with ReplayProvider(file, **options) as provider:
        return await run(provider, provider.tools(tools_of()[0]), *(prompts or ("Hello",)))


def two_turns() -> tuple[list[Step], list[Step]]:
    return calls(("weather", '{"city": "Oslo"}'), before="Let me see."), said("It", " is", " 12.")


# Any run


texts = st.text(st.characters(codec=None), max_size=20)
arguments = st.one_of(st.fixed_dictionaries({"city": texts}).map(json.dumps), st.sampled_from(["", "{", "[1]", "null"]))
tool_turns = st.builds(
    lambda some, before: calls(*some, before=before),
    st.lists(st.tuples(st.sampled_from(["weather", "fail", "unknown"]), arguments), min_size=1, max_size=3),
    texts,
)
errors = st.sampled_from(
    [RateLimitedError("slow down", retry_after=2.5), IncompleteResponseError("gone", partial="a"), RuntimeError("odd")]
)
answers = st.lists(texts, max_size=4).map(lambda pieces: said(*pieces))
failures = st.builds(lambda pieces, error: [*map(TextDelta, pieces), error], st.lists(texts, max_size=3), errors)
broken_off = st.lists(texts, max_size=3).map(lambda pieces: list(map(TextDelta, pieces)))
prompts = st.lists(
    st.tuples(texts, st.lists(tool_turns, max_size=3), st.one_of(answers, failures, broken_off)), max_size=3
)


@settings(max_examples=60, deadline=None)
@given(prompts)
def test_the_replay_of_any_run_is_the_run(asked: list[tuple[str, list[list[Step]], list[Step]]]) -> None:
    replies = [reply for _, turns, last in asked for reply in (*turns, last)]
    words = [prompt for prompt, _, _ in asked]

    async def both() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "run.jsonl")
            manager, _ = tools_of()
            with RecordingProvider(Pieces(*replies), file) as recording:
                first = await run(recording, recording.tools(manager), *words)
            manager, called = tools_of()
            with ReplayProvider(file) as replaying:
                again = await run(replaying, replaying.tools(manager), *words)
            assert again == first
            assert called == []
            manager, called = tools_of()
            with ReplayProvider(file) as verifying:
                assert await run(verifying, verifying.tools(manager, run=True), *words) == first

    asyncio.run(both())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_change_of_what_was_asked_is_found_where_it_is(data: st.DataObject) -> None:
    async def once() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "run.jsonl")
            await record(file, *two_turns(), said("Bye."), prompts=("Hello", "And now?"))
            numbers = [number for number, line in enumerate(lines(file)) if line["kind"] == "request"]
            number = data.draw(st.sampled_from(numbers))
            request = lines(file)[number]
            index = data.draw(st.integers(0, len(request["messages"]) - 1))
            field = data.draw(st.sampled_from(sorted(set(request["messages"][index]) - {"tool_call_id", "tool_calls"})))
            mutated(file, number, lambda line: line["messages"][index].update({field: "something else"}))
            with pytest.raises(ReplayMismatchError) as caught:
                await replayed(file, "Hello", "And now?")
            assert caught.value.where == f"request {numbers.index(number) + 1}: messages[{index}].{field}"
            assert caught.value.recorded == "something else"
            assert caught.value.now == request["messages"][index][field]

    asyncio.run(once())


def change_text(line: dict[str, Any]) -> None:
    line["chunk"]["text"] = "Let us see."


def change_call(line: dict[str, Any]) -> None:
    line["chunk"]["arguments"] = line["chunk"]["arguments"].replace("c", "s")


def change_recorded_call(line: dict[str, Any]) -> None:
    line["arguments"]["city"] = "Rome"


def change_result(line: dict[str, Any]) -> None:
    line["result"]["content"] = "13"


def change_schema(line: dict[str, Any]) -> None:
    line["tools"][0]["function"]["parameters"]["required"] = []


@pytest.mark.parametrize(
    ("kind", "which", "change", "where"),
    [
        ("chunk", 0, change_text, "request 2: messages[1].content"),
        ("chunk", 1, change_call, "request 2: messages[1].tool_calls[0].function.arguments.city"),
        ("tool", 0, change_recorded_call, "the tool 'weather' after request 1: arguments.city"),
        ("tool", 0, change_result, "request 2: messages[2].content"),
        ("request", 1, change_schema, "request 2: tools.weather.function.parameters.required[0]"),
    ],
)
async def test_the_first_difference_is_where_the_engine_would_act_on_it(
    file: Path, kind: str, which: int, change: Callable[[dict[str, Any]], None], where: str
) -> None:
    await record(file, *two_turns())
    number = [number for number, line in enumerate(lines(file)) if line["kind"] == kind][which]
    mutated(file, number, change)
    with pytest.raises(ReplayMismatchError) as caught:
        await replayed(file)
    assert caught.value.where == where


# What fails, and what it says


async def test_the_difference_is_shown_with_the_place_in_the_file_and_both_sides(file: Path) -> None:
    await record(file, said("Hi."))
    with pytest.raises(ReplayMismatchError) as caught:
        await replayed(file, "Hello!")
    assert str(caught.value) == (
        f"The run differs from its recording ({file}, line 2): request 1 was something else (a message of the user).\n"
        'messages[0].content:\n  recorded: "Hello"\n  now:      "Hello!"'
    )
    assert isinstance(caught.value, AssertionError)
    assert not isinstance(caught.value, ProviderError)


async def test_texts_of_several_lines_are_shown_as_a_diff_and_long_ones_in_part(file: Path) -> None:
    prompt = "\n".join(map(str, range(30)))
    await record(file, said("Hi."), prompts=(prompt,))
    with pytest.raises(ReplayMismatchError, match=r"\n  -15\n  \+fifteen\n") as caught:
        await replayed(file, prompt.replace("15", "fifteen"))
    assert len(str(caught.value).splitlines()) < 15

    await record(file, said("Hi."), prompts=("x" * 5000 + "y",))
    with pytest.raises(ReplayMismatchError) as caught:
        await replayed(file, "x" * 5000 + "z")
    assert len(str(caught.value)) < 700
    assert 'xy"' in str(caught.value)
    assert 'xz"' in str(caught.value)


async def test_too_many_requests_and_too_few_are_differences(file: Path) -> None:
    await record(file, said("Hi."), said("Bye."), prompts=("Hello", "Bye"))
    with pytest.raises(ReplayMismatchError, match="request 3 was not made, the last is 2"):
        await replayed(file, "Hello", "Bye", "Still there?")
    with pytest.raises(ReplayMismatchError, match="request 2 was made, and now is not"):
        await replayed(file, "Hello")


async def test_a_difference_that_somebody_swallows_is_raised_all_the_same_and_holds_for_all_that_follows(
    file: Path,
) -> None:
    await record(file, said("Hi."), said("Bye."), prompts=("Hello", "Bye"))
    provider = ReplayProvider(file)
    seen = await run(provider, provider.tools(tools_of()[0]), "Something else", "Bye")
    assert [step["error"].split(":")[0] for step in seen if "result" in step] == ["ReplayMismatchError"] * 2
    with pytest.raises(ReplayMismatchError) as caught, provider:
        raise AssertionError("whatever the test saw of it")
    assert caught.value.where == "request 1: messages[0].content"


async def test_nothing_asks_again_or_elsewhere_because_of_a_difference(file: Path) -> None:
    await record(file, said("Hi."))
    other = Pieces(said("From elsewhere."))
    provider = FallbackProvider([ReplayProvider(file), other])
    with pytest.raises(ReplayMismatchError):
        await complete(provider, [{"role": "user", "content": "Something else"}])
    assert len(other.replies) == 1


async def test_without_strict_only_the_number_of_requests_matters(file: Path) -> None:
    await record(file, said("Hi."))
    seen = await replayed(file, "Something else", strict=False)
    assert seen[-1]["result"] == "Hi."
    with pytest.raises(ReplayMismatchError, match="request 2 was not made"):
        await replayed(file, "Something else", "More", strict=False)


async def test_a_tool_that_was_not_called_or_is_not_called_any_more_is_a_difference(file: Path) -> None:
    await record(file, *two_turns())
    number = next(number for number, line in enumerate(lines(file)) if line["kind"] == "tool")
    all_lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(all_lines[:number] + all_lines[number + 1 :]))
    with pytest.raises(ReplayMismatchError, match="the tool 'weather' after request 1 was not called"):
        await replayed(file)

    file.write_text("".join(all_lines[:number] + [all_lines[number]] * 2 + all_lines[number + 1 :]))
    with pytest.raises(ReplayMismatchError, match="was called, and now is not"):
        await replayed(file)


async def test_tools_that_are_run_for_real_are_compared(file: Path) -> None:
    await record(file, *two_turns())
    with pytest.raises(ReplayMismatchError) as caught, ReplayProvider(file) as provider:
        await run(provider, provider.tools(tools_of(temperature=13)[0], run=True), "Hello")
    assert caught.value.where == "the tool 'weather': content"
    assert caught.value.now == '{"city":"Oslo","degrees":13}'


# What makes no difference


async def asked_before_and_now(file: Path, before: Any, now: Any) -> None:
    with RecordingProvider(Pieces(said("Hi.")), file) as recording:
        await complete(recording, before)
    with ReplayProvider(file) as provider:
        await complete(provider, now)


def conversation(call: str, text: str, spelled: str) -> list[dict[str, Any]]:
    function = {"name": "weather", "arguments": spelled}
    return [
        {"role": "system", "content": text},
        {"role": "assistant", "content": None, "tool_calls": [{"id": call, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call, "content": "12"},
    ]


async def test_ids_times_spelling_and_order_make_no_difference(file: Path) -> None:
    one, other = "7d0a3c9e-9a0b-4a7d-8a52-0c1b8f6f5a11", "18e9c1957a5df6915268a5a87f82aaff"
    before = conversation("call_1", f"{one} at 2026-11-20T12:46:14.241635+00:00, {one}", '{"city":"Oslo","days":2}')
    now = conversation("x", f"{other} at 2027-01-02 03:04Z, {other}", '{ "days": 2, "city": "Oslo" }')
    now[1] = dict(reversed([item for item in now[1].items() if item[1] is not None]))
    await asked_before_and_now(file, before, now)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("{0} and {0}", "{0} and {1}"),  # the same id twice is not two ids
        ("on 2026-11-20", "on 2026-11-21"),  # a date alone
        ("12", "13"),
        ("a 18e9c1957a5df6915268a5a87f82aaff0", "a 18e9c1957a5df6915268a5a87f82aafe0"),  # 33 digits are no id
    ],
)
async def test_everything_else_does(file: Path, before: str, now: str) -> None:
    ids = "18e9c1957a5df6915268a5a87f82aaff", "18e9c1957a5df6915268a5a87f82aafe"
    with pytest.raises(ReplayMismatchError) as caught:
        await asked_before_and_now(
            file, conversation("a", before.format(*ids), "{}"), conversation("a", now.format(*ids), "{}")
        )
    assert caught.value.where == "request 1: messages[0].content"


async def test_a_result_of_another_call_is_a_difference(file: Path) -> None:
    def two_calls(first: str, second: str) -> list[dict[str, Any]]:
        made = [{"id": each, "function": {"name": "weather", "arguments": "{}"}} for each in ("a", "b")]
        return [
            {"role": "assistant", "tool_calls": made},
            {"role": "tool", "tool_call_id": first, "content": "12"},
            {"role": "tool", "tool_call_id": second, "content": "13"},
        ]

    with pytest.raises(ReplayMismatchError) as caught:
        await asked_before_and_now(file, two_calls("a", "b"), two_calls("b", "a"))
    assert caught.value.where == "request 1: messages[1].tool_call_id"


async def test_the_calls_of_a_turn_may_come_in_another_order(file: Path) -> None:
    turn = calls(("weather", '{"city": "Oslo"}'), ("weather", '{"city": "Rome"}'))
    first = await record(file, turn, said("Done."))
    data = file.read_text().splitlines(keepends=True)
    tools = [number for number, line in enumerate(lines(file)) if line["kind"] == "tool"]
    data[tools[0]], data[tools[1]] = data[tools[1]], data[tools[0]]
    file.write_text("".join(data))
    assert await replayed(file) == first


# What providers do


async def test_replies_come_in_the_same_pieces_of_every_kind(file: Path) -> None:
    finish = Finish(FinishReason.LENGTH, Usage(1, 2, 3, 4), "a-model", "a-provider")
    pieces: list[Chunk] = [
        TextDelta("a"),
        Restart("the first one broke"),
        TextDelta(""),
        TextDelta("\ud83d \u2028"),
        finish,
    ]
    with RecordingProvider(Pieces(pieces), file) as recording:
        first = [chunk async for chunk in recording.stream(HELLO)]
    with ReplayProvider(file) as provider:
        assert [chunk async for chunk in provider.stream(HELLO)] == first == pieces


class UserError(ProviderUnavailableError):
    """One of an application's own, whose arguments nobody knows."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")
        self.host, self.port = host, port


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError("slow down", retry_after=2.5, provider="p", model="m"),
        ContextLengthError("too long", status=400),
        OverloadedError("busy", status=503, retry_after=1.0),
        StalledError("silence", timeout=3.0, partial="so far"),
        ModelFileError("no such weights", provider="local"),
        UserError("there", 80),
        RuntimeError("a provider's own fault"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_are_raised_again_with_their_class_their_sentence_and_their_facts(
    file: Path, error: Exception
) -> None:
    with RecordingProvider(Pieces([TextDelta("So"), error]), file) as recording, pytest.raises(type(error)):
        await complete(recording, HELLO)
    with ReplayProvider(file) as provider, pytest.raises(type(error)) as caught:
        await complete(provider, HELLO)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert vars(caught.value) == {key: value for key, value in vars(error).items() if not key.startswith("__")}


async def test_options_are_passed_on_and_are_part_of_the_request(file: Path) -> None:
    inner = Pieces(said("{}"))
    form = JSONSchema("answer", {"type": "object"})
    with RecordingProvider(inner, file) as recording:
        assert takes_schemas(recording)
        await complete(recording, HELLO, response_format=form)
    assert inner.options == [{"response_format": form}]
    with ReplayProvider(file) as provider:
        assert takes_schemas(provider)
        await complete(provider, HELLO, response_format=form)
    with pytest.raises(ReplayMismatchError) as caught, ReplayProvider(file) as provider:
        await complete(provider, HELLO)
    assert caught.value.where == "request 1: response_format"


async def test_conversations_at_the_same_time_are_told_apart(file: Path) -> None:
    async def talk(provider: Provider) -> list[Chunk]:
        streams = [provider.stream([{"role": "user", "content": name}]) for name in "ab"]
        chunks = [await anext(stream) for _ in range(3) for stream in streams]
        for stream in streams:
            assert [chunk async for chunk in stream] == []
        return chunks

    with RecordingProvider(Pieces(said("1", "2"), said("3", "4")), file) as recording:
        first = await talk(recording)
    with ReplayProvider(file) as provider:
        assert await talk(provider) == first


async def test_a_reply_that_was_not_read_to_its_end_is_so_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def first_piece(provider: Provider) -> Chunk:
        async with aclosing(provider.stream(HELLO)) as chunks:
            return await anext(chunks)

    with RecordingProvider(Pieces(said("1", "2")), file) as recording:
        assert await first_piece(recording) == TextDelta("1")
    assert lines(file)[-1]["how"] == "stopped"
    with ReplayProvider(file) as provider:
        assert await first_piece(provider) == TextDelta("1")

    monkeypatch.setattr(replay, "_PATIENCE_S", 0.01)
    with pytest.raises(ReplayMismatchError, match="request 1 was read no further than this"), ReplayProvider(file) as p:
        await complete(p, HELLO)

    with RecordingProvider(Pieces(said("1", "2")), file) as recording:
        await complete(recording, HELLO)
    with pytest.raises(ReplayMismatchError, match="request 1 was read to its end"), ReplayProvider(file) as provider:
        await first_piece(provider)


async def test_what_was_cancelled_waits_to_be_cancelled_again(file: Path) -> None:
    class Held(Pieces):
        async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[Chunk, None]:
            yield TextDelta("So")
            await asyncio.Event().wait()

    async def cancelled(provider: RecordingProvider | ReplayProvider) -> None:
        reached = asyncio.Event()

        async def read() -> None:
            async for _ in provider.stream(HELLO):
                reached.set()

        reading = asyncio.create_task(read())
        await reached.wait()
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    with RecordingProvider(Held(), file) as recording:
        await cancelled(recording)
    with ReplayProvider(file) as provider:
        await cancelled(provider)


async def test_a_tool_that_was_cancelled_waits_to_be_cancelled_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = asyncio.Event()

    async def slow() -> None:
        started.set()
        await asyncio.Event().wait()

    manager, _ = tools_of()
    manager.register_tool(slow)
    asked = ToolCall("1", name="slow")
    with RecordingProvider(Pieces(), file) as recording:
        running = asyncio.create_task(recording.tools(manager).run(asked))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    with ReplayProvider(file) as provider:
        running = asyncio.create_task(provider.tools(manager).run(asked))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    monkeypatch.setattr(replay, "_PATIENCE_S", 0.01)
    with pytest.raises(ReplayMismatchError, match="the tool 'slow' was cancelled"), ReplayProvider(file) as provider:
        await provider.tools(manager).run(asked)


async def test_the_recorded_timing_is_kept_if_wanted(file: Path) -> None:
    times = iter([0.0, 0.0, 0.05, 0.1, 0.12] + [0.12] * 10)
    with RecordingProvider(Pieces(said("1", "2")), file, clock=lambda: next(times)) as recording:
        await complete(recording, HELLO)
    loop = asyncio.get_running_loop()
    for timing in (False, True):
        began = loop.time()
        with ReplayProvider(file, timing=timing) as provider:
            await complete(provider, HELLO)
        assert (loop.time() - began >= 0.1) is timing


async def test_the_values_of_tools_come_back_as_json_has_them(file: Path) -> None:
    asked = ToolCall("1", name="weather", arguments='{"city": "Oslo"}')
    with RecordingProvider(Pieces(), file) as recording:
        first = await recording.tools(tools_of()[0]).run(asked)
    with ReplayProvider(file) as provider:
        again = await provider.tools(tools_of()[0]).run(asked)
    assert again == first


async def test_a_tool_that_is_called_in_another_turn_is_a_difference(file: Path) -> None:
    asked = ToolCall("1", name="weather", arguments='{"city": "Oslo"}')
    with RecordingProvider(Pieces(said("Hi.")), file) as recording:
        await recording.tools(tools_of()[0]).run(asked)
        await complete(recording, HELLO)
    provider = ReplayProvider(file)
    await complete(provider, HELLO)
    with pytest.raises(ReplayMismatchError) as caught:
        await provider.tools(tools_of()[0]).run(asked)
    assert caught.value.where == "the tool 'weather' after request 1: call"


async def test_whether_anybody_reads_on_after_the_end_of_a_reply_makes_no_difference(file: Path) -> None:
    async def until_finish(provider: Provider) -> None:
        async with aclosing(provider.stream(HELLO)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Finish):
                    return

    with RecordingProvider(Pieces(said("Hi.")), file) as recording:
        await until_finish(recording)
    assert lines(file)[-1]["how"] == "complete"
    for read in (until_finish, lambda provider: complete(provider, HELLO)):
        with ReplayProvider(file) as provider:
            await read(provider)


# How long replies may be


async def test_how_long_a_reply_may_be_is_compared(file: Path) -> None:
    with RecordingProvider(Pieces(said("Hi."), said("Hi.")), file) as recording:
        await complete(recording, HELLO, max_output_tokens=50)
    assert lines(file)[1]["max_output_tokens"] == 50

    with ReplayProvider(file) as replaying:
        await complete(replaying, HELLO, max_output_tokens=50)
    for other in (51, None):
        with pytest.raises(ReplayMismatchError) as caught, ReplayProvider(file) as replaying:
            await complete(replaying, HELLO, max_output_tokens=other)
        assert caught.value.where == "request 1: max_output_tokens"


async def test_a_recording_from_before_that_was_sent_still_replays(file: Path) -> None:
    await record(file, *two_turns())
    mutated(file, 0, lambda header: header.update(version=1))
    with ReplayProvider(file) as replaying:
        bus = MessageBus.isolated()
        await bus.start()
        engine = LLMEngine(bus, replaying, tools=replaying.tools(tools_of()[0]), limits=Limits(output_tokens=5_000))
        assert await engine.respond("Hello", engine.session_id) == "It is 12."
        await bus.stop()
