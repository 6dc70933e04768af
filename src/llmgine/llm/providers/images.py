"""A picture as a part of a message."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from llmgine.errors import ConfigurationError

__all__ = ["MAX_IMAGE_BYTES", "image_part"]

MAX_IMAGE_BYTES = 20_000_000
"""How large a picture may be; providers refuse larger ones, some also smaller ones."""

_WEBP = slice(8, 12)
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


def image_part(source: str | Path | bytes) -> dict[str, Any]:
    """Return a content part of a user message, with the picture in it.

    Put it beside the text: `{"role": "user", "content": [{"type": "text", "text": …}, image_part("cat.png")]}`.

    Args:
        source: a PNG, JPEG, GIF or WebP file, or its bytes. What it is, is told by its content.

    Raises:
        ConfigurationError: it cannot be read, is of another kind, or is larger than `MAX_IMAGE_BYTES`.
    """
    name = "The picture"
    if isinstance(source, bytes):
        data = source
    else:
        name = str(source)
        try:
            with Path(source).open("rb") as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            msg = f"{source} cannot be read as a picture: {error.strerror}."
            raise ConfigurationError(msg) from error
    if len(data) > MAX_IMAGE_BYTES:
        msg = f"{name} is larger than {MAX_IMAGE_BYTES // 1_000_000} MB. Make it smaller; models see no more for it."
        raise ConfigurationError(msg)
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None and data.startswith(b"RIFF") and data[_WEBP] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        msg = f"{name} is no picture that models read. Expected PNG, JPEG, GIF or WebP."
        raise ConfigurationError(msg)
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
