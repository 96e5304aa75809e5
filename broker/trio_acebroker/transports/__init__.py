"""Byte streams: what carries octets between a client and the broker."""

__all__: list[str] = []
