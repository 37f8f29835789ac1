"""Callbacks of `ss.Trainer`: early stopping, the best model, a CSV file, slow ranks, functions of one's own."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import comm
from ._explain import slowest

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["CSVLogger", "Callback", "EarlyStopping", "LambdaCallback", "ModelCheckpoint", "SlowRank", "StopTraining"]


class StopTraining(Exception):
    """Raised by a callback to end `fit` after this epoch; returning False does the same."""


class Callback:
    """Base of callbacks; any object with some of these methods will do, and a function counts as on_epoch_end.

    All ranks call them with equal logs. When one rank wants to stop, all do.
    """

    def on_fit_begin(self, trainer: Trainer) -> Any:
        """Before the first epoch."""

    def on_epoch_begin(self, trainer: Trainer, epoch: int) -> Any:
        """Before each epoch (counted from 1)."""

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: Mapping[str, float]) -> Any:
        """After each epoch (counted from 1). logs: loss, metrics, val_loss, ..., lr, seconds. Return False or raise
        StopTraining to stop."""

    def on_fit_end(self, trainer: Trainer) -> Any:
        """After the last epoch, also when training was stopped."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep of this callback: numbers, texts, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The opposite, when a run is resumed."""


EVENTS = ("on_fit_begin", "on_epoch_begin", "on_epoch_end", "on_fit_end")


class _Monitor(Callback):
    """Follows one number of the logs. mode: "min", "max" or "auto": the larger the better for accuracies, scores and the
    like, else the smaller."""

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{type(self).__name__}: mode must be 'auto', 'min' or 'max', not {mode!r}")
        if mode == "auto":
            rising = ("accuracy", "precision", "recall", "f1", "auc", "r2")
            mode = "max" if any(name in monitor for name in rising) else "min"
        self.monitor, self.mode, self.min_delta = str(monitor), mode, abs(float(min_delta))
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch = 0

    def _look(self, epoch: int, logs: Mapping[str, float]) -> bool:
        """True when the number is better than ever."""
        if self.monitor not in logs:
            hint = " (fit needs validation=...)" if self.monitor.startswith("val_") else ""
            raise ValueError(
                f"{type(self).__name__}: '{self.monitor}' is not measured; there is {', '.join(logs)}{hint}"
            )
        value = float(logs[self.monitor])
        better = value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta
        if better:
            self.best, self.best_epoch = value, epoch
        return better

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])


class EarlyStopping(_Monitor):
    """Stops when `monitor` has not got better by more than min_delta for `patience` epochs in a row.

    restore_best: the network gets its parameters of the best epoch back at the end of fit.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if isinstance(patience, bool) or not hasattr(patience, "__index__") or patience < 0:
            raise ValueError(f"EarlyStopping: patience must be a whole number of epochs, not {patience!r}")
        self.patience, self.restore_best = int(patience), bool(restore_best)
        self.waited, self.stopped_epoch = 0, 0
        self._kept: dict[str, Any] | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        self.stopped_epoch = 0

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: Mapping[str, float]) -> bool:
        if self._look(epoch, logs):
            self.waited = 0
            if self.restore_best:
                self._kept = {name: np.array(value) for name, value in trainer.net.state_dict().items()}
            return True
        self.waited += 1
        if self.waited < self.patience:
            return True
        self.stopped_epoch = epoch
        return False

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._kept is not None and self.best_epoch != trainer.epoch:
            trainer.net.load_state_dict(self._kept)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.waited = int(state["waited"])


class ModelCheckpoint(_Monitor):
    """Saves the network (safetensors) after each epoch in which `monitor` is better than ever, or after every epoch with
    save_best_only=False. `{epoch}` and names of the logs in the path are filled in: "model-{epoch}-{val_loss:.3f}.safetensors".
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "val_loss",
        mode: str = "auto",
        save_best_only: bool = True,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.path, self.save_best_only = os.fspath(path), bool(save_best_only)
        self.saved = ""  # the last file

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: Mapping[str, float]) -> None:
        if self.save_best_only and not self._look(epoch, logs):
            return
        try:
            self.saved = self.path.format(**{**logs, "epoch": epoch})
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"ModelCheckpoint: the path {self.path!r} cannot be filled in: {error!r}") from None
        trainer.net.save(self.saved)


class CSVLogger(Callback):
    """Writes the logs of each epoch as a line of a CSV file (rank 0 alone). append: goes on with a file of an earlier
    fit."""

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = os.fspath(path), bool(append)
        self._begun = False

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: Mapping[str, float]) -> None:
        row = {"epoch": epoch, **logs}
        if comm.rank() != 0:
            return
        goes_on = self._begun or (self.append and os.path.exists(self.path) and os.path.getsize(self.path) > 0)
        columns = list(row)
        if goes_on:
            with open(self.path, newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file))
        with open(self.path, "a" if goes_on else "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            if not goes_on:
                writer.writeheader()
            writer.writerow(row)
        self._begun = True


class SlowRank(Callback):
    """Warns, once, when a rank works `factor` times as long in a step as half of the others: all wait for it. Rank 0
    warns, and the name of the rank stays in `rank`."""

    def __init__(self, factor: float = 1.5) -> None:
        if not factor > 1:
            raise ValueError(f"SlowRank: factor must be above 1, but is {factor!r}")
        self.factor = factor
        self.rank: int | None = None

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: Mapping[str, float]) -> None:
        seconds = trainer.plan.rank_seconds
        if self.rank is not None or len(seconds) < 2:
            return
        rank, most, median = slowest(seconds)
        if most < self.factor * median:
            return
        self.rank = rank
        if trainer.plan.comm.rank == 0:
            warnings.warn(
                f"rank {rank} works {1e3 * most:.3g} ms a step, {most / median:.1f} times the median of the other ranks "
                f"({1e3 * median:.3g} ms), which wait for it: look for other work on its processors, or give it fewer lanes",
                RuntimeWarning,
                stacklevel=2,
            )


class LambdaCallback(Callback):
    """Functions of one's own as a callback."""

    def __init__(
        self,
        on_fit_begin: Callable[..., Any] | None = None,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_fit_end: Callable[..., Any] | None = None,
    ) -> None:
        given = (on_fit_begin, on_epoch_begin, on_epoch_end, on_fit_end)
        for name, function in zip(EVENTS, given, strict=True):
            if function is not None:
                if not callable(function):
                    raise TypeError(f"LambdaCallback: {name} must be a function, not {function!r}")
                setattr(self, name, function)
