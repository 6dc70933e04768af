"""How often commands fail, by session and type."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any

from llmgine.bus.clocks import utc_now
from llmgine.bus.interfaces import CommandHandler, HandlerMiddleware
from llmgine.bus.options import check_number
from llmgine.bus.resilience.outcomes import NextForCommand, failed
from llmgine.messages import Command, CommandResult, SessionID

__all__ = ["ErrorStatistics"]


class _Figures:
    __slots__ = ("consecutive", "executions", "failures", "last_failure")

    def __init__(self) -> None:
        self.executions = 0
        self.failures = 0
        self.consecutive = 0
        self.last_failure: datetime | None = None

    def report(self) -> dict[str, Any]:
        return {
            "failure_count": self.failures,
            "consecutive_failures": self.consecutive,
            "total_executions": self.executions,
            "failure_rate": self.failures / self.executions,
            "last_failure": None if self.last_failure is None else self.last_failure.isoformat(),
        }


class ErrorStatistics(HandlerMiddleware):
    """Counts how commands end, whether by an exception or by a failed result. A cancelled command does not count."""

    def __init__(self, max_sessions: int = 1000, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Begin with nothing counted.

        Args:
            max_sessions: how many to remember; the one whose last command is the longest ago is forgotten first.
            clock: what time it is.

        Raises:
            ConfigurationError: `max_sessions` is no whole number above 0.
        """
        check_number("max_sessions", max_sessions, int, "a whole number, 1 or more", least=1)
        self._max_sessions = max_sessions
        self._clock = clock
        self._sessions: OrderedDict[SessionID, dict[str, _Figures]] = OrderedDict()

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        try:
            result = await next_middleware(command, handler)
        except Exception:  # whatever a handler raises is counted, and goes on
            self._count(command, failure=True)
            raise
        self._count(command, failure=failed(result))
        return result

    def get(self, session_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the figures of every session, or of one; a session without commands is left out.

        Shape: `{session id: {name of the command's class: {"failure_count", "consecutive_failures",
        "total_executions", "failure_rate", "last_failure"}}}`; the last is an ISO 8601 date or None.
        """
        return {
            session: {name: figures.report() for name, figures in by_type.items()}
            for session, by_type in self._sessions.items()
            if session_id is None or session == session_id
        }

    def _count(self, command: Command[Any], *, failure: bool) -> None:
        sessions, session = self._sessions, command.session_id
        name = type(command).__name__
        try:
            figures = sessions[session][name]
            sessions.move_to_end(session)
        except KeyError:
            figures = sessions.setdefault(session, {})[name] = _Figures()
            sessions.move_to_end(session)
            if len(sessions) > self._max_sessions:
                sessions.popitem(last=False)
        figures.executions += 1
        if failure:
            figures.failures += 1
            figures.consecutive += 1
            figures.last_failure = self._clock()
        else:
            figures.consecutive = 0
