"""The operators as functions, with the names and arguments of torch.nn.functional.

Inside `forward` they take symbolic tensors; on NumPy arrays of shape (samples, ...) they compute at once. Axes count
the batch as axis 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import _trace
from .._trace import Tensor
from ._stored import Stored

__all__ = [
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "add", "avg_pool2d", "batch_norm", "cat", "conv2d",
    "cross_entropy", "dropout", "flatten", "gelu", "leaky_relu", "linear", "log_softmax", "max_pool2d", "mse_loss",
    "mul", "relu", "scale", "sigmoid", "silu", "softmax", "tanh",
]  # fmt: skip

Attrs = Mapping[str, float]


def _apply(
    op: str, batched: Sequence[Any], others: Sequence[Any] = (), attrs: Attrs | None = None, training: bool = False
) -> Any:
    """One node; or, outside of a trace, its values. `batched` are tensors or arrays of samples, `others` parameters,
    buffers or None."""
    trace = _trace.active()
    if trace is not None:
        return trace.emit(op, [*batched, *others], attrs)
    from .. import _eager

    return _eager.call(lambda *tensors: tensors[0].trace.emit(op, [*tensors, *others], attrs), batched, training)


def _lift(function: Any, *inputs: Any) -> Any:
    """Runs a function that needs symbolic tensors on arrays."""
    from .. import _eager

    return _eager.call(function, inputs)


def _symbolic(value: Any) -> bool:
    return isinstance(value, Tensor) or _trace.active() is not None


def pair(value: Any, argument: str, least: int = 0) -> tuple[int, int]:
    """One number for both axes, or two. Raises TypeError, ValueError."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(
        isinstance(part, (int, np.integer)) and not isinstance(part, bool) for part in values
    ):
        raise TypeError(f"{argument} must be a whole number or a pair of them, not {value!r}")
    if min(values) < least:
        raise ValueError(f"{argument} must be at least {least}, but is {value!r}")
    return int(values[0]), int(values[1])


# --- elementwise


def relu(input: Any, inplace: bool = False) -> Any:
    """max(x, 0). `inplace` is accepted for PyTorch's sake; memory is the plan's business."""
    return _apply("relu", [input])


def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """x where x > 0, else negative_slope * x."""
    return _apply("leaky_relu", [input], attrs={"negative_slope": float(negative_slope)})


