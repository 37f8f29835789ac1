"""Sums, means and extremes over axes. Axes count the batch as axis 0, which is never reduced: samples are independent of
each other. `dim=None` reduces all axes of a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._trace import Tensor
from . import arithmetic
from ._base import apply, lift

__all__ = [
    "amax", "amin", "argmax", "argmin", "cumsum", "logsumexp", "max", "mean", "min", "norm", "prod", "std", "sum", "var",
]  # fmt: skip


def sum(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Sum over the axes `dim` (a number or several)."""
    return _reduce("sum", input, dim, keepdim)


def mean(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Mean over the axes `dim` (a number or several)."""
    return _reduce("mean", input, dim, keepdim)


def prod(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Product over the axes `dim` (a number or several)."""
    return _reduce("prod", input, dim, keepdim)


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """log(sum(exp(x))) over the axes `dim` (a number or several)."""
    return _reduce("logsumexp", input, dim, keepdim)


def max(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Greatest element over the axes `dim`; the values alone (argmax gives the places). Of equal elements the first takes
    the gradient. With a tensor as second argument: maximum(a, b)."""
    if isinstance(dim, (Tensor, np.ndarray)):
        return arithmetic.maximum(input, dim)
    return _reduce("max", input, dim, keepdim)


def min(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Least element over the axes `dim`; the values alone (argmin gives the places). Of equal elements the first takes the
    gradient. With a tensor as second argument: minimum(a, b)."""
    if isinstance(dim, (Tensor, np.ndarray)):
        return arithmetic.minimum(input, dim)
    return _reduce("min", input, dim, keepdim)


def amax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Greatest element over the axes `dim`; equal elements share the gradient."""
    return _reduce("max", input, dim, keepdim, {"spread": 1})


def amin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Least element over the axes `dim`; equal elements share the gradient."""
    return _reduce("min", input, dim, keepdim, {"spread": 1})


def argmax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Place of the greatest element along `dim` (whole numbers; the first of equal ones; no gradient)."""
    return _reduce("argmax", input, dim, keepdim)


def argmin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Place of the least element along `dim` (whole numbers; the first of equal ones; no gradient)."""
    return _reduce("argmin", input, dim, keepdim)


def var(input: Any, dim: Any = None, correction: int = 1, keepdim: bool = False) -> Any:
    """Variance over the axes `dim`: the mean is taken first, then the sum of squared distances over the number of elements
    less `correction`."""
    if not isinstance(input, Tensor):
        return lift(lambda x: var(x, dim, correction, keepdim), input)
    centred = input - mean(input, dim, True)
    count = int(np.prod(input.sample_shape)) // int(np.prod(centred_shape(input, dim)))
    if count <= correction:
        raise input.trace.error(f"var: {count} elements and correction={correction} leave nothing to divide by")
    return arithmetic.scale(sum(arithmetic.square(centred), dim, keepdim), 1.0 / (count - correction))


def std(input: Any, dim: Any = None, correction: int = 1, keepdim: bool = False) -> Any:
    """Square root of the variance over the axes `dim`."""
    if not isinstance(input, Tensor):
        return lift(lambda x: std(x, dim, correction, keepdim), input)
    return arithmetic.sqrt(var(input, dim, correction, keepdim))


def norm(input: Any, p: float = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """(sum |x|^p)^(1/p) over the axes `dim`, for p = 1, 2 or infinity."""
    if p == 1:
        return sum(arithmetic.abs(input), dim, keepdim)
    if p == 2:
        return arithmetic.sqrt(sum(arithmetic.square(input), dim, keepdim))
    if p == float("inf"):
        return amax(arithmetic.abs(input), dim, keepdim)
    raise ValueError(f"norm: p must be 1, 2 or infinity, not {p!r}")


def cumsum(input: Any, dim: int) -> Any:
    """Sums so far along axis `dim`."""
    if not isinstance(input, Tensor):
        return lift(lambda x: cumsum(x, dim), input)
    return apply("cumsum", [input], attrs={"first": input.axis(dim, "dim")})


def _axes(input: Tensor, dim: Any) -> list[int]:
    """The reduced axes of a sample, sorted."""
    if dim is None:
        return list(range(len(input.sample_shape)))
    listed = list(dim) if isinstance(dim, (tuple, list)) else [dim]
    axes = sorted(input.axis(item, "dim") for item in listed)
    if len(set(axes)) != len(axes):
        raise input.trace.error(f"dim={dim} names an axis twice")
    return axes


def centred_shape(input: Tensor, dim: Any) -> tuple[int, ...]:
    """The shape of a sample with extent 1 in the reduced axes."""
    axes = _axes(input, dim)
    return tuple(1 if axis in axes else extent for axis, extent in enumerate(input.sample_shape))


def _reduce(op: str, input: Any, dim: Any, keepdim: bool, attrs: dict[str, float] | None = None) -> Any:
    if not isinstance(input, Tensor):
        return lift(lambda x: _reduce(op, x, dim, keepdim, attrs), input)
    axes, kept = _axes(input, dim), centred_shape(input, dim)
    if op.startswith("arg") and len(axes) > 1:
        if dim is not None:
            raise input.trace.error(f"{op}: dim must be one axis, not {dim}")
        input, axes, kept = input.flatten(1), [0], (1,)
    if not axes:
        return input
    if axes[-1] - axes[0] + 1 != len(axes):  # what is reduced must lie together: the other axes come first
        rest = [axis for axis in range(len(input.sample_shape)) if axis not in axes]
        input = input.permute(0, *[axis + 1 for axis in [*rest, *axes]])
        axes = list(range(len(rest), len(rest) + len(axes)))
    made = input.trace.emit(op, [input], {"first": axes[0], "count": len(axes), **(attrs or {})})
    return made._reshaped(kept) if keepdim else made
