"""What moves elements and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._trace import Batch, Tensor
from ._base import apply, lift

__all__ = [
    "broadcast_to", "cat", "chunk", "flatten", "flip", "gather", "index_select", "movedim", "narrow", "pad", "permute",
    "repeat_interleave", "roll", "select", "split", "stack", "swapaxes", "tile", "transpose", "unbind", "unflatten",
]  # fmt: skip

_MODES = {"constant": 0, "reflect": 1, "replicate": 2, "circular": 3}


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


def stack(tensors: Sequence[Any], dim: int = 1) -> Any:
    """Joins tensors of one shape along a new axis `dim`, which must not be the batch axis."""
    parts = list(tensors)
    if not parts:
        raise ValueError("stack needs at least one tensor")
    if not any(isinstance(part, Tensor) for part in parts):
        return np.stack([np.asarray(part) for part in parts], axis=dim)
    first = next(part for part in parts if isinstance(part, Tensor))
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"{first.trace._prefix()}stack joins tensors with tensors only")
    return cat([part.unsqueeze(dim) for part in parts], dim)


def _whole(value: Any, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be a whole number, not {value!r}")
    return int(value)


def _numbers(value: Any, argument: str) -> list[int]:
    return [_whole(item, argument) for item in (value if isinstance(value, (tuple, list)) else (value,))]


# ---- the order of axes


def permute(input: Any, dims: Sequence[int]) -> Any:
    """The axes in the order `dims`, which names each once and begins with 0: the batch axis stays.
    (B, 2, 3, 4) by (0, 3, 1, 2) becomes (B, 4, 2, 3)."""
    if not isinstance(input, Tensor):
        return lift(lambda x: permute(x, dims), input)
    order = [number + (input.ndim if number < 0 else 0) for number in _numbers(dims, "permute: dims")]
    if sorted(order) != list(range(input.ndim)):
        raise input.trace.error(f"permute: dims={tuple(dims)} must name each axis of shape {input.shape} once")
    if order[0] != 0:
        raise input.trace.error(f"permute: dims={tuple(dims)} moves the batch axis, which must stay first")
    if order == list(range(input.ndim)):
        return input
    attrs: dict[str, float] = {"rank": input.ndim - 1}
    attrs.update({f"p{place}": number - 1 for place, number in enumerate(order[1:])})
    return apply("permute", [input], attrs=attrs)


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two axes swapped, neither of them the batch axis."""
    if not isinstance(input, Tensor):
        return lift(lambda x: transpose(x, dim0, dim1), input)
    first, second = input.axis(dim0, "transpose: dim0") + 1, input.axis(dim1, "transpose: dim1") + 1
    order = list(range(input.ndim))
    order[first], order[second] = second, first
    return permute(input, order)


swapaxes = transpose


def movedim(input: Any, source: Any, destination: Any) -> Any:
    """The axes `source` at the places `destination`; the others keep their order."""
    if not isinstance(input, Tensor):
        return lift(lambda x: movedim(x, source, destination), input)
    old = [input.axis(dim, "movedim: source") + 1 for dim in _numbers(source, "movedim: source")]
    new = [input.axis(dim, "movedim: destination") + 1 for dim in _numbers(destination, "movedim: destination")]
    if len(old) != len(new) or len(set(old)) != len(old) or len(set(new)) != len(new):
        raise input.trace.error(f"movedim: source={source} and destination={destination} do not go together")
    order = [dim for dim in range(input.ndim) if dim not in old]
    for place, dim in sorted(zip(new, old, strict=True)):
        order.insert(place, dim)
    return permute(input, order)


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """The axis `dim` as several of extents `sizes`, one of which may be -1."""
    if not isinstance(input, Tensor):
        return lift(lambda x: unflatten(x, dim, sizes), input)
    axis, shape = input.axis(dim, "unflatten: dim"), input.sample_shape
    extents = _numbers(sizes, "unflatten: sizes")
    known = math.prod(extent for extent in extents if extent != -1)
    if extents.count(-1) == 1 and known > 0:
        extents[extents.index(-1)] = shape[axis] // known
    if min(extents, default=0) < 1 or math.prod(extents) != shape[axis]:
        raise input.trace.error(f"unflatten: {shape[axis]} elements do not take the shape {tuple(sizes)}")
    return input._reshaped((*shape[:axis], *extents, *shape[axis + 1 :]))


# ---- parts


def narrow(input: Any, dim: int, start: int, length: int) -> Any:
    """`length` elements of axis `dim` from `start` on."""
    if not isinstance(input, Tensor):
        return lift(lambda x: narrow(x, dim, start, length), input)
    axis = input.axis(dim, "narrow: dim")
    extent, first, count = input.sample_shape[axis], _whole(start, "narrow: start"), _whole(length, "narrow: length")
    first += extent if first < 0 else 0
    if first < 0 or count < 1 or first + count > extent:
        raise input.trace.error(f"narrow: {length} elements from {start} are not part of axis {dim} of {input.shape}")
    return input._sliced(axis, first, 1, count)


