"""From what the user asked for to a model that answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from llmgine.cli.stderr import say
from llmgine.llm.providers import ModelChoice, Provider, choose_model, create_provider
from llmgine.llm.providers.choice import EMBEDDED_MODEL

__all__ = ["Model", "open_model"]


@dataclass(frozen=True)
class Model:
    """A model that is ready to answer."""

    provider: Provider
    choice: ModelChoice

    def __str__(self) -> str:
        hint = (
            "\nThis is a small demonstration model: do not rely on what it says." if self.choice.demonstration else ""
        )
        return f"{self.choice.spec}, {self.choice.reason}{hint}"


async def open_model(spec: str | None) -> Model:
    """Return the model that was asked for, or the first that there is.

    Raises:
        ConfigurationError: there is no such model, or it cannot be set up.
        ProviderError: it could not be fetched or loaded.
    """
    choice = await choose_model(spec)
    model = Model(create_provider(choice.spec, base_url=choice.base_url), choice)
    if choice.spec == EMBEDDED_MODEL:
        from llmgine.llm.providers.model_store import fetch_weights

        with _progress_bar("Fetching the model, once") as progress:
            await fetch_weights(progress)
    return model


@contextmanager
def _progress_bar(title: str) -> Generator[Callable[[int, int], None]]:
    """Give a function that shows bytes done and bytes in all, from its first call on; in a log, one line at that."""
    if sys.stderr is None or not sys.stderr.isatty():
        begun: list[int] = []

        def mention(done: int, total: int) -> None:
            if not begun and done < total:
                begun.append(total)
                say(f"{title} ({total / 1e6:.0f} MB)")

        yield mention
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)

    def show(done: int, total: int) -> None:
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(title, total=total)
        bar.update(task, completed=done)
        bar.start()

    try:
        yield show
    finally:
        bar.stop()
