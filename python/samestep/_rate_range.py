"""The rate range test: how the loss answers to a learning rate that grows from step to step."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from . import _core
from ._compile import compile
from .comm import rank


class RateRange:
    """Rates and the loss at each of them; `suggestion` is the rate where the smoothed loss falls fastest on its way
    to its least value (None where it never falls). `print` and Jupyter show it, `plot()` draws it."""

    def __init__(self, rates: list[float], losses: list[float]) -> None:
        self.rates, self.losses = rates, losses

    @property
    def smoothed(self) -> list[float]:
        """An exponential mean of the losses, corrected for its start."""
        made, mean = [], 0.0
        for n, loss in enumerate(self.losses, 1):
            mean = 0.9 * mean + 0.1 * loss
            made.append(mean / (1 - 0.9**n))
        return made

    @property
    def suggestion(self) -> float | None:
        smoothed, logs = np.array(self.smoothed), np.log(self.rates)
        least = int(smoothed.argmin()) if len(smoothed) else 0
        width = max(1, len(smoothed) // 20)  # a slope between neighbours is mostly noise
        if least < width or not smoothed[least] < smoothed[0]:
            return None
        slopes = (smoothed[width : least + 1] - smoothed[: least + 1 - width]) / (logs[width:] - logs[:-width])[
            : least + 1 - width
        ]
        return self.rates[int(slopes.argmin()) + width // 2]

    def __repr__(self) -> str:
        text = "none: the loss never falls" if self.suggestion is None else f"{self.suggestion:.2g}"
        return f"RateRange({self.rates[0]:.2g} to {self.rates[-1]:.2g} in {len(self.rates)} steps; suggestion {text})"

    def plot(self, file: Any = None) -> Any:
        """The loss over the rate, as a matplotlib figure; `file` (a path) also saves it. Needs matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("RateRange.plot needs matplotlib: pip install matplotlib") from None
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, color="0.75", label="loss of a step")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, linestyle=":", color="0.3", label=f"suggestion {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()
        if file is not None:
            figure.savefig(file)
        return figure


def rate_range_test(
    net: Any,
    loss: Any,
    optimizer: Any,
    x: Any,
    y: Any,
    *,
    batch_size: int = 32,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    stop: float = 4.0,
    seed: int = 0,
    verbose: bool = True,
    **options: Any,
) -> RateRange:
    """Trains a copy of the network while the learning rate grows geometrically from `low` to `high` in `steps` steps (Smith,
    "Cyclical learning rates for training neural networks", 2017). The network and the optimizer stay as they are.

    x, y: arrays of samples and targets, drawn in shuffled batches of `batch_size`, over again when they end. Ends early
    when the smoothed loss exceeds `stop` times its least value, or is not finite. options: those of `ss.compile`
    (threads, lanes, precision, ...). A bar shows progress on rank 0 unless verbose is False. Collective: every rank passes
    the same arrays. Raises ValueError for rates out of order, fewer than 2 steps, or fewer samples than a batch.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"rate_range_test: low={low} and high={high} must be positive, finite and in order")
    if steps < 2:
        raise ValueError(f"rate_range_test: steps={steps} must be at least 2")
    if stop <= 1:
        raise ValueError(f"rate_range_test: stop={stop} must be above 1")
    if len(x) != len(y) or not 1 <= batch_size <= len(x):
        raise ValueError(f"rate_range_test: a batch of {batch_size} from {len(x)} samples and {len(y)} targets")
    from tqdm import tqdm

    plan = compile(copy.deepcopy(net), loss, copy.deepcopy(optimizer), batch_size, seed=seed, **options)
    made, least = RateRange([], []), math.inf
    batches = len(x) // batch_size
    for step in tqdm(range(steps), desc="rate range", disable=None if verbose and rank() == 0 else True, leave=False):
        if step % batches == 0:
            order = _core.permutation(len(x), seed, step // batches)
        rows = np.sort(order[step % batches * batch_size :][:batch_size])
        plan.optimizer.lr = low * (high / low) ** (step / (steps - 1))
        made.rates.append(plan.optimizer.lr)
        made.losses.append(plan.step(np.asarray(x[rows]), np.asarray(y[rows])))
        now = made.smoothed[-1]
        least = min(least, now)
        if not math.isfinite(now) or now > stop * least:
            break
    return made
