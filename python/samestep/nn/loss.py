"""Losses. A loss is given to ss.Trainer and ss.compile by name or as an object; called on arrays it computes one
number."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._trace import Tensor, Trace
from .module import Module


class Loss(Module):
    """Base of all losses."""

    def target(self, output: tuple[int, ...], given: Any = None) -> tuple[tuple[int, ...], str]:
        """(shape, dtype) of one sample's target for an output of the given shape; `given` are the targets, where that
        makes a difference."""
        raise NotImplementedError

    def emit(self, trace: Trace, output: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Adds the loss's node."""
        raise NotImplementedError

    def __call__(self, *inputs: Any) -> Any:
        """The loss of predictions (samples, ...) and targets, as a float. Arrays only: in training the core computes
        the loss itself."""
        from .. import _eager

        return _eager.loss(self, *inputs)


def _reduction(value: str, name: str) -> int:
    if value not in ("mean", "sum"):
        raise ValueError(f"{name}: reduction must be 'mean' or 'sum', not {value!r}")
    return int(value == "sum")


class CrossEntropyLoss(Loss):
    """Cross entropy of class scores (logits) and class numbers, as torch.nn.CrossEntropyLoss.

    Scores have the classes on axis 1, (samples, classes, ...), or on the last axis with axis=-1; targets are whole
    numbers of the shape without that axis, or floats of the scores' shape: probabilities.

    Parameters: weight: one weight a class; ignore_index: targets that do not count; reduction: "mean" (over the weights
    of the counted targets) or "sum"; label_smoothing: part of the target that is spread over all classes (Szegedy et
    al., 2016).
    """

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        axis: int = 1,
    ) -> None:
        super().__init__()
        _reduction(reduction, "CrossEntropyLoss")
        if axis not in (1, -1):
            raise ValueError(f"CrossEntropyLoss: axis must be 1 or -1, not {axis!r}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"CrossEntropyLoss: label_smoothing must lie in [0, 1], but is {label_smoothing!r}")
        self.weight = None if weight is None else np.array(weight, dtype=np.float32)
        if self.weight is not None and (
            self.weight.ndim != 1 or not np.isfinite(self.weight).all() or (self.weight < 0).any()
        ):
            raise ValueError("CrossEntropyLoss: weight must hold one finite number for each class, none negative")
        self.ignore_index, self.reduction, self.label_smoothing, self.axis = (
            int(ignore_index),
            reduction,
            float(label_smoothing),
            axis,
        )

    def target(self, output: tuple[int, ...], given: Any = None) -> tuple[tuple[int, ...], str]:
        if not output:
            raise ValueError("CrossEntropyLoss needs an output of shape (samples, classes, ...), got (samples)")
        if self.weight is not None and len(self.weight) != output[0 if self.axis == 1 else -1]:
            raise ValueError(
                f"CrossEntropyLoss: weight has {len(self.weight)} classes, the network {output[0 if self.axis == 1 else -1]}"
            )
        if given is not None and given.dtype.kind == "f" and given.shape[1:] == output:
            return output, "float32"
        return (output[1:] if self.axis == 1 else output[:-1]), "int32"

    def class_axis(self) -> dict[str, float]:
        """What the accuracy must know."""
        return {"axis": 0 if self.axis == 1 else -1, "ignore_index": self.ignore_index}

    def emit(self, trace: Trace, output: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        attrs = {
            **self.class_axis(),
            "reduction": _reduction(self.reduction, "loss"),
            "label_smoothing": self.label_smoothing,
        }
        weight = None if self.weight is None else trace.constant(self.weight, buffer=True)
        return trace.emit("cross_entropy", [output, target, weight, sample_weight], attrs, "loss")

    def extra_repr(self) -> str:
        weight = "" if self.weight is None else f"weight={self.weight.tolist()}, "
        return (
            f"{weight}ignore_index={self.ignore_index}, reduction={self.reduction!r}, "
            f"label_smoothing={self.label_smoothing}, axis={self.axis}"
        )


class MSELoss(Loss):
    """Mean squared error of predictions and targets of one shape; reduction "mean" (over all elements) or "sum"."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        _reduction(reduction, "MSELoss")
        self.reduction = reduction

    def target(self, output: tuple[int, ...], given: Any = None) -> tuple[tuple[int, ...], str]:
        return output, "float32"

    def emit(self, trace: Trace, output: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        return trace.emit(
            "mse", [output, target, sample_weight], {"reduction": _reduction(self.reduction, "loss")}, "loss"
        )

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


def resolve(loss: Any) -> Loss:
    """A loss given as object, class or name ("cross_entropy", "mse")."""
    known = {"cross_entropy": CrossEntropyLoss, "mse": MSELoss}
    if isinstance(loss, str):
        if loss not in known:
            raise ValueError(f"loss '{loss}' is not known; use one of {', '.join(known)} or an object from samestep.nn")
        return known[loss]()
    if isinstance(loss, type) and issubclass(loss, Loss) and loss is not Loss:
        return loss()
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be a name or a loss from samestep.nn, not {type(loss).__name__}")
    return loss


__all__ = ["CrossEntropyLoss", "MSELoss"]