def select(input: Any, dim: int, index: int) -> Any:
    """Element `index` of axis `dim`, without that axis."""
    if not isinstance(input, Tensor):
        return lift(lambda x: select(x, dim, index), input)
    axis = input.axis(dim, "select: dim")
    return input[(slice(None),) * (axis + 1) + (_whole(index, "select: index"),)]


def split(tensor: Any, split_size_or_sections: Any, dim: int = 1) -> tuple[Any, ...]:
    """Parts along axis `dim`: of a given length (the last may be shorter), or of the lengths in a list. (PyTorch's
    default is dim=0, which is the batch axis here.)"""
    if not isinstance(tensor, Tensor):
        array = np.asarray(tensor)
        return tuple(np.split(array, np.cumsum(_lengths(array.shape[dim], split_size_or_sections))[:-1], axis=dim))
    axis = tensor.axis(dim, "split: dim")
    try:
        lengths = _lengths(tensor.sample_shape[axis], split_size_or_sections)
    except ValueError as error:
        raise tensor.trace.error(str(error)) from None
    return tuple(tensor._sliced(axis, sum(lengths[:n]), 1, length) for n, length in enumerate(lengths))


def _lengths(extent: int, wanted: Any) -> list[int]:
    if isinstance(wanted, (tuple, list)):
        lengths = _numbers(wanted, "split: sections")
        if min(lengths, default=0) < 1 or sum(lengths) != extent:
            raise ValueError(f"split: sections {lengths} must be positive and sum to {extent}")
        return lengths
    size = _whole(wanted, "split: split_size")
    if size < 1:
        raise ValueError(f"split: split_size must be at least 1, but is {size}")
    return [min(size, extent - first) for first in range(0, extent, size)]


