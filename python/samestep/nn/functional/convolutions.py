"""Convolutions and transposed convolutions."""

from __future__ import annotations

from typing import Any

from ._base import apply, by_axis, numbers

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def _kernel(weight: Any, axes: int, name: str) -> tuple[int, ...]:
    shape = tuple(weight.shape)
    if len(shape) != axes + 2:
        raise ValueError(f"{name}: weight must have {axes + 2} axes, but has the shape {shape}")
    return shape[2:]


def same_padding(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """What padding="same" adds before and after each axis; an odd rest comes after."""
    whole = [step * (extent - 1) for extent, step in zip(kernel, dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in whole]


def _convolve(
    axes: int, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    name = f"conv{axes}d"
    kernel = _kernel(weight, axes, name)
    steps = numbers(stride, axes, f"{name}: stride", 1)
    reach = numbers(dilation, axes, f"{name}: dilation", 1)
    if padding == "same":
        if any(step != 1 for step in steps):
            raise ValueError(f"{name}: padding='same' needs stride 1")
        pads = same_padding(kernel, reach)
    elif isinstance(padding, str) and padding != "valid":
        raise ValueError(f"{name}: padding must be numbers, 'valid' or 'same', not {padding!r}")
    else:
        pads = [(n, n) for n in numbers(0 if padding == "valid" else padding, axes, f"{name}: padding")]
    attrs = {
        **by_axis("stride", steps),
        **by_axis("dilation", reach),
        **by_axis("pad", [begin for begin, _ in pads]),
        **by_axis("pad_end", [end for _, end in pads]),
        "groups": groups,
    }
    return apply("conv2d", [input], [weight, bias], attrs)


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """1-d convolution (cross-correlation). input: (samples, channels, length); weight: (out, in/groups, kernel).
    padding: a number, "valid" or "same" (stride 1)."""
    return _convolve(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """2-d convolution (cross-correlation). input: (samples, channels, height, width); weight: (out, in/groups, kernel
    height, kernel width). padding: numbers, "valid" or "same" (stride 1; even kernels get the odd zero at the end)."""
    return _convolve(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """3-d convolution (cross-correlation). input: (samples, channels, depth, height, width); weight: (out, in/groups,
    kernel depth, kernel height, kernel width). padding: numbers, "valid" or "same" (stride 1)."""
    return _convolve(3, input, weight, bias, stride, padding, dilation, groups)


def _transpose(
    axes: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    name = f"conv_transpose{axes}d"
    _kernel(weight, axes, name)
    attrs = {
        **by_axis("stride", numbers(stride, axes, f"{name}: stride", 1)),
        **by_axis("pad", numbers(padding, axes, f"{name}: padding")),
        **by_axis("output_pad", numbers(output_padding, axes, f"{name}: output_padding")),
        **by_axis("dilation", numbers(dilation, axes, f"{name}: dilation", 1)),
        "groups": groups,
    }
    return apply("conv_transpose", [input], [weight, bias], attrs)


def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """1-d transposed convolution. input: (samples, channels, length); weight: (channels, out/groups, kernel). The
    output has (length - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1 elements."""
    return _transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """2-d transposed convolution. input: (samples, channels, height, width); weight: (channels, out/groups, kernel
    height, kernel width). Extents of the output: (size - 1) stride - 2 padding + dilation (kernel - 1) +
    output_padding + 1."""
    return _transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """3-d transposed convolution. input: (samples, channels, depth, height, width); weight: (channels, out/groups,
    kernel depth, kernel height, kernel width). Extents as conv_transpose2d."""
    return _transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
