"""A call that needs approval is shown to whoever is at the terminal, who says yes or no."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.text import Text

from llmgine.bus.answer_form import FormField
from llmgine.bus.answer_schema import form_of
from llmgine.cli.approval_answer import described, typed_value, user_name, visible
from llmgine.cli.log_text import one_line
from llmgine.errors import ApprovalAnswerError, LLMgineError
from llmgine.llm.approvals import Approvals, ToolApprovalCommand
from llmgine.messages import ApprovalResult
from llmgine.messages.approvals import ApprovalStatus

__all__ = ["ApprovalQuestions"]

_Aside: TypeAlias = Callable[[], AbstractContextManager[object]]
_WORDS = {"y": True, "yes": True, "n": False, "no": False}
_MOST_SHOWN = 10_000
"""Characters of the arguments. Who approves has to see them all, but not a terminal full of them for ever."""


class ApprovalQuestions:
    """Asks about one call at a time. An answer from elsewhere, and the end of the prompt, end the question."""

    def __init__(self, approvals: Approvals) -> None:
        self._console = Console()
        self._approvals = approvals
        self._aside: _Aside = nullcontext
        self._turn = asyncio.Lock()

    @contextmanager
    def beside(self, aside: _Aside) -> Generator[None]:
        """Ask beside something else that is drawn on this terminal, within the block.

        Args:
            aside: a context in which that leaves the terminal alone.
        """
        self._aside = aside
        try:
            yield
        finally:
            self._aside = nullcontext

    async def ask(self, command: ToolApprovalCommand) -> ApprovalResult:
        """Ask, and decide as is answered. The bus calls this."""
        async with self._turn:
            with self._aside():
                self._console.print(_request(command))
                _forget_what_was_typed()
                while not await self._decided(command):
                    pass
        # What there is to decide has been decided.
        return ApprovalResult(success=False, approval_status=ApprovalStatus.PENDING)

    async def _decided(self, command: ToolApprovalCommand) -> bool:
        """Return whether there was an answer with which something could be done."""
        answer: dict[str, Any] | None = None
        reason = ""
        try:
            approve = await self._yes_or_no("Run it? [y/n] " if command.answer_schema is None else "Answer it? [y/n] ")
            if approve and command.answer_schema is not None:
                answer = await self._filled_in(form_of(command.answer_schema).fields)
            elif not approve:
                reason = await _line("Why not? The model is told. [Enter for no reason] ")
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)  # which stops the reply, and this with it
            return await asyncio.Event().wait()
        except EOFError:
            approve = False
        try:
            await self._approvals.decide(
                command.approval_id, approve=approve, decided_by=user_name(), reason=reason.strip(), answer=answer
            )
        except ApprovalAnswerError as error:
            self._say(str(error))
            return False
        except LLMgineError as error:
            self._say(str(error))  # such as that somebody else was faster
        return True

    async def _yes_or_no(self, question: str) -> bool:
        while (word := (await _line(question)).strip().lower()) not in _WORDS:
            self._say("y lets it run, once; n does not")
        return _WORDS[word]

    async def _filled_in(self, fields: tuple[FormField, ...]) -> dict[str, Any]:
        answers = [(field.name, await self._field(field)) for field in fields]
        return {name: value for name, value in answers if value is not None}

    async def _field(self, field: FormField) -> Any:
        self._console.print(Text(f"{one_line(field.name)}: {described(field)}"))
        while True:
            value, problem = typed_value(field, await _line("> "))
            if not problem:
                return value
            self._say(problem)

    def _say(self, text: str) -> None:
        self._console.print(Text(one_line(text), "yellow"))


def _forget_what_was_typed() -> None:
    """Keep what was typed before a question from answering it."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input.typeahead import clear_typeahead

    typed = PromptSession[str]().input
    with typed.raw_mode():
        typed.read_keys()
    clear_typeahead(typed)


async def _line(question: str) -> str:
    """Return what is typed.

    Raises:
        EOFError: nobody answers: Ctrl-D, or the terminal is gone.
        KeyboardInterrupt: Ctrl-C.
    """
    from prompt_toolkit import PromptSession

    return await PromptSession[str]().prompt_async([("bold", question)], handle_sigint=False)


def _request(command: ToolApprovalCommand) -> RenderableType:
    body = Text()
    for name, value in command.arguments.items():
        body.append(f"{visible(name)} = ", "dim")
        body.append(visible(json.dumps(value, ensure_ascii=False, indent=2)) + "\n")
    if len(body) > _MOST_SHOWN:
        left_out = len(body) - _MOST_SHOWN
        body.truncate(_MOST_SHOWN)
        body.append(f"… [{left_out:,} more characters]\n", "red")
    for line in (command.note, command.url):
        if line:
            body.append(visible(line) + "\n", "yellow")
    body.right_crop()
    title = Text(f"{visible(command.tool_name)} asks for approval", "bold yellow")
    return Panel(body, title=title, title_align="left", border_style="yellow")
