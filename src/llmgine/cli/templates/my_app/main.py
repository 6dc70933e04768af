"""Where the program starts: `python main.py`."""

import asyncio
import sys
from functools import partial
from pathlib import Path

from llmgine.errors import ConfigurationError

from bootstrap import Application
from commands import ProcessDataCommand
from config import Settings

FOLDER = Path(__file__).parent
SAMPLE = "Commands ask for something to be done. Events say what has happened."


async def process(application: Application) -> int:
    """Execute one command, print what came of it, and return the exit code."""
    result = await application.message_bus.execute(ProcessDataCommand(text=SAMPLE))
    if result.result is None:
        print(f"The text was not processed: {result.error}", file=sys.stderr)
        return 1
    print(f"{result.result.words} words, the longest is {result.result.longest!r}")
    return 0


def main() -> int:
    """Run the application until its work is done, or SIGTERM or SIGINT asks it to stop; return the exit code."""
    try:
        settings = Settings.load(FOLDER)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    application = Application(settings)
    return asyncio.run(application.run(partial(process, application)))


if __name__ == "__main__":
    sys.exit(main())
