"""Telling this machine's servers from others."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["is_this_machine"]

_NAMES = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104  # compared with, not bound to


def is_this_machine(url: str) -> bool:
    """Return whether a URL, or a host with or without a port, names this machine."""
    try:
        return urlsplit(url if "//" in url else f"//{url}").hostname in _NAMES
    except ValueError:
        return False
