"""The face for people: questions and /commands typed at a prompt, replies drawn as they come in."""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle
from rich.console import Console
from rich.text import Text

from llmgine import __version__
from llmgine.cli.approval_question import ApprovalQuestions
from llmgine.cli.client import Chat, reply
from llmgine.cli.failure import explain
from llmgine.cli.folders import state_folder
from llmgine.cli.models import open_model
from llmgine.cli.reply import ReplyView, shortened
from llmgine.cli.signals import interruptible, on_signal
from llmgine.cli.stderr import warn
from llmgine.errors import LLMgineError
from llmgine.llm.types import LLMMessage

__all__ = ["Terminal"]

_COMMAND = re.compile(r"/(\w*)(?:\s+(.*))?", re.DOTALL)
_SPEAKERS = {"user": "bold green", "assistant": "bold cyan", "tool": "bold magenta"}


class Terminal:
    """Talks with a person until they leave."""

    def __init__(self, chat: Chat, questions: ApprovalQuestions | None = None) -> None:
        self._chat = chat
        self._questions = questions
        self._console = Console()
        self._commands: dict[str, tuple[str, Callable[[str], Awaitable[None]]]] = {
            "help": ("show this list", self._help),
            "tools": ("list what the model can use", self._tools),
            "history": ("show the conversation so far", self._history),
            "reset": ("forget the conversation", self._reset),
            "model": ("say which model answers; with a name, like openai:gpt-5, change it", self._model),
            "quit": ("leave; so does Ctrl-D", self._quit),
        }

    async def converse(self) -> None:
        """Answer whatever is typed, until `/quit`, Ctrl-D, or Ctrl-C twice at an empty prompt."""
        self._say(f"LLMgine {__version__} · {self._chat.model}")
        self._say("/help lists the commands · Ctrl-C stops a reply · Ctrl-D quits", "dim")
        prompt = _prompt(_Commands(self._commands))
        leaving = False
        # Between a reply and the prompt, Ctrl-C comes too late for the one and too early for the other.
        with suppress(EOFError), on_signal(signal.SIGINT, lambda: None):
            while True:
                try:
                    line = (await prompt.prompt_async()).strip()
                except KeyboardInterrupt:
                    if leaving:
                        return
                    leaving = not prompt.default_buffer.text
                    if leaving:
                        self._say("Ctrl-C again or Ctrl-D quits", "dim")
                    continue
                leaving = False
                if command := _COMMAND.fullmatch(line):
                    await self._obey(command[1], command[2] or "")
                elif line:
                    self._console.print()
                    async with ReplyView(self._console, self._questions) as view:
                        await reply(self._chat, line, view.show)
                    self._console.print()

    async def _obey(self, name: str, argument: str) -> None:
        if name not in self._commands:
            near = get_close_matches(name, self._commands, n=1)
            hint = f"did you mean /{near[0]}?" if near else "/help lists the commands"
            self._say(f"There is no command /{name}; {hint}", "yellow")
            return
        try:
            if not await interruptible(self._commands[name][1](argument)):
                self._say("stopped", "yellow")
        except LLMgineError as error:
            warn(explain(error)[0])

    async def _help(self, _argument: str) -> None:
        for name, (purpose, _) in self._commands.items():
            self._console.print(Text.assemble((f"/{name:<9}", "bold cyan"), purpose))
        self._say("Alt-Enter begins a new line. What was typed before comes back with the arrow keys.", "dim")

    async def _tools(self, _: str) -> None:
        for tool in self._chat.tools.tools:
            summary = tool.description.partition("\n")[0]
            self._console.print(Text.assemble((tool.name, "bold cyan"), f"  {summary}"))
        if not self._chat.tools.tools:
            self._say("none")

    async def _history(self, _: str) -> None:
        messages = await self._chat.messages()
        for message in messages:
            self._say_message(message)
        if not messages:
            self._say("nothing yet")

    async def _reset(self, _: str) -> None:
        count = len(await self._chat.messages())
        await self._chat.reset()
        self._say(f"forgotten: {count} messages")

    async def _model(self, spec: str) -> None:
        if spec:
            await self._chat.use(await open_model(spec))
        self._say(str(self._chat.model))

    async def _quit(self, _: str) -> None:
        raise EOFError

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))

    def _say_message(self, message: LLMMessage) -> None:
        role = message["role"]
        text = shortened(message.get("content") or "", 20)
        for call in message.get("tool_calls") or ():
            function = call["function"]
            text += shortened(f"\n→ {function['name']} {function['arguments']}", 4)
        self._console.print(Text.assemble((f"{role}: ", _SPEAKERS.get(role, "bold")), text.strip()))


class _Commands(Completer):
    """Completes the names of commands."""

    def __init__(self, commands: Mapping[str, tuple[str, object]]) -> None:
        self._commands = commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        typed = document.text
        for name, (purpose, _) in self._commands.items():
            if typed.startswith("/") and f"/{name}".startswith(typed):
                yield Completion(f"/{name}", start_position=-len(typed), display_meta=purpose)


def _prompt(completer: Completer) -> PromptSession[str]:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        [("bold", "› ")],
        multiline=True,  # for what is pasted; Enter sends
        prompt_continuation="  ",
        key_bindings=keys,
        history=_history(),
        completer=completer,
        complete_style=CompleteStyle.READLINE_LIKE,
    )


def _history() -> History:
    """Return what was typed in earlier sessions; where that cannot be kept, in this one."""
    try:
        path = state_folder() / "chat_history"
        path.touch(mode=0o600)
        return FileHistory(path)
    except (LLMgineError, OSError):
        return InMemoryHistory()
