"""The bus of the user's application, named on the command line."""

from __future__ import annotations

from collections.abc import Coroutine
from inspect import isawaitable
from operator import attrgetter
from typing import Any

from llmgine.bus import MessageBus
from llmgine.bus.sync import SynchronousBus
from llmgine.cli.user_modules import failure_of, load_module
from llmgine.errors import ConfigurationError

__all__ = ["find_bus"]


def find_bus(asked: str, spec: str) -> Coroutine[Any, Any, MessageBus]:
    """Import an application; return what its bus comes from when it is awaited.

    Args:
        asked: the command that wants it, for error messages.
        spec: `module:bus`, or a file in place of the module. The bus may be what a function returns, now or later; the
            function is called right away, where no event loop runs.

    Raises:
        ConfigurationError: there is no such bus, or the code that makes it raises; some of that is found out when it is
            awaited.
    """
    module, name = load_module(asked, spec, "bus")
    name = name or "bus"
    offered = vars(module)
    try:
        found = attrgetter(name)(module)
    except AttributeError as error:
        msg = f"{asked} {spec}: there is no {name!r} in it; {_offers(offered)}"
        raise ConfigurationError(msg) from error
    if callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise _failed(asked, spec, name, error) from error
        return _bus_of(asked, spec, name, found, offered, made=True)
    return _bus_of(asked, spec, name, found, offered, made=False)


async def _bus_of(
    asked: str, spec: str, name: str, found: Any, offered: dict[str, object], *, made: bool
) -> MessageBus:
    if made and isawaitable(found):
        try:
            found = await found
        except (Exception, SystemExit) as error:
            raise _failed(asked, spec, name, error) from error
    if isinstance(found, SynchronousBus):
        found = MessageBus()
    if not isinstance(found, MessageBus):
        what = f"what {name} returns" if made else name
        msg = f"{asked} {spec}: {what} is no MessageBus, but of type {type(found).__name__}; {_offers(offered)}"
        raise ConfigurationError(msg)
    return found


def _failed(asked: str, spec: str, name: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(f"{asked} {spec}: calling {name} failed: {failure_of(error)}")


def _offers(names: dict[str, object]) -> str:
    buses = [name for name, value in names.items() if isinstance(value, MessageBus | SynchronousBus)]
    return f"its buses: {', '.join(buses) or 'none'}"
