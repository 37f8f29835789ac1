"""Metrics: what a trainer measures beside the loss. Every sample counts once, at any number of ranks, because only sums
travel: the core adds them up lane by lane, and a metric turns the totals into its value.

A metric is given by name (`metrics=["accuracy", "top5_accuracy"]`) or as an object. To write one, subclass Metric: `emit`
adds nodes whose sums are wanted to the graph, `value` makes numbers of the totals; a metric that must see all outputs at
once (ROC AUC) sets needs_outputs and defines `from_outputs` instead: it is measured by evaluate and on validation data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ._trace import Tensor, Trace
from .nn import loss as losses

__all__ = [
    "F1",
    "MAE",
    "MSE",
    "R2",
    "ROCAUC",
    "Accuracy",
    "ConfusionMatrix",
    "Metric",
    "Perplexity",
    "Precision",
    "Recall",
    "TopKAccuracy",
]  # fmt: skip

Array = npt.NDArray[Any]
Sums = Mapping[str, tuple[Array, float]]


class Metric:
    """Base of all metrics."""

    name = "metric"
    needs_outputs = False

    def check(self, loss: Any) -> None:
        """Raises ValueError where the metric and the loss of its output do not go together."""

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Tensor, str]]:
        """Adds losses or metrics to the graph: (node, name) of each. Nothing, for a metric that needs all outputs."""
        return []

    def value(self, sums: Sums) -> dict[str, Any]:
        """{name: value} from {name: (vector of sums, denominator)} of what was emitted."""
        return {}

    def from_outputs(self, output: Array, target: Array, weight: Array | None, loss: Any) -> dict[str, Any]:
        """{name: value} from all outputs, targets and weights of samples."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _quotient(pair: tuple[Array, float]) -> float:
    return float(pair[0][0]) / pair[1] if pair[1] else math.nan


def _of_classes(metric: Metric, loss: Any) -> None:
    if not isinstance(loss, (losses.CrossEntropyLoss, losses.NLLLoss, losses.MultiMarginLoss)):
        raise ValueError(
            f"metric '{metric.name}' needs class labels, which the loss {type(loss).__name__} does not take"
        )


def _binary(loss: Any) -> bool:
    return isinstance(loss, (losses.BCELoss, losses.BCEWithLogitsLoss))


def _yes(output: Tensor, loss: Any) -> Any:
    """1 where a binary output says yes."""
    return output > (0.5 if isinstance(loss, losses.BCELoss) else 0.0)


def _mean(trace: Trace, terms: Any, weight: Tensor | None) -> Tensor:
    made: Tensor = trace.emit("mean_loss", [terms, weight], {}, "metric")
    return made


class Accuracy(Metric):
    """Part of the labels that the largest score names; for binary cross entropy, of the targets that the output is on the
    right side of."""

    name = "accuracy"

    def check(self, loss: Any) -> None:
        if not _binary(loss):
            _of_classes(self, loss)

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Tensor, str]]:
        if _binary(loss):
            return [(_mean(trace, _yes(output, loss).eq(target > 0.5), weight), self.name)]
        inputs = [output, target] if weight is None else [output, target, weight]
        return [(trace.emit("accuracy", inputs, loss.class_axis(), "accuracy"), self.name)]

    def value(self, sums: Sums) -> dict[str, Any]:
        return {self.name: _quotient(sums[self.name])}


class TopKAccuracy(Metric):
    """Part of the labels whose score is among the k largest."""

    def __init__(self, k: int = 5) -> None:
        if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
            raise ValueError(f"TopKAccuracy: k must be a whole number of at least 1, not {k!r}")
        self.k, self.name = int(k), f"top{int(k)}_accuracy"

    def check(self, loss: Any) -> None:
        _of_classes(self, loss)

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Tensor, str]]:
        inputs = [output, target] if weight is None else [output, target, weight]
        return [(trace.emit("top_k_accuracy", inputs, {**loss.class_axis(), "k": self.k}, self.name), self.name)]

    def value(self, sums: Sums) -> dict[str, Any]:
        return {self.name: _quotient(sums[self.name])}


