"""Operators that move elements, and products with options, read from ONNX files."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..nn import functional as F
from ..nn._stored import Parameter
from ._import_base import Call, Value, elementwise, first, unary


def moves(c: Call, x: Any, *constants: Any) -> Any:
    """An operator that only moves elements, for constant further inputs: ONNX's own definition is applied to the
    numbers of the elements, and the elements are fetched by the result."""
    if not isinstance(x, Value) or any(isinstance(item, Value) for item in constants):
        raise ValueError("indices and sizes must be constants")
    shape = list(x.tensor.sample_shape)
    if x.batch is not None:
        shape.insert(x.batch, 1)
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    made = c.net._fold(c.node, [numbers, *constants])[0]
    if x.batch is not None and (made.ndim == 0 or x.batch != 0 or made.shape[0] != 1):
        raise ValueError("the batch must stay axis 0")
    inner = made.shape if x.batch is None else made.shape[1:]
    flat = x.tensor.reshape(-1, numbers.size)
    return Value(F.index_select(flat, 1, made.ravel()).reshape(-1, *inner), x.batch)


def _tile(c: Call, x: Any, repeats: Any) -> Any:
    return moves(c, x, np.asarray(repeats, np.int64))


def _size(c: Call, x: Any) -> Any:
    if isinstance(x, Value) and x.batch is not None:
        raise ValueError("the number of elements depends on the batch")
    shape = x.tensor.sample_shape if isinstance(x, Value) else x.shape
    return np.array(int(np.prod(shape)), np.int64)


def _flatten(c: Call, x: Any) -> Any:
    axis = c.a.get("axis", 1)
    if x.batch is not None:
        if axis % x.rank != 1:
            raise ValueError("only axis=1 keeps the batch")
        return Value(F.flatten(first(x), 1), 0)
    shape = x.tensor.sample_shape
    axis = axis + x.rank if axis < 0 else axis
    return Value(x.tensor.reshape(-1, int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))), None)


def _gemm(c: Call, x: Any, w: Any, bias: Any = None) -> Any:
    alpha, beta = c.a.get("alpha", 1.0), c.a.get("beta", 1.0)
    if bias is not None and not isinstance(bias, Value) and bias.ndim == 2 and bias.shape[0] == 1:
        bias = np.asarray(bias[0]) if isinstance(bias, np.ndarray) else bias[0]
    plain = not c.a.get("transA") and alpha == 1 and beta == 1
    if plain and isinstance(w, Parameter) and c.a.get("transB"):
        if bias is None or (isinstance(bias, Parameter) and bias.ndim == 1):
            return Value(F.linear(first(x), w, bias), 0)
    if x.batch is not None and c.a.get("transA"):
        raise ValueError("transA=1 moves the batch")

    def turned(item: Any, wanted: Any) -> Any:
        if not wanted:
            return item.tensor if isinstance(item, Value) else item
        return F.transpose(item.tensor, -1, -2) if isinstance(item, Value) else item.T

    made = Value(F.matmul(turned(x, c.a.get("transA")), turned(w, c.a.get("transB"))), x.batch)
    if alpha != 1:
        made = Value(F.scale(made.tensor, alpha), made.batch)
    if bias is None:
        return made
    if beta != 1:
        bias = Value(F.scale(bias.tensor, beta), bias.batch) if isinstance(bias, Value) else bias * np.float32(beta)
    return elementwise(F.add)(c, made, bias)


def _arg(function: Any) -> Any:
    def run(c: Call, x: Any) -> Any:
        place, keep = x.axis(c.a.get("axis", 0)), bool(c.a.get("keepdims", 1))
        if not c.a.get("select_last_index"):
            return Value(function(x.tensor, place, keep), x.batch)
        last = x.tensor.shape[place] - 1
        made = function(F.flip(x.tensor, [place]), place, keep)  # the first of the flipped is the last
        return Value(F.sub(last, made.float()).int(), x.batch)

    return run


def _joined(function: Any, share: bool = False) -> Any:
    def run(c: Call, *parts: Any) -> Any:
        made = functools.reduce(lambda a, b: elementwise(function)(c, a, b), parts)
        return Value(F.scale(made.tensor, 1 / len(parts)), made.batch) if share and len(parts) > 1 else made

    return run


def _dropout(c: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and bool(training) and (ratio is None or float(ratio)):
        raise ValueError("training mode draws random numbers of its own; fit() does so with nn.Dropout")
    return [x, Value(F.eq(x.tensor, x.tensor), x.batch)] if len(c.node.output) > 1 else x


def _trilu(c: Call, x: Any, k: Any = None) -> Any:
    shape, shift = x.tensor.sample_shape[-2:], int(k) if k is not None else 0
    ones = np.ones(shape, np.float32)
    mask = np.triu(ones, shift) if c.a.get("upper", 1) else np.tril(ones, shift)
    return Value(F.mul(x.tensor, mask), x.batch)


def _cumsum(c: Call, x: Any, axis: Any) -> Any:
    place = x.axis(int(axis))
    tensor = F.flip(x.tensor, [place]) if c.a.get("reverse") else x.tensor
    made = F.cumsum(tensor, place)
    if c.a.get("exclusive"):
        made = F.sub(made, tensor)
    return Value(F.flip(made, [place]) if c.a.get("reverse") else made, x.batch)


def _hardmax(c: Call, x: Any) -> Any:
    place = x.axis(c.a.get("axis", -1))
    extent = x.tensor.shape[place]
    best = F.one_hot(F.argmax(x.tensor, place, False), extent)
    order = [*range(place), best.ndim - 1, *range(place, best.ndim - 1)]
    return Value(F.permute(best, order), x.batch)


def _one_hot(c: Call, x: Any, depth: Any, values: Any) -> Any:
    """Numbers outside [-depth, depth) count round, where ONNX has none of them on."""
    extent, (off, on) = int(np.ravel(depth)[0]), (float(item) for item in np.ravel(values))
    number = x.tensor.float() if not x.tensor.origin else x.tensor
    number = F.sub(number, F.scale(F.floor(F.scale(number, 1 / extent)), extent))
    made = F.scale(F.one_hot(number.int(), extent), on - off, off)
    axis, last = c.a.get("axis", -1), made.ndim - 1
    place = axis % (x.rank + 1) + (x.batch is None)
    if x.batch is not None and place == x.batch:
        raise ValueError("the new axis would stand before the batch")
    order = [n for n in range(made.ndim) if n != last]
    order.insert(place, last)
    return Value(F.permute(made, order), x.batch)


def _cast_like(c: Call, x: Any, like: Any) -> Any:
    if isinstance(x, np.ndarray) and isinstance(like, np.ndarray):
        return x.astype(like.dtype)
    if isinstance(x, np.ndarray):
        return x.astype(np.float32)
    return x


def _mod(c: Call, x: Any, y: Any) -> Any:
    """The remainder with the sign of the dividend."""
    if not c.a.get("fmod"):
        raise ValueError("fmod=0 is for whole numbers, which the core does not divide")
    size, step = elementwise(F.abs)(c, x), elementwise(F.abs)(c, y) if isinstance(y, Value) else np.abs(y)
    whole = elementwise(F.floor)(c, elementwise(F.div)(c, size, step))
    left = elementwise(F.sub)(c, size, elementwise(F.mul)(c, whole, step))
    return elementwise(F.mul)(c, elementwise(F.sign)(c, x), left)


def _resize(c: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Every mode is linear in the elements and treats axis after axis: ONNX's own definition gives the weights of each axis."""
    if c.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise ValueError("coordinate_transformation_mode=tf_crop_and_resize is not supported")
    along = [n % x.rank for n in c.a.get("axes", range(x.rank))]
    tensor, policy = x.tensor, c.text("keep_aspect_ratio_policy", "stretch")
    wanted = {}
    for n, axis in enumerate(along):
        if x.batch is not None and axis == x.batch:
            continue
        extent = tensor.sample_shape[x.axis(axis) - 1]
        if scales is not None and np.size(scales):
            wanted[axis] = float(scales[n])
        elif int(sizes[n]) != extent or policy != "stretch":
            wanted[axis] = int(sizes[n]) / extent
    if policy != "stretch":
        least = (min if policy == "not_larger" else max)(wanted.values())
        wanted = dict.fromkeys(wanted, least)
    for axis, factor in wanted.items():
        place = x.axis(axis)
        extent = tensor.sample_shape[place - 1]
        if factor == 1:
            continue
        attributes = {name: item for name, item in c.a.items() if name not in ("axes", "keep_aspect_ratio_policy")}
        onnx = c.net._onnx
        node = onnx.helper.make_node("Resize", ["x", "", "scales", "sizes"], ["y"], **attributes)
        by_size = policy == "stretch" and not np.size(scales if scales is not None else ())
        target = [extent, int(sizes[along.index(axis)])] if by_size else None
        if policy != "stretch":
            target, by_size = [extent, int(extent * factor + 0.5)], True
        given = [None, np.array(target, np.int64)] if by_size else [np.array([1, factor], np.float32), None]
        weights = c.net._fold(node, [np.eye(extent, dtype=np.float32), None, *given])[0].astype(np.float32)
        if c.text("mode", "nearest") == "nearest":
            tensor = F.index_select(tensor, place, weights.argmax(0))
            continue
        order = [n for n in range(tensor.ndim) if n != place] + [place]
        back = [order.index(n) for n in range(tensor.ndim)]
        tensor = F.permute(F.matmul(F.permute(tensor, order), weights), back)
    return Value(tensor, x.batch)


OPERATORS: dict[str, Any] = {
    "GatherElements": moves, "GatherND": moves, "Tile": _tile, "DepthToSpace": moves, "SpaceToDepth": moves,
    "ReverseSequence": moves, "Compress": moves, "Size": _size, "Flatten": _flatten, "Gemm": _gemm,
    "ArgMax": _arg(F.argmax), "ArgMin": _arg(F.argmin), "Max": _joined(F.maximum), "Min": _joined(F.minimum),
    "Sum": _joined(F.add), "Mean": _joined(F.add, share=True), "Dropout": _dropout, "Trilu": _trilu,
    "CumSum": _cumsum, "Hardmax": _hardmax, "OneHot": _one_hot, "IsNaN": unary(lambda c, x: F.ne(x, x)), "Mod": _mod,
    "Resize": _resize, "CastLike": _cast_like,
}  # fmt: skip
