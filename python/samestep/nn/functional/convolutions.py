"""Convolutions."""

from __future__ import annotations

from typing import Any

from ._base import apply, pair

__all__ = ["conv2d"]


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """2-d convolution (cross-correlation). input: (samples, channels, height, width); weight: (out, in/groups, kernel
    height, kernel width). padding: numbers, "valid" or "same" (stride 1)."""
    dilation_h, dilation_w = pair(dilation, "conv2d: dilation", 1)
    stride_h, stride_w = pair(stride, "conv2d: stride", 1)
    kernel_h, kernel_w = weight.shape[2:]
    if padding == "valid":
        padding = 0
    if padding == "same":
        if (stride_h, stride_w) != (1, 1):
            raise ValueError("conv2d: padding='same' needs stride 1")
        whole_h, whole_w = dilation_h * (kernel_h - 1), dilation_w * (kernel_w - 1)
        if whole_h % 2 or whole_w % 2:
            raise ValueError(
                "conv2d: padding='same' needs kernels that span an odd number of pixels; pad by numbers instead"
            )
        padding = (whole_h // 2, whole_w // 2)
    elif isinstance(padding, str):
        raise ValueError(f"conv2d: padding must be numbers, 'valid' or 'same', not {padding!r}")
    padding_h, padding_w = pair(padding, "conv2d: padding")
    attrs = {
        "stride_h": stride_h, "stride_w": stride_w, "pad_h": padding_h, "pad_w": padding_w,
        "dilation_h": dilation_h, "dilation_w": dilation_w, "groups": int(groups),
    }  # fmt: skip
    return apply("conv2d", [input], [weight, bias], attrs)
