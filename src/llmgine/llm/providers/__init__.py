"""Where replies come from. Each adapter loads its library when it is first used."""

from llmgine.llm.providers.base import Fold, Provider, complete
from llmgine.llm.providers.choice import ModelChoice, choose_model, create_provider

__all__ = ["Fold", "ModelChoice", "Provider", "choose_model", "complete", "create_provider"]
