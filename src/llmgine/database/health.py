"""Whether a database can be reached: an outage is logged once, and once when it is over."""

from __future__ import annotations

import logging
from typing import Any

from llmgine.database.engine import masked, reason

__all__ = ["Health"]

_log = logging.getLogger("llmgine.database")


class Health:
    """What became of the attempts to use a database. Written by one thread, read by any."""

    def __init__(self, url: str, *, level: int = logging.WARNING) -> None:
        """Log outages of the database at `level`."""
        self._url = url
        self._level = level
        self.outages = 0
        self._fails_to: str | None = None
        """What is not possible, while there is an outage: "read" or "write"."""

    @property
    def available(self) -> bool:
        """Whether there is no outage, as far as we know."""
        return self._fails_to is None

    def failed(self, error: BaseException, *, reads: bool) -> None:
        """Note that the database could not be used."""
        if self._fails_to is not None:
            return
        self.outages += 1
        self._fails_to = "read" if reads else "write"
        text = "The database %s cannot be reached: %s. This is not logged again until it can."
        _log.log(self._level, text, masked(self._url), reason(error, self._url))

    def succeeded(self, *, reads: bool) -> None:
        """Note that it could. Where it cannot be written, that it can be read does not end the outage."""
        if self._fails_to is None or (reads and self._fails_to == "write"):
            return
        self._fails_to = None
        _log.log(self._level, "The database %s can be reached again", masked(self._url))

    def stats(self) -> dict[str, Any]:
        """Return {"url", "available", "outages"}; no password in the url."""
        return {"url": masked(self._url), "available": self.available, "outages": self.outages}