def sigmoid(input: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _apply("sigmoid", [input])


def tanh(input: Any) -> Any:
    """Hyperbolic tangent."""
    return _apply("tanh", [input])


def gelu(input: Any, approximate: str = "none") -> Any:
    """x * Phi(x) (Hendrycks, Gimpel, 2016); approximate="tanh" uses the tanh formula."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', not {approximate!r}")
    return _apply("gelu", [input], attrs={"tanh": float(approximate == "tanh")})


def silu(input: Any, inplace: bool = False) -> Any:
    """x * sigmoid(x)."""
    return _apply("silu", [input])


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zeroes elements with probability p and divides the others by 1 - p. In a compiled network training and evaluation
    follow the plan."""
    check_probability(p)
    if not training or p == 0:
        return input if isinstance(input, Tensor) else np.asarray(input)
    return _apply("dropout", [input], attrs={"p": float(p)}, training=True)


def check_probability(p: Any) -> float:
    """Raises ValueError unless 0 <= p <= 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must lie in [0, 1], but is {p!r}")
    return float(p)


def scale(input: Any, factor: float = 1.0, offset: float = 0.0) -> Any:
    """factor * x + offset."""
    return _apply("scale", [input], attrs={"mul": float(factor), "add": float(offset)})


def add(input: Any, other: Any) -> Any:
    """Sum of tensors of one shape, or of a tensor and a number, parameter or array that is broadcast over the samples."""
    return _pairwise("add", input, other)


def mul(input: Any, other: Any) -> Any:
    """Product of tensors of one shape, or of a tensor and a number, parameter or array that is broadcast over the
    samples."""
    return _pairwise("mul", input, other)


def _pairwise(op: str, a: Any, b: Any) -> Any:
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return np.add(a, b) if op == "add" else np.multiply(a, b)
    if not isinstance(a, Tensor):
        a, b = b, a  # both are commutative
    if _trace._is_number(b):
        return scale(a, offset=float(b)) if op == "add" else scale(a, float(b))
    if not isinstance(b, (Tensor, Stored, np.ndarray)):
        raise TypeError(f"{a.trace._prefix()}{op} of a tensor and {type(b).__name__} is not possible")
    return _apply(op, [a, b])


# --- shapes


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Joins the axes start_dim to end_dim into one. start_dim must be at least 1 for symbolic tensors: the batch axis
    stays."""
    if not isinstance(input, Tensor):
        array = np.asarray(input)
        first, last = start_dim % array.ndim, end_dim % array.ndim
        return array.reshape(*array.shape[:first], -1, *array.shape[last + 1 :])
    if input.ndim == 1:
        return input._reshaped((1,))
    first, last = input.axis(start_dim, "start_dim"), input.axis(end_dim, "end_dim")
    if first > last:
        raise input.trace.error(f"flatten: start_dim={start_dim} comes after end_dim={end_dim}")
    shape = input.sample_shape
    if (first, last) == (0, len(shape) - 1):
        return input.trace.emit("flatten", [input])
    return input._reshaped((*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def cat(tensors: Sequence[Any], dim: int = 1) -> Any:
    """Joins tensors along axis `dim`, which must not be the batch axis."""
    parts = list(tensors)
    if not parts:
        raise ValueError("cat needs at least one tensor")
    if not any(isinstance(part, Tensor) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts], axis=dim)
    first = next(part for part in parts if isinstance(part, Tensor))
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"{first.trace._prefix()}cat joins tensors with tensors only")
    axis = first.axis(dim, "dim")
    while len(parts) > 1:  # a node takes a few inputs at most
        parts = [first.trace.emit("concat", parts[:8], {"axis": axis}), *parts[8:]]
    return parts[0]


# --- layers with weights


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """x W^T + b along the last axis. weight: (out, in); bias: (out)."""
    return _apply("linear", [input], [weight, bias])


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """2-d convolution (cross-correlation). input: (samples, channels, height, width); weight: (out, in/groups, kernel
    height, kernel width). padding: numbers, "valid" or "same" (stride 1)."""
    dilation_h, dilation_w = pair(dilation, "conv2d: dilation", 1)
    stride_h, stride_w = pair(stride, "conv2d: stride", 1)
    kernel_h, kernel_w = weight.shape[2:]
    if padding == "valid":
        padding = 0
    if padding == "same":
        if (stride_h, stride_w) != (1, 1):
            raise ValueError("conv2d: padding='same' needs stride 1")
        whole_h, whole_w = dilation_h * (kernel_h - 1), dilation_w * (kernel_w - 1)
        if whole_h % 2 or whole_w % 2:
            raise ValueError(
                "conv2d: padding='same' needs kernels that span an odd number of pixels; pad by numbers instead"
            )
        padding = (whole_h // 2, whole_w // 2)
    elif isinstance(padding, str):
        raise ValueError(f"conv2d: padding must be numbers, 'valid' or 'same', not {padding!r}")
    padding_h, padding_w = pair(padding, "conv2d: padding")
    attrs = {
        "stride_h": stride_h, "stride_w": stride_w, "pad_h": padding_h, "pad_w": padding_w,
        "dilation_h": dilation_h, "dilation_w": dilation_w, "groups": int(groups),
    }  # fmt: skip
    return _apply("conv2d", [input], [weight, bias], attrs)


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
    return _apply("batch_norm", [input], [weight, bias, running_mean, running_var], attrs, training)


# --- pooling


def _window(kernel_size: Any, stride: Any, padding: Any, name: str) -> dict[str, float]:
    kernel = pair(kernel_size, f"{name}: kernel_size", 1)
    step = kernel if stride is None else pair(stride, f"{name}: stride", 1)
    pad = pair(padding, f"{name}: padding")
    return {
        "kernel_h": kernel[0], "kernel_w": kernel[1], "stride_h": step[0], "stride_w": step[1], "pad_h": pad[0], "pad_w": pad[1],
    }  # fmt: skip


def max_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    """Largest element of each window; of equal ones the first takes the gradient. stride: kernel_size by default."""
    attrs = _window(kernel_size, stride, padding, "max_pool2d")
    attrs["dilation_h"], attrs["dilation_w"] = pair(dilation, "max_pool2d: dilation", 1)
    attrs["ceil_mode"] = float(ceil_mode)
    return _apply("max_pool2d", [input], attrs=attrs)


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """Mean of each window. stride: kernel_size by default."""
    attrs = _window(kernel_size, stride, padding, "avg_pool2d")
    attrs["ceil_mode"], attrs["count_include_pad"] = float(ceil_mode), float(count_include_pad)
    return _apply("avg_pool2d", [input], attrs=attrs)


def _adaptive(op: str, input: Any, output_size: Any) -> Any:
    if not isinstance(input, Tensor):
        return _lift(lambda x: _adaptive(op, x, output_size), input)
    values = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(values) != 2 or len(input.sample_shape) != 3:
        raise input.trace.error(
            f"{op} takes (samples, channels, height, width) and one or two extents, got {input.shape} and {output_size!r}"
        )
    height, width = (input.sample_shape[1 + i] if value is None else value for i, value in enumerate(values))
    out_h, out_w = pair((height, width), f"{op}: output_size", 1)
    return _apply(op, [input], attrs={"out_h": out_h, "out_w": out_w})


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over windows that give output_size (height, width); None keeps an extent."""
    return _adaptive("adaptive_avg_pool2d", input, output_size)


def adaptive_max_pool2d(input: Any, output_size: Any) -> Any:
    """Maxima over windows that give output_size (height, width); None keeps an extent."""
    return _adaptive("adaptive_max_pool2d", input, output_size)


# --- along an axis


def _along(op: str, input: Any, dim: int | None) -> Any:
    if not isinstance(input, Tensor):
        return _lift(lambda x: _along(op, x, dim), input)
    return _apply(op, [input], attrs={"axis": input.axis(1 if dim is None else dim, "dim")})


def softmax(input: Any, dim: int | None = None) -> Any:
    """exp(x) / sum(exp(x)) along axis `dim` (1 by default)."""
    return _along("softmax", input, dim)


def log_softmax(input: Any, dim: int | None = None) -> Any:
    """log(softmax(x)) along axis `dim` (1 by default)."""
    return _along("log_softmax", input, dim)


# --- losses, on arrays


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
    from .loss import CrossEntropyLoss

    return CrossEntropyLoss(weight, ignore_index, reduction, label_smoothing, axis=axis)(input, target)


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> float:
    """Mean squared error, as one number; see nn.MSELoss."""
    from .loss import MSELoss

    return MSELoss(reduction)(input, target)
