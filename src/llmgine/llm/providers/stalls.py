"""Nobody waits for ever: a stream from which nothing comes for too long is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import TypeVar

__all__ = ["SilenceError", "unstalled"]

T = TypeVar("T")


class SilenceError(Exception):
    """Nothing came in time. Whoever reads the stream says it in a `ProviderError`."""


async def unstalled(chunks: AsyncIterable[T], seconds: float) -> AsyncGenerator[T, None]:
    """Pass a stream on. The time that its reader takes does not count.

    Args:
        chunks: the stream. A bytes' sign of life is none: only what it yields counts.
        seconds: how long to wait for each chunk.

    Raises:
        SilenceError: the next chunk did not come in time; what was waited for has been cancelled.
    """
    iterator = aiter(chunks)
    while True:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                chunk = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            if limit.expired():
                raise SilenceError from error
            raise
        yield chunk
