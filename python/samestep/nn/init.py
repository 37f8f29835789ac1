"""Initial values, with the names and distributions of torch.nn.init. Each call takes the next stream of random numbers
(`ss.manual_seed`)."""

from __future__ import annotations

import math

from ._stored import Stored, draw

__all__ = [
    "calculate_gain", "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "uniform_",
    "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip


def uniform_(tensor: Stored, a: float = 0.0, b: float = 1.0) -> Stored:
    """Uniform in [a, b)."""
    return draw(tensor, "uniform", a, b)


def normal_(tensor: Stored, mean: float = 0.0, std: float = 1.0) -> Stored:
    """Normal with the given mean and standard deviation."""
    return draw(tensor, "normal", mean, std)


def constant_(tensor: Stored, val: float) -> Stored:
    """One value everywhere."""
    tensor._draw_later(("constant", float(val)))
    return tensor


def zeros_(tensor: Stored) -> Stored:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Stored) -> Stored:
    """Ones."""
    return constant_(tensor, 1.0)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (outputs, inputs, *kernel). Raises ValueError for fewer than two axes."""
    if len(shape) < 2:
        raise ValueError(f"fan-in and fan-out need a weight of at least two axes, not of shape {shape}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps variances steady through a nonlinearity (He et al., "Delving deep into rectifiers", 2015)."""
    if nonlinearity in ("linear", "sigmoid", "conv1d", "conv2d", "conv3d"):
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity == "selu":
        return 0.75
    raise ValueError(f"nonlinearity '{nonlinearity}' is not known")


def _kaiming_std(tensor: Stored, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(fans(tensor.shape)[mode == "fan_out"])


def kaiming_uniform_(tensor: Stored, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Stored:
    """Uniform with standard deviation gain / sqrt(fan): He et al., 2015. `a` is the slope of a leaky ReLU."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Stored, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Stored:
    """Normal with standard deviation gain / sqrt(fan): He et al., 2015."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def _xavier_std(tensor: Stored, gain: float) -> float:
    return gain * math.sqrt(2.0 / sum(fans(tensor.shape)))


def xavier_uniform_(tensor: Stored, gain: float = 1.0) -> Stored:
    """Uniform with standard deviation gain * sqrt(2 / (fan_in + fan_out)): Glorot, Bengio, 2010."""
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Stored, gain: float = 1.0) -> Stored:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)): Glorot, Bengio, 2010."""
    return normal_(tensor, 0.0, _xavier_std(tensor, gain))
