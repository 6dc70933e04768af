"""A container for the mediators that ask one for their handlers."""

from typing import Any


class Container:
    """The simplest there is: every handler exists already."""

    def __init__(self) -> None:
        self.handlers: dict[type, Any] = {}

    async def resolve(self, type_: type) -> Any:
        return self.handlers[type_]
