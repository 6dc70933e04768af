"""`message_bus` under the name that synchronous applications import it by. It lives above this layer, so it comes late.

Its type is in the stub beside this file.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "message_bus":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return import_module("llmgine.bus.sync").message_bus
