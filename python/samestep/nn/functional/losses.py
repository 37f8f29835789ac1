"""Losses on arrays, as one number; in training the losses of samestep.nn are given to the trainer."""

from __future__ import annotations

from typing import Any

__all__ = ["cross_entropy", "mse_loss"]


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    axis: int = 1,
) -> float:
    """Cross entropy of class scores and class numbers, as one number; see nn.CrossEntropyLoss."""
    from ..loss import CrossEntropyLoss

    return CrossEntropyLoss(weight, ignore_index, reduction, label_smoothing, axis=axis)(input, target)


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> float:
    """Mean squared error, as one number; see nn.MSELoss."""
    from ..loss import MSELoss

    return MSELoss(reduction)(input, target)
