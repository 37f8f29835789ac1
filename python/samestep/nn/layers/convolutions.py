"""Convolutions, transposed convolutions and padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from .. import functional as F
from .. import init
from .._stored import empty
from ..functional._base import numbers
from ..functional.convolutions import same_padding
from ..module import Module
from ._base import count

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
]


def _pad(x: Any, widths: Sequence[int], mode: str, value: float = 0.0) -> Any:
    """widths: before and after the last axis, then the one before it, and so on."""
    function = vars(F)["pad"]
    return function(x, list(widths), mode=mode, value=value) if mode == "constant" else function(x, list(widths), mode)


class _Convolution(Module):
    """What all convolutions share: arguments, weight, bias and their initial values."""

    _axes: ClassVar[int]
    _transposed: ClassVar[bool] = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, dilation: Any, groups: int, bias: bool
    ) -> None:
        super().__init__()
        name, axes = type(self).__name__, self._axes
        self.in_channels = count(in_channels, f"{name}: in_channels")
        self.out_channels = count(out_channels, f"{name}: out_channels")
        self.groups = count(groups, f"{name}: groups")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{name}: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.kernel_size = numbers(kernel_size, axes, f"{name}: kernel_size", 1)
        self.stride = numbers(stride, axes, f"{name}: stride", 1)
        self.dilation = numbers(dilation, axes, f"{name}: dilation", 1)
        self.padding: Any = (0,) * axes
        self.padding_mode = "zeros"
        first, second = self.out_channels, self.in_channels
        if self._transposed:
            first, second = second, first
        self.weight = empty((first, second // self.groups, *self.kernel_size))
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

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding!r}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if any(getattr(self, "output_padding", ())):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        text += "" if self.bias is not None else ", bias=False"
        return text + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class _Conv(_Convolution):
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
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, bias)
        name = type(self).__name__
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                f"{name}: padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular', not {padding_mode!r}"
            )
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(f"{name}: padding must be numbers, 'valid' or 'same', not {padding!r}")
            if padding == "same" and any(step != 1 for step in self.stride):
                raise ValueError(f"{name}: padding='same' needs stride 1")
            self.padding = padding
        else:
            self.padding = numbers(padding, self._axes, f"{name}: padding")

    def _widths(self) -> list[int]:
        """Padding before and after each axis, the last axis first, as F.pad takes it."""
        if self.padding == "same":
            pads = same_padding(self.kernel_size, self.dilation)
        else:
            pads = [(0, 0)] * self._axes if self.padding == "valid" else [(n, n) for n in self.padding]
        return [width for both in reversed(pads) for width in both]

    def forward(self, x: Any) -> Any:
        function = getattr(F, f"conv{self._axes}d")
        padding = self.padding
        if self.padding_mode != "zeros":
            widths = self._widths()
            padding = 0
            if any(widths):
                x = _pad(x, widths, self.padding_mode)
        return function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """1-d convolution: (samples, in_channels, length) to (samples, out_channels, ...).

    weight: (out_channels, in_channels/groups, kernel). Arguments and initial values as Conv2d.
    """

    _axes = 1


class Conv2d(_Conv):
    """2-d convolution: (samples, in_channels, height, width) to (samples, out_channels, ...).

    weight: (out_channels, in_channels/groups, kernel height, kernel width). padding: numbers, "valid" or "same".
    padding_mode: "zeros", "reflect", "replicate" or "circular".
    Initial values are uniform in +-1/sqrt(in_channels/groups * kernel elements).
    """

    _axes = 2


class Conv3d(_Conv):
    """3-d convolution: (samples, in_channels, depth, height, width) to (samples, out_channels, ...).

    weight: (out_channels, in_channels/groups, kernel depth, kernel height, kernel width). Arguments and initial values
    as Conv2d.
    """

    _axes = 3


class _ConvTranspose(_Convolution):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, bias)
        name = type(self).__name__
        if padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode must be 'zeros', not {padding_mode!r}")
        self.padding = numbers(padding, self._axes, f"{name}: padding")
        self.output_padding = numbers(output_padding, self._axes, f"{name}: output_padding")

    def _output_padding(self, x: Any, output_size: Any) -> tuple[int, ...]:
        name = type(self).__name__
        wanted = tuple(output_size)[-self._axes :]
        if len(tuple(output_size)) not in (self._axes, self._axes + 2) or len(x.shape) != self._axes + 2:
            raise ValueError(
                f"{name}: output_size must have {self._axes} or {self._axes + 2} extents, not {output_size!r}"
            )
        result = []
        for i, size in enumerate(numbers(wanted, self._axes, f"{name}: output_size", 1)):
            least = (int(x.shape[2 + i]) - 1) * self.stride[i] - 2 * self.padding[i]
            least += self.dilation[i] * (self.kernel_size[i] - 1) + 1
            if not least <= size < least + self.stride[i]:
                raise ValueError(
                    f"{name}: output_size {output_size!r} cannot be reached from {x.shape}: extent {i} must be at "
                    f"least {least} and less than {least + self.stride[i]}"
                )
            result.append(size - least)
        return tuple(result)

    def forward(self, x: Any, output_size: Any = None) -> Any:
        function = getattr(F, f"conv_transpose{self._axes}d")
        more = self.output_padding if output_size is None else self._output_padding(x, output_size)
        return function(x, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation)


class ConvTranspose1d(_ConvTranspose):
    """1-d transposed convolution: (samples, in_channels, length) to (samples, out_channels, ...).

    weight: (in_channels, out_channels/groups, kernel). Arguments and initial values as ConvTranspose2d.
    """

    _axes = 1


class ConvTranspose2d(_ConvTranspose):
    """2-d transposed convolution: (samples, in_channels, height, width) to (samples, out_channels, ...), the gradient
    of a convolution as a layer. Extents: (size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1;
    forward takes an output_size instead of output_padding, too.

    weight: (in_channels, out_channels/groups, kernel height, kernel width).
    Initial values are uniform in +-1/sqrt(out_channels/groups * kernel elements).
    """

    _axes = 2


class ConvTranspose3d(_ConvTranspose):
    """3-d transposed convolution: (samples, in_channels, depth, height, width) to (samples, out_channels, ...).

    weight: (in_channels, out_channels/groups, kernel depth, kernel height, kernel width). Arguments and initial values
    as ConvTranspose2d.
    """

    _axes = 3
