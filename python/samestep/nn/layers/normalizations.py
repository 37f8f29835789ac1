"""Normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from .. import init
from .._stored import Buffer, StepCounter, empty
from ..module import Module
from ._base import count, switched_off

__all__ = ["BatchNorm1d", "BatchNorm2d"]


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
        self.num_features = count(num_features, f"{name}: num_features")
        if momentum is None or not 0 <= momentum <= 1:
            raise ValueError(f"{name}: momentum must lie in [0, 1], but is {momentum!r}")
        if eps <= 0:
            raise ValueError(f"{name}: eps must be positive, but is {eps!r}")
        if not track_running_stats:
            raise ValueError(f"{name}: track_running_stats=False is not supported")
        self.eps, self.momentum, self.affine, self.track_running_stats = float(eps), float(momentum), bool(affine), True
        self.stats_lanes = None if stats_lanes is None else count(stats_lanes, f"{name}: stats_lanes")
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
            not switched_off(self),
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
