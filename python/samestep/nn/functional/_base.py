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


def numbers(value: Any, axes: int, argument: str, least: int = 0) -> tuple[int, ...]:
    """One number for all axes, or one for each. Raises TypeError, ValueError."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(values) != axes or not all(
        isinstance(part, (int, np.integer)) and not isinstance(part, bool) for part in values
    ):
        several = {1: "", 2: " or a pair of them"}.get(axes, f" or {axes} of them")
        raise TypeError(f"{argument} must be a whole number{several}, not {value!r}")
    if min(values) < least:
        raise ValueError(f"{argument} must be at least {least}, but is {value!r}")
    return tuple(int(part) for part in values)


def by_axis(name: str, values: Sequence[float]) -> Attrs:
    """Attributes of one to three axes: name_d, name_h, name_w; the last value is the width's."""
    return {f"{name}_{axis}": value for axis, value in zip("dhw"[-len(values) :], values, strict=True)}


def pair(value: Any, argument: str, least: int = 0) -> tuple[int, int]:
    """One number for both axes, or two. Raises TypeError, ValueError."""
    first, second = numbers(value, 2, argument, least)
    return first, second
