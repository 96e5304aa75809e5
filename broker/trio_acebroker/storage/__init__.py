"""Implementations of the Store port."""

__all__: list[str] = []