def chunk(input: Any, chunks: int, dim: int = 1) -> tuple[Any, ...]:
    """At most `chunks` parts of equal length along axis `dim`; the last may be shorter. (PyTorch's default is dim=0.)"""
    count = _whole(chunks, "chunk: chunks")
    if count < 1:
        raise ValueError(f"chunk: chunks must be at least 1, but is {count}")
    if isinstance(input, Tensor):
        extent = input.sample_shape[input.axis(dim, "chunk: dim")]
    else:
        extent = np.asarray(input).shape[dim]
    return split(input, -(-extent // count), dim)


def unbind(input: Any, dim: int = 1) -> tuple[Any, ...]:
    """The elements of axis `dim`, without that axis. (PyTorch's default is dim=0.)"""
    if not isinstance(input, Tensor):
        return tuple(np.moveaxis(np.asarray(input), dim, 0))
    extent = input.sample_shape[input.axis(dim, "unbind: dim")]
    return tuple(select(input, dim, index) for index in range(extent))


# ---- order and repetition of elements


def flip(input: Any, dims: Any) -> Any:
    """The elements of the axes `dims` in reverse order."""
    if not isinstance(input, Tensor):
        return lift(lambda x: flip(x, dims), input)
    for axis in {input.axis(dim, "flip: dims") for dim in _numbers(dims, "flip: dims")}:
        extent = input.sample_shape[axis]
        if extent > 1:
            input = input._sliced(axis, extent - 1, -1, extent)
    return input


def roll(input: Any, shifts: Any, dims: Any) -> Any:
    """The elements of the axes `dims` moved on by `shifts`; those that leave at the end come in at the front."""
    if not isinstance(input, Tensor):
        return lift(lambda x: roll(x, shifts, dims), input)
    counts, axes = _numbers(shifts, "roll: shifts"), _numbers(dims, "roll: dims")
    if len(counts) != len(axes):
        raise ValueError(f"roll: shifts={shifts} and dims={dims} do not go together")
    for count, dim in zip(counts, axes, strict=True):
        axis = input.axis(dim, "roll: dims")
        extent = input.sample_shape[axis]
        front = count % extent
        if front:
            parts = [input._sliced(axis, extent - front, 1, front), input._sliced(axis, 0, 1, extent - front)]
            input = cat(parts, axis + 1)
    return input


def broadcast_to(input: Any, shape: Sequence[Any]) -> Any:
    """Axes of extent 1 repeated until the tensor has `shape`, which begins with the batch (x.shape[0] or -1); -1 keeps
    an extent."""
    if not isinstance(input, Tensor):
        return lift(lambda x: broadcast_to(x, (-1, *shape[1:])), input)
    wanted = tuple(shape)
    text = f"broadcast_to: a tensor of shape {input.shape} does not take the shape ({', '.join(map(str, wanted))})"
    if len(wanted) != input.ndim or not (wanted[0] == -1 or wanted[0] == Batch()):
        raise input.trace.error(f"{text}; the batch axis comes first and stays")
    old = input.sample_shape
    extents = [
        size if new == -1 else new for size, new in zip(old, _numbers(wanted[1:], "broadcast_to: shape"), strict=True)
    ]
    if any(size not in (1, new) or new < 1 for size, new in zip(old, extents, strict=True)):
        raise input.trace.error(text)
    if tuple(extents) == old:
        return input
    return apply(
        "broadcast_to", [input], attrs={"rank": len(extents), **{f"d{n}": new for n, new in enumerate(extents)}}
    )


def tile(input: Any, dims: Sequence[int]) -> Any:
    """The whole tensor `dims[i]` times along axis i; 1 for the batch axis."""
    if not isinstance(input, Tensor):
        return lift(lambda x: tile(x, dims), input)
    repeats = _numbers(dims, "tile: dims")
    repeats = [1] * (input.ndim - len(repeats)) + repeats
    if len(repeats) != input.ndim or repeats[0] != 1 or min(repeats) < 1:
        raise input.trace.error(f"tile: dims={tuple(dims)} must be positive numbers for {input.shape}, 1 for the batch")
    for axis, count in enumerate(repeats[1:]):
        shape = input.sample_shape
        outer, rest = math.prod(shape[:axis]), math.prod(shape[axis:])
        repeated = broadcast_to(input._reshaped((outer, 1, rest)), (-1, outer, count, rest)) if count > 1 else input
        input = repeated._reshaped((*shape[:axis], shape[axis] * count, *shape[axis + 1 :]))
    return input


def repeat_interleave(input: Any, repeats: int, dim: int) -> Any:
    """Each element of axis `dim` `repeats` times in a row."""
    if not isinstance(input, Tensor):
        return lift(lambda x: repeat_interleave(x, repeats, dim), input)
    axis, count, shape = input.axis(dim, "repeat_interleave: dim"), _whole(repeats, "repeats"), input.sample_shape
    if count < 1:
        raise ValueError(f"repeat_interleave: repeats must be at least 1, but is {count}")
    outer, inner = math.prod(shape[: axis + 1]), math.prod(shape[axis + 1 :])
    repeated = broadcast_to(input._reshaped((outer, 1, inner)), (-1, outer, count, inner))
    return repeated._reshaped((*shape[:axis], shape[axis] * count, *shape[axis + 1 :]))


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """More elements at the ends of the last axes: pad = (before, after) of the last axis, then of the one before it,
    and so on. mode: "constant" (value, 0 by default; negative numbers cut off), "reflect", "replicate" or "circular"."""
    if not isinstance(input, Tensor):
        return lift(lambda x: _pad(x, pad, mode, value), input)
    return _pad(input, pad, mode, value)


def _pad(input: Tensor, pad: Sequence[int], mode: str, value: float | None) -> Tensor:
    if mode not in _MODES:
        raise ValueError(f"pad: mode must be one of {', '.join(_MODES)}, not {mode!r}")
    counts = _numbers(tuple(pad), "pad: pad")
    if len(counts) % 2 or len(counts) > 2 * (input.ndim - 1):
        raise input.trace.error(f"pad: {len(counts)} numbers do not fit {input.shape}: two for each axis but the batch")
    if mode != "constant" and (min(counts, default=0) < 0 or value):
        raise ValueError(f"pad: mode={mode!r} takes no negative numbers and no value")
    for number in range(len(counts) // 2):
        axis = input.ndim - 2 - number
        before, after = counts[2 * number : 2 * number + 2]
        if min(before, after) < 0:
            count = input.sample_shape[axis] + min(before, 0) + min(after, 0)
            if count < 1:
                raise input.trace.error(f"pad: {tuple(pad)} leaves nothing of axis {axis + 1} of {input.shape}")
            input = input._sliced(axis, max(-before, 0), 1, count)
        attrs = {
            "axis": axis, "before": max(before, 0), "after": max(after, 0), "mode": _MODES[mode], "value": float(value or 0),
            "integer": float(input.trace.graph.dtype(input.value) == "int32"),
        }  # fmt: skip
        if before > 0 or after > 0:
            input = apply("pad", [input], attrs=attrs)
    return input


# ---- elements by number


def gather(input: Any, dim: int, index: Any) -> Any:
    """Elements of axis `dim`, one for each element of `index`, which has as many axes (torch.gather)."""
    if not isinstance(input, Tensor):
        return lift(lambda x, i: gather(x, dim, i), input, index)
    axis = input.axis(dim, "gather: dim")
    return apply("gather", [input, input.trace.as_integer(index)], attrs={"axis": axis})


def index_select(input: Any, dim: int, index: Any) -> Any:
    """Lines of axis `dim` by number. index: an array of whole numbers that serves all samples, or a tensor with a row a
    sample; its axes take the place of `dim`."""
    if not isinstance(input, Tensor):
        return lift(lambda x: index_select(x, dim, index), input)
    trace, axis = input.trace, input.axis(dim, "index_select: dim")
    if isinstance(index, Tensor):
        return apply("index_select", [input, trace.as_integer(index)], attrs={"axis": axis})
    numbers, extent = np.asarray(index), input.sample_shape[axis]
    if numbers.dtype.kind not in "iu" or not numbers.size:
        raise trace.error(f"index_select: index must hold whole numbers, not {numbers.dtype} of shape {numbers.shape}")
    if numbers.min() < -extent or numbers.max() >= extent or extent > 1 << 24:
        raise trace.error(f"index_select: index reaches outside of the {extent} elements of axis {dim}")
    return apply("index_select", [input], [trace.constant(numbers % extent, buffer=True)], {"axis": axis})
