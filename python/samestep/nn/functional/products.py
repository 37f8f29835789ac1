"""Matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._trace import Tensor
from .._stored import Stored
from . import arithmetic
from ._base import apply

__all__ = ["bmm", "linear", "matmul"]


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + b along the last axis. weight: (out, in); bias: (out)."""
    return apply("linear", [input], [weight, bias])


def matmul(input: Any, other: Any) -> Any:
    """Matrix product along the last two axes: (B, ..., m, k) and (B, ..., k, n) give (B, ..., m, n). Leading axes are
    broadcast; either operand may be a parameter or array without the batch: (k, n), (m, k), or with leading axes. A tensor
    of shape (B, k) is a vector a sample: its axis of extent 1 is added and taken away again, as in torch.matmul."""
    if not any(isinstance(part, (Tensor, Stored)) for part in (input, other)):
        return np.matmul(input, other)
    trace = arithmetic._of([input, other])
    a_rank, b_rank = len(arithmetic._shape_of(input)), len(arithmetic._shape_of(other))
    if a_rank < 1 or b_rank < 1:
        raise trace.error("matmul: both operands need at least one axis besides the batch")
    shared = isinstance(input, Tensor) and not isinstance(other, Tensor) and b_rank == 2
    if shared and a_rank == 1:
        return matmul(_with_axis(input, 0), other)._reshaped(tuple(arithmetic._shape_of(other)[1:]))
    if shared:
        return trace.emit("matmul", [input, other])
    a, b = (
        part if isinstance(part, Tensor) else trace.expand(_array(part), tuple(np.shape(part)))
        for part in (input, other)
    )
    if a_rank == 1:
        a = _with_axis(a, 0)
    if b_rank == 1:
        b = _with_axis(b, 1)
    try:
        leading = np.broadcast_shapes(a.sample_shape[:-2], b.sample_shape[:-2])
    except ValueError:
        raise trace.error(f"matmul: shapes {a.shape} and {b.shape} cannot be broadcast together") from None
    a, b = (arithmetic._broadcast(trace, part, (*leading, *part.sample_shape[-2:]), False) for part in (a, b))
    made = trace.emit("matmul", [a, b])
    if a_rank == 1 or b_rank == 1:
        rows, columns = made.sample_shape[-2:]
        made = made._reshaped((*leading, *([rows] if a_rank > 1 else []), *([columns] if b_rank > 1 else [])))
    return made


def bmm(input: Any, mat2: Any) -> Any:
    """(B, m, k) times (B, k, n), sample by sample."""
    return matmul(input, mat2)


def _with_axis(part: Tensor, axis: int) -> Tensor:
    shape = part.sample_shape
    return part._reshaped((*shape[:axis], 1, *shape[axis:]))


def _array(part: Any) -> Any:
    return part if isinstance(part, Stored) else np.asarray(part, np.float32)
