"""Mixup and cutmix, in the data path: `Trainer(net, ..., augment=augment.MixUp(0.2))`.

While a batch is gathered, each sample is joined with another one of the same global batch; class labels become the
matching mixture of both classes. The draws depend on the seed, the row of the data set and the epoch alone, so any number
of ranks and threads trains on the same numbers. Evaluation and prediction see samples as they are.
"""

from __future__ import annotations

__all__ = ["CutMix", "MixUp"]


class Mix:
    """What MixUp and CutMix share."""

    _kind = ""

    def __init__(self, alpha: float) -> None:
        if isinstance(alpha, (bool, str)) or not hasattr(alpha, "__float__"):
            raise TypeError(f"{type(self).__name__}: alpha must be a number, not {alpha!r}")
        if not 0 < float(alpha) < 1e6:
            raise ValueError(f"{type(self).__name__}: alpha must be positive, but is {alpha!r}")
        self.alpha = float(alpha)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha})"


class MixUp(Mix):
    """x = w * x + (1 - w) * x', and the same for targets, with w from Beta(alpha, alpha) and x' another sample of the batch.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz: "mixup: beyond empirical risk minimization", 2018.
    """

    _kind = "mixup"

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__(alpha)


class CutMix(Mix):
    """A rectangle of another image of the batch replaces a part of each image (the last two axes are height and width);
    targets are mixed by the areas. The area left is drawn from Beta(alpha, alpha).

    Source: Yun, Han, Oh, Chun, Choe, Yoo: "CutMix: regularization strategy to train strong classifiers", 2019.
    """

    _kind = "cutmix"

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)
