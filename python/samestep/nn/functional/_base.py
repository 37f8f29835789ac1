"""What all functions share: a node inside a trace, values outside of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ... import _trace
from ..._trace import Tensor

Attrs = Mapping[str, float]


def apply(
    op: str, batched: Sequence[Any], others: Sequence[Any] = (), attrs: Attrs | None = None, training: bool = False
) -> Any:
    """One node; or, outside of a trace, its values. `batched` are tensors or arrays of samples, `others` parameters,
    buffers or None."""
    trace = _trace.active()
    if trace is not None:
        return trace.emit(op, [*batched, *others], attrs)
    from ... import _eager

    return _eager.call(lambda *tensors: tensors[0].trace.emit(op, [*tensors, *others], attrs), batched, training)


def lift(function: Any, *inputs: Any) -> Any:
    """Runs a function that needs symbolic tensors on arrays."""
    from ... import _eager

    return _eager.call(function, inputs)


def symbolic(value: Any) -> bool:
    return isinstance(value, Tensor) or _trace.active() is not None


def pair(value: Any, argument: str, least: int = 0) -> tuple[int, int]:
    """One number for both axes, or two. Raises TypeError, ValueError."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(
        isinstance(part, (int, np.integer)) and not isinstance(part, bool) for part in values
    ):
        raise TypeError(f"{argument} must be a whole number or a pair of them, not {value!r}")
    if min(values) < least:
        raise ValueError(f"{argument} must be at least {least}, but is {value!r}")
    return int(values[0]), int(values[1])
