"""The errors of tools, under the name that applications import them from."""

from llmgine.errors import (
    MCPConnectionError,
    MCPConnectionLostError,
    MCPError,
    MCPRequestError,
    ToolError,
    ToolExecutionError,
    ToolRegistrationError,
    ToolTimeoutError,
    ToolValidationError,
)

__all__ = [
    "MCPConnectionError",
    "MCPConnectionLostError",
    "MCPError",
    "MCPRequestError",
    "ToolError",
    "ToolExecutionError",
    "ToolRegistrationError",
    "ToolTimeoutError",
    "ToolValidationError",
]
