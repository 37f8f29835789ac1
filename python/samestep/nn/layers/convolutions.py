"""Convolutions."""

from __future__ import annotations

import math
from typing import Any

from .. import functional as F
from .. import init
from .._stored import empty
from ..functional._base import pair
from ..module import Module
from ._base import count

__all__ = ["Conv2d"]


class Conv2d(Module):
    """2-d convolution: (samples, in_channels, height, width) to (samples, out_channels, ...).

    weight: (out_channels, in_channels/groups, kernel height, kernel width). padding: numbers, "valid" or "same".
    Initial values are uniform in +-1/sqrt(in_channels/groups * kernel elements).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        self.in_channels = count(in_channels, "Conv2d: in_channels")
        self.out_channels = count(out_channels, "Conv2d: out_channels")
        self.groups = count(groups, "Conv2d: groups")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"Conv2d: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        if padding_mode != "zeros":
            raise ValueError(f"Conv2d: padding_mode must be 'zeros', not {padding_mode!r}")
        self.kernel_size = pair(kernel_size, "Conv2d: kernel_size", 1)
        self.stride = pair(stride, "Conv2d: stride", 1)
        self.dilation = pair(dilation, "Conv2d: dilation", 1)
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(f"Conv2d: padding must be numbers, 'valid' or 'same', not {padding!r}")
            if padding == "same" and self.stride != (1, 1):
                raise ValueError("Conv2d: padding='same' needs stride 1")
            self.padding: Any = padding
        else:
            self.padding = pair(padding, "Conv2d: padding")
        self.weight = empty((self.out_channels, self.in_channels // self.groups, *self.kernel_size))
        self.bias: Any
        if bias:
            self.bias = empty((self.out_channels,))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(init.fans(self.weight.shape)[0])
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding!r}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text + ("" if self.bias is not None else ", bias=False")
