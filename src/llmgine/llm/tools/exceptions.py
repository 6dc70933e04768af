"""The errors of tools, under the name that applications import them from."""

from llmgine.errors import (
    ToolError,
    ToolExecutionError,
    ToolRegistrationError,
    ToolTimeoutError,
    ToolValidationError,
)

__all__ = [
    "ToolError",
    "ToolExecutionError",
    "ToolRegistrationError",
    "ToolTimeoutError",
    "ToolValidationError",
]