class ConfusionMatrix(Metric):
    """Entry (i, j): the (weighted) number of samples of class i that the largest score names j. An array; it stands in
    what evaluate returns, not in a history."""

    name = "confusion_matrix"

    def check(self, loss: Any) -> None:
        if not _binary(loss):
            _of_classes(self, loss)

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Tensor, str]]:
        if _binary(loss):
            said, true = _yes(output, loss), target > 0.5
            both, count = said * true, 1
            for extent in output.sample_shape:
                count *= extent
            parts = [("both", both), ("said", said), ("true", true), ("all", said * 0.0 + 1.0)]
            return [
                (trace.emit("mean_loss", [terms, weight], {"reduction": 1}, "metric"), f"{self.name}.{name}")
                for name, terms in parts
            ]
        inputs = [output, target] if weight is None else [output, target, weight]
        return [(trace.emit("confusion", inputs, loss.class_axis(), self.name), self.name)]

    def matrix(self, sums: Sums) -> Array:
        """The counts as (classes, classes)."""
        if self.name in sums:
            counts = np.asarray(sums[self.name][0], np.float64)
            side = math.isqrt(len(counts))
            return counts.reshape(side, side)
        both, said, true, every = (float(sums[f"{self.name}.{part}"][0][0]) for part in ("both", "said", "true", "all"))
        return np.array([[every - said - true + both, said - both], [true - both, both]])

    def value(self, sums: Sums) -> dict[str, Any]:
        return {self.name: self.matrix(sums)}


class _FromConfusion(ConfusionMatrix):
    """A score of each class, averaged. average: "binary" (of class 1 alone; the default for two classes), "macro" (the mean
    over classes; the default for more), "weighted" (by the classes' numbers of samples), "micro" (of all counts
    together)."""

    def __init__(self, average: str | None = None) -> None:
        if average not in (None, "binary", "macro", "micro", "weighted"):
            raise ValueError(
                f"{type(self).__name__}: average must be 'binary', 'macro', 'micro' or 'weighted', not {average!r}"
            )
        self.average = average

    def score(self, right: Any, named: Any, true: Any) -> Any:
        """The score from the numbers of hits, of times named and of times true."""
        raise NotImplementedError

    def value(self, sums: Sums) -> dict[str, Any]:
        counts = self.matrix(sums)
        right, named, true = counts.diagonal(), counts.sum(0), counts.sum(1)
        average = self.average or ("binary" if len(counts) == 2 else "macro")
        if average == "binary":
            if len(counts) != 2:
                raise ValueError(f"{type(self).__name__}: average='binary' needs two classes, not {len(counts)}")
            return {self.name: float(self.score(right[1], named[1], true[1]))}
        if average == "micro":
            return {self.name: float(self.score(right.sum(), named.sum(), true.sum()))}
        scores = self.score(right, named, true)
        if average == "weighted":
            return {self.name: float((scores * true).sum() / true.sum()) if true.sum() else 0.0}
        present = (named + true) > 0
        return {self.name: float(scores[present].mean()) if present.any() else 0.0}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(average={self.average!r})"


def _ratio(above: Any, below: Any) -> Any:
    """above / below, 0 where nothing is below."""
    return np.divide(above, below, out=np.zeros_like(np.asarray(above, np.float64)), where=np.asarray(below) > 0)


class Precision(_FromConfusion):
    """Hits over the times a class was named."""

    name = "precision"

    def score(self, right: Any, named: Any, true: Any) -> Any:
        return _ratio(right, named)


class Recall(_FromConfusion):
    """Hits over the samples of a class."""

    name = "recall"

    def score(self, right: Any, named: Any, true: Any) -> Any:
        return _ratio(right, true)


class F1(_FromConfusion):
    """Harmonic mean of precision and recall."""

    name = "f1"

    def score(self, right: Any, named: Any, true: Any) -> Any:
        return _ratio(2.0 * np.asarray(right), np.asarray(named) + true)


class _Error(Metric):
    _op: str

    def check(self, loss: Any) -> None:
        if isinstance(loss, (losses.CrossEntropyLoss, losses.NLLLoss, losses.MultiMarginLoss)):
            raise ValueError(f"metric '{self.name}' compares numbers; {type(loss).__name__} has class labels")

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Tensor, str]]:
        return [(trace.emit(self._op, [output, target, weight], {}, self.name), self.name)]

    def value(self, sums: Sums) -> dict[str, Any]:
        return {self.name: _quotient(sums[self.name])}


class MSE(_Error):
    """Mean squared error."""

    name, _op = "mse", "mse"


class MAE(_Error):
    """Mean absolute error."""

    name, _op = "mae", "l1_loss"


class Perplexity(Metric):
    """exp of the mean cross entropy."""

    name = "perplexity"

    def check(self, loss: Any) -> None:
        if not isinstance(loss, (losses.CrossEntropyLoss, losses.NLLLoss)):
            raise ValueError(f"metric 'perplexity' needs a cross entropy, not {type(loss).__name__}")

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Tensor, str]]:
        plain = type(loss)(axis=loss.axis, ignore_index=loss.ignore_index)  # without smoothing and class weights
        return [(plain.emit(trace, output, target, weight), self.name)]

    def value(self, sums: Sums) -> dict[str, Any]:
        mean = _quotient(sums[self.name])
        return {self.name: math.exp(mean) if mean < 700 else math.inf if mean == mean else math.nan}


