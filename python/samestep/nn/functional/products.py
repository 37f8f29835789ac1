"""Matrix products."""

from __future__ import annotations

from typing import Any

from ._base import apply

__all__ = ["linear"]


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + b along the last axis. weight: (out, in); bias: (out)."""
    return apply("linear", [input], [weight, bias])
