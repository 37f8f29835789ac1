"""Operators that slide a window (convolutions, pooling) and normalisations, read from ONNX files."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np

from ..nn import functional as F
from ..nn._stored import Stored
from ._import_base import Call, Value, elementwise, first


def _window(c: Call, extents: list[int], kernel: list[int]) -> dict[str, Any]:
    """stride, dilation, and the padding before and after each axis."""
    axes = len(kernel)
    stride, dilation = list(c.a.get("strides", [1] * axes)), list(c.a.get("dilations", [1] * axes))
    begin, end = list(c.a.get("pads", [0] * (2 * axes)))[:axes], list(c.a.get("pads", [0] * (2 * axes)))[axes:]
    auto = c.text("auto_pad", "NOTSET")
    for n in range(axes if auto.startswith("SAME") else 0):
        span = (kernel[n] - 1) * dilation[n] + 1
        total = max(0, (-(-extents[n] // stride[n]) - 1) * stride[n] + span - extents[n])
        begin[n] = total // 2 if auto == "SAME_UPPER" else total - total // 2
        end[n] = total - begin[n]
    return {"stride": tuple(stride), "dilation": tuple(dilation), "begin": begin, "end": end}


def _both(begin: list[int], end: list[int]) -> list[int]:
    """Padding as F.pad takes it: from the last axis on."""
    return [n for pair in list(zip(begin, end, strict=True))[::-1] for n in pair]


def _conv(c: Call, x: Any, w: Any, bias: Any = None) -> Any:
    tensor, kernel = first(x), list(w.shape[2:])
    k = _window(c, list(tensor.sample_shape[1:]), kernel)
    pad = tuple(k["begin"])
    if k["begin"] != k["end"]:
        tensor, pad = F.pad(tensor, _both(k["begin"], k["end"])), (0,) * len(kernel)
    function = getattr(F, f"conv{len(kernel)}d")
    return Value(function(tensor, w, bias, k["stride"], pad, k["dilation"], c.a.get("group", 1)), 0)


def _conv_transpose(c: Call, x: Any, w: Any, bias: Any = None) -> Any:
    tensor, kernel = first(x), list(w.shape[2:])
    axes, extents = len(kernel), list(tensor.sample_shape[1:])
    k = _window(c, extents, kernel)
    more = list(c.a.get("output_padding", [0] * axes))
    spans = [(kernel[n] - 1) * k["dilation"][n] + 1 for n in range(axes)]
    full = [k["stride"][n] * (extents[n] - 1) + more[n] + spans[n] for n in range(axes)]
    begin, end = k["begin"], k["end"]
    auto, wanted = c.text("auto_pad", "NOTSET"), c.a.get("output_shape")
    if wanted is not None or auto.startswith("SAME"):
        wanted = list(wanted)[-axes:] if wanted is not None else [extents[n] * k["stride"][n] for n in range(axes)]
        total = [full[n] - wanted[n] for n in range(axes)]
        begin = [max(0, t // 2 if auto == "SAME_UPPER" else t - t // 2) for t in total]  # what is missing is at the end
        end = [t - b for t, b in zip(total, begin, strict=True)]
    function = getattr(F, f"conv_transpose{axes}d")
    stride, dilation, group = k["stride"], k["dilation"], c.a.get("group", 1)
    if begin == end and min(begin) >= 0 and all(m < max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        return Value(function(tensor, w, bias, stride, tuple(begin), tuple(more), group, dilation), 0)
    made = function(tensor, w, bias, stride, (0,) * axes, (0,) * axes, group, dilation)
    if any(more) or min(begin + end) < 0:  # a place that no window reaches holds the bias
        if bias is not None:
            raise ValueError("output beyond the last window together with a bias is not supported")
        made = F.pad(made, _both([max(0, -b) for b in begin], [m + max(0, -e) for m, e in zip(more, end, strict=True)]))
    kept = [
        slice(max(0, b), made.sample_shape[1 + n] - max(0, e)) for n, (b, e) in enumerate(zip(begin, end, strict=True))
    ]
    index = (slice(None), slice(None), *kept)
    return Value(made[index], 0)


def _pool(op: str) -> Any:
    def run(c: Call, x: Any) -> Any:
        tensor, kernel = first(x), list(c.a["kernel_shape"])
        axes, extents = len(kernel), list(tensor.sample_shape[1:])
        k = _window(c, extents, kernel)
        begin, end, stride, dilation = k["begin"], k["end"], k["stride"], k["dilation"]
        if len(c.node.output) > 1:
            raise ValueError("the output of indices is not supported")
        ceil, counted = bool(c.a.get("ceil_mode", 0)), bool(c.a.get("count_include_pad", 0))
        small = begin == end and all(2 * b <= n for b, n in zip(begin, kernel, strict=True))
        function = getattr(F, f"{op}{axes}d")
        if op == "max_pool" and small:
            return Value(function(tensor, tuple(kernel), stride, tuple(begin), dilation=dilation, ceil_mode=ceil), 0)
        if op == "avg_pool" and small and max(dilation) == 1:
            return Value(
                function(tensor, tuple(kernel), stride, tuple(begin), ceil_mode=ceil, count_include_pad=counted), 0
            )
        # Any padding: put there beforehand, with what a last window reaches beyond it.
        beyond = []
        for n in range(axes):
            span, length = (kernel[n] - 1) * dilation[n] + 1, extents[n] + begin[n] + end[n]
            windows = (-(-(length - span) // stride[n]) if ceil else (length - span) // stride[n]) + 1
            if ceil and (windows - 1) * stride[n] >= extents[n] + begin[n]:
                windows -= 1
            beyond.append(max(0, (windows - 1) * stride[n] + span - length))
        around = _both(begin, [e + m for e, m in zip(end, beyond, strict=True)])
        if op == "max_pool":
            padded = F.pad(tensor, around, "constant", -math.inf)
            return Value(function(padded, tuple(kernel), stride, 0, dilation=dilation), 0)
        # What counts in each window is known beforehand.
        inside = np.pad(np.ones(extents), list(zip(begin, end, strict=True)), constant_values=float(counted))
        inside = np.pad(inside, [(0, m) for m in beyond])
        taps = list(itertools.product(*[range(n) for n in kernel]))
        sizes = [(inside.shape[n] - (kernel[n] - 1) * dilation[n] - 1) // stride[n] + 1 for n in range(axes)]

        def places(tap: tuple[int, ...]) -> tuple[slice, ...]:
            first_of = [tap[n] * dilation[n] for n in range(axes)]
            return tuple(slice(f, f + stride[n] * (sizes[n] - 1) + 1, stride[n]) for n, f in enumerate(first_of))

        count = np.sum([inside[places(tap)] for tap in taps], axis=0)
        padded = F.pad(tensor, around)
        if max(dilation) == 1:
            sums = F.scale(function(padded, tuple(kernel), stride), len(taps))
        else:
            whole = (slice(None), slice(None))
            parts = [padded[whole + places(tap)] for tap in taps]
            sums = functools.reduce(F.add, parts)
        return Value(F.mul(sums, (1 / count[None]).astype(np.float32)), 0)

    return run


def _global(op: str) -> Any:
    return lambda c, x: Value(getattr(F, f"{op}{x.rank - 2}d")(first(x), 1), 0)


def _standard(c: Call, x: Any, dims: list[int], epsilon: float, centred: bool = True) -> tuple[Any, Any, Any]:
    """(x - mean) / sqrt(variance + epsilon) over tensor axes; mean and inverse deviation beside it."""
    mean = F.mean(x.tensor, dims, True)
    left = F.sub(x.tensor, mean) if centred else x.tensor
    inverse = F.rsqrt(F.add(F.mean(F.square(left), dims, True), epsilon))
    return Value(F.mul(left, inverse), x.batch), Value(mean, x.batch), Value(inverse, x.batch)


def _layer_norm(c: Call, x: Any, w: Any, b: Any = None) -> Any:
    place, epsilon = x.axis(c.a.get("axis", -1)), c.a.get("epsilon", 1e-5)
    if len(c.node.output) == 1 and isinstance(w, Stored) and (b is None or isinstance(b, Stored)):
        return Value(F.layer_norm(x.tensor, x.tensor.sample_shape[place - 1 :], w, b, epsilon), x.batch)
    y, mean, inverse = _standard(c, x, list(range(place, x.tensor.ndim)), epsilon)
    y = elementwise(F.mul)(c, y, w)
    return [y if b is None else elementwise(F.add)(c, y, b), mean, inverse]


def _local_response_norm(c: Call, x: Any) -> Any:
    size, k = c.a["size"], c.a.get("bias", 1.0)
    return Value(F.local_response_norm(first(x), size, c.a.get("alpha", 1e-4), c.a.get("beta", 0.75), k), 0)


def _batch_norm(c: Call, x: Any, w: Any, b: Any, mean: Any, var: Any) -> Any:
    epsilon, momentum = c.a.get("epsilon", 1e-5), c.a.get("momentum", 0.9)
    if not c.a.get("training_mode"):
        return Value(F.batch_norm(first(x), mean, var, w, b, eps=epsilon, training=c.net.training), 0)
    if x.batch is not None:
        raise ValueError("training_mode=1 is not supported: fit() trains with the statistics of the batch")
    dims = [1, *range(3, x.tensor.ndim)]
    y, now, inverse = _standard(c, x, dims, epsilon)
    shape = (-1, x.tensor.sample_shape[1], *[1] * (x.rank - 2))
    y = F.add(F.mul(y.tensor, w.tensor.reshape(shape)), b.tensor.reshape(shape))
    variance = F.sub(F.reciprocal(F.square(inverse.tensor)), epsilon)

    def running(old: Any, new: Any) -> Any:
        return Value(F.add(F.mul(old.tensor, momentum), F.mul(new.reshape(-1, shape[1]), 1 - momentum)), None)

    return [Value(y, None), running(mean, now.tensor), running(var, variance)]


OPERATORS: dict[str, Any] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _pool("max_pool"), "AveragePool": _pool("avg_pool"),
    "GlobalAveragePool": _global("adaptive_avg_pool"), "GlobalMaxPool": _global("adaptive_max_pool"),
    "LayerNormalization": _layer_norm, "BatchNormalization": _batch_norm, "LRN": _local_response_norm,
}  # fmt: skip
