"""Metrics (placeholder until the family is merged)."""

from __future__ import annotations

from typing import Any

from ._trace import Tensor, Trace
from .nn import loss as losses


class Metric:
    name = "metric"
    needs_outputs = False

    def check(self, loss: Any) -> None:
        pass

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Any, str]]:
        raise NotImplementedError

    def value(self, sums: Any) -> dict[str, Any]:
        raise NotImplementedError

    def from_outputs(self, output: Any, target: Any, weight: Any, loss: Any) -> dict[str, Any]:
        raise NotImplementedError


class Accuracy(Metric):
    name = "accuracy"

    def check(self, loss: Any) -> None:
        if not isinstance(loss, losses.CrossEntropyLoss):
            raise ValueError(
                f"metric '{self.name}' needs class labels, which the loss {type(loss).__name__} does not take"
            )

    def emit(
        self, trace: Trace, output: Tensor, target: Tensor, weight: Tensor | None, loss: Any
    ) -> list[tuple[Any, str]]:
        if not isinstance(loss, losses.CrossEntropyLoss):
            raise ValueError(
                f"metric '{self.name}' needs class labels, which the loss {type(loss).__name__} does not take"
            )
        inputs = [output, target] if weight is None else [output, target, weight]
        return [(trace.emit("accuracy", inputs, loss.class_axis(), "accuracy"), "accuracy")]

    def value(self, sums: Any) -> dict[str, Any]:
        vector, denominator = sums["accuracy"]
        return {"accuracy": float(vector[0]) / denominator if denominator else float("nan")}


def resolve(metric: Any) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if metric != "accuracy":
        raise ValueError(f"metric {metric!r} is not known; there is accuracy")
    return Accuracy()
