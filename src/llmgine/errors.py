"""Every error that LLMgine raises, in one tree. Each leaf is also the builtin that a caller would expect.

LLMgineError
├─ ConfigurationError (ValueError)
│  └─ MissingExtraError (ImportError) .extra
├─ BusError
│  ├─ BusNotRunningError (RuntimeError)
│  ├─ BlockingCallError (RuntimeError)
│  ├─ HandlerNotFoundError (LookupError)
│  ├─ HandlerAlreadyRegisteredError (ValueError)
│  ├─ SessionClosedError (RuntimeError)
│  ├─ CommandFailedError .result
│  ├─ CommandTimeoutError (TimeoutError) .timeout
│  ├─ CircuitOpenError .name .retry_after
│  ├─ QueueFullError .maxsize
│  └─ DeadlockError .cycle
├─ CodecError (ValueError)
│  └─ UnknownMessageTypeError .type_name
├─ ResourceError .resource_id
│  ├─ ResourceNotFoundError (LookupError)
│  └─ ResourceConflictError (ValueError)
├─ StoreError
├─ ApprovalError .approval_id
│  └─ ApprovalAnswerError (ValueError) .problems
├─ EngineBusyError (RuntimeError)
├─ TurnLimitError .limit
├─ OutputFormError (ValueError) .text
├─ BudgetExceededError .budget .kind .limit .used .reserved .action
├─ ToolError
│  ├─ ToolRegistrationError (ValueError)
│  ├─ ToolValidationError (ValueError)
│  ├─ ToolExecutionError
│  │  └─ ToolTimeoutError (TimeoutError) .timeout
│  └─ MCPError .server
│     ├─ MCPRequestError .code
│     └─ MCPConnectionError (ConnectionError)
│        └─ MCPConnectionLostError
└─ ProviderError .provider .model
   ├─ ProviderUnavailableError (ConnectionError)
   ├─ ProviderResponseError .status
   │  ├─ RateLimitedError .retry_after
   │  └─ ContextLengthError
   ├─ IncompleteResponseError .partial
   └─ ModelFileError (OSError)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal


class LLMgineError(Exception):
    """The root: `except LLMgineError` catches whatever this package raises on purpose."""


class ConfigurationError(LLMgineError, ValueError):
    """Options that contradict each other or make no sense; raised at construction."""


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the '{extra}' extra. Install it with: pip install 'llmgine[{extra}]'")
        self.extra = extra


class BusError(LLMgineError):
    """Something went wrong in the message bus itself."""


class BusNotRunningError(BusError, RuntimeError):
    """The bus has been stopped, or belongs to another event loop."""


class BlockingCallError(BusError, RuntimeError):
    """Waiting here would stop the very event loop that has to do the work."""


class HandlerNotFoundError(BusError, LookupError):
    """Nobody handles the command."""


class HandlerAlreadyRegisteredError(BusError, ValueError):
    """A command type has its one handler in this scope already."""


class SessionClosedError(BusError, RuntimeError):
    """A session was used before it began or after it ended."""


class CommandFailedError(BusError):
    """A command's handler reported a failure."""

    def __init__(self, message: str, *, result: object) -> None:
        super().__init__(message)
        self.result = result
        """The `CommandResult`."""


class CommandTimeoutError(BusError, TimeoutError):
    """A command did not finish before its deadline."""

    def __init__(self, message: str, *, timeout: float) -> None:
        super().__init__(message)
        self.timeout = timeout
        """Seconds that the command was given."""


