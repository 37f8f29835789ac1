"""Embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _trace
from ..._trace import Tensor
from ._base import lift

__all__ = ["embedding", "one_hot"]


def embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """Rows of `weight` (rows, features) by number: whole numbers of shape (samples, ...) give (samples, ..., features).

    Inside `forward`, input may also be an array that is the same for all samples, such as np.arange(T) for positions:
    (T) or (1, T) gives (samples, T, features). padding_idx: a row that gets no gradient. max_norm, scale_grad_by_freq
    are not supported; sparse is accepted and not used.
    """
    check_options(max_norm, scale_grad_by_freq)
    rows = weight.shape[0]
    padding = -1
    if padding_idx is not None:
        padding = int(padding_idx) + (rows if padding_idx < 0 else 0)
        if not 0 <= padding < rows:
            raise ValueError(f"embedding: padding_idx={padding_idx} is none of the {rows} rows")
    trace = _trace.active()
    if trace is None:
        return lift(lambda x: embedding(x, weight, padding_idx), input)
    if not isinstance(input, Tensor):
        input = np.asarray(input)
        if input.size and input.dtype.kind in "iu" and input.max() >= rows:
            raise trace.error(f"embedding: index {input.max()} is none of the {rows} rows")
        if input.ndim >= 2 and input.shape[0] == 1:
            input = input[0]
    return trace.emit("embedding", [trace.as_integer(input), weight], {"padding_idx": padding})


def check_options(max_norm: float | None, scale_grad_by_freq: bool) -> None:
    """Raises ValueError for what is not supported."""
    if max_norm is not None:
        raise ValueError("embedding: max_norm is not supported")
    if scale_grad_by_freq:
        raise ValueError("embedding: scale_grad_by_freq is not supported")


def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """Whole numbers of shape (samples, ...) as vectors with a single 1, (samples, ..., num_classes), as float32. On arrays
    num_classes may be -1: the largest number plus 1."""
    if not isinstance(tensor, Tensor):
        array = np.asarray(tensor)
        if num_classes == -1 and array.size:
            num_classes = int(array.max()) + 1
        return lift(lambda x: one_hot(x, num_classes), array)
    if num_classes < 1:
        raise tensor.trace.error(f"one_hot: num_classes must be at least 1 inside forward, but is {num_classes}")
    return tensor.trace.emit("one_hot", [tensor.trace.as_integer(tensor)], {"classes": int(num_classes)})
