"""`recorded` for tests, the file of a recording, and a model behind a real socket."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer

from llmgine.errors import ConfigurationError, ProviderResponseError
from llmgine.llm.providers import Provider, complete
from llmgine.llm.providers.openai import OpenAIProvider
from llmgine.llm.recording import RecordingProvider, ReplayProvider, recorded
from llmgine.observability.redact import redact
from recording.runs import Pieces, calls, lines, mutated, run, said, tools_of

HELLO = [{"role": "user", "content": "Hello"}]
KEY = "sk-proj-abcdefghijklmnop1234567890"


@pytest.fixture(autouse=True)
def no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMGINE_RECORD", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recordings" / "run.jsonl"


async def test_it_records_once_and_replays_from_then_on(file: Path) -> None:
    made: list[Pieces] = []

    def make() -> Provider:
        made.append(Pieces(said("Hi.")))
        return made[-1]

    for _ in range(3):
        with recorded(file, make) as provider:
            assert (await complete(provider, HELLO)).text == "Hi."
            await provider.aclose()
    assert [each.closed for each in made] == [1]


async def test_the_environment_says_record_anew_or_never(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_RECORD", "0")
    with pytest.raises(ConfigurationError, match="LLMGINE_RECORD=0 forbids making one"):
        recorded(file, Pieces)
    assert not file.exists()
    for text in ("Hi.", "Ho."):
        monkeypatch.setenv("LLMGINE_RECORD", "1")
        with recorded(file, lambda text=text: Pieces(said(text))) as provider:  # type: ignore[misc]
            await complete(provider, HELLO)
        monkeypatch.setenv("LLMGINE_RECORD", "0")
        with recorded(file, Pieces) as provider:
            assert (await complete(provider, HELLO)).text == text
    monkeypatch.setenv("LLMGINE_RECORD", "yes")
    with pytest.raises(ConfigurationError, match=r"LLMGINE_RECORD must be 1 .* or 0"):
        recorded(file, Pieces)


async def fails(file: Path) -> None:
    with suppress(ZeroDivisionError), recorded(file, lambda: Pieces(said("Ho."))) as provider:
        await complete(provider, HELLO)
        raise ZeroDivisionError


async def test_a_run_that_fails_is_not_kept_and_spoils_nothing_that_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fails(file)
    assert list(file.parent.iterdir()) == []

    with recorded(file, lambda: Pieces(said("Hi."))) as provider:
        await complete(provider, HELLO)
    before = file.read_bytes()
    monkeypatch.setenv("LLMGINE_RECORD", "1")
    await fails(file)
    assert [each.read_bytes() for each in file.parent.iterdir()] == [before]


async def test_asking_after_the_end_of_a_recording_is_refused(file: Path) -> None:
    with RecordingProvider(Pieces(said("Hi.")), file) as provider:
        pass
    with pytest.raises(ConfigurationError, match="the recording has ended"):
        await complete(provider, HELLO)


async def test_only_its_owner_can_read_a_recording(file: Path) -> None:
    before = os.umask(0)
    try:
        with recorded(file, lambda: Pieces(said("Hi."))) as provider:
            [part] = file.parent.iterdir()
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
            await complete(provider, HELLO)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_where_nothing_can_be_written_it_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="no recording can be written there"):
        RecordingProvider(Pieces(), tmp_path / "file" / "run.jsonl")


async def test_a_file_that_is_no_whole_recording_is_refused_with_the_line(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ReplayProvider(tmp_path / "none.jsonl")
    other = tmp_path / "other.jsonl"
    for content in ("", "{}\n", "text\n", "[1]\n"):
        other.write_text(content)
        with pytest.raises(ConfigurationError, match="first line does not say that it is one"):
            ReplayProvider(other)

    with RecordingProvider(Pieces(said("Hi.")), file) as provider:
        await complete(provider, HELLO)
    whole = file.read_text().splitlines(keepends=True)
    for broken, told in [
        (whole[:-1], r"request 1 \(line 2\) has no end"),
        (whole[:2] + whole[3:4] + ["{half"], "line 4: this is no line of a recording"),
        (whole[:1] + whole[2:], "line 2: .*no request 1 before it"),
        ([*whole, '{"kind": "poem"}\n'], "line 6: .*unknown kind 'poem'"),
        ([*whole, "[]\n"], "line 6: this is no line"),
    ]:
        other.write_text("".join(broken))
        with pytest.raises(ConfigurationError, match=told):
            ReplayProvider(other)
    mutated(file, 0, lambda header: header.update(version=3))
    with pytest.raises(ConfigurationError, match="of version 3"):
        ReplayProvider(file)


async def test_what_is_redacted_is_so_in_the_recording_and_for_the_comparison(file: Path) -> None:
    secret = [{"role": "system", "content": f"The key is {KEY}."}, *HELLO]

    async def asked(provider: RecordingProvider | ReplayProvider) -> Any:
        manager, _ = tools_of()

        async def look_up() -> dict[str, str]:
            return {"name": "a", "note": KEY}

        manager.register_tool(look_up)
        seen = await run(provider, provider.tools(manager), "Look it up")
        await complete(provider, secret)
        return seen[-1]

    for _ in range(2):
        with recorded(file, lambda: Pieces(calls(("look_up", "{}")), said("Done."), said("Yes.")), redact=redact) as p:
            assert (await asked(p))["result"] == "Done."
    assert KEY not in file.read_text()
    assert "<redacted>" in file.read_text()


# A model behind a socket


SCRIPT: list[dict[str, Any]] = [
    {"text": "Let me see.", "tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]},
    {"text": "It is 12 degrees."},
    {"status": 400, "error": {"message": f"the key {KEY} may not do this", "code": None}},
    {"text": "I have to", "cut_off": True},
]


async def test_a_run_against_a_server_is_the_same_when_the_server_is_gone_and_its_key_is_nowhere(file: Path) -> None:
    words = ("Weather?", "And now?", "Well?")
    async with OpenAIServer(SCRIPT) as server:

        def make() -> Provider:
            return OpenAIProvider("a-model", base_url=server.base_url, api_key=KEY, max_retries=0)

        with recorded(file, make, redact=redact) as provider:
            first = await run(provider, provider.tools(tools_of()[0]), *words)
            await provider.aclose()
        assert server.keys == [f"Bearer {KEY}"] * 4
    manager, called = tools_of()
    with recorded(file, make, redact=redact) as provider:
        again = await run(provider, provider.tools(manager), *words)

    assert json.loads(json.dumps(again, default=str)) == json.loads(
        json.dumps(first, default=str).replace(KEY, "<redacted>")
    )
    assert [step["result"] for step in first if "result" in step] == ["It is 12 degrees.", None, None]
    assert called == []
    assert KEY not in file.read_text()
    assert "uthorization" not in file.read_text()
    [failed] = [line for line in lines(file) if line["kind"] == "end" and line["n"] == 3]
    assert failed["error"]["kinds"][0].endswith(f":{ProviderResponseError.__name__}")
