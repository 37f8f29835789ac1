"""Layers that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from ..module import Module

__all__ = [
    "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "Flatten",
    "Identity", "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "Unflatten", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class Identity(Module):
    """Gives its input; arguments are accepted and not used."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Flatten(Module):
    """Joins the axes start_dim to end_dim; the batch axis (0) stays."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """The axis `dim` as several of extents `unflattened_size`, one of which may be -1."""

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Any) -> Any:
        return F.unflatten(x, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class _Pad(Module):
    _axes, _mode = 0, "constant"

    def __init__(self, padding: Any) -> None:
        super().__init__()
        name, numbers = type(self).__name__, 2 * self._axes
        values = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * numbers
        if len(values) != numbers or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) for v in values):
            raise ValueError(f"{name}: padding must be a whole number or {numbers} of them, not {padding!r}")
        self.padding = tuple(int(value) for value in values)
        self.value = 0.0

    def forward(self, x: Any) -> Any:
        if x.ndim != self._axes + 2:
            raise x.trace.error(f"{type(self).__name__} takes {self._axes + 2} axes with the batch, got {x.shape}")
        return F.pad(x, self.padding, self._mode, self.value if self._mode == "constant" else None)

    def extra_repr(self) -> str:
        return f"padding={self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = float(value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class CircularPad1d(_Pad):
    """Pads the last axis with the other end: one number, or (before, after) of the last axis first."""

    _axes, _mode = 1, "circular"


class CircularPad2d(_Pad):
    """Pads the last two axes with the other end: one number, or (before, after) of the last axis first."""

    _axes, _mode = 2, "circular"


class CircularPad3d(_Pad):
    """Pads the last three axes with the other end: one number, or (before, after) of the last axis first."""

    _axes, _mode = 3, "circular"


class ConstantPad1d(_ConstantPad):
    """Pads the last axis with `value`: one number, or (before, after) of the last axis first."""

    _axes = 1


class ConstantPad2d(_ConstantPad):
    """Pads the last two axes with `value`: one number, or (before, after) of the last axis first."""

    _axes = 2


class ConstantPad3d(_ConstantPad):
    """Pads the last three axes with `value`: one number, or (before, after) of the last axis first."""

    _axes = 3


class ReflectionPad1d(_Pad):
    """Pads the last axis with the mirrored neighbours of the edge: one number, or (before, after) of the last axis first."""

    _axes, _mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Pads the last two axes with the mirrored neighbours of the edge: one number, or (before, after) of the last axis first."""

    _axes, _mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """Pads the last three axes with the mirrored neighbours of the edge: one number, or (before, after) of the last axis first."""

    _axes, _mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """Pads the last axis with copies of the edge: one number, or (before, after) of the last axis first."""

    _axes, _mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """Pads the last two axes with copies of the edge: one number, or (before, after) of the last axis first."""

    _axes, _mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """Pads the last three axes with copies of the edge: one number, or (before, after) of the last axis first."""

    _axes, _mode = 3, "replicate"


class ZeroPad1d(_Pad):
    """Pads the last axis with zeros: one number, or (before, after) of the last axis first."""

    _axes = 1


class ZeroPad2d(_Pad):
    """Pads the last two axes with zeros: one number, or (before, after) of the last axis first."""

    _axes = 2


class ZeroPad3d(_Pad):
    """Pads the last three axes with zeros: one number, or (before, after) of the last axis first."""

    _axes = 3
