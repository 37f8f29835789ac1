"""Connectionist temporal classification."""

from __future__ import annotations

from typing import Any

from .._trace import Tensor, Trace
from .loss import Loss, _reduction

__all__ = ["CTCLoss"]


class CTCLoss(Loss):
    """Connectionist temporal classification (Graves et al., 2006), as torch.nn.CTCLoss, with the batch first.

    Takes log-probabilities (samples, steps, classes), from a log_softmax over the last axis, where torch has (steps,
    samples, classes), and three targets, given as a tuple (targets, input_lengths, target_lengths): class numbers
    (samples, labels) of which the first target_lengths[b] count, and two arrays (samples,) of lengths. Torch's targets
    that are strung together in one axis are not supported: pad them.

    Parameters: blank: the class that stands for no label; reduction: "mean" (each sample's loss divided by its number of
    labels, then the mean over samples) or "sum"; zero_infinity: samples whose target does not fit into their input count
    as 0 and get no gradient. Lengths and labels out of range raise ValueError.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__()
        _reduction(reduction, "CTCLoss")
        if isinstance(blank, bool) or int(blank) != blank or blank < 0:
            raise ValueError(f"CTCLoss: blank must be the number of a class, not {blank!r}")
        self.blank, self.reduction, self.zero_infinity = int(blank), reduction, bool(zero_infinity)

    def targets(self, output: tuple[int, ...], given: Any = None) -> list[tuple[str, tuple[int, ...], str]]:
        """(name, shape, dtype) of each target of one sample. The number of labels follows from the given targets; where
        they are not known yet, it is the number of steps."""
        if len(output) != 2:
            raise ValueError("CTCLoss needs log-probabilities of shape (samples, steps, classes)")
        labels = output[0] if given is None else given[0].shape[1]
        return [("targets", (labels,), "int32"), ("input_lengths", (), "int32"), ("target_lengths", (), "int32")]

    def emit(self, trace: Trace, output: Tensor, target: Any, sample_weight: Tensor | None) -> Tensor:
        attrs = {
            "blank": self.blank,
            "reduction": _reduction(self.reduction, "CTCLoss"),
            "zero_infinity": self.zero_infinity,
        }
        return trace.emit("ctc_loss", [output, *target, sample_weight], attrs, "loss")

    def extra_repr(self) -> str:
        return f"blank={self.blank}, reduction={self.reduction!r}, zero_infinity={self.zero_infinity}"
