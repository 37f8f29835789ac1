"""Normalisation."""

from __future__ import annotations

from typing import Any

from ._base import apply

__all__ = ["batch_norm"]


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    stats_lanes: int = 0,
) -> Any:
    """Batch normalisation over axis 1 (Ioffe, Szegedy, 2015). stats_lanes=k takes the statistics of groups of k lanes,
    0 those of the whole batch. training=False normalises by the running statistics and leaves them alone; evaluation of
    a compiled network does so in any case."""
    attrs = {
        "eps": float(eps),
        "momentum": float(momentum),
        "stats_lanes": int(stats_lanes),
        "use_running": float(not training),
    }
    return apply("batch_norm", [input], [weight, bias, running_mean, running_var], attrs, training)
