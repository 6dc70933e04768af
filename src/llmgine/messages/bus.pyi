from llmgine.bus.sync import SynchronousBus

__all__ = ["message_bus"]

message_bus: SynchronousBus
