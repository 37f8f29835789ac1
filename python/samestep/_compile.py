"""`ss.compile`: a network, a loss and an optimizer become a plan whose step is one call into the core."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import _core, _libraries, _processors, _random, comm
from . import optim as optimizers
from ._agree import agree
from ._arrays import as_labels, as_rows, check_shape
from ._explain import Explanation
from ._trace import Tensor, Trace
from .nn import loss as losses
from .nn._stored import StepCounter, Stored
from .nn.module import Module

Array = npt.NDArray[Any]
METRICS = ("accuracy",)
MOST_THREADS = 1024  # the core's limit
LARGEST = 2**31 - 1  # whole numbers travel to the core as C ints
T = TypeVar("T")


def compile(
    net: Module,
    loss: Any = "cross_entropy",
    optimizer: Any = "sgd",
    batch_size: int | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    example: Any = None,
    metrics: Sequence[str] | str | None = (),
    seed: int = 0,
    lanes: int | None = None,
    lanes_at_once: int | None = None,
    threads: int | None = None,
    backend: str = "native",
    gradients: bool | None = None,
    comm: Any = None,
) -> Plan:
    """Prepares training: `plan.step(xb, yb)` runs forward, backward, exchange and update, and returns the loss.

    Under MPI every rank calls it alike; parameters, options and versions are compared, and rank 0's parameters are sent
    to all.

    Parameters: net: the network; loss: "cross_entropy", "mse" or a loss of samestep.nn; optimizer: an optimizer of
    samestep.optim or its name; batch_size: largest number of samples in the global batch (default: that of the first
    step); input_shape: shape of one sample, or example: an array of samples (without both the memory is laid out at the
    first step); metrics: "accuracy"; seed: of dropout; lanes: parts of the batch whose sums are joined in a fixed tree
    (default: from batch_size alone); lanes_at_once: a power of two, fewer lanes together need less memory; threads: of
    this rank; backend: "native" or "openblas"; gradients: keep whole gradients on every rank for `plan.gradients`
    (default: only where there is one rank); comm: an mpi4py communicator (default: all ranks).

    Errors: ValueError and TypeError that name the layer, the argument or, under MPI, what differs between ranks.
    """
    return Plan(
        net,
        loss,
        optimizer,
        batch_size,
        input_shape=input_shape,
        example=example,
        metrics=metrics,
        seed=seed,
        lanes=lanes,
        lanes_at_once=lanes_at_once,
        threads=threads,
        backend=backend,
        gradients=gradients,
        comm=comm,
    )


def default_threads() -> int:
    """SAMESTEP_THREADS; else under a launcher this rank's share of its host's processors; else all processors."""
    given = os.environ.get("SAMESTEP_THREADS", "")
    if given:
        if not given.isdecimal() or not 1 <= int(given) <= MOST_THREADS:
            raise ValueError(f"SAMESTEP_THREADS must be a whole number from 1 to {MOST_THREADS}, but is '{given}'")
        return int(given)
    local = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    if not _libraries.under_launcher() or not local.isdecimal():
        return _processors.usable()
    # A rank that is bound to cores of its own has no more than those; ranks that share all cores divide them.
    return max(1, min(_processors.usable(), (os.cpu_count() or 1) // int(local)))


def whole(value: Any, argument: str, least: int = 1) -> int:
    """A whole number of at least `least` that fits into 32 bits. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{argument} must be at least {least}, but is {value}")
    if value > LARGEST:
        raise ValueError(f"{argument} must be at most {LARGEST}, but is {value}")
    return int(value)


def check_target(array: Array, shape: tuple[int, ...], dtype: str, argument: str) -> None:
    """Raises TypeError or ValueError unless the targets fit."""
    if dtype == "int32":
        as_labels(array, argument)
    check_shape(array, shape, argument)


def quotient(pair: Any) -> float:
    """The value of a result: sum / denominator; nan where nothing counted."""
    return float(pair[0] / pair[1]) if pair[1] != 0 else math.nan