class R2(Metric):
    """Coefficient of determination, the mean over outputs: 1 - squared errors / squared distances from the mean. Measured
    on all outputs together (evaluate, validation)."""

    name, needs_outputs = "r2", True

    def check(self, loss: Any) -> None:
        if isinstance(loss, (losses.CrossEntropyLoss, losses.NLLLoss, losses.MultiMarginLoss)):
            raise ValueError(f"metric 'r2' compares numbers; {type(loss).__name__} has class labels")

    def from_outputs(self, output: Array, target: Array, weight: Array | None, loss: Any) -> dict[str, Any]:
        y = np.asarray(target, np.float64).reshape(len(target), -1)
        errors = y - np.asarray(output, np.float64).reshape(len(target), -1)
        w = np.ones((len(y), 1)) if weight is None else np.asarray(weight, np.float64)[:, None]
        mean = (w * y).sum(0) / w.sum()
        above, below = (w * errors**2).sum(0), (w * (y - mean) ** 2).sum(0)
        scores = np.where(below > 0, 1 - above / np.where(below > 0, below, 1), np.where(above > 0, 0.0, 1.0))
        return {self.name: float(scores.mean())}


class ROCAUC(Metric):
    """Area under the receiver operating characteristic: the part of (positive, negative) pairs in the right order, ties
    counted half. Several classes: the mean over classes of one against the rest. Measured on all outputs together
    (evaluate, validation)."""

    name, needs_outputs = "roc_auc", True

    def check(self, loss: Any) -> None:
        if not _binary(loss):
            _of_classes(self, loss)

    def from_outputs(self, output: Array, target: Array, weight: Array | None, loss: Any) -> dict[str, Any]:
        scores = np.asarray(output, np.float64)
        if _binary(loss):
            scores, labels = scores.reshape(len(scores), -1), np.asarray(target).reshape(len(scores), -1) > 0.5
            areas = [_area(scores[:, k], labels[:, k], weight) for k in range(scores.shape[1])]
            return {self.name: float(np.mean(areas))}
        if loss.axis == 1 and scores.ndim > 2:
            scores = np.moveaxis(scores, 1, -1)
        classes, repeat = scores.shape[-1], int(np.prod(scores.shape[1:-1]))
        scores, label = scores.reshape(-1, classes), np.asarray(target).reshape(-1)
        weights = None if weight is None else np.repeat(np.asarray(weight), repeat)
        kept = label != loss.ignore_index
        scores, label, weights = scores[kept], label[kept], None if weights is None else weights[kept]
        if classes == 1:
            return {self.name: _area(scores[:, 0], label == 1, weights)}
        if classes == 2:
            return {self.name: _area(scores[:, 1] - scores[:, 0], label == 1, weights)}
        scores = scores - scores.max(axis=1, keepdims=True)
        scores = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return {self.name: float(np.mean([_area(scores[:, k], label == k, weights) for k in range(classes)]))}


def _area(scores: Array, positive: Array, weight: Array | None) -> float:
    """The area from the ranks of the scores; nan where one of the two kinds is missing."""
    w = np.ones(len(scores)) if weight is None else np.asarray(weight, np.float64)
    _, place = np.unique(scores, return_inverse=True)
    up = np.bincount(place, w * positive)
    down = np.bincount(place, w * ~positive)
    below = np.cumsum(down) - down
    pairs = up.sum() * down.sum()
    return float((up * (below + down / 2)).sum() / pairs) if pairs > 0 else math.nan


_NAMES: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy, "precision": Precision, "recall": Recall, "f1": F1, "confusion_matrix": ConfusionMatrix,
    "roc_auc": ROCAUC, "mse": MSE, "mae": MAE, "r2": R2, "perplexity": Perplexity,
}  # fmt: skip


def resolve(metric: Any) -> Metric:
    """A metric given as object, class or name. Raises ValueError, TypeError."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric) and metric is not Metric:
        return metric()
    if not isinstance(metric, str):
        raise TypeError(f"metrics must be names or objects of samestep.metrics, not {metric!r}")
    digits = metric.removeprefix("top").removesuffix("_accuracy")
    if metric.startswith("top") and metric.endswith("_accuracy") and digits.isdecimal():
        return TopKAccuracy(int(digits))
    if metric not in _NAMES:
        raise ValueError(
            f"metric {metric!r} is not known; there are {', '.join(_NAMES)} and top5_accuracy (any number)"
        )
    return _NAMES[metric]()
