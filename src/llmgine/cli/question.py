"""A yes or a no before something is lost for good."""

from __future__ import annotations

import sys

import typer

from llmgine.errors import ConfigurationError

__all__ = ["confirmed"]


def confirmed(question: str, *, yes: bool) -> bool:
    """Return whether whoever is at the terminal agrees, or has agreed beforehand.

    Raises:
        ConfigurationError: nobody is there to be asked.
    """
    if yes:
        return True
    if not (sys.stdin is not None and sys.stdin.isatty()):
        msg = f"{question} Nobody is at a terminal to answer that: add --yes."
        raise ConfigurationError(msg)
    return typer.confirm(question, err=True)
