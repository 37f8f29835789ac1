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


class _Pointwise(Loss):
    """A loss that compares predictions and targets of one shape, element by element."""

    _op = ""
    _reductions: tuple[str, ...] = ("mean", "sum")

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in self._reductions:
            listed = " or ".join(repr(name) for name in self._reductions)
            raise ValueError(f"{type(self).__name__}: reduction must be {listed}, not {reduction!r}")
        self.reduction = reduction

    def attrs(self) -> dict[str, float]:
        """What the operator needs besides the reduction."""
        return {}

    def factors(self, trace: Trace) -> Any:
        """Factors of elements, or None."""
        return None

    def target(self, output: tuple[int, ...], given: Any = None) -> tuple[tuple[int, ...], str]:
        return output, "float32"

    def emit(self, trace: Trace, output: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        attrs = {"reduction": ("mean", "sum", "batchmean").index(self.reduction), **self.attrs()}
        factors = self.factors(trace)
        inputs = [output, target, sample_weight] if factors is None else [output, target, sample_weight, factors]
        made: Tensor = trace.emit(self._op, inputs, attrs, "loss")
        return made

    def extra_repr(self) -> str:
        own = "".join(f"{name}={value:g}, " for name, value in self.attrs().items())
        return f"{own}reduction={self.reduction!r}"


class MSELoss(_Pointwise):
    """Mean squared error of predictions and targets of one shape; reduction "mean" (over all elements) or "sum"."""

    _op = "mse"


class L1Loss(_Pointwise):
    """Mean absolute error of predictions and targets of one shape; reduction "mean" (over all elements) or "sum"."""

    _op = "l1_loss"


class HuberLoss(_Pointwise):
    """d^2 / 2 where |d| <= delta, else delta * (|d| - delta / 2), with d = prediction - target.

    Source: Huber: "Robust estimation of a location parameter", 1964.
    """

    _op = "huber_loss"

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = _positive("HuberLoss: delta", delta)

    def attrs(self) -> dict[str, float]:
        return {"delta": self.delta}


class SmoothL1Loss(_Pointwise):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = prediction - target.

    Source: Girshick: "Fast R-CNN", 2015.
    """

    _op = "smooth_l1_loss"

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = 0.0 if beta == 0 else _positive("SmoothL1Loss: beta", beta)

    def attrs(self) -> dict[str, float]:
        return {"beta": self.beta}


class BCELoss(_Pointwise):
    """Binary cross entropy of probabilities (in [0, 1]) and targets of one shape. Logarithms are at least -100."""

    _op = "bce_loss"


class BCEWithLogitsLoss(_Pointwise):
    """Binary cross entropy of logits and targets (0, 1 or between) of one shape.

    pos_weight: factors of the positive part, broadcast against the last axes of a sample.
    """

    _op = "bce_with_logits"

    def __init__(self, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self.pos_weight = None if pos_weight is None else np.array(pos_weight, dtype=np.float32)
        if self.pos_weight is not None and (not np.isfinite(self.pos_weight).all() or (self.pos_weight < 0).any()):
            raise ValueError("BCEWithLogitsLoss: pos_weight must hold finite numbers, none negative")

    def target(self, output: tuple[int, ...], given: Any = None) -> tuple[tuple[int, ...], str]:
        if self.pos_weight is not None:
            shape = self.pos_weight.shape
            if len(shape) > len(output) or shape != output[len(output) - len(shape) :]:
                raise ValueError(
                    f"BCEWithLogitsLoss: pos_weight has the shape {shape}; the last axes of a sample are {output}"
                )
        return output, "float32"

    def factors(self, trace: Trace) -> Any:
        return None if self.pos_weight is None else trace.constant(self.pos_weight, buffer=True)

    def extra_repr(self) -> str:
        weight = "" if self.pos_weight is None else f"pos_weight={self.pos_weight.tolist()}, "
        return weight + super().extra_repr()


class KLDivLoss(_Pointwise):
    """Kullback-Leibler divergence of targets (probabilities, or their logarithms with log_target) from log-probabilities.
    reduction: "mean" over all elements, "batchmean" (the divergence itself: mean over samples) or "sum"."""

    _op = "kl_div"
    _reductions = ("mean", "sum", "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = bool(log_target)

    def attrs(self) -> dict[str, float]:
        return {"log_target": float(self.log_target)}


class HingeEmbeddingLoss(_Pointwise):
    """x where the target is 1, max(0, margin - x) where it is -1: distances of pairs that belong together or not."""

    _op = "hinge_embedding"

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = float(margin)

    def attrs(self) -> dict[str, float]:
        return {"margin": self.margin}


class SoftMarginLoss(_Pointwise):
    """log(1 + exp(-t x)) with targets t of 1 and -1."""

    _op = "soft_margin"


class PoissonNLLLoss(_Pointwise):
    """Negative log-likelihood of counts: exp(x) - t x, or x - t log(x) with log_input=False. The constant term is left
    out."""

    _op = "poisson_nll"

    def __init__(self, log_input: bool = True, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.log_input = bool(log_input)

    def attrs(self) -> dict[str, float]:
        return {"log_input": float(self.log_input)}


class _OfClasses(Loss):
    """A loss of scores and class labels. Scores have the classes on axis 1, or on the last axis with axis=-1."""

    _op = ""

    def __init__(self, weight: Any, ignore_index: int, reduction: str, axis: int) -> None:
        super().__init__()
        name = type(self).__name__
        _reduction(reduction, name)
        if axis not in (1, -1):
            raise ValueError(f"{name}: axis must be 1 or -1, not {axis!r}")
        self.weight = None if weight is None else np.array(weight, dtype=np.float32)
        if self.weight is not None and (
            self.weight.ndim != 1 or not np.isfinite(self.weight).all() or (self.weight < 0).any()
        ):
            raise ValueError(f"{name}: weight must hold one finite number for each class, none negative")
        self.ignore_index, self.reduction, self.axis = int(ignore_index), reduction, axis

    def attrs(self) -> dict[str, float]:
        """What the operator needs besides."""
        return {}

    def target(self, output: tuple[int, ...], given: Any = None) -> tuple[tuple[int, ...], str]:
        if not output:
            raise ValueError(f"{type(self).__name__} needs an output of shape (samples, classes, ...), got (samples)")
        classes = output[0 if self.axis == 1 else -1]
        if self.weight is not None and len(self.weight) != classes:
            raise ValueError(f"{type(self).__name__}: weight has {len(self.weight)} classes, the network {classes}")
        return (output[1:] if self.axis == 1 else output[:-1]), "int32"

    def class_axis(self) -> dict[str, float]:
        """What metrics must know."""
        return {"axis": 0 if self.axis == 1 else -1, "ignore_index": self.ignore_index}

    def emit(self, trace: Trace, output: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        attrs = {**self.class_axis(), "reduction": _reduction(self.reduction, "loss"), **self.attrs()}
        weight = None if self.weight is None else trace.constant(self.weight, buffer=True)
        made: Tensor = trace.emit(self._op, [output, target, weight, sample_weight], attrs, "loss")
        return made

    def extra_repr(self) -> str:
        weight = "" if self.weight is None else f"weight={self.weight.tolist()}, "
        own = "".join(f"{name}={value:g}, " for name, value in self.attrs().items())
        return f"{weight}{own}ignore_index={self.ignore_index}, reduction={self.reduction!r}, axis={self.axis}"


class NLLLoss(_OfClasses):
    """Negative log-likelihood of class numbers, given log-probabilities, as torch.nn.NLLLoss: nn.LogSoftmax and this are
    nn.CrossEntropyLoss."""

    _op = "nll_loss"

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", *, axis: int = 1) -> None:
        super().__init__(weight, ignore_index, reduction, axis)


class MultiMarginLoss(_OfClasses):
    """Hinge loss of several classes: the mean over classes of max(0, margin - x_y + x_j)^p, p 1 or 2.

    Source: Crammer, Singer: "On the algorithmic implementation of multiclass kernel-based vector machines", 2001.
    """

    _op = "multi_margin"

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean", *, axis: int = 1
    ) -> None:
        super().__init__(weight, -100, reduction, axis)
        if p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: p must be 1 or 2, not {p!r}")
        self.p, self.margin = int(p), float(margin)

    def attrs(self) -> dict[str, float]:
        return {"p": self.p, "margin": self.margin}


class CallableLoss(Loss):
    """A loss as a function: `function(output, target)` gives a tensor of terms, whose mean is minimised.

        ss.Trainer(net, loss=lambda output, target: (output - target).abs() ** 1.5)

    Targets are floats of the output's shape, or of the shape (of one sample) and dtype ("float32", "int32") given here.
    """

    def __init__(
        self, function: Any, target_shape: Any = None, dtype: str = "float32", reduction: str = "mean"
    ) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(f"CallableLoss: function must be callable, not {function!r}")
        if dtype not in ("float32", "int32"):
            raise ValueError(f"CallableLoss: dtype must be 'float32' or 'int32', not {dtype!r}")
        _reduction(reduction, "CallableLoss")
        self.function, self.dtype, self.reduction = function, dtype, reduction
        self.target_shape = None if target_shape is None else tuple(int(extent) for extent in target_shape)

    def target(self, output: tuple[int, ...], given: Any = None) -> tuple[tuple[int, ...], str]:
        return (output if self.target_shape is None else self.target_shape), self.dtype

    def emit(self, trace: Trace, output: Tensor, target: Tensor, sample_weight: Tensor | None) -> Tensor:
        terms = self.function(output, target)
        if not isinstance(terms, Tensor):
            raise TypeError(f"the loss function must return a tensor of terms, not {type(terms).__name__}")
        made: Tensor = trace.emit(
            "mean_loss", [terms, sample_weight], {"reduction": _reduction(self.reduction, "loss")}, "loss"
        )
        return made

    def extra_repr(self) -> str:
        return f"{getattr(self.function, '__name__', self.function)!s}, reduction={self.reduction!r}"


def _positive(label: str, value: Any) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{label} must be a number, not {value!r}")
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"{label} must be positive, but is {value!r}")
    return float(value)


NAMES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropyLoss, "mse": MSELoss, "l1": L1Loss, "mae": L1Loss, "huber": HuberLoss,
    "smooth_l1": SmoothL1Loss, "bce": BCELoss, "bce_with_logits": BCEWithLogitsLoss, "nll": NLLLoss, "kl_div": KLDivLoss,
    "hinge_embedding": HingeEmbeddingLoss, "soft_margin": SoftMarginLoss, "poisson_nll": PoissonNLLLoss,
    "multi_margin": MultiMarginLoss,
}  # fmt: skip


def resolve(loss: Any) -> Loss:
    """A loss given as object, class, name or function of output and target."""
    if isinstance(loss, str):
        if loss not in NAMES:
            raise ValueError(f"loss '{loss}' is not known; use one of {', '.join(NAMES)} or an object from samestep.nn")
        return NAMES[loss]()
    if isinstance(loss, type) and issubclass(loss, Loss) and loss not in (Loss, CallableLoss):
        return loss()
    if isinstance(loss, Loss):
        return loss
    if callable(loss) and not isinstance(loss, (type, Module)):
        return CallableLoss(loss)
    raise TypeError(f"loss must be a name, a loss from samestep.nn or a function, not {type(loss).__name__}")


__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CallableLoss", "CrossEntropyLoss", "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss",
    "L1Loss", "MSELoss", "MultiMarginLoss", "NLLLoss", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss",
]  # fmt: skip
