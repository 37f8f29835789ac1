"""Layers, with the names, arguments, weight layouts and default initial values of torch.nn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _trace
from . import functional as F
from . import init
from ._stored import Buffer, Parameter, StepCounter, empty
from .module import Module


def _count(value: Any, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, but is {value}")
    return int(value)


def _switched_off(module: Module) -> bool:
    """True where this one layer was put into evaluation mode inside a network in training mode: its statistics are
    frozen, its dropout drops nothing."""
    trace = _trace.active()
    return trace is not None and trace.root is not None and trace.root.training and not module.training


class Identity(Module):
    """Gives its input; arguments are accepted and not used."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """x W^T + b along the last axis: (samples, ..., in_features) to (samples, ..., out_features).

    weight: (out_features, in_features); bias: (out_features). Both start uniform in +-1/sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = _count(in_features, "Linear: in_features")
        self.out_features = _count(out_features, "Linear: out_features")
        self.weight = empty((self.out_features, self.in_features))
        self.bias: Any
        if bias:
            self.bias = empty((self.out_features,))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


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
        self.in_channels = _count(in_channels, "Conv2d: in_channels")
        self.out_channels = _count(out_channels, "Conv2d: out_channels")
        self.groups = _count(groups, "Conv2d: groups")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"Conv2d: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        if padding_mode != "zeros":
            raise ValueError(f"Conv2d: padding_mode must be 'zeros', not {padding_mode!r}")
        self.kernel_size = F.pair(kernel_size, "Conv2d: kernel_size", 1)
        self.stride = F.pair(stride, "Conv2d: stride", 1)
        self.dilation = F.pair(dilation, "Conv2d: dilation", 1)
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ValueError(f"Conv2d: padding must be numbers, 'valid' or 'same', not {padding!r}")
            if padding == "same" and self.stride != (1, 1):
                raise ValueError("Conv2d: padding='same' needs stride 1")
            self.padding: Any = padding
        else:
            self.padding = F.pair(padding, "Conv2d: padding")
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


class MaxPool2d(Module):
    """Largest element of each window over the last two axes of (samples, channels, height, width)."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        if return_indices:
            raise ValueError("MaxPool2d: return_indices is not supported")
        F.pair(kernel_size, "MaxPool2d: kernel_size", 1)
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def forward(self, x: Any) -> Any:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """Mean of each window over the last two axes of (samples, channels, height, width)."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        F.pair(kernel_size, "AvgPool2d: kernel_size", 1)
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad

    def forward(self, x: Any) -> Any:
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means over windows that give an output of the extents output_size; None keeps an extent."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Module):
    """Maxima over windows that give an output of the extents output_size; None keeps an extent."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        return F.adaptive_max_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class Flatten(Module):
    """Joins the axes start_dim to end_dim; the batch axis (0) stays."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class ReLU(Module):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Any) -> Any:
        return F.relu(x)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = float(negative_slope)

    def forward(self, x: Any) -> Any:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Any) -> Any:
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        return F.tanh(x)


class GELU(Module):
    """x * Phi(x); approximate="tanh" uses the tanh formula."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', not {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x * sigmoid(x)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return F.silu(x)


class Softmax(Module):
    """exp(x) / sum(exp(x)) along axis `dim` (1 by default; the batch is axis 0)."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """log(softmax(x)) along axis `dim` (1 by default; the batch is axis 0)."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return F.log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Dropout(Module):
    """In training, zeroes elements with probability p and divides the others by 1 - p; the identity otherwise.

    Which elements are zeroed follows from the run's seed, the step, the position in the global batch and the layer: not
    from ranks or threads.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = F.check_probability(p)

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, not _switched_off(self))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _BatchNorm(Module):
    _axes: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        stats_lanes: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = _count(num_features, f"{name}: num_features")
        if momentum is None or not 0 <= momentum <= 1:
            raise ValueError(f"{name}: momentum must lie in [0, 1], but is {momentum!r}")
        if eps <= 0:
            raise ValueError(f"{name}: eps must be positive, but is {eps!r}")
        if not track_running_stats:
            raise ValueError(f"{name}: track_running_stats=False is not supported")
        self.eps, self.momentum, self.affine, self.track_running_stats = float(eps), float(momentum), bool(affine), True
        self.stats_lanes = None if stats_lanes is None else _count(stats_lanes, f"{name}: stats_lanes")
        self.weight: Any
        self.bias: Any
        if affine:
            self.weight, self.bias = empty((num_features,)), empty((num_features,))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        self.running_mean = Buffer(np.zeros(num_features, np.float32))
        self.running_var = Buffer(np.ones(num_features, np.float32))
        self.num_batches_tracked = StepCounter(np.zeros((), np.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight 1, bias 0."""
        if self.affine:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, x: Any) -> Any:
        if x.ndim not in self._axes:
            raise x.trace.error(
                f"{type(self).__name__} takes {' or '.join(map(str, self._axes))} axes with the batch, got {x.shape}"
            )
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            not _switched_off(self),
            self.momentum,
            self.eps,
            self.stats_lanes or 0,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, track_running_stats=True"
        return text + (f", stats_lanes={self.stats_lanes}" if self.stats_lanes else "")


class BatchNorm1d(_BatchNorm):
    """Batch normalisation over axis 1 of (samples, features) or (samples, features, length), with the statistics of the
    whole global batch.

    stats_lanes=k takes the statistics of groups of k lanes instead. The variance of the running statistics is the
    unbiased one, as in PyTorch.
    """

    _axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation over axis 1 of (samples, channels, height, width), with the statistics of the whole global
    batch.

    stats_lanes=k takes the statistics of groups of k lanes instead. The variance of the running statistics is the
    unbiased one, as in PyTorch.
    """

    _axes = (4,)


__all__ = [
    "GELU", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv2d",
    "Dropout", "Flatten", "Identity", "LeakyReLU", "Linear", "LogSoftmax", "MaxPool2d", "Parameter", "ReLU", "SiLU",
    "Sigmoid", "Softmax", "Tanh",
]  # fmt: skip
