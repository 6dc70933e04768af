"""Pictures as parts of messages: told by their content, and bounded."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from llmgine.errors import ConfigurationError
from llmgine.llm.providers import image_part

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF87arest", "image/gif"),
        (b"GIF89arest", "image/gif"),
        (b"RIFF\x10\x00\x00\x00WEBPrest", "image/webp"),
    ],
)
def test_the_kind_is_told_by_the_content(data: bytes, kind: str, tmp_path: Path) -> None:
    misnamed = tmp_path / "picture.bmp"
    misnamed.write_bytes(data)
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}

    assert image_part(data) == image_part(misnamed) == image_part(str(misnamed)) == part


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"RIFF\x10\x00\x00\x00WAVE", b"%PDF-1.7"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="Expected PNG, JPEG, GIF or WebP"):
        image_part(data)


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("llmgine.llm.providers.images.MAX_IMAGE_BYTES", len(PNG))
    path = tmp_path / "large.png"
    path.write_bytes(PNG + b"!")

    assert image_part(PNG)
    for large in (PNG + b"!", path):
        with pytest.raises(ConfigurationError, match="larger than"):
            image_part(large)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cat\.png cannot be read"):
        image_part(tmp_path / "cat.png")
