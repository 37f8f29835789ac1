"""Dropout."""

from __future__ import annotations

from typing import Any, ClassVar

from .. import functional as F
from ..functional.dropouts import check_probability
from ..module import Module
from ._base import switched_off

__all__ = [
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "StochasticDepth",
]


class _Dropout(Module):
    _function: ClassVar[Any]

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = check_probability(p, type(self).__name__)
        self.inplace = bool(inplace)

    def forward(self, x: Any) -> Any:
        return type(self)._function(x, self.p, not switched_off(self))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """In training, zeroes elements with probability p and divides the others by 1 - p; the identity otherwise.

    Which elements are zeroed follows from the run's seed, the step, the position in the global batch and the layer: not
    from ranks or threads. `inplace` changes nothing: memory is the plan's business.
    """

    _function = staticmethod(F.dropout)


class Dropout1d(_Dropout):
    """Dropout of whole channels of (samples, channels, length)."""

    _function = staticmethod(F.dropout1d)


class Dropout2d(_Dropout):
    """Dropout of whole channels of (samples, channels, height, width)."""

    _function = staticmethod(F.dropout2d)


class Dropout3d(_Dropout):
    """Dropout of whole channels of (samples, channels, depth, height, width)."""

    _function = staticmethod(F.dropout3d)


class AlphaDropout(_Dropout):
    """Dropout for networks with SELU: dropped elements take SELU's flat value, and mean 0 and variance 1 are kept."""

    _function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels (axis 1) of (samples, channels, ...)."""

    _function = staticmethod(F.feature_alpha_dropout)


class StochasticDepth(Module):
    """In training, zeroes whole samples with probability p (mode="row": each on its own, "batch": all or none) and
    divides the others by 1 - p; the identity otherwise. As torchvision.ops.StochasticDepth; also known as DropPath."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p = check_probability(p, "StochasticDepth")
        if mode not in ("row", "batch"):
            raise ValueError(f"StochasticDepth: mode must be 'row' or 'batch', but is {mode!r}")
        self.mode = mode

    def forward(self, x: Any) -> Any:
        return F.stochastic_depth(x, self.p, self.mode, not switched_off(self))

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode}"
