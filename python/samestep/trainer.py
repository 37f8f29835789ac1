"""`ss.Trainer`: the training loop, its progress, checkpoints and callbacks. Everything it does to a network goes
through the plan of `ss.compile`."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _agree, _checkpoint, _compile, _core, comm, schedules
from ._compile import Given
from .callbacks import EVENTS, StopTraining
from .history import History
from .nn.module import Module
from .schedules import WarmUp

VALIDATION = ("the X of validation", "the y of validation")  # their names in error messages
CHUNK_SECONDS = 0.2  # work between two looks at the clock, the progress bar and the keyboard


class Trainer:
    """Trains a network.

    Parameters: net: the network; loss: "cross_entropy", "mse" or a loss of samestep.nn; optimizer: an optimizer of
    samestep.optim or its name; metrics: "accuracy"; seed: of shuffles and dropout; lanes: parts of the batch whose sums
    are joined in a fixed tree, a property of the run like the learning rate (default: from the batch size alone);
    lanes_at_once: a power of two, fewer lanes together need less memory and change no bit; threads: of this rank
    (default: SAMESTEP_THREADS or a fair share); backend: "native" or "openblas"; precision: "fp32" or "bf16"; loss_weights:
    of several losses; augment: MixUp or CutMix of samestep.augment; clip_norm: greatest norm of
    all gradients together; clip_value: greatest size of an element of a gradient; average: optim.EMA or optim.SWA (see
    `averaged`); parallel: how ranks work together, `ss.Parallel(...)`; schedule: of the learning rate, an object of
    samestep.schedules or a function of the epoch that
    gives a factor; callbacks: see Callback; checkpoint: a
    file that is written after each epoch and that `fit(..., resume=True)` goes on from.

    Under MPI every rank makes the same calls with the same arrays; results are equal on all ranks, whatever their
    number.
    """

    def __init__(
        self,
        net: Module,
        loss: Any = "cross_entropy",
        optimizer: Any = "sgd",
        *,
        metrics: Sequence[str] | str | None = (),
        seed: int = 0,
        lanes: int | None = None,
        lanes_at_once: int | None = None,
        threads: int | None = None,
        backend: str = "native",
        precision: str = "fp32",
        loss_weights: Any = None,
        augment: Any = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        average: Any = None,
        parallel: Any = None,
        schedule: Any = None,
        callbacks: Any = (),
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.net = net
        self._options: dict[str, Any] = {
            "metrics": metrics, "seed": seed, "lanes": lanes, "lanes_at_once": lanes_at_once, "threads": threads, "backend": backend,
            "precision": precision, "loss_weights": loss_weights, "augment": augment,
            "clip_norm": clip_norm, "clip_value": clip_value, "average": average, "parallel": parallel,
        }  # fmt: skip
        self._loss, self.optimizer = loss, _compile.optimizers.resolve(optimizer)
        self.plan = self._compile(None)  # checks every argument; memory is laid out by the first fit
        self.loss, self.seed = self.plan.loss, self.plan.seed
        self.schedule = schedules.resolve(schedule)
        self.callbacks = _callbacks(callbacks)
        self.checkpoint = None if checkpoint is None else os.fspath(checkpoint)
        self.history = History()
        self.epoch = 0
        """Epochs completed."""
        self._epoch_step = 0  # steps made in the epoch that is under way
        self._epoch_sums: list[list[float]] = []
        self._order: tuple[Any, ...] | None = None  # what the epoch under way depends on
        self._kept = False  # the checkpoint file holds a state of this run, not of an older one

    def _compile(self, batch_size: int | None) -> _compile.Plan:
        return _compile.compile(self.net, self._loss, self.optimizer, batch_size, **self._options)

    # --- training

    def fit(
        self,
        X: Any,
        y: Any,
        epochs: int = 1,
        batch_size: int = 64,
        validation: tuple[Any, ...] | None = None,
        sample_weight: Any = None,
        shuffle: bool = True,
        verbose: bool = True,
        resume: bool = False,
    ) -> History:
        """Trains for `epochs` epochs and returns the history (all epochs of this trainer).

        X: (samples, ...), or a tuple or dict of such arrays for a network of several inputs; y: one target a sample
        (class numbers, or floats for "mse"), or a tuple or dict of targets for several losses; batch_size: samples in a
        global batch, over all ranks; the last batch of an epoch may be smaller and is trained too; validation: (X, y) or
        (X, y, sample_weight), measured after each epoch; sample_weight: (samples), not negative; shuffle: a new order
        each epoch, a function of the seed and the epoch; verbose: a progress bar and a line an epoch on rank 0; resume:
        goes on from the checkpoint file, if there is one, until `epochs` epochs are made in all: the same bits as without
        the break, at any number of ranks.

        Ctrl-C ends the epoch under way, saves the checkpoint (in a single process), and raises KeyboardInterrupt; the
        network and `trainer.history` stay usable, and another fit with resume=True goes on. Raises ss.NumericError when
        the loss is no longer finite, ss.CheckpointError.
        """
        run = self._begin(
            X, y, epochs, batch_size, validation, sample_weight, bool(shuffle), bool(verbose), bool(resume)
        )
        self._call("on_fit_begin")
        with _Interrupts(self.plan.comm.size == 1) as interrupts:
            while self.epoch < run.last:
                self._call("on_epoch_begin", self.epoch + 1)
                logs = self._train(run, interrupts)
                if run.validation is not None:
                    measured = self.evaluate(run.validation[0], run.validation[1], batch_size, *run.validation[2:3])
                    logs |= {f"val_{name}": value for name, value in measured.items() if np.ndim(value) == 0}
                if not self._end_epoch(run, logs):
                    break
        self._call("on_fit_end")
        return self.history

    def _begin(
        self,
        X: Any,
        y: Any,
        epochs: Any,
        batch_size: Any,
        validation: Any,
        weight: Any,
        shuffle: bool,
        verbose: bool,
        resume: bool,
    ) -> _Fit:
        """Checks all arguments on all ranks, lays out the memory, and resumes."""
        ranks = self.plan.comm

        def arguments() -> tuple[int, int, Any, Any]:
            count, size = _compile.whole(epochs, "epochs", 0), _compile.whole(batch_size, "batch_size")
            if y is None:
                raise TypeError("y must be an array of numbers, not None")
            rows = self.plan._given(X, y, weight, ("X", "y"))
            if not len(rows):
                raise ValueError("X has no samples")
            if validation is not None and (not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3)):
                raise TypeError("validation must be (X, y) or (X, y, sample_weight)")
            if resume and self.checkpoint is None:
                raise ValueError("resume=True needs Trainer(..., checkpoint='file')")
            measured = None
            if validation is not None:
                of_samples = validation[2] if len(validation) == 3 else None
                measured = self.plan._given(validation[0], validation[1], of_samples, VALIDATION)
            return count, size, rows, measured

        epochs, batch_size, given, measured = comm.together(ranks, arguments)
        self._prepare(given, batch_size)
        agree: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "resume": resume,
            "epochs so far": self.epoch,
            "schedule": repr(self.schedule),
            "checkpoint": self.checkpoint is not None,
        }
        agree |= {label: [list(array.shape), str(array.dtype)] for array, label in given.labelled}
        agree["validation"] = measured and [[list(array.shape), label] for array, label in measured.labelled]
        _agree.agree(ranks, agree)
        # The layout of the memory needs one look at the data; nothing is trained by it.
        self.plan.run(X, y, batch_size=batch_size, first=0, steps=0, sample_weight=weight)
        if measured is not None:  # what does not fit is refused now, and not after the first epoch
            comm.together(ranks, lambda: self.plan._fit_shapes(measured))
            if not len(measured):
                raise ValueError("the X of validation has no samples")
        self._order = (len(given), batch_size, shuffle)
        last = epochs if resume else self.epoch + epochs
        steps = math.ceil(len(given) / batch_size)
        if self.schedule is not None:
            first = 0 if resume else self.epoch  # a schedule's time runs through all fits of a trainer
            comm.together(ranks, lambda: self._prepare_schedule(max(last, first + 1), steps))
        if resume:
            self._resume()
        else:
            self._epoch_step, self._epoch_sums = 0, []
        return _Fit(X, y, given, weight, validation, last, steps, shuffle, verbose)

    def _prepare_schedule(self, epochs: int, steps: int) -> None:
        assert self.schedule is not None
        total = epochs if self.schedule.unit == "epoch" else epochs * steps
        if isinstance(self.schedule, WarmUp):
            self.schedule.prepare(total, steps)
        else:
            self.schedule.prepare(total)

    def _prepare(self, given: Given, batch_size: int) -> None:
        """A plan for this batch size; another one replaces the plan, and keeps the optimizer's state."""
        old = self.plan
        shapes = [array.shape[1:] for array in given.inputs]
        if old.batch_size == batch_size and (old._inputs is None or [shape for _, shape in old._inputs] == shapes):
            return
        if old._model is None and old.batch_size is None:
            old.batch_size = batch_size
            old._check_ranks()
            return
        new = self._compile(batch_size)
        new._soft, new._by_name, new._integer = old._soft, old._by_name, set(old._integer)
        old.synchronize()
        state, kept, outer = _checkpoint.slots_of(old), _checkpoint.kept_of(old), _checkpoint.outer_of(old)
        names = [name for name, _ in old._inputs or []] or new._input_names(len(shapes), given.keys)
        new._build(list(zip(names, shapes, strict=True)), old._soft)
        _checkpoint.put_slots(new, state, old.model.step)
        _checkpoint.put_kept(new, [kept] * new.comm.size)
        _checkpoint.put_outer(new, outer)
        self.plan = new

    def _train(self, run: _Fit, interrupts: _Interrupts) -> dict[str, float]:
        """Trains the rest of an epoch and returns what it measured."""
        plan, size, ranks = self.plan, self.plan.batch_size or 1, self.plan.comm
        order = _core.permutation(len(run.given), self.seed, self.epoch) if run.shuffle else None
        # A chunk ends with all ranks: parameter servers, whose workers go at their own pace, take an epoch at a time.
        run.began, chunk, layout = time.perf_counter(), run.steps if plan._central else 1, plan._layout()
        with self._bar(run.steps, run.last, run.verbose) as bar:
            bar.update(self._epoch_step)
            while self._epoch_step < run.steps:
                count = min(chunk, run.steps - self._epoch_step)
                start = time.perf_counter()
                results = plan.run(
                    run.X,
                    run.y,
                    order,
                    batch_size=size,
                    first=self._epoch_step,
                    steps=count,
                    sample_weight=run.weight,
                    settings=self._settings(self._epoch_step, count, run.steps),
                    epoch=self.epoch,
                )
                seconds = time.perf_counter() - start
                self._check_finite(results, run.given, order)
                self._epoch_step += count
                self._epoch_sums += results.reshape(count, -1).tolist()
                bar.set_postfix_str(f"loss {layout.loss(results[-1]):.4f}", refresh=False)
                bar.update(count)
                if interrupts.seen:
                    self._save("interrupted")
                    raise KeyboardInterrupt
                chunk = max(1, min(int(count * CHUNK_SECONDS / max(seconds, 1e-9)), 4 * count))
                if ranks.size > 1:  # all ranks take chunks of one length
                    chunk = int.from_bytes(
                        ranks.broadcast(chunk.to_bytes(8, "little") if ranks.rank == 0 else None), "little"
                    )
        sums = np.array(self._epoch_sums).sum(axis=0).reshape(-1, 2)
        return {name: value for name, value in layout.values(sums).items() if np.ndim(value) == 0}

    def _settings(self, first: int, count: int, steps: int) -> list[list[dict[str, Any]]] | None:
        """The optimizer's settings in steps first, first + 1, ... of the epoch, for each group: what a schedule says."""
        if self.schedule is None:
            return None
        times = [self.epoch if self.schedule.unit == "epoch" else self.epoch * steps + first + k for k in range(count)]
        bases = self.optimizer.group_settings()
        return [[self.schedule.settings(base, time) for base in bases] for time in times]

    def _end_epoch(self, run: _Fit, logs: dict[str, float]) -> bool:
        """History, a line of text, the schedule, callbacks and the checkpoint. False: a callback wants to stop."""
        ranks = self.plan.comm
        self.plan.synchronize()
        if self.schedule is not None:
            found = self._settings(max(self._epoch_step - 1, 0), 1, run.steps)
            logs["lr"] = float(found[0][0]["lr"]) if found else math.nan
        logs["seconds"] = time.perf_counter() - run.began
        if ranks.size > 1:
            logs = comm.broadcast(logs, 0, ranks)
        self.epoch += 1
        self._epoch_step, self._epoch_sums = 0, []
        self.history.append({"epoch": self.epoch, **logs})
        if run.verbose and ranks.rank == 0:
            print(_line(self.epoch, run.last, logs), flush=True)
        if self.schedule is not None:
            self.schedule.after_epoch(logs)
        go_on = self._call("on_epoch_end", self.epoch, dict(logs))
        self._save("")
        return go_on

    def _check_finite(self, results: npt.NDArray[np.float64], given: Given, order: Any) -> None:
        layout = self.plan._layout()
        values = np.where(results[:, layout.columns, 1] == 0, 0, results[:, layout.columns, 0])
        bad = ~np.isfinite(values).all(axis=1)
        if not bad.any():
            return
        at = self._epoch_step + int(bad.argmax())
        value = layout.loss(results[int(bad.argmax())])
        size = self.plan.batch_size or 1
        batch = slice(at * size, (at + 1) * size)
        rows = np.arange(len(given))[batch] if order is None else order[batch]
        why = "a lower learning rate often helps"
        for array, name in given.labelled:
            with np.errstate(over="ignore"):
                numbers = np.asarray(array[rows], dtype=np.float32).reshape(len(rows), -1)
            wrong = ~np.isfinite(numbers).all(axis=1)
            if wrong.any():
                why = f"{name} holds a NaN or a number beyond float32 in row {int(rows[wrong].min())}"
        text = f"the loss is {value} in epoch {self.epoch + 1}, step {at + 1}: {why}"
        if self._kept:  # the same on all ranks, whose file systems may differ
            self._resume()
            text += f"; the network has its parameters of epoch {self.epoch} again, from {self.checkpoint}"
        raise _core.NumericError(text)

    # --- measuring

    def evaluate(self, X: Any, y: Any, batch_size: int | None = None, sample_weight: Any = None) -> dict[str, Any]:
        """{"loss": ..., metrics} over all samples in evaluation mode; every sample counts once at any number of ranks."""
        return self.plan.evaluate(X, y, batch_size, sample_weight)

    def predict(self, X: Any, batch_size: int | None = None) -> Any:
        """The network's outputs in evaluation mode, (samples, ...), on every rank; several in the tuple or dict that
        forward returns."""
        return self.plan.predict(X, batch_size)

    def averaged(self) -> Any:
        """A block in which the network has the averages of its parameters: `with trainer.averaged(): trainer.evaluate(...)`.
        Needs average=optim.EMA(...) or optim.SWA(...)."""
        return self.plan.averaged()

    # --- checkpoints

    def _save(self, note: str) -> None:
        if self.checkpoint is not None:
            assert self._order is not None
            _checkpoint.save(self.checkpoint, self, self._order, note)
            self._kept = True

    def _resume(self) -> None:
        assert self.checkpoint is not None and self._order is not None
        self._kept = _checkpoint.load(self.checkpoint, self, self._order) or self._kept

    # --- display and callbacks

    @contextmanager
    def _bar(self, steps: int, last: int, verbose: bool) -> Any:
        """A tqdm bar on rank 0; elsewhere, and where nobody looks, a stand-in."""
        if not verbose or self.plan.comm.rank != 0:
            yield _NoBar()
            return
        from tqdm.auto import tqdm

        hidden = not (sys.stderr.isatty() or "ipykernel" in sys.modules or os.environ.get("SAMESTEP_PROGRESS") == "1")
        with tqdm(
            total=steps,
            desc=f"epoch {self.epoch + 1}/{last}",
            unit="step",
            leave=False,
            disable=hidden,
            dynamic_ncols=True,
        ) as bar:
            yield bar

    def _call(self, event: str, *values: Any) -> bool:
        """Calls the callbacks on all ranks. False when any of them, on any rank, wants to stop."""

        def run() -> bool:
            go_on = True
            for callback in self.callbacks:
                function: Callable[..., Any] | None = getattr(callback, event, None)
                if function is None and event == "on_epoch_end" and callable(callback):
                    function = callback
                try:
                    go_on = (function is None or function(self, *values) is not False) and go_on
                except StopTraining:
                    go_on = False
            return go_on

        if not self.callbacks:
            return True
        go_on = comm.together(self.plan.comm, run)
        return all(data == b"1" for data in self.plan.comm.allgather(b"1" if go_on else b"0"))

    def __repr__(self) -> str:
        return f"Trainer({type(self.net).__name__}, {self.loss!r}, {self.optimizer!r}, epoch={self.epoch})"


