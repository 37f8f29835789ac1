"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._trace import Tensor
from ._base import Attrs, apply

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "stochastic_depth",
]


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zeroes elements with probability p and divides the others by 1 - p. In a compiled network training and evaluation
    follow the plan."""
    return _dropped("dropout", input, p, training)


def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Dropout for networks with SELU: dropped elements take SELU's flat value, and mean 0 and variance 1 are kept
    (Klambauer and others, 2017)."""
    return _dropped("alpha_dropout", input, p, training)


def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zeroes whole channels (axis 1) of (samples, channels, length) with probability p and divides the others by 1 - p.
    Raises ValueError."""
    return _features(input, p, training, "dropout1d", (3,))


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zeroes whole channels (axis 1) of (samples, channels, height, width) with probability p and divides the others by
    1 - p. Three axes are (samples, channels, length). Raises ValueError."""
    return _features(input, p, training, "dropout2d", (3, 4))


def dropout3d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zeroes whole channels (axis 1) of (samples, channels, depth, height, width) with probability p and divides the
    others by 1 - p. Raises ValueError."""
    return _features(input, p, training, "dropout3d", (5,))


def feature_alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """alpha_dropout of whole channels (axis 1) of (samples, channels, ...)."""
    return _features(input, p, training, "feature_alpha_dropout", (2, 3, 4, 5, 6, 7), True)


def stochastic_depth(input: Any, p: float, mode: str, training: bool = True) -> Any:
    """Zeroes whole samples (mode="row": each on its own, "batch": all or none) with probability p and divides the others
    by 1 - p, as torchvision.ops.stochastic_depth (Huang and others, 2016). Raises ValueError."""
    if mode not in ("row", "batch"):
        raise ValueError(f"stochastic_depth: mode must be 'row' or 'batch', but is {mode!r}")
    return _dropped("stochastic_depth", input, p, training, {"whole_batch": float(mode == "batch")})


def check_probability(p: Any, name: str = "dropout") -> float:
    """Raises ValueError unless 0 <= p <= 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must lie in [0, 1], but is {p!r}")
    return float(p)


def _dropped(op: str, input: Any, p: Any, training: bool, attrs: Attrs | None = None, name: str | None = None) -> Any:
    p = check_probability(p, name or op)
    if not training or p == 0:
        return input if isinstance(input, Tensor) else np.asarray(input)
    return apply(op, [input], attrs={"p": p, **(attrs or {})}, training=True)


def _features(input: Any, p: Any, training: bool, name: str, axes: tuple[int, ...], alpha: bool = False) -> Any:
    shape = tuple(input.shape) if isinstance(input, Tensor) else np.shape(input)
    if len(shape) not in axes:
        wanted = " or ".join(map(str, axes))
        raise ValueError(f"{name} needs an input with {wanted} axes, the batch included, got {shape}")
    return _dropped("feature_dropout", input, p, training, {"alpha": float(alpha)}, name)
