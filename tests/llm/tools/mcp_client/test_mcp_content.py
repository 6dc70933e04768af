"""What a server returns becomes a value for the application and a text for the model."""

import base64
from typing import Any

import pytest
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from llmgine.llm.tools.mcp.content import failure_of, returned
from llmgine.llm.tools.result import ToolReturn

DATA = base64.b64encode(b"12345").decode()
TEXT = TextContent(text="a text")
IMAGE = ImageContent(data=DATA, mime_type="image/png")


def result(*content: Any, **more: Any) -> CallToolResult:
    return CallToolResult(content=list(content), **more)


@pytest.mark.parametrize(
    ("given", "value", "text"),
    [
        (result(TEXT), "a text", "a text"),
        (result(TEXT, TEXT), "a text\na text", "a text\na text"),
        (result(), "", ""),
        (result(TEXT, structured_content={"x": 1}), {"x": 1}, "a text"),
        (result(structured_content={"x": "é"}), {"x": "é"}, '{"x": "é"}'),
        (result(structured_content={}), {}, "{}"),
    ],
)
def test_the_value_is_the_structured_content_where_there_is_one_else_the_text(
    given: CallToolResult, value: object, text: str
) -> None:
    assert returned(given) == ToolReturn(value, text)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (IMAGE, "[an image, image/png, 5 bytes, which cannot be shown here]"),
        (
            AudioContent(data=DATA, mime_type="audio/wav"),
            "[a recording, audio/wav, 5 bytes, which cannot be played here]",
        ),
        (ResourceLink(uri="file:///a", name="a"), "[the resource file:///a, a]"),
        (
            ResourceLink(uri="file:///a", name="a", title="The A", description="it is a"),
            "[the resource file:///a, The A: it is a]",
        ),
        (
            EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="what it says")),
            "[the resource file:///a]\nwhat it says",
        ),
        (
            EmbeddedResource(resource=BlobResourceContents(uri="file:///a", blob=DATA, mime_type="application/zip")),
            "[the resource file:///a, application/zip, 5 bytes]",
        ),
    ],
)
def test_a_model_is_told_what_else_there_is(block: Any, text: str) -> None:
    found = returned(result(TEXT, block))
    assert found.text == f"a text\n{text}"
    assert found.value[0] == {"type": "text", "text": "a text"}
    assert found.value[1]["type"] in {"image_url", "audio", "resource_link", "resource"}


def test_a_picture_is_as_conversations_have_it() -> None:
    [part] = returned(result(IMAGE)).value
    assert part == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}


def test_what_is_beside_structured_content_is_not_lost() -> None:
    found = returned(result(TEXT, IMAGE, structured_content={"x": 1}))
    assert found.value == [
        {"type": "structured_content", "structured_content": {"x": 1}},
        {"type": "text", "text": "a text"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
    ]
    assert found.text == "a text\n[an image, image/png, 5 bytes, which cannot be shown here]"


@pytest.mark.parametrize(
    "said",
    ["no tea", "Error: no tea", "Error executing buy: no tea", "Error executing tool buy: no tea"],
)
def test_a_failure_is_what_the_server_says_of_it_but_not_that_it_is_one(said: str) -> None:
    assert failure_of(result(TextContent(text=said), is_error=True), "buy") == "no tea"


def test_a_failure_may_be_unexplained_and_another_tools_is_told_whole() -> None:
    assert failure_of(result(is_error=True), "buy") == "it failed, and the server does not say why"
    other = "Error executing sell: no tea"
    assert failure_of(result(TextContent(text=other), is_error=True), "buy") == other
