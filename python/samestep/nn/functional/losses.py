"""Losses on arrays, as one number; in training the losses of samestep.nn are given to the trainer."""

from __future__ import annotations

from typing import Any

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "hinge_embedding_loss", "huber_loss",
    "kl_div", "l1_loss", "mse_loss", "multi_margin_loss", "nll_loss", "poisson_nll_loss", "smooth_l1_loss",
    "soft_margin_loss",
]  # fmt: skip


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
    return _number("MSELoss", input, target, reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> float:
    """Mean absolute error, as one number; see nn.L1Loss."""
    return _number("L1Loss", input, target, reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> float:
    """Huber loss, as one number; see nn.HuberLoss."""
    return _number("HuberLoss", input, target, reduction, delta)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> float:
    """Smooth L1 loss, as one number; see nn.SmoothL1Loss."""
    return _number("SmoothL1Loss", input, target, reduction, beta)


def binary_cross_entropy(input: Any, target: Any, reduction: str = "mean") -> float:
    """Binary cross entropy of probabilities, as one number; see nn.BCELoss."""
    return _number("BCELoss", input, target, reduction)


def binary_cross_entropy_with_logits(input: Any, target: Any, reduction: str = "mean", pos_weight: Any = None) -> float:
    """Binary cross entropy of logits, as one number; see nn.BCEWithLogitsLoss."""
    return _number("BCEWithLogitsLoss", input, target, reduction, pos_weight)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> float:
    """Kullback-Leibler divergence, as one number; see nn.KLDivLoss."""
    return _number("KLDivLoss", input, target, reduction, log_target)


def nll_loss(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", axis: int = 1
) -> float:
    """Negative log-likelihood, as one number; see nn.NLLLoss."""
    return _number("NLLLoss", input, target, weight, ignore_index, reduction, axis=axis)


def poisson_nll_loss(input: Any, target: Any, log_input: bool = True, reduction: str = "mean") -> float:
    """Negative log-likelihood of counts, as one number; see nn.PoissonNLLLoss."""
    return _number("PoissonNLLLoss", input, target, log_input, reduction)


def soft_margin_loss(input: Any, target: Any, reduction: str = "mean") -> float:
    """Logistic loss of targets 1 and -1, as one number; see nn.SoftMarginLoss."""
    return _number("SoftMarginLoss", input, target, reduction)


def hinge_embedding_loss(input: Any, target: Any, margin: float = 1.0, reduction: str = "mean") -> float:
    """Hinge loss of distances, as one number; see nn.HingeEmbeddingLoss."""
    return _number("HingeEmbeddingLoss", input, target, margin, reduction)


def multi_margin_loss(
    input: Any, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean"
) -> float:
    """Hinge loss of several classes, as one number; see nn.MultiMarginLoss."""
    return _number("MultiMarginLoss", input, target, p, margin, weight, reduction)


def _number(name: str, input: Any, target: Any, *arguments: Any, **options: Any) -> float:
    from .. import loss

    return float(getattr(loss, name)(*arguments, **options)(input, target))
