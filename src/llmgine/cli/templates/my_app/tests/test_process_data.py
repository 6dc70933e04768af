"""The application as a whole, on a bus of its own and with a log of its own."""

import asyncio
from pathlib import Path

from llmgine import CommandResult, MessageBus

from bootstrap import Application
from commands import ProcessDataCommand
from config import Settings
from events import DataProcessedEvent
from services.data_processor import Summary


def run(text: str, logs: Path) -> tuple[CommandResult[Summary], list[DataProcessedEvent]]:
    """Have a text processed; return the result and the events."""
    seen: list[DataProcessedEvent] = []

    async def main() -> CommandResult[Summary]:
        settings = Settings(file_handler_log_dir=logs, file_handler_log_filename="events.jsonl", max_words=3)
        application = Application(settings, message_bus=MessageBus.isolated())
        application.register_event_handler(DataProcessedEvent, seen.append)
        async with application:
            return await application.message_bus.execute(ProcessDataCommand(text=text))

    return asyncio.run(main()), seen


def test_a_command_is_answered_and_what_happened_is_published_and_logged(tmp_path: Path) -> None:
    result, seen = run("two words", tmp_path)

    assert result.unwrap() == Summary(words=2, longest="words")
    assert [event.words for event in seen] == [2]
    assert "A text was processed" in (tmp_path / "events.jsonl").read_text(encoding="utf-8")


def test_a_failure_is_the_result_and_nothing_is_published(tmp_path: Path) -> None:
    result, seen = run("more words than three", tmp_path)

    assert not result.success
    assert result.error == "ValueError: A text has 1 to 3 words; this one has 4."
    assert seen == []
