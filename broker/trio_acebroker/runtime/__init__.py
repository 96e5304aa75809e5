"""The running broker: connections, delivery, timers."""

__all__: list[str] = []
