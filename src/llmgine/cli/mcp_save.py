"""What a tool returns that is no text, as files."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from mimetypes import guess_extension
from pathlib import Path
from typing import Any

from llmgine.errors import ConfigurationError

__all__ = ["save_parts"]

_DATA_URL = re.compile(r"data:([^;,]*);base64,(.*)", re.DOTALL)


def save_parts(folder: str, name: str, value: Any) -> Iterator[str]:
    """Save the images, recordings and files of a result, and give the path of each.

    Args:
        folder: where to; it is made if it is not there. Files that are there are left as they are.
        name: what the files are called, before their numbers.
        value: of the result.

    Raises:
        ConfigurationError: nothing can be written there.
    """
    stem = re.sub(r"[^\w.-]", "_", name)
    number = 0
    for kind, data in _files(value):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            while True:
                number += 1
                path = Path(folder) / f"{stem}-{number}{guess_extension(kind) or '.bin'}"
                try:
                    with path.open("xb") as file:
                        file.write(data)
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            msg = f"--out {folder}: it cannot be written there ({error.strerror})"
            raise ConfigurationError(msg) from error
        yield str(path)


def _files(value: Any) -> Iterator[tuple[str, bytes]]:
    """Give the MIME type and the content of each part of a result that is no text."""
    for part in value if isinstance(value, list) else ():
        match part:
            case {"type": "image_url", "image_url": {"url": str(url)}} if found := _DATA_URL.fullmatch(url):
                yield found[1], base64.b64decode(found[2])
            case {"type": "audio", "data": str(data), "mimeType": str(kind)}:
                yield kind, base64.b64decode(data)
            case {"type": "resource", "resource": {"blob": str(data), **more}}:
                yield str(more.get("mimeType", "")), base64.b64decode(data)
            case {"type": "resource", "resource": {"text": str(text), **more}}:
                yield str(more.get("mimeType", "text/plain")), text.encode()
            case _:
                pass
