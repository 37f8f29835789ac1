"""What the families of operators share when a network is read: tensors with the place of their batch, and a node's attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn._stored import Stored

Array = np.ndarray[Any, Any]


class Value:
    """A tensor and the place of the batch among the axes that ONNX sees; None: ONNX does not see the batch."""

    def __init__(self, tensor: Any, batch: int | None) -> None:
        self.tensor, self.batch = tensor, batch

    @property
    def rank(self) -> int:
        return int(self.tensor.ndim) - (self.batch is None)

    def axis(self, axis: int) -> int:
        """The tensor's axis for ONNX's. Raises ValueError for the batch."""
        axis = int(axis) % self.rank
        if self.batch is None:
            return axis + 1
        if axis == self.batch:
            raise ValueError(f"axis {axis} is the batch")
        return axis + (axis < self.batch)


class Call:
    def __init__(self, net: Any, node: Any, number: int, attributes: dict[str, Any], given: list[Any]) -> None:
        self.net, self.node, self.number, self.a, self.given = net, node, number, attributes, given

    def axes(self, constant: Any) -> Any:
        """Axes as an input, or as the attribute of older files."""
        return [int(n) for n in np.atleast_1d(constant)] if constant is not None else self.a.get("axes")

    def text(self, name: str, usual: str) -> str:
        value = self.a.get(name, usual)
        return value.decode() if isinstance(value, bytes) else str(value)


def first(x: Value) -> Any:
    """The tensor, if the batch is axis 0."""
    if not isinstance(x, Value) or x.batch != 0:
        raise ValueError("axis 0 of the input must be the batch")
    return x.tensor


def elementwise(function: Any) -> Any:
    def run(c: Call, *parts: Any) -> Any:
        known = [part for part in parts if isinstance(part, Value)]
        if not known:
            return Value(function(*parts), None)
        whole = max(known, key=lambda part: (part.batch is not None, part.rank))
        batch = whole.batch
        shared = [part.batch is None and part.rank < whole.rank for part in known]  # parameters of another shape
        if any(
            part.batch != batch or (batch is not None and part.rank != whole.rank)
            for part, same in zip(known, shared, strict=True)
            if batch is None or not same
        ):
            raise ValueError("the batch is not the same axis of all operands")
        items = []
        for part in parts:
            if isinstance(part, Value):
                items.append(part.tensor)
            elif batch is None or part.ndim <= whole.rank - 1 - batch:
                items.append(part)
            elif part.ndim == whole.rank and part.shape[batch] == 1:
                index = (slice(None),) * batch + (0,)
                items.append(part.reshape(part.shape[1:]) if isinstance(part, Stored) and not batch else part[index])
            else:
                raise ValueError("a constant has its own values for each sample")
        return Value(function(*items), batch)

    return run


def unary(function: Any) -> Any:
    return lambda c, x, *more: Value(function(c, x.tensor, *more), x.batch)