class CircuitOpenError(BusError):
    """A circuit breaker lets nothing through, because too much has failed."""

    def __init__(self, message: str, *, name: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.name = name
        """Of the breaker."""
        self.retry_after = retry_after
        """Seconds until it tries again; None where somebody has to close it."""


class QueueFullError(BusError):
    """There are as many waiting as there may be."""

    def __init__(self, message: str, *, maxsize: int) -> None:
        super().__init__(message)
        self.maxsize = maxsize


class DeadlockError(BusError):
    """Waiting here would never end, because what is waited for waits for us."""

    def __init__(self, message: str, *, cycle: tuple[str, ...]) -> None:
        super().__init__(message)
        self.cycle = cycle
        """Session ids, each waiting for the next; the first one is also the last."""


class CodecError(LLMgineError, ValueError):
    """A message cannot be written down, or what is stored cannot become a message again."""


class UnknownMessageTypeError(CodecError):
    """A stored message is of a class that this program does not have."""

    def __init__(self, message: str, *, type_name: str) -> None:
        super().__init__(message)
        self.type_name = type_name


class ResourceError(LLMgineError):
    """A command on a resource asks for what cannot be."""

    def __init__(self, message: str, *, resource_id: str) -> None:
        super().__init__(message)
        self.resource_id = resource_id


class ResourceNotFoundError(ResourceError, LookupError):
    """No resource has this id."""


class ResourceConflictError(ResourceError, ValueError):
    """A resource with this id exists already, or is of another type."""


class StoreError(LLMgineError):
    """A database could not be read or written."""


class ApprovalError(LLMgineError):
    """A request for approval cannot be decided or used as asked. Nothing may be done on the strength of it."""

    def __init__(self, message: str, *, approval_id: str) -> None:
        super().__init__(message)
        self.approval_id = approval_id


class ApprovalAnswerError(ApprovalError, ValueError):
    """What was filled in does not fit what is asked for. The request stays open: answer again."""

    def __init__(self, message: str, *, approval_id: str, problems: Mapping[str, str]) -> None:
        super().__init__(message, approval_id=approval_id)
        self.problems = problems
        """What is wrong, by the name of the field."""


class EngineBusyError(LLMgineError, RuntimeError):
    """The engine is answering another prompt of the same conversation."""


class TurnLimitError(LLMgineError):
    """A model asked for tools more often than it may for one prompt."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class BudgetExceededError(LLMgineError):
    """A budget has no room for what is to be spent."""

    def __init__(
        self,
        message: str,
        *,
        budget: str,
        kind: str,
        limit: Decimal | float,
        used: Decimal | float,
        reserved: Decimal | float = 0,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        """Its name."""
        self.kind = kind
        """Which of its limits: "requests", "tool_calls", "input_tokens", "output_tokens", "total_tokens", "cost" or
        "seconds"."""
        self.limit = limit
        self.used = used
        self.reserved = reserved
        """By what is under way."""
        self.action: Literal["fail", "finish"] = "fail"
        """What is to be done: give up, or answer with what there is."""


class OutputFormError(LLMgineError, ValueError):
    """A model gave no answer of the form that was asked for."""

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text
        """Its last answer."""


class ToolError(LLMgineError):
    """Something went wrong with a tool."""


class ToolRegistrationError(ToolError, ValueError):
    """A function cannot become a tool, or its name is taken."""


class ToolValidationError(ToolError, ValueError):
    """Arguments do not fit the tool's parameters."""


class ToolExecutionError(ToolError):
    """A tool raised."""


class ToolTimeoutError(ToolExecutionError, TimeoutError):
    """A tool took longer than it may."""

    def __init__(self, message: str, *, timeout: float) -> None:
        super().__init__(message)
        self.timeout = timeout
        """Seconds that the tool was given."""


class MCPError(ToolError):
    """An MCP server has not done what was asked of it."""

    def __init__(self, message: str, *, server: str = "") -> None:
        super().__init__(message)
        self.server = server
        """The name that it is registered under."""


class MCPRequestError(MCPError):
    """An MCP server has refused a request."""

    def __init__(self, message: str, *, code: int, server: str = "") -> None:
        super().__init__(message, server=server)
        self.code = code
        """By JSON-RPC and MCP: -32602 for parameters that do not fit, and so on."""


class MCPConnectionError(MCPError, ConnectionError):
    """There is no connection to an MCP server. What was asked has not been sent."""


class MCPConnectionLostError(MCPConnectionError):
    """The connection to an MCP server has broken off. What was asked may have been done."""


class ProviderError(LLMgineError):
    """A language model could not answer."""

    def __init__(self, message: str, *, provider: str = "", model: str = "") -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model


class ProviderUnavailableError(ProviderError, ConnectionError):
    """The provider could not be reached."""


class ProviderResponseError(ProviderError):
    """The provider refused the request."""

    def __init__(self, message: str, *, status: int | None = None, provider: str = "", model: str = "") -> None:
        super().__init__(message, provider=provider, model=model)
        self.status = status
        """HTTP status, where there was one."""


class RateLimitedError(ProviderResponseError):
    """The provider asks for fewer requests."""

    def __init__(self, message: str, *, retry_after: float | None = None, provider: str = "", model: str = "") -> None:
        super().__init__(message, status=429, provider=provider, model=model)
        self.retry_after = retry_after
        """Seconds to wait before the next attempt, where the provider said so."""


class ContextLengthError(ProviderResponseError):
    """The conversation is longer than the model can read."""


class IncompleteResponseError(ProviderError):
    """A reply broke off before the provider said that it was finished."""

    def __init__(self, message: str, *, partial: str = "", provider: str = "", model: str = "") -> None:
        super().__init__(message, provider=provider, model=model)
        self.partial = partial
        """The text that had arrived."""


class ModelFileError(ProviderError, OSError):
    """A model's file is missing, unreadable or not what its checksum says."""
