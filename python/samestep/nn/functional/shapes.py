"""What moves elements and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._trace import Tensor

__all__ = ["cat", "flatten"]


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Joins the axes start_dim to end_dim into one. start_dim must be at least 1 for symbolic tensors: the batch axis
    stays."""
    if not isinstance(input, Tensor):
        array = np.asarray(input)
        first, last = start_dim % array.ndim, end_dim % array.ndim
        return array.reshape(*array.shape[:first], -1, *array.shape[last + 1 :])
    if input.ndim == 1:
        return input._reshaped((1,))
    first, last = input.axis(start_dim, "start_dim"), input.axis(end_dim, "end_dim")
    if first > last:
        raise input.trace.error(f"flatten: start_dim={start_dim} comes after end_dim={end_dim}")
    shape = input.sample_shape
    if (first, last) == (0, len(shape) - 1):
        return input.trace.emit("flatten", [input])
    return input._reshaped((*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def cat(tensors: Sequence[Any], dim: int = 1) -> Any:
    """Joins tensors along axis `dim`, which must not be the batch axis."""
    parts = list(tensors)
    if not parts:
        raise ValueError("cat needs at least one tensor")
    if not any(isinstance(part, Tensor) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts], axis=dim)
    first = next(part for part in parts if isinstance(part, Tensor))
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"{first.trace._prefix()}cat joins tensors with tensors only")
    axis = first.axis(dim, "dim")
    while len(parts) > 1:  # a node takes a few inputs at most
        parts = [first.trace.emit("concat", parts[:8], {"axis": axis}), *parts[8:]]
    return parts[0]
