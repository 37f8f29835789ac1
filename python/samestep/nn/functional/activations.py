"""Activations: element by element, or along one axis."""

from __future__ import annotations

from typing import Any

from ..._trace import Tensor
from ._base import apply, lift

__all__ = [
    "celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax", "logsigmoid",
    "mish", "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softmin", "softplus", "softshrink",
    "softsign", "swiglu", "tanh", "tanhshrink", "threshold",
]  # fmt: skip


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


def softmin(input: Any, dim: int | None = None) -> Any:
    """softmax(-x) along axis `dim` (1 by default)."""
    if not isinstance(input, Tensor):
        return lift(lambda x: softmin(x, dim), input)
    return softmax(-input, dim)


def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert, Unterthiner, Hochreiter, 2015)."""
    return apply("elu", [input], attrs={"alpha": float(alpha)})


def selu(input: Any, inplace: bool = False) -> Any:
    """ELU with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017)."""
    return apply("elu", [input], attrs={"alpha": 1.6732632423543772, "scale": 1.0507009873554805})


def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha * (exp(x / alpha) - 1) (Barron, 2017)."""
    if alpha == 0:
        raise ValueError("celu: alpha must not be 0")
    return apply("elu", [input], attrs={"alpha": float(alpha), "input_scale": 1 / float(alpha)})


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta * x)) / beta, and x where beta * x > threshold."""
    if not beta > 0:
        raise ValueError(f"softplus: beta must be positive, but is {beta!r}")
    return apply("softplus", [input], attrs={"beta": float(beta), "threshold": float(threshold)})


def softsign(input: Any) -> Any:
    """x / (1 + |x|)."""
    return apply("softsign", [input])


def mish(input: Any, inplace: bool = False) -> Any:
    """x * tanh(softplus(x)) (Misra, 2019)."""
    return apply("mish", [input])


def hardswish(input: Any, inplace: bool = False) -> Any:
    """x * min(max(x + 3, 0), 6) / 6 (Howard et al., 2019)."""
    return apply("hardswish", [input])


def hardsigmoid(input: Any, inplace: bool = False) -> Any:
    """min(max(x + 3, 0), 6) / 6."""
    return apply("hardsigmoid", [input])


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """min(max(x, min_val), max_val)."""
    if not min_val < max_val:
        raise ValueError(f"hardtanh: min_val={min_val!r} must be below max_val={max_val!r}")
    return apply("hardtanh", [input], attrs={"min_val": float(min_val), "max_val": float(max_val)})


def relu6(input: Any, inplace: bool = False) -> Any:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0)


def logsigmoid(input: Any) -> Any:
    """log(1 / (1 + exp(-x)))."""
    return apply("logsigmoid", [input])


def tanhshrink(input: Any) -> Any:
    """x - tanh(x)."""
    return apply("tanhshrink", [input])


def _shrink(op: str, input: Any, lambd: float) -> Any:
    if not lambd >= 0:
        raise ValueError(f"{op}: lambd must not be negative, but is {lambd!r}")
    return apply(op, [input], attrs={"lambda": float(lambd)})


def softshrink(input: Any, lambd: float = 0.5) -> Any:
    """x - lambd above lambd, x + lambd below -lambd, 0 between."""
    return _shrink("softshrink", input, lambd)


def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, else 0."""
    return _shrink("hardshrink", input, lambd)


def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """x where x > threshold, else value."""
    return apply("threshold", [input], attrs={"threshold": float(threshold), "value": float(value)})


def prelu(input: Any, weight: Any) -> Any:
    """x where x > 0, else weight * x. weight: (1), or (channels) for axis 1 (He, Zhang, Ren, Sun, 2015)."""
    return apply("prelu", [input], [weight])


def _gated(input: Any, dim: int, swish: bool) -> Any:
    if not isinstance(input, Tensor):
        return lift(lambda x: _gated(x, dim, swish), input)
    return apply("glu", [input], attrs={"axis": input.axis(dim, "dim"), "swish": float(swish)})


def glu(input: Any, dim: int = -1) -> Any:
    """a * sigmoid(b) with the halves a and b of axis `dim` (Dauphin, Fan, Auli, Grangier, 2017)."""
    return _gated(input, dim, False)


def swiglu(input: Any, dim: int = -1) -> Any:
    """silu(a) * b with the halves a and b of axis `dim` (Shazeer, 2020)."""
    return _gated(input, dim, True)
