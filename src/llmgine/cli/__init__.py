"""The command line: `llmgine`, or `python -m llmgine`."""

__all__ = ["main"]


def main() -> int:
    """Run the command line, and return its exit code."""
    from llmgine.cli.app import run

    return run()
