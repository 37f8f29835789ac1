"""Sums, means and extremes over axes."""

__all__: list[str] = []
