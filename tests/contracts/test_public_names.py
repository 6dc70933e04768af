"""What the package says it exports is there, and nothing heavy is loaded for it."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import llmgine

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(llmgine.__path__, "llmgine.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_exported_name_exists_once_and_in_order(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])

    assert len(set(exported)) == len(exported)
    assert all(hasattr(module, attribute) for attribute in exported)


CONTRACT = {
    "llmgine.llm": [
        "SessionID",
        "ToolFunction",
        "AsyncToolFunction",
        "AsyncOrSyncToolFunction",
        "ModelFormattedDictTool",
        "ContextType",
        "ModelNameStr",
        "LLMConversation",
        "ToolChoiceType",
        "ToolChoiceOrDictType",
    ],
    "llmgine": ["MessageBus", "ResilientMessageBus", "Command", "CommandResult", "Event", "SessionID"],
    "llmgine.messages": [
        "EVENT_CLASSES",
        "ApprovalCommand",
        "ApprovalResult",
        "Command",
        "CommandResult",
        "Event",
        "ScheduledEvent",
        "register_scheduled_event_class",
    ],
    "llmgine.messages.scheduled_events": ["ScheduledEvent", "EVENT_CLASSES", "register_scheduled_event_class"],
    "llmgine.messages.approvals": [
        "ApprovalStatus",
        "ApprovalCommand",
        "ApprovalResult",
        "ApprovalRequestEvent",
        "ApprovalAcceptedEvent",
        "ApprovalDeniedEvent",
        "ApprovalExpiredEvent",
        "execute_approval_command",
    ],
    "llmgine.messages.commands": [
        "Command",
        "CommandResult",
        "CreateResourceCommand",
        "UpdateResourceCommand",
        "DeleteResourceCommand",
    ],
    "llmgine.messages.events": [
        "Event",
        "EventHandlerFailedEvent",
        "CommandStartedEvent",
        "CommandResultEvent",
        "CommandErrorEvent",
        "DeadLetterCommandEvent",
        "ResourceCreatedEvent",
        "ResourceUpdatedEvent",
        "ResourceDeletedEvent",
        "WorkflowStartedEvent",
        "SystemStartedEvent",
    ],
    "llmgine.messages.bus": ["message_bus"],
    "llmgine.messages.handlers": ["register_handlers"],
    "llmgine.bus": ["MessageBus", "ResilientMessageBus", "BackpressureStrategy"],
    "llmgine.bus.backpressure": ["BackpressureStrategy", "BoundedEventQueue", "QueueMetrics"],
    "llmgine.bus.resilience": [
        "RetryConfig",
        "DeadLetterEntry",
        "CircuitState",
        "CircuitBreakerConfig",
        "CircuitBreaker",
        "ResilientMessageBus",
    ],
    "llmgine.database": [
        "save_unfinished_events",
        "get_and_delete_unfinished_events",
        "persist_event",
        "reset_engine",
        "drop_all",
    ],
    "llmgine.database.database": [
        "save_unfinished_events",
        "get_and_delete_unfinished_events",
        "persist_event",
        "reset_engine",
        "drop_all",
    ],
    "llmgine.bus.bus": ["MessageBus", "bus_exception_hook"],
    "llmgine.bus.interfaces": [
        "HandlerMiddleware",
        "EventFilter",
        "HandlerPriority",
        "IHandlerRegistry",
        "IEventQueue",
        "IMessageBus",
        "AsyncCommandHandler",
        "AsyncEventHandler",
    ],
    "llmgine.bus.session": ["BusSession", "SessionStartEvent", "SessionEndEvent", "SessionEvent"],
    "llmgine.bus.filters": [
        "SessionFilter",
        "EventTypeFilter",
        "PatternFilter",
        "MetadataFilter",
        "CompositeFilter",
        "DebugFilter",
        "RateLimitFilter",
    ],
    "llmgine.bus.middleware": [
        "LoggingMiddleware",
        "TimingMiddleware",
        "RetryMiddleware",
        "ValidationMiddleware",
        "RateLimitMiddleware",
    ],
    "llmgine.bus.registry": ["HandlerRegistry", "EventHandlerEntry"],
    "llmgine.bus.metrics": [
        "get_metrics_collector",
        "reset_metrics_collector",
        "MetricsCollector",
        "Timer",
        "Counter",
        "Histogram",
        "Gauge",
        "MetricType",
        "MetricValue",
    ],
    "llmgine.llm.context.memory": ["SimpleChatHistory", "SimpleMemory", "Role", "ChatMessage"],
    "llmgine.llm.tools": ["ToolCall"],
    "llmgine.llm.tools.toolCall": ["ToolCall"],
    "llmgine.llm.tools.tool_manager": ["ToolManager"],
    "llmgine.llm.tools.mcp": ["LLMgineMCPServer", "create_llmgine_mcp_server"],
    "llmgine.llm.tools.mcp.mcp_tool_adapter": ["ToolAdapter"],
    "llmgine.llm.tools.tool_events": [
        "ToolManagerEvent",
        "ToolRegisterEvent",
        "ToolCompiledEvent",
        "ToolExecuteResultEvent",
        "ToolCallEvent",
    ],
    "llmgine.llm.tools.tool": ["Parameter", "Tool"],
    "llmgine.llm.tools.tool_parser": ["OpenAIToolParser", "ClaudeToolParser", "DeepSeekToolParser"],
    "llmgine.llm.tools.tool_register": ["ToolRegister"],
    "llmgine.llm.tools.validation": ["coerce_value"],
    "llmgine.llm.tools.exceptions": [
        "ToolError",
        "ToolRegistrationError",
        "ToolValidationError",
        "ToolExecutionError",
        "ToolTimeoutError",
    ],
    "llmgine.observability": [
        "LogEvent",
        "LogLevel",
        "Metric",
        "MetricEvent",
        "ObservabilityBus",
        "ObservabilityManager",
        "SpanContext",
        "TraceEvent",
    ],
    "llmgine.observability.events": ["LogLevel", "ObservabilityBaseEvent"],
    "llmgine.observability.manager": ["ObservabilityBus", "ObservabilityManager", "ObservabilityHandler"],
    "llmgine.observability.handlers": ["ConsoleEventHandler", "FileEventHandler", "ObservabilityEventHandler"],
    "llmgine.observability.otel_handler": ["OpenTelemetryHandler"],
    "llmgine.observability.handlers.file_sync": ["SyncFileEventHandler"],
    "llmgine.observability.handlers.console_sync": ["SyncConsoleEventHandler"],
    "llmgine.observability.handlers.adapters": [
        "AsyncHandlerAdapter",
        "create_sync_console_handler",
        "create_sync_file_handler",
    ],
    "llmgine.bootstrap": ["ApplicationBootstrap", "ApplicationConfig", "CommandBootstrap", "setup_basic_logging"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in CONTRACT.items() for name in names])
def test_what_applications_import_is_where_they_import_it_from(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


ALLOWED = """
import sys
before = set(sys.modules)
import llmgine.bus
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - set(sys.stdlib_module_names) - {"llmgine"}))
"""


def test_the_bus_needs_the_standard_library_only() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOWED], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == ""
