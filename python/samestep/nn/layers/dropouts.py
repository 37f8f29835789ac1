"""Dropout."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from ..functional.dropouts import check_probability
from ..module import Module
from ._base import switched_off

__all__ = ["Dropout"]


class Dropout(Module):
    """In training, zeroes elements with probability p and divides the others by 1 - p; the identity otherwise.

    Which elements are zeroed follows from the run's seed, the step, the position in the global batch and the layer: not
    from ranks or threads.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = check_probability(p)

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, not switched_off(self))

    def extra_repr(self) -> str:
        return f"p={self.p}"
