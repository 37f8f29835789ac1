"""What the outputs of a network are compared with: losses with their weights, and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import metrics as measures
from ._trace import Tensor, Trace
from .nn import loss as losses

Pairs = npt.NDArray[np.float64]


class Head:
    """One output, its loss and its metrics. name: "" where a network has one output."""

    def __init__(self, name: str, loss: losses.Loss, weight: float, metrics: list[measures.Metric]) -> None:
        self.name, self.loss, self.weight, self.metrics = name, loss, weight, metrics

    def label(self, what: str) -> str:
        """A result's name: "loss", or "loss_left" where there are several heads."""
        return f"{what}_{self.name}" if self.name else what

    def targets(
        self, output: tuple[int, ...], soft: bool, given: Sequence[npt.NDArray[Any]] = ()
    ) -> list[tuple[str, tuple[int, ...], str]]:
        """(name, shape, dtype) of each target of one sample. given: the targets from this head's first on, where they
        are known."""
        if hasattr(self.loss, "targets"):
            return list(self.loss.targets(output, given or None))
        like = np.empty((0, *output), np.float32) if soft else None
        return [("", *self.loss.target(output, like))]

    def __repr__(self) -> str:
        weight = "" if self.weight == 1 else f" * {self.weight:g}"
        return f"{self.label('loss')}: {self.loss!r}{weight}, {[metric.name for metric in self.metrics]}"


class Heads:
    """All of them, in order. keys: None (one output), a number of outputs, or their names."""

    def __init__(self, loss: Any, weights: Any, metrics: Any) -> None:
        if isinstance(loss, Mapping):
            keys: list[str] = [str(key) for key in loss]
            given = list(loss.values())
        elif isinstance(loss, (tuple, list)):
            keys, given = [str(number) for number in range(len(loss))], list(loss)
        else:
            keys, given = [""], [loss]
        if not given or all(item is None for item in given):
            raise ValueError("loss: at least one output needs a loss")
        self.named = isinstance(loss, Mapping)
        self.several = self.named or isinstance(loss, (tuple, list))
        factors = _by_key("loss_weights", weights, keys, self.several, 1.0)
        measured = _by_key("metrics", metrics, keys, self.several, ()) if self.several else [metrics]
        self.items = [
            Head(key, losses.resolve(item), _weight(factor), _metrics(wanted))
            for key, item, factor, wanted in zip(keys, given, factors, measured, strict=True)
            if item is not None
        ]
        for head in self.items:
            for metric in head.metrics:
                metric.check(head.loss)
        self.loss: Any = (
            {head.name: head.loss for head in self.items}
            if self.named
            else tuple(head.loss for head in self.items)
            if self.several
            else self.items[0].loss
        )

    def output_of(self, head: Head, outputs: Sequence[tuple[str, Tensor]]) -> Tensor:
        """The output that belongs to a head. Raises ValueError where the network has no such output."""
        found = dict(outputs)
        if head.name in found:
            return found[head.name]
        names = ", ".join(repr(name) for name in found) or "none"
        if not self.several:
            raise ValueError(
                f"the network has {len(found)} outputs ({names}): give a loss for each, loss={{name: loss}} or a tuple "
                "with None for an output without one"
            )
        raise ValueError(f"there is a loss for the output '{head.name}', but the network's outputs are {names}")

    @property
    def metrics(self) -> list[measures.Metric]:
        return [metric for head in self.items for metric in head.metrics]

    def __repr__(self) -> str:
        return repr(self.items)


class Results:
    """Where each result lies among the pairs (sum, denominator) that a step gives, and what it means."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self._places: dict[str, tuple[int, int]] = {}  # by name in the graph
        self._metrics: list[tuple[Head, measures.Metric, dict[str, str]]] = []

    def emit(
        self, trace: Trace, head: Head, output: Tensor, target: list[Any], weight: Tensor | None, measured_on: list[Any]
    ) -> None:
        """Adds the loss and the metrics of a head to the graph."""
        targets: Any
        labels: Any
        targets, labels = (items[0] if len(items) == 1 else tuple(items) for items in (target, measured_on))
        node = head.loss.emit(trace, output, targets, weight)
        trace.graph.result(node.value, head.label("loss"), head.weight)
        for metric in head.metrics:
            names: dict[str, str] = {}
            for measured, name in metric.emit(trace, output, labels, weight, head.loss):
                names[name] = head.label(f"metric.{len(self._metrics)}.{name}" if name != metric.name else name)
                trace.graph.result(measured.value, names[name], 0.0)  # measured, not minimised
            self._metrics.append((head, metric, names))

    def place(self, names: Sequence[str], lengths: Sequence[int]) -> Results:
        """Notes where the session puts each result."""
        at = 0
        for name, length in zip(names, lengths, strict=True):
            self._places[name] = (at, at + length)
            at += length
        self.pairs = at
        self.names = [name for name in names for _ in range(self._places[name][1] - self._places[name][0])]
        return self

    def losses(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        """(..., heads): the losses among (..., pairs, 2)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            value: npt.NDArray[np.float64] = pairs[..., self.columns, 0] / pairs[..., self.columns, 1]
        return value

    @property
    def columns(self) -> list[int]:
        """The pairs of the losses."""
        return [self._places[head.label("loss")][0] for head in self.heads.items]

    def loss(self, pairs: Pairs) -> float:
        """What is minimised: the losses times their weights."""
        if not self.heads.several:
            return quotient(pairs[self._places["loss"][0]])
        return float(sum(head.weight * value for head, value in zip(self.heads.items, self.losses(pairs), strict=True)))

    def values(self, pairs: Pairs) -> dict[str, Any]:
        """Loss and metrics by name, from (summed) pairs."""
        found: dict[str, Any] = {"loss": self.loss(pairs)}
        if self.heads.several:
            for head, value in zip(self.heads.items, self.losses(pairs), strict=True):
                found[head.label("loss")] = float(value)
        for head, metric, names in self._metrics:
            sums = {}
            for name, place in names.items():
                first, last = self._places[place]
                sums[name] = (np.asarray(pairs[first:last, 0]), float(pairs[first, 1]))
            for name, value in metric.value(sums).items():
                found[head.label(name)] = value
        return found


def quotient(pair: Any) -> float:
    """The value of a result: sum / denominator; nan where nothing counted."""
    return float(pair[0] / pair[1]) if pair[1] != 0 else math.nan


def _weight(value: Any) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"loss_weights must be numbers, not {value!r}")
    if not math.isfinite(float(value)):
        raise ValueError(f"loss_weights must be finite, but hold {value!r}")
    return float(value)


def _metrics(given: Any) -> list[measures.Metric]:
    listed = [given] if isinstance(given, (str, measures.Metric)) else list(given or ())
    return [measures.resolve(item) for item in listed]


def _by_key(argument: str, given: Any, keys: list[str], several: bool, default: Any) -> list[Any]:
    """One item for each key: from a mapping, a sequence, or the default for all."""
    if given is None or (not isinstance(given, Mapping) and hasattr(given, "__len__") and not len(given)):
        return [default] * len(keys)
    if isinstance(given, Mapping):
        unknown = [key for key in given if str(key) not in keys]
        if unknown:
            raise ValueError(f"{argument} names {unknown[0]!r}, which has no loss; losses are {', '.join(keys)}")
        named = {str(key): value for key, value in given.items()}
        return [named.get(key, default) for key in keys]
    if not several:
        raise TypeError(f"{argument} must be given together with several losses")
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(keys):
        raise ValueError(f"{argument} must hold one item for each of the {len(keys)} losses, but is {given!r}")
    return list(given)
