"""Recurrent networks: what the layers are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__: list[str] = []


def scan(
    op: str,
    x: Any,
    weights: Sequence[Any],
    states: Sequence[Any],
    memory: bool,
    lengths: Any,
    attrs: Mapping[str, float],
) -> tuple[Any, ...]:
    """One layer and direction over x (samples, steps, features): the output and the last states. weights: weight_ih,
    weight_hh, bias_ih, bias_hh; states: none, or (samples, hidden) h and with `memory` c. Symbolic tensors only."""
    first = [*states, *[None] * (1 + memory - len(states))]
    steps = None if lengths is None else x.trace.as_integer(lengths)
    made: tuple[Any, ...] = x.trace.emit(op, [x, *weights, *first, steps], attrs)
    return made


def step(
    op: str, x: Any, weights: Sequence[Any], states: Sequence[Any], memory: bool, attrs: Mapping[str, float]
) -> list[Any]:
    """One step: x (samples, features) gives the next states."""
    return list(scan(op, x.unsqueeze(1), weights, states, memory, None, attrs)[1:])
