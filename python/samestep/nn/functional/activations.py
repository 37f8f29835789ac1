"""Activations: element by element, or along one axis."""

from __future__ import annotations

from typing import Any

from ..._trace import Tensor
from ._base import apply, lift

__all__ = ["gelu", "leaky_relu", "log_softmax", "relu", "sigmoid", "silu", "softmax", "tanh"]


def relu(input: Any, inplace: bool = False) -> Any:
    """max(x, 0). `inplace` is accepted for PyTorch's sake; memory is the plan's business."""
    return apply("relu", [input])


def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """x where x > 0, else negative_slope * x."""
    return apply("leaky_relu", [input], attrs={"negative_slope": float(negative_slope)})


def sigmoid(input: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return apply("sigmoid", [input])


def tanh(input: Any) -> Any:
    """Hyperbolic tangent."""
    return apply("tanh", [input])


def gelu(input: Any, approximate: str = "none") -> Any:
    """x * Phi(x) (Hendrycks, Gimpel, 2016); approximate="tanh" uses the tanh formula."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', not {approximate!r}")
    return apply("gelu", [input], attrs={"tanh": float(approximate == "tanh")})


def silu(input: Any, inplace: bool = False) -> Any:
    """x * sigmoid(x)."""
    return apply("silu", [input])


def _along(op: str, input: Any, dim: int | None) -> Any:
    if not isinstance(input, Tensor):
        return lift(lambda x: _along(op, x, dim), input)
    return apply(op, [input], attrs={"axis": input.axis(1 if dim is None else dim, "dim")})


def softmax(input: Any, dim: int | None = None) -> Any:
    """exp(x) / sum(exp(x)) along axis `dim` (1 by default)."""
    return _along("softmax", input, dim)


def log_softmax(input: Any, dim: int | None = None) -> Any:
    """log(softmax(x)) along axis `dim` (1 by default)."""
    return _along("log_softmax", input, dim)
