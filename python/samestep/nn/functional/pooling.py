"""Pooling, and other extents by interpolation."""

from __future__ import annotations

import math
from typing import Any

from ..._trace import Tensor
from ._base import apply, by_axis, lift, numbers

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "interpolate",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "pixel_shuffle",
    "pixel_unshuffle",
    "upsample",
]


def _pool(op: str, axes: int, input: Any, window: tuple[Any, Any, Any], attrs: dict[str, float]) -> Any:
    """window: kernel_size, stride, padding."""
    name = f"{op}{axes}d"
    if not isinstance(input, Tensor):
        return lift(lambda x: _pool(op, axes, x, window, attrs), input)
    if input.ndim != axes + 2:
        raise input.trace.error(f"{name} takes a tensor of {axes + 2} axes, got {input.shape}")
    kernel_size, stride, padding = window
    kernel = numbers(kernel_size, axes, f"{name}: kernel_size", 1)
    step = kernel if stride is None else numbers(stride, axes, f"{name}: stride", 1)
    pad = numbers(padding, axes, f"{name}: padding")
    attrs = {**by_axis("kernel", kernel), **by_axis("stride", step), **by_axis("pad", pad), **attrs}
    return apply(f"{op}2d", [input], attrs=attrs)


def _max_pool(axes: int, input: Any, window: Any, dilation: Any, ceil_mode: bool, return_indices: bool) -> Any:
    if return_indices:
        raise ValueError(f"max_pool{axes}d: return_indices is not supported")
    reach = by_axis("dilation", numbers(dilation, axes, f"max_pool{axes}d: dilation", 1))
    return _pool("max_pool", axes, input, window, {**reach, "ceil_mode": float(ceil_mode)})


def _avg_pool(
    axes: int, input: Any, window: Any, ceil_mode: bool, count_include_pad: bool, divisor_override: Any = None
) -> Any:
    if divisor_override is not None and divisor_override < 1:
        raise ValueError(f"avg_pool{axes}d: divisor_override must be at least 1, but is {divisor_override}")
    attrs = {"ceil_mode": float(ceil_mode), "count_include_pad": float(count_include_pad)}
    return _pool("avg_pool", axes, input, window, {**attrs, "divisor_override": divisor_override or 0})


