"""Normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._base import apply, lift, symbolic

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "normalize",
    "rms_norm",
]

RMS_EPS = float(np.finfo(np.float32).eps)


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    stats_lanes: int = 0,
) -> Any:
    """Batch normalisation over axis 1 (Ioffe, Szegedy, 2015). stats_lanes=k takes the statistics of groups of k lanes,
    0 those of the whole batch. training=False normalises by the running statistics and leaves them alone; evaluation of
    a compiled network does so in any case. Without running statistics those of the batch are used in evaluation too.
    momentum=None makes the running statistics plain averages over the steps of the run."""
    attrs = {
        "eps": float(eps),
        "momentum": 0.0 if momentum is None else float(momentum),
        "stats_lanes": int(stats_lanes),
        "use_running": float(not training),
        "cumulative": float(momentum is None),
    }
    return apply("batch_norm", [input], [weight, bias, running_mean, running_var], attrs, training)


def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalises the last axes, whose extents are normalized_shape, of each sample together by their mean and variance
    (Ba, Kiros, Hinton, 2016). weight and bias: of that shape, or None. Raises ValueError."""
    axes = _axes(input, normalized_shape, "layer_norm")
    return apply("layer_norm", [input], [weight, bias], {"axes": axes, "eps": _eps(eps, "layer_norm")})


def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Divides the last axes, whose extents are normalized_shape, of each sample by the root of their mean square
    (Zhang, Sennrich, 2019). eps=None: 2^-23, the spacing of float32 at 1. Raises ValueError."""
    axes = _axes(input, normalized_shape, "rms_norm")
    attrs = {"axes": axes, "eps": _eps(RMS_EPS if eps is None else eps, "rms_norm")}
    return apply("rms_norm", [input], [weight], attrs)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalises num_groups runs of neighbouring channels (axis 1) of each sample by their own mean and variance (Wu,
    He, 2018). input: (samples, channels, ...); weight and bias: (channels), or None. Raises ValueError."""
    return apply("group_norm", [input], [weight, bias], {"num_groups": int(num_groups), "eps": _eps(eps, "group_norm")})


def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalises each channel (axis 1) of each sample by its own mean and variance (Ulyanov and others, 2016). input:
    (samples, channels, length, ...). Running statistics of instances are not supported: running_mean and running_var
    must be None. Raises ValueError."""
    if running_mean is not None or running_var is not None or not use_input_stats:
        raise ValueError("instance_norm: running_mean, running_var and use_input_stats=False are not supported")
    shape = _shape(input)
    if len(shape) < 3:
        raise ValueError(f"instance_norm needs an input of shape (samples, channels, length, ...), got {shape}")
    if int(np.prod(shape[2:])) == 1:
        raise ValueError(f"instance_norm needs more than one position a channel, got {shape}")
    return group_norm(input, shape[1], weight, bias, eps)


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    """Divides each element by (k + alpha / size * sum of squares)^beta, the sum over `size` neighbouring channels (axis
    1) at its position (Krizhevsky and others, 2012). input: (samples, channels, length, ...). Raises ValueError."""
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise ValueError(f"local_response_norm: size must be a whole number of at least 1, but is {size!r}")
    if len(_shape(input)) < 3:
        raise ValueError(
            f"local_response_norm needs an input of shape (samples, channels, length, ...), got {_shape(input)}"
        )
    attrs = {"size": int(size), "alpha": float(alpha), "beta": float(beta), "k": float(k)}
    return apply("local_response_norm", [input], attrs=attrs)


def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """Divides by the p-norm along axis `dim` (not the batch), or by eps where that is greater. p: positive, or infinite.
    Raises ValueError."""
    if not p > 0:
        raise ValueError(f"normalize: p must be positive, but is {p!r}")
    if not symbolic(input):
        return lift(lambda x: normalize(x, p, dim, eps), input)
    attrs = {"axis": input.axis(dim, "dim"), "p": float(p), "eps": _eps(eps, "normalize")}
    return apply("normalize", [input], attrs=attrs)


def _shape(input: Any) -> tuple[Any, ...]:
    return tuple(input.shape) if hasattr(input, "shape") else np.shape(input)


def _eps(eps: Any, name: str) -> float:
    if not eps >= 0:
        raise ValueError(f"{name}: eps must not be negative, but is {eps!r}")
    return float(eps)


def extents(normalized_shape: Any, name: str) -> tuple[int, ...]:
    """normalized_shape as a tuple: one number or several. Raises TypeError, ValueError."""
    one = isinstance(normalized_shape, (int, np.integer)) and not isinstance(normalized_shape, bool)
    values = (normalized_shape,) if one else tuple(normalized_shape)
    if not all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values):
        raise TypeError(f"{name}: normalized_shape must be whole numbers, not {normalized_shape!r}")
    if not values or min(values) < 1:
        raise ValueError(f"{name}: normalized_shape must hold extents of at least 1, but is {normalized_shape!r}")
    return tuple(int(value) for value in values)


def _axes(input: Any, normalized_shape: Any, name: str) -> int:
    """How many axes are normalised. Raises ValueError where the shape does not end with them."""
    values, shape = extents(normalized_shape, name), _shape(input)
    if len(values) >= len(shape) or shape[-len(values) :] != values:
        raise ValueError(f"{name}: normalized_shape={list(values)} are not the last axes of an input of shape {shape}")
    return len(values)
