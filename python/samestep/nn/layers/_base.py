"""What layers share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import _trace
from ..module import Module


def count(value: Any, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, but is {value}")
    return int(value)


def switched_off(module: Module) -> bool:
    """True where this one layer was put into evaluation mode inside a network in training mode: its statistics are
    frozen, its dropout drops nothing."""
    trace = _trace.active()
    return trace is not None and trace.root is not None and trace.root.training and not module.training