def max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window over (samples, channels, length), as max_pool2d."""
    return _max_pool(1, input, (kernel_size, stride, padding), dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window; of equal ones the first takes the gradient. stride: kernel_size by default."""
    return _max_pool(2, input, (kernel_size, stride, padding), dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window over (samples, channels, depth, height, width), as max_pool2d."""
    return _max_pool(3, input, (kernel_size, stride, padding), dilation, ceil_mode, return_indices)


def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """Mean of each window over (samples, channels, length). stride: kernel_size by default."""
    return _avg_pool(1, input, (kernel_size, stride, padding), ceil_mode, count_include_pad)


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Mean of each window. stride: kernel_size by default. divisor_override: divide by this number."""
    return _avg_pool(2, input, (kernel_size, stride, padding), ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Mean of each window over (samples, channels, depth, height, width), as avg_pool2d."""
    return _avg_pool(3, input, (kernel_size, stride, padding), ceil_mode, count_include_pad, divisor_override)


def _adaptive(op: str, axes: int, input: Any, output_size: Any) -> Any:
    if not isinstance(input, Tensor):
        return lift(lambda x: _adaptive(op, axes, x, output_size), input)
    name = f"{op}{axes}d"
    values = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    if len(values) != axes or len(input.sample_shape) != axes + 1:
        raise input.trace.error(
            f"{name} takes a tensor of {axes + 2} axes and one extent or {axes} of them, got {input.shape} and {output_size!r}"
        )
    extents = tuple(input.sample_shape[1 + i] if value is None else value for i, value in enumerate(values))
    return apply(f"{op}2d", [input], attrs=by_axis("out", numbers(extents, axes, f"{name}: output_size", 1)))


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """Means over windows that give output_size elements of (samples, channels, length)."""
    return _adaptive("adaptive_avg_pool", 1, input, output_size)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over windows that give output_size (height, width); None keeps an extent."""
    return _adaptive("adaptive_avg_pool", 2, input, output_size)


def adaptive_avg_pool3d(input: Any, output_size: Any) -> Any:
    """Means over windows that give output_size (depth, height, width); None keeps an extent."""
    return _adaptive("adaptive_avg_pool", 3, input, output_size)


def adaptive_max_pool1d(input: Any, output_size: Any) -> Any:
    """Maxima over windows that give output_size elements of (samples, channels, length)."""
    return _adaptive("adaptive_max_pool", 1, input, output_size)


def adaptive_max_pool2d(input: Any, output_size: Any) -> Any:
    """Maxima over windows that give output_size (height, width); None keeps an extent."""
    return _adaptive("adaptive_max_pool", 2, input, output_size)


def adaptive_max_pool3d(input: Any, output_size: Any) -> Any:
    """Maxima over windows that give output_size (depth, height, width); None keeps an extent."""
    return _adaptive("adaptive_max_pool", 3, input, output_size)


_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}


def _factors(scale_factor: Any, axes: int) -> tuple[float, ...]:
    values = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * axes
    if len(values) != axes:
        raise ValueError(f"interpolate: scale_factor must be one number or {axes} of them, not {scale_factor!r}")
    factors = tuple(float(value) for value in values)
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise ValueError(f"interpolate: scale_factor must be positive, but is {scale_factor!r}")
    return factors


def interpolate(
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Other extents of (samples, channels, one to three extents), by size or by scale_factor.

    mode: "nearest", "linear" (one extent), "bilinear" (two), "trilinear" (three) or "area" (means, as adaptive_avg_pool).
    align_corners: linear modes only. Raises ValueError for other modes and for extents below 1.
    """
    if not isinstance(input, Tensor):
        return lift(
            lambda x: interpolate(x, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias), input
        )
    axes = input.ndim - 2
    if mode not in ("nearest", "area", *_LINEAR):
        raise ValueError(
            f"interpolate: mode must be 'nearest', 'linear', 'bilinear', 'trilinear' or 'area', not {mode!r}"
        )
    if antialias:
        raise ValueError("interpolate: antialias is not supported")
    if align_corners is not None and mode not in _LINEAR:
        raise ValueError(f"interpolate: align_corners has no meaning for mode={mode!r}")
    if not 1 <= axes <= 3 or _LINEAR.get(mode, axes) != axes:
        raise input.trace.error(f"interpolate: mode={mode!r} does not fit a tensor of shape {input.shape}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    steps = (0.0,) * axes  # the ratio of the extents
    if size is not None:
        if recompute_scale_factor:
            raise ValueError("interpolate: recompute_scale_factor needs scale_factor")
        extents = numbers(size, axes, "interpolate: size", 1)
    else:
        factors = _factors(scale_factor, axes)
        extents = tuple(
            math.floor(extent * factor) for extent, factor in zip(input.sample_shape[1:], factors, strict=True)
        )
        if min(extents) < 1:
            raise ValueError(f"interpolate: scale_factor={scale_factor!r} leaves nothing of {input.shape}")
        if not recompute_scale_factor:
            steps = tuple(1.0 / factor for factor in factors)
    if mode == "area":
        return _adaptive("adaptive_avg_pool", axes, input, extents)
    attrs = {**by_axis("out", extents), **by_axis("step", steps), "linear": float(mode in _LINEAR)}
    return apply("upsample", [input], attrs={**attrs, "align_corners": float(bool(align_corners))})


def upsample(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Any:
    """The older name of interpolate."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def _shuffle(name: str, input: Any, factor: Any, inverse: bool) -> Any:
    (number,) = numbers(factor, 1, name, 1)
    return apply("pixel_shuffle", [input], attrs={"factor": number, "inverse": float(inverse)})


def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """(samples, channels * r * r, height, width) to (samples, channels, height * r, width * r)."""
    return _shuffle("pixel_shuffle: upscale_factor", input, upscale_factor, False)


def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """(samples, channels, height * r, width * r) to (samples, channels * r * r, height, width)."""
    return _shuffle("pixel_unshuffle: downscale_factor", input, downscale_factor, True)
