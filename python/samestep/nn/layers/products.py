"""Dense layers."""

from __future__ import annotations

import math
from typing import Any

from .. import functional as F
from .. import init
from .._stored import empty
from ..module import Module
from ._base import count

__all__ = ["Linear"]


class Linear(Module):
    """x W^T + b along the last axis: (samples, ..., in_features) to (samples, ..., out_features).

    weight: (out_features, in_features); bias: (out_features). Both start uniform in +-1/sqrt(in_features).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = count(in_features, "Linear: in_features")
        self.out_features = count(out_features, "Linear: out_features")
        self.weight = empty((self.out_features, self.in_features))
        self.bias: Any
        if bias:
            self.bias = empty((self.out_features,))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
