"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._trace import Tensor
from ._base import apply

__all__ = ["dropout"]


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zeroes elements with probability p and divides the others by 1 - p. In a compiled network training and evaluation
    follow the plan."""
    check_probability(p)
    if not training or p == 0:
        return input if isinstance(input, Tensor) else np.asarray(input)
    return apply("dropout", [input], attrs={"p": float(p)}, training=True)


def check_probability(p: Any) -> float:
    """Raises ValueError unless 0 <= p <= 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must lie in [0, 1], but is {p!r}")
    return float(p)
