"""Normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from .. import init
from .._stored import Buffer, StepCounter, empty
from ..functional.normalizations import extents
from ..module import Module
from ._base import count, switched_off

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
    "SyncBatchNorm",
]


class _BatchNorm(Module):
    _axes: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        stats_lanes: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = count(num_features, f"{name}: num_features")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"{name}: momentum must lie in [0, 1] or be None, but is {momentum!r}")
        if eps <= 0:
            raise ValueError(f"{name}: eps must be positive, but is {eps!r}")
        self.eps, self.affine, self.track_running_stats = float(eps), bool(affine), bool(track_running_stats)
        self.momentum = None if momentum is None else float(momentum)
        self.stats_lanes = None if stats_lanes is None else count(stats_lanes, f"{name}: stats_lanes")
        self.weight: Any
        self.bias: Any
        if affine:
            self.weight, self.bias = empty((num_features,)), empty((num_features,))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        if track_running_stats:
            self.running_mean = Buffer(np.zeros(num_features, np.float32))
            self.running_var = Buffer(np.ones(num_features, np.float32))
            self.num_batches_tracked = StepCounter(np.zeros((), np.int64))
        else:
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                self.register_buffer(buffer, None)
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
            not (self.track_running_stats and switched_off(self)),
            self.momentum,
            self.eps,
            self.stats_lanes or 0,
        )

    def extra_repr(self) -> str:
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )
        return text + (f", stats_lanes={self.stats_lanes}" if self.stats_lanes else "")


class BatchNorm1d(_BatchNorm):
    """Batch normalisation over axis 1 of (samples, features) or (samples, features, length), with the statistics of the
    whole global batch.

    stats_lanes=k takes the statistics of groups of k lanes instead. The variance of the running statistics is the
    unbiased one, as in PyTorch. momentum=None makes the running statistics plain averages over the steps of the run: the
    first step after a start without checkpoint replaces them. Without running statistics (track_running_stats=False)
    evaluation too normalises by the batch it is given.
    """

    _axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation over axis 1 of (samples, channels, height, width), with the statistics of the whole global
    batch.

    stats_lanes=k takes the statistics of groups of k lanes instead. The variance of the running statistics is the
    unbiased one, as in PyTorch.
    """

    _axes = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation over axis 1 of (samples, channels, depth, height, width), with the statistics of the whole
    global batch. Arguments as in BatchNorm1d."""

    _axes = (5,)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation over axis 1 of inputs with 2 to 5 axes, with the statistics of the whole global batch over
    all ranks: what every batch normalisation does here. The name is PyTorch's."""

    _axes = (2, 3, 4, 5)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
    ) -> None:
        if process_group is not None:
            raise ValueError("SyncBatchNorm: process_group is not supported; statistics are those of all ranks")
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """The module itself: its batch normalisations take the statistics of all ranks already."""
        return module


class LayerNorm(Module):
    """Normalises the last axes of each sample, whose extents are normalized_shape, by their mean and variance (Ba,
    Kiros, Hinton, 2016).

    weight and bias have the shape normalized_shape; elementwise_affine=False: neither, bias=False: no bias.
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        self.normalized_shape = extents(normalized_shape, "LayerNorm")
        self.eps, self.elementwise_affine = _positive(eps, "LayerNorm"), bool(elementwise_affine)
        _affine(self, self.normalized_shape, elementwise_affine, elementwise_affine and bias)

    def reset_parameters(self) -> None:
        """weight 1, bias 0."""
        _reset(self)

    def forward(self, x: Any) -> Any:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """Divides the last axes of each sample, whose extents are normalized_shape, by the root of their mean square
    (Zhang, Sennrich, 2019). eps=None: 2^-23."""

    def __init__(self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.normalized_shape = extents(normalized_shape, "RMSNorm")
        self.eps = None if eps is None else _positive(eps, "RMSNorm")
        self.elementwise_affine = bool(elementwise_affine)
        _affine(self, self.normalized_shape, elementwise_affine)

    def reset_parameters(self) -> None:
        """weight 1."""
        _reset(self)

    def forward(self, x: Any) -> Any:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalises num_groups runs of neighbouring channels (axis 1) of each sample by their own mean and variance (Wu,
    He, 2018)."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_groups = count(num_groups, "GroupNorm: num_groups")
        self.num_channels = count(num_channels, "GroupNorm: num_channels")
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_channels={num_channels} must be divisible by num_groups={num_groups}")
        self.eps, self.affine = _positive(eps, "GroupNorm"), bool(affine)
        _affine(self, (num_channels,), affine, affine)

    def reset_parameters(self) -> None:
        """weight 1, bias 0."""
        _reset(self)

    def forward(self, x: Any) -> Any:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise x.trace.error(f"GroupNorm takes {self.num_channels} channels on axis 1, got {x.shape}")
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class _InstanceNorm(Module):
    _axes = 0

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if track_running_stats:
            raise ValueError(
                f"{name}: track_running_stats=True is not supported; evaluation normalises by the instance, as PyTorch's default does"
            )
        self.num_features = count(num_features, f"{name}: num_features")
        self.eps, self.momentum = _positive(eps, name), momentum
        self.affine, self.track_running_stats = bool(affine), False
        _affine(self, (num_features,), affine, affine)

    def reset_parameters(self) -> None:
        """weight 1, bias 0."""
        _reset(self)

    def forward(self, x: Any) -> Any:
        if x.ndim != self._axes or x.shape[1] != self.num_features:
            raise x.trace.error(
                f"{type(self).__name__} takes {self._axes} axes with the batch and {self.num_features} channels on axis 1, got {x.shape}"
            )
        return F.instance_norm(x, None, None, self.weight, self.bias, True, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            "track_running_stats=False"
        )


class InstanceNorm1d(_InstanceNorm):
    """Normalises each channel of each sample of (samples, channels, length) by its own mean and variance (Ulyanov and
    others, 2016). track_running_stats=True is not supported, and momentum without meaning."""

    _axes = 3


class InstanceNorm2d(_InstanceNorm):
    """Normalises each channel of each sample of (samples, channels, height, width) by its own mean and variance.
    Arguments as in InstanceNorm1d."""

    _axes = 4


class InstanceNorm3d(_InstanceNorm):
    """Normalises each channel of each sample of (samples, channels, depth, height, width) by its own mean and variance.
    Arguments as in InstanceNorm1d."""

    _axes = 5


class LocalResponseNorm(Module):
    """Divides each element by (k + alpha / size * sum of squares)^beta, the sum over `size` neighbouring channels (axis
    1) at its position (Krizhevsky and others, 2012). k must keep that positive."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = count(size, "LocalResponseNorm: size")
        self.alpha, self.beta, self.k = float(alpha), float(beta), float(k)

    def forward(self, x: Any) -> Any:
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _positive(eps: Any, name: str) -> float:
    if not eps > 0:
        raise ValueError(f"{name}: eps must be positive, but is {eps!r}")
    return float(eps)


def _affine(module: Any, shape: tuple[int, ...], weight: bool, bias: bool | None = None) -> None:
    """Registers weight and bias (None: no such name), with 1 and 0."""
    for name, wanted in (("weight", weight), ("bias", bias)):
        if wanted is not None:
            module.register_parameter(name, empty(shape) if wanted else None)
    _reset(module)


def _reset(module: Any) -> None:
    if module._parameters["weight"] is not None:
        init.ones_(module.weight)
    if module._parameters.get("bias") is not None:
        init.zeros_(module.bias)
