"""I/O shells: how octets get from sockets into the pipeline."""

__all__: list[str] = []