class Plan:
    """What `ss.compile` returns: a network's memory, lanes and order of work.

    `step` trains on one batch; `run` on many; `evaluate` and `predict` use the same parameters. While the plan lives,
    the network's parameters are views of its memory. Compiling the network again moves them; this plan then refuses to
    work.
    """

    def __init__(
        self,
        net: Module,
        loss: Any,
        optimizer: Any,
        batch_size: int | None,
        *,
        input_shape: Sequence[int] | None,
        example: Any,
        metrics: Sequence[str] | str | None,
        seed: int,
        lanes: int | None,
        lanes_at_once: int | None,
        threads: int | None,
        backend: str,
        gradients: bool | None,
        comm: Any,
    ) -> None:
        if not isinstance(net, Module):
            raise TypeError(f"net must be a samestep.nn.Module, not {type(net).__name__}")
        self.net = net
        self.loss = losses.resolve(loss)
        self.optimizer = optimizers.resolve(optimizer)
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics or ())
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"metric {metric!r} is not known; there is {', '.join(METRICS)}")
            if not isinstance(self.loss, losses.CrossEntropyLoss):
                raise ValueError(
                    f"metric '{metric}' needs class labels, which the loss {type(self.loss).__name__} does not take"
                )
        self.seed = _random.check_seed(seed)
        self.batch_size = None if batch_size is None else whole(batch_size, "batch_size")
        self._lanes = None if lanes is None else whole(lanes, "lanes")
        self.lanes_at_once = None if lanes_at_once is None else whole(lanes_at_once, "lanes_at_once")
        self.threads = default_threads() if threads is None else whole(threads, "threads")
        if backend not in ("native", "openblas"):
            raise ValueError(f"backend must be 'native' or 'openblas', not {backend!r}")
        self.backend = backend
        self.comm = _comm(comm)
        self._keep_gradients = self.comm.size == 1 if gradients is None else bool(gradients)
        self.results: dict[str, float] = {}
        """Loss and metrics of the last step."""
        self._model: _core.Model | None = None
        self._stored: dict[str, Stored] = {}
        self._hypers: dict[str, float] = {}
        self._sessions: dict[Any, tuple[_core.Plan, Trace]] = {}
        self._main: Any = None
        self._last: Any = None  # the session of the last training step
        self._soft = False
        self._profiling = False
        self._check_ranks()
        if example is not None:
            input_shape = as_rows(example, "example").shape[1:]
        if input_shape is not None:
            self.input_shape: tuple[int, ...] | None = tuple(whole(extent, "input_shape") for extent in input_shape)
            if self.batch_size is not None:
                self._build(self.input_shape, False)
        else:
            self.input_shape = None

    # --- layout

    @property
    def lanes(self) -> int:
        """V, the parts of the batch whose sums are joined in the fixed tree."""
        if self._lanes is not None:
            return self._lanes
        if self.batch_size is None:
            raise ValueError("batch_size is not known yet: give it to ss.compile, or take a step first")
        return _core.default_lanes(self.batch_size)

    @property
    def step_count(self) -> int:
        """Updates made so far."""
        return 0 if self._model is None else self._model.step

    def _check_ranks(self) -> None:
        if (self._lanes is not None or self.batch_size is not None) and self.comm.size > self.lanes:
            raise ValueError(
                f"{self.comm.size} ranks cannot share {self.lanes} lanes: set lanes={_power_above(self.comm.size)} or more, "
                "or start fewer ranks"
            )

    def rows(self, batch: int | None = None) -> tuple[int, int]:
        """(begin, end): the rows of a global batch of `batch` samples (default batch_size) that this rank works on."""
        size = self.batch_size if batch is None else whole(batch, "batch", 0)
        if size is None:
            raise ValueError("rows needs a batch size: give it here or to ss.compile")
        lanes, ranks, rank = self.lanes, self.comm.size, self.comm.rank
        first, last = (number * lanes // ranks for number in (rank, rank + 1))
        return first * size // lanes, last * size // lanes

    # --- building

    def _graph(self, training: bool, results: bool, weighted: bool) -> Trace:
        """Traces the network anew; equal networks give equal graphs."""
        assert self.input_shape is not None
        with Trace(self.net) as trace:
            output = self.net(trace.input("x", self.input_shape))
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"forward of {type(self.net).__name__} must return one tensor, not {type(output).__name__}"
                )
            trace.output_shape = output.sample_shape
            if not results:
                trace.graph.output(output.value)
                return trace
            shape, dtype = self.loss.target(output.sample_shape)
            if self._soft:
                shape, dtype = output.sample_shape, "float32"
            target = trace.input("y", shape, dtype)
            weight = trace.input("sample_weight", (), "float32") if weighted else None
            trace.graph.result(self.loss.emit(trace, output, target, weight).value, "loss", 1.0)
            for metric in self.metrics:
                assert isinstance(self.loss, losses.CrossEntropyLoss)
                inputs = [output, target, weight] if weighted else [output, target]
                trace.graph.result(trace.emit(metric, inputs, self.loss.class_axis(), metric).value, metric, 1.0)
            trace.target = (shape, dtype)
        return trace

    def _build(self, input_shape: tuple[int, ...], soft: bool) -> None:
        """Traces, compares with the other ranks, and lays out the model."""
        self.input_shape, self._soft = input_shape, soft
        self._check_ranks()
        trace = comm.together(self.comm, lambda: self._graph(True, True, False))
        self._agree(trace)

        def create() -> tuple[_core.Model, _core.Plan]:
            model = _core.Model(
                trace.graph,
                self.comm,
                optimizer=self.optimizer._core_name,
                hypers=self.optimizer.hypers(),
                threads=self.threads,
                pin=os.environ.get("SAMESTEP_PIN") == "1",
                backend=self.backend,
                isa=os.environ.get("SAMESTEP_ISA") or None,
                seed=self.seed,
            )
            if self.comm.rank == 0:
                for name, item in trace.stored.items():
                    model.set(name, item.data)
                for name, array in trace.constants.items():
                    model.set(name, array)
            return model, self._session_of(model, trace, self.batch_size or 1, True)

        model, plan = comm.together(self.comm, create)
        model.broadcast()
        self._model, self._stored, self._hypers = model, dict(trace.stored), self.optimizer.hypers()
        self._main = (True, True, False, self.batch_size)
        self._sessions, self._last = {self._main: (plan, trace)}, self._main
        for name, item in trace.stored.items():
            item._bind(model, name)
        for buffer in self.net.buffers():
            if isinstance(buffer, StepCounter):
                buffer._follow(model)
        self.net.__dict__["_input_shape"] = input_shape

    def _session_of(self, model: _core.Model, trace: Trace, batch: int, training: bool) -> _core.Plan:
        # An evaluation of a small batch keeps the lanes of training, so every rank has some.
        return _core.Plan(
            model,
            trace.graph,
            batch=batch,
            training=training,
            lanes=self.lanes,
            lanes_at_once=self.lanes_at_once if training else None,
            gradients=training and self._keep_gradients,
        )

    def _session(self, training: bool, results: bool, weighted: bool, batch: int) -> tuple[_core.Plan, Trace]:
        key = (training, results, weighted, batch)
        if key not in self._sessions:
            assert self._model is not None

            def create() -> tuple[_core.Plan, Trace]:
                assert self._model is not None
                trace = self._graph(training, results, weighted)
                session = self._session_of(self._model, trace, batch, training)
                if self._profiling:
                    session.profile(True)
                return session, trace

            self._sessions[key] = comm.together(self.comm, create)
        if training:
            self._last = key
        return self._sessions[key]

    def _agree(self, trace: Trace) -> None:
        """Compares with rank 0 what must be equal on all ranks; all ranks raise the same ValueError."""
        if self.comm.size == 1:
            return
        info = _core.build_info()
        mine = {
            "samestep version": info["version"],
            "version of the order of sums": info["order_version"],
            "batch_size": self.batch_size,
            "lanes": self.lanes,
            "lanes_at_once": self.lanes_at_once,
            "seed": self.seed,
            "backend": self.backend,
            "gradients": self._keep_gradients,
            "input shape": list(self.input_shape or ()),
            "loss": repr(self.loss),
            "metrics": list(self.metrics),
            "optimizer": repr(self.optimizer),
            "network": [
                f"{node['op']} in layer '{node['layer']}' ({', '.join(f'{name}={value:g}' for name, value in node['attrs'].items())})"
                for node in trace.graph.nodes()
            ],
            "parameters": {
                name: [list(item.shape), getattr(item, "requires_grad", None), item._source()]
                for name, item in trace.stored.items()
            },
        }
        agree(self.comm, mine)

    def _ready(self, x: Array, y: Array | None) -> _core.Model:
        """Lays out the memory at the first use, and checks that the parameters still belong to this plan."""
        if self._model is None:
            if self.batch_size is None:
                raise ValueError("batch_size is not known: give it to ss.compile")
            soft = False
            if y is not None and y.dtype.kind == "f" and isinstance(self.loss, losses.CrossEntropyLoss):
                soft = y.shape == x.shape[:1] + comm.together(self.comm, lambda: self._output_shape(x.shape[1:]))
            self._build(x.shape[1:] if self.input_shape is None else self.input_shape, soft)
        assert self._model is not None
        if any(item._model is not self._model for item in self._stored.values()):
            raise RuntimeError(
                "this plan no longer owns the parameters: the network has been compiled again since; use the new plan or trainer"
            )
        return self._model

    def _output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        with Trace(self.net) as trace:
            output = self.net(trace.input("x", input_shape))
        return output.sample_shape if isinstance(output, Tensor) else ()

    def _arrays(self, x: Any, y: Any, sample_weight: Any, names: tuple[str, str]) -> list[Array]:
        """The arrays of a step, checked; the memory is laid out when they are the first."""
        arrays = [as_rows(x, names[0])]
        if y is not None:
            arrays.append(as_rows(y, names[1]))
        if sample_weight is not None:
            arrays.append(as_rows(sample_weight, "sample_weight"))
            check_shape(arrays[-1], (), "sample_weight")
        for array, name in zip(arrays, [*names[: 1 if y is None else 2], "sample_weight"], strict=False):
            if len(array) != len(arrays[0]):
                raise ValueError(f"{name} has {len(array)} samples, {names[0]} has {len(arrays[0])}")
        return arrays

    def _checked(self, x: Any, y: Any, sample_weight: Any) -> list[Array]:
        """Whole data sets, checked on every rank."""
        names = ("X", "y")

        def check() -> list[Array]:
            arrays = self._arrays(x, y, sample_weight, names)
            if y is not None and not len(arrays[0]):
                raise ValueError("X has no samples")
            if self._model is not None:
                self._fit_shapes(arrays, self._sessions[self._main][1].target if y is not None else None, names)
            elif self.input_shape is not None:
                check_shape(arrays[0], self.input_shape, "X")
            return arrays

        return self._together(check)

    def _together(self, check: Callable[[], T]) -> T:
        """Runs checks of arguments that may fail on this rank alone: then every rank raises, and none waits."""
        if self.comm.size == 1 or self._model is None:
            return comm.together(self.comm, check)
        try:
            return check()
        except Exception:
            # A step without arrays fails, and the ranks that are about to step hear of it.
            with contextlib.suppress(Exception):
                self._sessions[self._last][0].step([])
            raise

    def _fit_shapes(
        self, arrays: list[Array], target: tuple[tuple[int, ...], str] | None, names: tuple[str, str]
    ) -> None:
        check_shape(arrays[0], self.input_shape or (), names[0])
        if target is not None:
            check_target(arrays[1], *target, names[1])

    def _update_hypers(self, model: _core.Model) -> None:
        hypers = self.optimizer.hypers()
        if hypers != self._hypers:
            for name, value in hypers.items():
                if value != self._hypers.get(name):
                    model.set_hyper(name, value)
            self._hypers = hypers

    # --- work

    def step(
        self, xb: Any, yb: Any, sample_weight: Any = None, *, local: bool = False, batch: int | None = None
    ) -> float:
        """Trains on one batch and returns its loss; `plan.results` also holds the metrics.

        xb: (samples, ...); yb: one target a sample; sample_weight: (samples). Every rank passes the global batch and
        reads its own rows; with local=True it passes only the rows `plan.rows(batch)`, where batch (default batch_size)
        is the size of the global batch. Raises TypeError and ValueError that name the argument, ss.CommError and
        ss.RankFailed.
        """
        names = ("xb", "yb")

        def arguments() -> tuple[list[Array], int]:
            arrays = self._arrays(xb, yb, sample_weight, names)
            if self.batch_size is None and not local:
                self.batch_size = whole(len(arrays[0]), "the number of samples in xb")
            total = len(arrays[0])
            if local:
                if batch is None and self.batch_size is None:
                    raise ValueError("local=True needs batch, the size of the global batch")
                total = self.batch_size or 0 if batch is None else whole(batch, "batch")
                self.batch_size = self.batch_size or total
                begin, end = self.rows(total)
                if len(arrays[0]) != end - begin:
                    raise ValueError(
                        f"local=True: xb must hold the {end - begin} rows {begin} to {end} of the batch of {total}, "
                        f"but has {len(arrays[0])}"
                    )
            if not 1 <= total <= (self.batch_size or 0):
                raise ValueError(f"xb has {total} samples; this plan takes 1 to batch_size={self.batch_size}")
            if self.input_shape is not None:
                check_shape(arrays[0], self.input_shape, "xb")
            if self._model is not None:
                check_target(arrays[1], *self._sessions[self._main][1].target, "yb")
            return arrays, total

        arrays, total = self._together(arguments)
        model = self._ready(arrays[0], arrays[1])
        session, trace = self._session(True, True, sample_weight is not None, self.batch_size or total)
        self._fit_shapes(arrays, trace.target, names)
        self._update_hypers(model)
        answer = session.step(arrays, local=local, batch=total)
        self.results = {name: quotient(pair) for name, pair in zip(session.results, answer, strict=True)}
        return self.results["loss"]

    def run(
        self,
        X: Any,
        y: Any,
        order: npt.ArrayLike | None = None,
        *,
        batch_size: int | None = None,
        first: int = 0,
        steps: int | None = None,
        sample_weight: Any = None,
    ) -> npt.NDArray[np.float64]:
        """Trains on the batches `first` to `first + steps` that are cut from `order` (row numbers of X; default: as
        they lie), all in one call.

        Returns (steps, results, 2): sums and denominators of loss and metrics (`plan.result_names`); a value is their
        quotient. The last batch of an order may be smaller. Signals are checked between steps.
        """
        arrays = self._checked(X, y, sample_weight)
        self.batch_size = self.batch_size or min(len(arrays[0]), batch_size or 64)
        model = self._ready(arrays[0], arrays[1])
        size = self.batch_size if batch_size is None else whole(batch_size, "batch_size")
        if size > self.batch_size:
            raise ValueError(f"batch_size={size} is larger than the plan's {self.batch_size}")
        rows = None if order is None else np.ascontiguousarray(order, dtype=np.int64)
        available = math.ceil((len(arrays[0]) if rows is None else len(rows)) / size)
        count = available - first if steps is None else whole(steps, "steps", 0)
        if first < 0 or first + count > available:
            raise ValueError(f"steps {first} to {first + count} are not among the {available} batches")
        session, trace = self._session(True, True, sample_weight is not None, self.batch_size)
        self._fit_shapes(arrays, trace.target, ("X", "y"))
        self._update_hypers(model)
        return session.run(arrays, rows, batch=size, first=first, steps=count)

    @property
    def result_names(self) -> list[str]:
        """Names of the results of a step, in order."""
        return ["loss", *self.metrics]

    def evaluate(self, X: Any, y: Any, batch_size: int | None = None, sample_weight: Any = None) -> dict[str, float]:
        """Loss and metrics over all samples in evaluation mode: {"loss": ..., ...}. Every sample counts once at any
        number of ranks."""
        arrays = self._checked(X, y, sample_weight)
        self.batch_size = self.batch_size or min(len(arrays[0]), batch_size or 64)
        self._ready(arrays[0], arrays[1])
        size = self.batch_size if batch_size is None else whole(batch_size, "batch_size")
        session, trace = self._session(False, True, sample_weight is not None, size)
        self._fit_shapes(arrays, trace.target, ("X", "y"))
        sums = session.run(arrays, None, batch=size, first=0, steps=math.ceil(len(arrays[0]) / size))
        return {name: quotient(pair) for name, pair in zip(self.result_names, sums.sum(axis=0), strict=True)}

    def predict(self, X: Any, batch_size: int | None = None) -> npt.NDArray[np.float32]:
        """The network's outputs for all samples in evaluation mode, (samples, ...), on every rank."""
        (x,) = self._checked(X, None, None)
        self.batch_size = self.batch_size or max(1, min(len(x), batch_size or 64))
        self._ready(x, None)
        size = self.batch_size if batch_size is None else whole(batch_size, "batch_size")
        session, trace = self._session(False, False, False, size)
        parts = []
        for begin in range(0, len(x), size):
            parts.append(session.forward([x[begin : begin + size]])[0])
        shape = trace.output_shape
        if self.comm.size == 1:
            return np.concatenate(parts) if parts else np.zeros((0, *shape), np.float32)
        mine = b"".join(np.ascontiguousarray(part, dtype=np.float32).tobytes() for part in parts)
        everyone = [np.frombuffer(data, np.float32).reshape(-1, *shape) for data in self.comm.allgather(mine)]
        result, at = np.empty((len(x), *shape), np.float32), [0] * self.comm.size
        for begin in range(0, len(x), size):
            batch = min(size, len(x) - begin)
            for rank in range(self.comm.size):
                first, last = (
                    number * self.lanes // self.comm.size * batch // self.lanes for number in (rank, rank + 1)
                )
                result[begin + first : begin + last] = everyone[rank][at[rank] : at[rank] + last - first]
                at[rank] += last - first
        return result

    # --- looking inside

    @property
    def model(self) -> _core.Model:
        """The core's model: arena, optimizer state, step. Raises RuntimeError before the memory is laid out."""
        if self._model is None:
            raise RuntimeError(
                "nothing is laid out yet: give input_shape and batch_size to ss.compile, or take a step first"
            )
        return self._model

    @property
    def gradients(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """The gradients of the last step by parameter name, read-only. Under several ranks compile with gradients=True."""
        return _Gradients(self)

    def explain(self, analyze: bool = False) -> Explanation:
        """The order of work: instructions with shapes, kernels, flops, bytes, memory offsets and exchange buckets.
        `print` it.

        analyze=True also measures: the times of the steps since it was first asked for (the first call switches
        measuring on, so take some steps between).
        """
        model = self.model
        session, _ = self._sessions[self._last]
        if analyze and not self._profiling:
            self._profiling = True
            session.profile(True)
        return Explanation(session.explain(), session.bytes(), model.bytes(), analyze)

    def __repr__(self) -> str:
        laid = f"{self.comm.size} ranks, {self.threads} threads, " + (
            f"{self.lanes} lanes" if self.batch_size else "not laid out yet"
        )
        return (
            f"Plan({type(self.net).__name__}, {self.loss!r}, {self.optimizer!r}, batch_size={self.batch_size}, {laid})"
        )


class _Gradients(Mapping[str, npt.NDArray[np.float32]]):
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def _names(self) -> list[str]:
        return [name for name, item in self._plan._stored.items() if getattr(item, "requires_grad", False)]

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        plan = self._plan
        if name not in self._names():
            raise KeyError(
                f"no trained parameter '{name}'; there are {', '.join(self._names()) or 'none before the first step'}"
            )
        if not plan._keep_gradients:
            raise ValueError("with several ranks each holds a part of the gradients: compile with gradients=True")
        return plan._sessions[plan._last][0].gradient(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


def _power_above(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _comm(value: Any) -> _core.Comm:
    return comm.resolve(value)
