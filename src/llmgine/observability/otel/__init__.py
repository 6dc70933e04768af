"""What needs OpenTelemetry: only `llmgine.observability.otel_handler` imports it, when a handler is made."""
