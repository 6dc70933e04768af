"""Where replies come from. Each adapter loads its library when it is first used."""

from typing import TYPE_CHECKING, Any

from llmgine.llm.providers.base import Fold, Provider, SchemaProvider, complete, takes_schemas
from llmgine.llm.providers.choice import ModelChoice, choose_model, create_provider
from llmgine.llm.providers.errors import AuthenticationError, OverloadedError, StalledError
from llmgine.llm.providers.images import image_part

if TYPE_CHECKING:
    from llmgine.llm.providers.fallback import FallbackProvider, Switch

__all__ = [
    "AuthenticationError",
    "FallbackProvider",
    "Fold",
    "ModelChoice",
    "OverloadedError",
    "Provider",
    "SchemaProvider",
    "StalledError",
    "Switch",
    "choose_model",
    "complete",
    "create_provider",
    "image_part",
    "takes_schemas",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load the fallback when it is asked for: the circuit breakers behind it take a while."""
        if name not in {"FallbackProvider", "Switch"}:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from llmgine.llm.providers import fallback

        return getattr(fallback, name)
