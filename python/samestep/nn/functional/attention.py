"""Attention and rotary positions."""

__all__: list[str] = []
