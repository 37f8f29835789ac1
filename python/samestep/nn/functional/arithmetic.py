"""Arithmetic, element by element, with NumPy's broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _trace
from ..._trace import Tensor
from .._stored import Stored
from ._base import apply

__all__ = ["add", "mul", "scale"]


def scale(input: Any, factor: float = 1.0, offset: float = 0.0) -> Any:
    """factor * x + offset."""
    return apply("scale", [input], attrs={"mul": float(factor), "add": float(offset)})


def add(input: Any, other: Any) -> Any:
    """Sum of tensors of one shape, or of a tensor and a number, parameter or array that is broadcast over the samples."""
    return _pairwise("add", input, other)


def mul(input: Any, other: Any) -> Any:
    """Product of tensors of one shape, or of a tensor and a number, parameter or array that is broadcast over the
    samples."""
    return _pairwise("mul", input, other)


def _pairwise(op: str, a: Any, b: Any) -> Any:
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return np.add(a, b) if op == "add" else np.multiply(a, b)
    if not isinstance(a, Tensor):
        a, b = b, a  # both are commutative
    if _trace._is_number(b):
        return scale(a, offset=float(b)) if op == "add" else scale(a, float(b))
    if not isinstance(b, (Tensor, Stored, np.ndarray)):
        raise TypeError(f"{a.trace._prefix()}{op} of a tensor and {type(b).__name__} is not possible")
    return apply(op, [a, b])
