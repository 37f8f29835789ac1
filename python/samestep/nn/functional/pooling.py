"""Pooling."""

from __future__ import annotations

from typing import Any

from ..._trace import Tensor
from ._base import apply, lift, pair

__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d"]


def _window(kernel_size: Any, stride: Any, padding: Any, name: str) -> dict[str, float]:
    kernel = pair(kernel_size, f"{name}: kernel_size", 1)
    step = kernel if stride is None else pair(stride, f"{name}: stride", 1)
    pad = pair(padding, f"{name}: padding")
    return {
        "kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": step[0], "stride_w": step[1], "pad_h": pad[0], "pad_w": pad[1],
    }  # fmt: skip


def max_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    """Largest element of each window; of equal ones the first takes the gradient. stride: kernel_size by default."""
    attrs = _window(kernel_size, stride, padding, "max_pool2d")
    attrs["dilation_h"], attrs["dilation_w"] = pair(dilation, "max_pool2d: dilation", 1)
    attrs["ceil_mode"] = float(ceil_mode)
    return apply("max_pool2d", [input], attrs=attrs)


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """Mean of each window. stride: kernel_size by default."""
    attrs = _window(kernel_size, stride, padding, "avg_pool2d")
    attrs["ceil_mode"], attrs["count_include_pad"] = float(ceil_mode), float(count_include_pad)
    return apply("avg_pool2d", [input], attrs=attrs)


def _adaptive(op: str, input: Any, output_size: Any) -> Any:
    if not isinstance(input, Tensor):
        return lift(lambda x: _adaptive(op, x, output_size), input)
    values = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(values) != 2 or len(input.sample_shape) != 3:
        raise input.trace.error(
            f"{op} takes (samples, channels, height, width) and one or two extents, got {input.shape} and {output_size!r}"
        )
    height, width = (input.sample_shape[1 + i] if value is None else value for i, value in enumerate(values))
    out_h, out_w = pair((height, width), f"{op}: output_size", 1)
    return apply(op, [input], attrs={"out_h": out_h, "out_w": out_w})


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over windows that give output_size (height, width); None keeps an extent."""
    return _adaptive("adaptive_avg_pool2d", input, output_size)


def adaptive_max_pool2d(input: Any, output_size: Any) -> Any:
    """Maxima over windows that give output_size (height, width); None keeps an extent."""
    return _adaptive("adaptive_max_pool2d", input, output_size)