def _callbacks(given: Any) -> list[Any]:
    """One callback, or several, as a list. Raises TypeError for what could never be called."""
    events = EVENTS

    def is_one(item: Any) -> bool:
        return callable(item) or any(hasattr(item, event) for event in events)

    callbacks = [] if given is None else [given] if is_one(given) else None
    if callbacks is None:
        if not isinstance(given, Iterable):
            raise TypeError(f"callbacks must be functions or objects with {', '.join(events)}, not {given!r}")
        callbacks = list(given)
    for item in callbacks:
        if not is_one(item):
            raise TypeError(f"callbacks must be functions or objects with {', '.join(events)}, not {item!r}")
    return callbacks


class _Fit:
    """What one call of fit works with."""

    def __init__(
        self,
        X: Any,
        y: Any,
        given: Given,
        weight: Any,
        validation: Any,
        last: int,
        steps: int,
        shuffle: bool,
        verbose: bool,
    ) -> None:
        self.X, self.y, self.given, self.weight, self.validation = X, y, given, weight, validation
        self.last, self.steps, self.shuffle, self.verbose = last, steps, shuffle, verbose
        self.began = 0.0


class _NoBar:
    def update(self, count: int) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        pass


class _Interrupts:
    """Notes a Ctrl-C instead of raising, so that the work in hand ends at a whole step; a second one raises at once.

    Off under several ranks, where the first Ctrl-C must end the job, and outside of the main thread, where Python
    allows no handlers.
    """

    def __init__(self, wanted: bool) -> None:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self.wanted = wanted and usual and threading.current_thread() is threading.main_thread()
        self.seen = False

    def _note(self, number: int, frame: Any) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True

    def __enter__(self) -> _Interrupts:
        if self.wanted:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *unused: Any) -> None:
        if self.wanted:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _line(epoch: int, last: int, logs: Mapping[str, float]) -> str:
    numbers = "  ".join(f"{name} {value:.4f}" for name, value in logs.items() if name != "seconds")
    return f"epoch {epoch:>{len(str(last))}}/{last}  {numbers}  {logs['seconds']:.1f} s"
