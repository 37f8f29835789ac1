"""`ss.compile`: a network, a loss and an optimizer become a plan whose step is one call into the core."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import _core, _libraries, _processors, _random, comm
from . import optim as optimizers
from . import parallel as ways
from ._agree import agree
from ._arrays import as_labels, as_rows, check_shape
from ._explain import Explanation, resident
from ._heads import Head, Heads, Results
from ._structure import flatten, rebuild, tensors
from ._trace import NeedsInteger, Tensor, Trace
from .augment import Mix
from .nn import loss as losses
from .nn._stored import StepCounter, Stored
from .nn.module import Module

Array = npt.NDArray[Any]
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
    precision: str = "fp32",
    loss_weights: Any = None,
    augment: Any = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    average: Any = None,
    gradients: bool | None = None,
    parallel: Any = None,
    comm: Any = None,
) -> Plan:
    """Prepares training: `plan.step(xb, yb)` runs forward, backward, exchange and update, and returns the loss.

    Under MPI every rank calls it alike; parameters, options and versions are compared, and rank 0's parameters are sent
    to all.

    Parameters: net: the network; loss: "cross_entropy", "mse" or a loss of samestep.nn, or for several outputs a
    dict or tuple of them (None: an output without a loss); optimizer: an optimizer of samestep.optim or its name;
    batch_size: largest number of samples in the global batch (default: that of the first
    step); input_shape: shape of one sample (a tuple or dict of shapes for several inputs), or example: an array
    of samples (without both the memory is laid out at the first step); metrics: names or objects of samestep.metrics;
    seed: of dropout; lanes: parts of the batch whose sums are joined in a fixed tree
    (default: from batch_size alone); lanes_at_once: a power of two, fewer lanes together need less memory; threads: of
    this rank; backend: "native" or "openblas"; precision: "fp32", or "bf16": operands of products are rounded to bfloat16, while sums,
    parameters, gradients and optimizer state stay float32; loss_weights: of several losses;
    augment: MixUp or CutMix of samestep.augment;
    clip_norm: greatest norm of all gradients together (infinity: only measured, `plan.gradient_norm`); clip_value:
    greatest size of an element of a gradient; both as torch.nn.utils does, the elements first; average: an average of the
    weights, samestep.optim.EMA or SWA (`plan.averaged()`);
    gradients: keep whole gradients on every rank for `plan.gradients`
    (default: only where there is one rank); parallel: how ranks work together, `ss.Parallel(...)`;
    comm: an mpi4py communicator (default: all ranks).

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
        precision=precision,
        loss_weights=loss_weights,
        augment=augment,
        clip_norm=clip_norm,
        clip_value=clip_value,
        average=average,
        gradients=gradients,
        parallel=parallel,
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


def as_whole(array: Array, argument: str) -> None:
    """Raises TypeError for numbers that cannot be indices."""
    if array.dtype.kind == "f":
        raise TypeError(f"{argument} is used as indices and must hold whole numbers, but has dtype {array.dtype}")


class Given:
    """The arrays of a call: inputs, targets, weights of samples, each with its name for messages."""

    def __init__(
        self, labelled: list[tuple[Array, str]], inputs: int, targets: int, keys: tuple[str, ...] | None
    ) -> None:
        self.labelled, self.keys = labelled, keys
        self._inputs, self._targets = inputs, targets

    @property
    def arrays(self) -> list[Array]:
        return [array for array, _ in self.labelled]

    @property
    def inputs(self) -> list[Array]:
        return self.arrays[: self._inputs]

    @property
    def targets(self) -> list[Array]:
        return self.arrays[self._inputs : self._inputs + self._targets]

    def reorder(self, names: list[str]) -> None:
        """Inputs that were given by name, in the order of the network."""
        assert self.keys is not None
        places = [self.keys.index(name) for name in names]
        self.labelled = [self.labelled[place] for place in places] + self.labelled[self._inputs :]
        self.keys = tuple(names)

    def __len__(self) -> int:
        return len(self.labelled[0][0])


def _several(value: Any, argument: str, heads: Heads | None = None) -> list[tuple[Any, str]]:
    """One array, or those of a dict or of a tuple of arrays, each with a name for messages. A dict of targets goes by the
    heads' names."""
    if isinstance(value, Mapping):
        if heads is None:
            return [(part, f"{argument}['{key}']") for key, part in value.items()]
        names = [head.name for head in heads.items]
        if not heads.named or sorted(map(str, value)) != sorted(names):
            raise ValueError(
                f"{argument} is a dict of {', '.join(map(str, value))}; losses are {', '.join(names) or 'not named'}"
            )
        return [pair for name in names for pair in _several(value[name], f"{argument}['{name}']")]
    if isinstance(value, tuple) and value and all(hasattr(part, "shape") or isinstance(part, tuple) for part in value):
        return [pair for k, part in enumerate(value) for pair in _several(part, f"{argument}[{k}]")]
    if heads is not None and heads.several and isinstance(value, list) and len(value) == len(heads.items):
        return [pair for k, part in enumerate(value) for pair in _several(part, f"{argument}[{k}]")]
    return [(value, argument)]


def _shape(extents: Any) -> tuple[int, ...]:
    return tuple(whole(extent, "input_shape") for extent in extents)


def _hyper_table(settings: Sequence[Sequence[Mapping[str, Any]]], steps: int) -> dict[str, npt.NDArray[np.float64]]:
    """Core name -> (steps, groups)."""
    if len(settings) != steps:
        raise ValueError(f"settings must hold one entry for each of the {steps} steps, but has {len(settings)}")
    table: dict[str, npt.NDArray[np.float64]] = {}
    for step, groups in enumerate(settings):
        for group, given in enumerate(groups):
            for name, value in given.items():
                pairs = [("beta1", value[0]), ("beta2", value[1])] if name == "betas" else [(name, value)]
                for core_name, number in pairs:
                    table.setdefault(core_name, np.zeros((steps, len(groups))))[step, group] = float(number)
    return table


def _results(trace: Trace) -> Results:
    assert trace.results is not None
    return trace.results


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
        precision: str,
        loss_weights: Any,
        augment: Any,
        clip_norm: float | None,
        clip_value: float | None,
        average: Any,
        gradients: bool | None,
        parallel: Any,
        comm: Any,
    ) -> None:
        if not isinstance(net, Module):
            raise TypeError(f"net must be a samestep.nn.Module, not {type(net).__name__}")
        self.net = net
        self.heads = Heads(loss, loss_weights, metrics)
        self.loss = self.heads.loss
        self.optimizer = optimizers.resolve(optimizer)
        self.average = optimizers.resolve_average(average)
        self.clip_norm, self.clip_value = _limit(clip_norm, "clip_norm"), _limit(clip_value, "clip_value")
        self.metrics = tuple(metric.name for metric in self.heads.metrics)
        self.seed = _random.check_seed(seed)
        self.batch_size = None if batch_size is None else whole(batch_size, "batch_size")
        self._lanes = None if lanes is None else whole(lanes, "lanes")
        self.lanes_at_once = None if lanes_at_once is None else whole(lanes_at_once, "lanes_at_once")
        self.threads = default_threads() if threads is None else whole(threads, "threads")
        if backend not in ("native", "openblas"):
            raise ValueError(f"backend must be 'native' or 'openblas', not {backend!r}")
        self.backend = backend
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be 'fp32' or 'bf16', not {precision!r}")
        self.precision = precision
        if augment is not None and not isinstance(augment, Mix):
            raise TypeError(f"augment must be an object of samestep.augment, not {augment!r}")
        self.augment: Mix | None = augment
        self.comm = _comm(comm)
        self.parallel = ways.resolve(parallel)
        self._local, self._central = self.parallel.local, self.parallel.central
        if self._central and self.comm.size > 1 and self._central.servers >= self.comm.size:
            raise ValueError(
                f"{self._central!r}: {self.comm.size} ranks cannot all be servers: start more ranks, or have fewer servers"
            )
        if 1 < self.comm.size < self.parallel.owners:
            raise ValueError(f"{self.parallel.exchange!r}: there are only {self.comm.size} ranks")
        if self.comm.size == 1:
            self._central = None  # a single rank has nobody to ask
        refused = {
            "average": average is not None and bool(self._local or self._central),
            "clip_norm": clip_norm is not None and bool(self._central),
            "augment": augment is not None and bool(self._central),
        }
        for argument, wrong in refused.items():
            if wrong:
                exchange = type(self.parallel.exchange).__name__
                raise ValueError(f"{argument} and {exchange}, where no rank sees every step, do not go together")
        # The ranks that take a step together, and the number of those that share the samples of a batch.
        self._work = _alone() if self._local or self._central else self.comm
        self._workers = self.comm.size - (self._central.servers if self._central else 0)
        self._changed = False  # parameters lie with the servers that this rank has not heard of
        self._since, self._taken = 0, 0  # steps of local training since the last meeting, and in all
        if self.parallel.accumulate > 1 and self.lanes_at_once is not None:
            raise ValueError("give lanes_at_once or Parallel(accumulate=...), not both: both cut a batch into parts")
        self._keep_gradients = self._work.size == 1 if gradients is None else bool(gradients)
        self.results: dict[str, Any] = {}
        """Loss and metrics of the last step."""
        self._model: _core.Model | None = None
        self._stored: dict[str, Stored] = {}
        self._hypers: list[dict[str, float]] = []  # of the optimizer and its groups, as the core has them
        self._clip: tuple[float, float] = (0.0, 0.0)
        self._sent: tuple[Any, ...] = ()  # the state of the optimizer's settings that the core has
        self._fitting: tuple[Any, ...] = ()  # types and shapes of arrays that have passed the checks of `step`
        self._swapped = False  # the averages stand in the place of the weights
        self._sessions: dict[Any, tuple[_core.Plan, Trace]] = {}
        self._main: Any = None
        self._last: Any = None  # the session of the last training step
        self._soft: frozenset[str] = frozenset()
        self._like: list[Array] = []  # no samples, in the shapes of the targets that were seen first
        self._integer: set[str] = set()  # inputs that are used as indices
        self._inputs: list[tuple[str, tuple[int, ...]]] | None = None  # names and shapes of one sample
        self._by_name = False  # inputs are given to forward by name
        self._profiling = False
        self._resident = 0  # bytes of the process in RAM before the memory was laid out
        self._check_ranks()
        if example is not None:
            given = self._given(example, None, None, ("example", ""))
            names = self._input_names(len(given.inputs), given.keys)
            self._inputs = [(name, array.shape[1:]) for name, array in zip(names, given.inputs, strict=True)]
            self._by_name = given.keys is not None
        elif input_shape is not None:
            self._inputs, self._by_name = self._shapes_given(input_shape)
        if self._inputs is not None and self.batch_size is not None:
            self._build(self._inputs, frozenset())

    def _shapes_given(self, shape: Any) -> tuple[list[tuple[str, tuple[int, ...]]], bool]:
        """The argument input_shape: the shape of one sample, or those of several inputs in a tuple or dict."""
        if isinstance(shape, Mapping):
            return [(str(name), _shape(extents)) for name, extents in shape.items()], True
        parts = list(shape) if isinstance(shape, Iterable) else [shape]
        several = bool(parts) and all(isinstance(part, (tuple, list)) for part in parts)
        shapes = [_shape(part) for part in parts] if several else [_shape(parts)]
        return list(zip(self._input_names(len(shapes), None), shapes, strict=True)), False

    @property
    def input_shape(self) -> Any:
        """Shape of one sample, without the batch; a dict of them where the network has several inputs; None before the
        first data."""
        if self._inputs is None:
            return None
        return dict(self._inputs) if len(self._inputs) > 1 or self._by_name else self._inputs[0][1]

    # --- layout

    @property
    def lanes(self) -> int:
        """V, the parts of the batch whose sums are joined in the fixed tree."""
        if self._lanes is not None:
            return self._lanes
        if self.batch_size is None:
            raise ValueError("batch_size is not known yet: give it to ss.compile, or take a step first")
        return max(_core.default_lanes(self._session_batch(self.batch_size)), _power_above(self.parallel.accumulate))

    def _session_batch(self, batch: int) -> int:
        """Of a global batch, what the ranks that work together take at most: all of it, or a rank's part in local training."""
        return -(-batch // self._workers) if self._alone else batch

    @property
    def _alone(self) -> bool:
        """Whether each worker takes steps by itself, on a part of the batch."""
        return bool(self._local or self._central)

    @property
    def _serves(self) -> bool:
        return self._central is not None and self.comm.rank >= self._workers

    @property
    def _at_once(self) -> int | None:
        """Lanes that are worked on together: as given, or so few that a batch is cut into `accumulate` parts."""
        if self.parallel.accumulate == 1:
            return self.lanes_at_once
        most = max(1, self.lanes // self._work.size // self.parallel.accumulate)
        return 1 << most.bit_length() - 1

    @property
    def rank_seconds(self) -> list[float]:
        """For how long each rank has worked in a training step, on average, without its waits for the others; empty on
        one rank, before the second step, and where ranks train by themselves. Every rank knows it of all."""
        if self._last not in self._sessions or self._alone:
            return []
        seconds: list[float] = self._sessions[self._last][0].explain()["rank_seconds"]
        return seconds

    @property
    def step_count(self) -> int:
        """Updates made so far."""
        return 0 if self._model is None else self._model.step

    def _check_ranks(self) -> None:
        if self._alone and self.batch_size is not None and self.batch_size < self._workers:
            raise ValueError(
                f"{type(self.parallel.exchange).__name__}: a batch of {self.batch_size} has no sample for some of the "
                f"{self._workers} ranks: give a larger batch_size, or start fewer ranks"
            )
        if (self._lanes is not None or self.batch_size is not None) and self._work.size > self.lanes:
            raise ValueError(
                f"{self.comm.size} ranks cannot share {self.lanes} lanes: set lanes={_power_above(self.comm.size)} or more, "
                "or start fewer ranks"
            )

    def rows(self, batch: int | None = None) -> tuple[int, int]:
        """(begin, end): the rows of a global batch of `batch` samples (default batch_size) that this rank works on."""
        size = self.batch_size if batch is None else whole(batch, "batch", 0)
        if size is None:
            raise ValueError("rows needs a batch size: give it here or to ss.compile")
        ranks, rank = self._workers, self.comm.rank
        if self._serves:
            return size, size
        if self._alone:
            return rank * size // ranks, (rank + 1) * size // ranks
        lanes = self.lanes
        first, last = (number * lanes // ranks for number in (rank, rank + 1))
        return first * size // lanes, last * size // lanes

    # --- building

    def _graph(self, training: bool, results: bool, weighted: bool) -> Trace:
        """Traces the network anew; equal networks give equal graphs."""
        while True:
            try:
                return self._traced(training, results, weighted)
            except NeedsInteger as need:  # an input is used as indices: traced again as whole numbers
                if need.name in self._integer:
                    raise ValueError(f"input '{need.name}' is used both as numbers and as indices") from None
                self._integer.add(need.name)

    def _traced(self, training: bool, results: bool, weighted: bool) -> Trace:
        assert self._inputs is not None
        with Trace(self.net) as trace:
            given = [
                trace.input(name, shape, "int32" if name in self._integer else "float32")
                for name, shape in self._inputs
            ]
            whole_inputs = {
                item.value for item, (name, _) in zip(given, self._inputs, strict=True) if name in self._integer
            }
            if self._by_name:
                output = self.net(**{name: item for (name, _), item in zip(self._inputs, given, strict=True)})
            else:
                output = self.net(*given)
            outputs = tensors(
                output, lambda what: TypeError(f"forward of {type(self.net).__name__} must return tensors; {what}")
            )
            if not outputs:
                raise TypeError(
                    f"forward of {type(self.net).__name__} must return a tensor, not {type(output).__name__}"
                )
            trace.output = rebuild(output, [None if leaf is None else 0 for _, leaf in flatten(output)])
            trace.output_shapes = [leaf.sample_shape for _, leaf in outputs]
            if not results:
                for _, leaf in outputs:
                    trace.graph.output(leaf.value)
                return trace
            trace.targets, trace.results = [], Results(self.heads)
            mixing = self.augment if training else None
            trace.roles = ["input" if item.value not in whole_inputs else "keep" for item in given]
            compared: list[tuple[Head, Tensor, list[Any]]] = []
            extra: list[tuple[int, int, tuple[int, ...]]] = []
            for head in self.heads.items:
                leaf = self.heads.output_of(head, outputs)
                wanted = head.targets(leaf.sample_shape, head.name in self._soft, self._like[len(trace.targets) :])
                target = []
                for name, shape, dtype in wanted:
                    label = ".".join(part for part in (head.name, name) if part)
                    trace.targets.append((label, shape, dtype))
                    mixed = mixing is not None and self._mixed(head, leaf.sample_shape, shape, dtype)
                    if mixed and dtype == "int32":
                        target.append(trace.input(f"y.{label}" if label else "y", leaf.sample_shape))
                        trace.roles.append("one_hot")
                        if head.metrics:  # measured on the label of the sample itself
                            extra.append((len(trace.targets) - 1, len(compared), shape))
                    else:
                        target.append(trace.input(f"y.{label}" if label else "y", shape, dtype))
                        trace.roles.append("target" if mixed else "keep")
                compared.append((head, leaf, target))
            own = {}
            for source, place, shape in extra:
                own[place] = [trace.input(f"label.{source}", shape, "int32")]
                trace.repeated.append(source)
                trace.roles.append("keep")
            weight = trace.input("sample_weight", (), "float32") if weighted else None
            trace.roles += ["keep"] * weighted
            for place, (head, leaf, target) in enumerate(compared):
                trace.results.emit(trace, head, leaf, target, weight, own.get(place, target))
        return trace

    def _mixed(self, head: Head, output: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> bool:
        """Whether a target is mixed. Raises ValueError where it cannot be."""
        if dtype != "int32":
            return True
        if not isinstance(head.loss, losses.CrossEntropyLoss) or shape or len(output) != 1:
            raise ValueError(
                f"{self.augment!r} mixes floats, and class labels, one a sample, of nn.CrossEntropyLoss; "
                f"the targets of {head.loss!r} are neither"
            )
        return True

    def _build(self, inputs: list[tuple[str, tuple[int, ...]]], soft: frozenset[str]) -> None:
        """Traces, compares with the other ranks, and lays out the model."""
        self._inputs, self._soft, self._resident = inputs, soft, resident()
        self._check_ranks()
        trace = comm.together(self.comm, lambda: self._graph(True, True, False))
        trained = {
            name: item for name, item in trace.stored.items() if getattr(item, "requires_grad", None) is not None
        }
        members = comm.together(self.comm, lambda: self.optimizer._assign(trained))
        self._agree(trace, members)
        hypers, clip = self.optimizer.all_hypers(), (self.clip_norm or 0.0, self.clip_value or 0.0)
        optimizer = self.optimizer
        lookahead = (optimizer.k, optimizer.alpha) if isinstance(optimizer, optimizers.Lookahead) else None

        def create() -> tuple[_core.Model, _core.Plan]:
            compression = self.parallel.compression
            sizes = {
                name: math.prod(item.shape) for name, item in trained.items() if getattr(item, "requires_grad", False)
            }
            model = _core.Model(
                trace.graph,
                self._work,
                optimizer=self.optimizer._core_name,
                hypers=hypers[0],
                groups=list(zip(members, hypers[1:], strict=True)),
                clip_norm=clip[0],
                clip_value=clip[1],
                lookahead=lookahead,
                average=None if self.average is None else self.average._core(),
                threads=self.threads,
                pin=os.environ.get("SAMESTEP_PIN") == "1",
                backend=self.backend,
                isa=os.environ.get("SAMESTEP_ISA") or None,
                seed=self.seed,
                bf16=self.precision == "bf16",
                compression=None if compression is None else compression._core(sizes),
                owners=self.parallel.owners if self.comm.size > 1 else 0,
            )
            if self.comm.rank == 0:
                for name, item in trace.stored.items():
                    model.set(name, item.data)
                for name, array in trace.constants.items():
                    model.set(name, array)
            if self._local:
                outer = self._local.outer
                model.meetings(
                    self.comm, None if outer is None else (outer.lr, outer.momentum), self._local.ranks_per_host or 0
                )
            if self._central:
                bound = self._central.staleness if self._central.mode == "bounded" else -1
                packing = self._central.compression
                model.central(
                    self.comm, self._central.servers, bound, None if packing is None else packing._core(sizes)
                )
            return model, self._session_of(model, trace, self.batch_size or 1, True)

        model, plan = comm.together(self.comm, create)
        if self._alone:
            if self._local:
                model.begin_meetings()
            else:
                model.central_begin()
            model.seed = (self.seed + self.comm.rank * 0x9E3779B97F4A7C15) % 2**64  # ranks drop other units
        else:
            model.broadcast()
        self._model, self._stored, self._hypers, self._clip = model, dict(trace.stored), hypers, clip
        self._main = (True, True, False, self.batch_size)
        self._sessions, self._last = {self._main: (plan, trace)}, self._main
        for name, item in trace.stored.items():
            item._bind(model, name)
        for buffer in self.net.buffers():
            if isinstance(buffer, StepCounter):
                buffer._follow(model)
        self.net.__dict__["_input_shape"] = self.input_shape

    def _session_of(self, model: _core.Model, trace: Trace, batch: int, training: bool) -> _core.Plan:
        # An evaluation of a small batch keeps the lanes of training, so every rank has some.
        session = _core.Plan(
            model,
            trace.graph,
            batch=self._session_batch(batch) if training else batch,
            training=training,
            lanes=self.lanes,
            lanes_at_once=self._at_once if training else None,
            gradients=training and self._keep_gradients,
            functions=trace.functions or None,
        )
        if trace.results is not None:
            trace.results.place(session.results, session.result_lengths)
        return session

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

    def _agree(self, trace: Trace, members: list[list[str]]) -> None:
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
            "inputs": [[name, list(shape)] for name, shape in self._inputs or ()],
            "precision": self.precision,
            "augment": repr(self.augment),
            "loss": [f"{head.label('loss')} {head.loss!r} * {head.weight:g}" for head in self.heads.items],
            "metrics": list(self.metrics),
            "optimizer": repr(self.optimizer),
            "groups of parameters": members,
            "clip_norm": self.clip_norm and repr(self.clip_norm),
            "clip_value": self.clip_value and repr(self.clip_value),
            "average": repr(self.average),
            "parallel": repr(self.parallel),
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

    def _ready(self, given: Given) -> _core.Model:
        """Lays out the memory at the first use, and checks that the parameters still belong to this plan."""
        if self._model is None:
            if self.batch_size is None:
                raise ValueError("batch_size is not known: give it to ss.compile")
            inputs = self._inputs
            if inputs is None:
                names = self._input_names(len(given.inputs), given.keys)
                inputs = [(name, array.shape[1:]) for name, array in zip(names, given.inputs, strict=True)]
                self._by_name = given.keys is not None
            self._inputs = inputs
            self._like = [array[:0] for array in given.targets]
            soft = comm.together(self.comm, lambda: self._soft_heads(given.targets))
            self._build(inputs, soft)
        assert self._model is not None
        if any(item._model is not self._model for item in self._stored.values()):
            raise RuntimeError(
                "this plan no longer owns the parameters: the network has been compiled again since; use the new plan or trainer"
            )
        return self._model

    def _input_names(self, count: int, keys: tuple[str, ...] | None) -> list[str]:
        """Names of the network's inputs: "x" for a single one, else those of forward's arguments."""
        if keys is not None:
            return list(keys)
        if count == 1:
            return ["x"]
        try:
            parameters = [
                item.name
                for item in inspect.signature(self.net.forward).parameters.values()
                if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
            ]
        except (TypeError, ValueError):
            parameters = []
        return [parameters[k] if k < len(parameters) else f"x{k}" for k in range(count)]

    def _soft_heads(self, targets: list[Array]) -> frozenset[str]:
        """Heads of cross entropy whose targets are probabilities: floats of the shape of the scores."""
        soft = set()
        for head, target in zip(self.heads.items, targets, strict=False):
            if (
                target.dtype.kind == "f"
                and isinstance(head.loss, losses.CrossEntropyLoss)
                and len(targets) == len(self.heads.items)
            ):
                with_labels = self._output_shape(head)
                if target.shape[1:] == with_labels:
                    soft.add(head.name)
        return frozenset(soft)

    def _output_shape(self, head: Head) -> tuple[int, ...]:
        """Of one sample, of the output that belongs to a head."""
        assert self._inputs is not None
        while True:
            try:
                with Trace(self.net) as trace:
                    given = {
                        name: trace.input(name, shape, "int32" if name in self._integer else "float32")
                        for name, shape in self._inputs
                    }
                    output = self.net(**given) if self._by_name else self.net(*given.values())
                    return self.heads.output_of(head, tensors(output, TypeError)).sample_shape
            except NeedsInteger as need:
                self._integer.add(need.name)

    def _given(self, x: Any, y: Any, sample_weight: Any, names: tuple[str, str]) -> Given:
        """The arrays of a call, with their names for messages, checked against each other."""
        keys = tuple(map(str, x)) if isinstance(x, Mapping) else None
        inputs = _several(x, names[0])
        targets = [] if y is None else _several(y, names[1], self.heads)
        arrays = [(as_rows(value, label), label) for value, label in [*inputs, *targets]]
        if sample_weight is not None:
            arrays.append((as_rows(sample_weight, "sample_weight"), "sample_weight"))
            check_shape(arrays[-1][0], (), "sample_weight")
        if not arrays:
            raise ValueError(f"{names[0]} holds no array")
        for array, label in arrays:
            if len(array) != len(arrays[0][0]):
                raise ValueError(f"{label} has {len(array)} samples, {arrays[0][1]} has {len(arrays[0][0])}")
        return Given(arrays, len(inputs), len(targets), keys)

    def _checked(self, x: Any, y: Any, sample_weight: Any) -> Given:
        """Whole data sets, checked on every rank."""

        def check() -> Given:
            given = self._given(x, y, sample_weight, ("X", "y"))
            if y is not None and not len(given):
                raise ValueError("X has no samples")
            self._fit_shapes(given)
            return given

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

    def _fit_shapes(self, given: Given, trace: Trace | None = None) -> None:
        """Compares arrays with what the network was laid out for. trace: of the session that will run."""
        if self._inputs is None:
            return
        names = [name for name, _ in self._inputs]
        if given.keys is not None and sorted(given.keys) != sorted(names):
            raise ValueError(f"the network's inputs are {', '.join(names)}, but {', '.join(given.keys)} were given")
        if len(given.inputs) != len(names):
            raise ValueError(f"the network takes {len(names)} inputs, but {len(given.inputs)} were given")
        if given.keys is not None and list(given.keys) != names:
            given.reorder(names)
        for (array, label), (name, shape) in zip(given.labelled, self._inputs, strict=False):
            check_shape(array, shape, label)
            if name in self._integer:
                as_whole(array, label)
        if self._model is None or not given.targets:
            return
        targets = (trace or self._sessions[self._main][1]).targets
        if len(targets) != len(given.targets):
            raise ValueError(f"the losses take {len(targets)} targets, but {len(given.targets)} were given")
        for (array, label), (_, shape, dtype) in zip(given.labelled[len(names) :], targets, strict=False):
            check_target(array, shape, dtype, label)

    def _update_hypers(self, model: _core.Model) -> None:
        settings = (self.optimizer, self.optimizer._changes, self.clip_norm, self.clip_value)
        if settings == self._sent:
            return
        hypers = self.optimizer.all_hypers()
        if hypers != self._hypers:
            for group, values in enumerate(hypers):
                known = self._hypers[group] if self._hypers else {}
                for name, value in values.items():
                    if value != known.get(name):
                        model.set_hyper(name, value, group)
            self._hypers = hypers
        clip = (_limit(self.clip_norm, "clip_norm") or 0.0, _limit(self.clip_value, "clip_value") or 0.0)
        if clip != self._clip:
            model.set_clip(*clip)
            self._clip = clip
        self._sent = settings

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

        def arguments() -> tuple[Given, int]:
            given = self._given(xb, yb, sample_weight, ("xb", "yb"))
            if self.batch_size is None and not local:
                self.batch_size = whole(len(given), "the number of samples in xb")
            total = len(given)
            if local:
                if batch is None and self.batch_size is None:
                    raise ValueError("local=True needs batch, the size of the global batch")
                total = self.batch_size or 0 if batch is None else whole(batch, "batch")
                self.batch_size = self.batch_size or total
                begin, end = self.rows(total)
                if len(given) != end - begin:
                    raise ValueError(
                        f"local=True: xb must hold the {end - begin} rows {begin} to {end} of the batch of {total}, "
                        f"but has {len(given)}"
                    )
            if not 1 <= total <= (self.batch_size or 0):
                raise ValueError(f"xb has {total} samples; this plan takes 1 to batch_size={self.batch_size}")
            if yb is None:
                raise TypeError("yb must be an array of numbers, not None")
            self._fit_shapes(given)
            return given, total

        kinds: tuple[Any, ...] = ()
        if type(xb) is np.ndarray and type(yb) is np.ndarray and sample_weight is None and not local and batch is None:
            if xb.flags.c_contiguous and yb.flags.c_contiguous and xb.flags.aligned and yb.flags.aligned:
                kinds = (xb.dtype, xb.shape, yb.dtype, yb.shape, self.batch_size)
        known = bool(kinds) and kinds == self._fitting  # every check looks at types and shapes alone
        if known:
            total = len(xb)
            given = Given([(xb, "xb"), (yb, "yb")], 1, 1, None)
        else:
            given, total = self._together(arguments)
        model = self._ready(given)
        session, trace = self._session(True, True, sample_weight is not None, self.batch_size or total)
        if not known:
            self._fit_shapes(given, trace)
            if kinds and given.arrays[0] is xb and given.arrays[1] is yb:
                self._fitting = (*kinds[:-1], self.batch_size)
        self._update_hypers(model)
        if self._alone:
            return self._step_alone(session, trace, given, total, local)
        if self.augment is None:
            answer = session.step(given.arrays, local=local, batch=total)
        elif local:
            raise ValueError(f"local=True and {self.augment!r} do not go together: partners may lie on other ranks")
        else:
            answer = session.run(
                self._fed(given, trace), None, batch=total, first=0, steps=1, mix=self._mix(trace, self.step_count)
            )[0]
        self.results = _results(trace).values(answer)
        return float(self.results["loss"])

    def _step_alone(self, session: _core.Plan, trace: Trace, given: Given, total: int, local: bool) -> float:
        """A step by this rank alone, on its rows."""
        begin, end = self.rows(total)
        if self._central:
            self._changed = True
            if self._serves:
                self.model.serve(
                    sum(k * total // self._workers < (k + 1) * total // self._workers for k in range(self._workers))
                )
                return math.nan
        arrays = [array if local else array[begin:end] for array in self._fed(given, trace)]
        if end > begin:
            if self._central:
                answer = session.step(arrays, local=False, batch=end - begin, update=False)
                session.push()
            elif self.augment is None:
                answer = session.step(arrays, local=False, batch=end - begin)
            else:
                mix = self._mix(trace, self.step_count)
                answer = session.run(arrays, None, batch=end - begin, first=0, steps=1, mix=mix)[0]
            self.results = _results(trace).values(answer)
        self._after_steps(1)
        return float(self.results.get("loss", math.nan))

    def _after_steps(self, count: int) -> None:
        """Counts steps of local training, and holds the meeting that is due."""
        if not self._local:
            return
        self._since += count
        self._taken += count
        if self._since >= self._until_meeting():
            self.synchronize()
        elif self._local.host_period and self._since % self._local.host_period == 0 and self._model is not None:
            self._model.meet_host()

    def _until_meeting(self) -> int:
        """Steps between the last meeting and the next."""
        assert self._local is not None
        return 1 if self._taken < self._local.warmup else self._local.period

    def synchronize(self) -> None:
        """Local training: the ranks meet now and average their parameters; with parameter servers every rank gets those of
        the servers. Collective. Nothing to do where the ranks exchange gradients in every step."""
        if self._central and self._changed and self._model is not None:
            self._model.central_gather(False)
            self._changed = False
        if self._local and self._since and self._model is not None:
            self._model.meet()
            self._since = 0

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
        settings: Sequence[Sequence[Mapping[str, Any]]] | None = None,
        epoch: int = 0,
    ) -> npt.NDArray[np.float64]:
        """Trains on the batches `first` to `first + steps` that are cut from `order` (row numbers of X; default: as
        they lie), all in one call.

        Returns (steps, pairs, 2): sums and denominators of losses and metrics (`plan.result_names`); the value of a loss
        is their quotient, and `plan.values(pairs)` makes numbers of them. settings: for each step, for each group
        of the optimizer, settings that count in this step (what a schedule gives). epoch: what draws of `augment`
        depend on besides the rows.
        The last batch of an order may be smaller. Signals are checked between steps.
        """
        arrays = self._checked(X, y, sample_weight)
        self.batch_size = self.batch_size or min(len(arrays), batch_size or 64)
        model = self._ready(arrays)
        size = self.batch_size if batch_size is None else whole(batch_size, "batch_size")
        if size > self.batch_size:
            raise ValueError(f"batch_size={size} is larger than the plan's {self.batch_size}")
        rows = None if order is None else np.ascontiguousarray(order, dtype=np.int64)
        available = math.ceil((len(arrays) if rows is None else len(rows)) / size)
        count = available - first if steps is None else whole(steps, "steps", 0)
        if first < 0 or first + count > available:
            raise ValueError(f"steps {first} to {first + count} are not among the {available} batches")
        session, trace = self._session(True, True, sample_weight is not None, self.batch_size)
        self._fit_shapes(arrays, trace)
        self._update_hypers(model)
        hypers = _hyper_table(settings, count) if settings else None
        mix = None if self.augment is None else self._mix(trace, epoch)
        fed = self._fed(arrays, trace)
        if self._central:
            results = self._run_central(session, fed, rows, size, first, count, hypers)
        elif self._local:
            results = self._run_alone(session, fed, rows, size, first, count, hypers, mix)
        else:
            results = session.run(fed, rows, batch=size, first=first, steps=count, hypers=hypers, mix=mix)
        if (
            hypers
        ):  # the model now has other settings than the optimizer: the next step without a schedule puts them back
            self._hypers, self._sent = [], ()
        return results

    def _run_alone(
        self,
        session: _core.Plan,
        fed: list[Array],
        order: npt.NDArray[np.int64] | None,
        size: int,
        first: int,
        count: int,
        hypers: dict[str, npt.NDArray[np.float64]] | None,
        mix: Any,
    ) -> npt.NDArray[np.float64]:
        """Steps of local training on this rank's rows of each batch, with the meetings that fall between; returns the sums
        of all ranks."""
        samples = len(fed[0]) if order is None else len(order)
        order = np.arange(samples) if order is None else order
        done, parts = 0, []
        while done < count:
            left = max(1, self._until_meeting() - self._since)
            if self._local is not None and self._local.host_period:
                left = min(left, self._local.host_period - self._since % self._local.host_period)
            at = (first + done) * size
            total = min(size, samples - at)
            # Batches of one size in one call; the last one of an epoch may be smaller.
            steps = min(left, count - done, max(1, (samples - at) // size))
            begin, end = self.rows(total)
            settings = None if hypers is None else {name: table[done : done + steps] for name, table in hypers.items()}
            if end > begin:
                own = np.concatenate([order[at + k * size + begin : at + k * size + end] for k in range(steps)])
                parts.append(session.run(fed, own, batch=end - begin, first=0, steps=steps, hypers=settings, mix=mix))
            else:
                parts.append(np.zeros((steps, len(self.result_names), 2)))
            done += steps
            self._after_steps(steps)
        results = np.concatenate(parts) if parts else np.zeros((0, len(self.result_names), 2))
        return np.asarray(comm.allreduce(results, "sum", self.comm))

    def _run_central(
        self,
        session: _core.Plan,
        fed: list[Array],
        order: npt.NDArray[np.int64] | None,
        size: int,
        first: int,
        count: int,
        hypers: dict[str, npt.NDArray[np.float64]] | None,
    ) -> npt.NDArray[np.float64]:
        """Steps of this worker on its rows of each batch, or a server's part until all workers have made theirs; returns
        the sums of all workers."""
        results = np.zeros((count, len(self.result_names), 2))
        self._changed = self._changed or count > 0
        if count and self._serves:
            self.model.serve(-1)
        elif count:
            samples = len(fed[0]) if order is None else len(order)
            for step in range(count):
                at = (first + step) * size
                begin, end = self.rows(min(size, samples - at))
                if begin == end:
                    continue
                rows: Any = slice(at + begin, at + end)
                if order is not None:
                    rows = order[rows]
                for name, table in (hypers or {}).items():
                    for group in range(table.shape[1]):
                        self.model.set_hyper(name, float(table[step, group]), group)
                results[step] = session.step(
                    [array[rows] for array in fed], local=False, batch=end - begin, update=False
                )
                session.push()
            self.model.leave()
        return np.asarray(comm.allreduce(results, "sum", self.comm))

    @property
    def servers(self) -> list[dict[str, Any]] | None:
        """With parameter servers, of every rank: {"serves", "pushes" sent or applied, "bytes" of a push, "most_behind" and
        "mean_behind": updates by others between a worker's pull and its push, "waits": answers that were held back}.
        Collective. None otherwise."""
        return comm.allgather(self.model.central_report(), self.comm) if self._central else None

    def _fed(self, given: Given, trace: Trace) -> list[Array]:
        """The arrays of a training step: labels once more where they are needed beside their mixtures."""
        if not trace.repeated:
            return given.arrays
        again = [given.targets[source] for source in trace.repeated]
        count = len(given.inputs) + len(given.targets)
        return [*given.arrays[:count], *again, *given.arrays[count:]]

    def _mix(self, trace: Trace, epoch: int) -> tuple[str, float, int, tuple[str, ...]]:
        assert self.augment is not None
        return self.augment._kind, self.augment.alpha, epoch, tuple(trace.roles)

    @property
    def result_names(self) -> list[str]:
        """Names of the pairs of a step, in order; a measure that is a vector has its name as often."""
        return list(self._layout().names)

    def _layout(self) -> Results:
        if self._model is None:
            raise RuntimeError("nothing is laid out yet: take a step first")
        return _results(self._sessions[self._main][1])

    def values(self, pairs: npt.ArrayLike) -> dict[str, Any]:
        """{"loss": ..., metrics} from pairs (pairs, 2) of a step, or from their sum over several steps."""
        return self._layout().values(np.asarray(pairs, np.float64))

    def evaluate(self, X: Any, y: Any, batch_size: int | None = None, sample_weight: Any = None) -> dict[str, Any]:
        """Loss and metrics over all samples in evaluation mode: {"loss": ..., ...}. Every sample counts once at any
        number of ranks."""
        given = self._checked(X, y, sample_weight)
        self.batch_size = self.batch_size or min(len(given), batch_size or 64)
        self._ready(given)
        size = self.batch_size if batch_size is None else whole(batch_size, "batch_size")
        session, trace = self._session(False, True, sample_weight is not None, size)
        self._fit_shapes(given, trace)
        self.synchronize()
        sums = session.run(given.arrays, None, batch=size, first=0, steps=math.ceil(len(given) / size))
        found = _results(trace).values(sums.sum(axis=0))
        if any(metric.needs_outputs for metric in self.heads.metrics):
            outputs = dict(flatten(self.predict(X, batch_size)))
            weight = None if sample_weight is None else given.arrays[-1]
            at = 0
            for head in self.heads.items:
                count = len(head.targets(outputs[head.name].shape[1:], head.name in self._soft, given.targets[at:]))
                target = given.targets[at]
                at += count
                for metric in head.metrics:
                    if metric.needs_outputs:
                        measured = metric.from_outputs(outputs[head.name], target, weight, head.loss)
                        found |= {head.label(name): value for name, value in measured.items()}
        return found

    def predict(self, X: Any, batch_size: int | None = None) -> Any:
        """The network's outputs for all samples in evaluation mode, on every rank: an array (samples, ...), or arrays in
        the tuple or dict that forward returns."""
        given = self._checked(X, None, None)
        self.batch_size = self.batch_size or max(1, min(len(given), batch_size or 64))
        self._ready(given)
        size = self.batch_size if batch_size is None else whole(batch_size, "batch_size")
        session, trace = self._session(False, False, False, size)
        self.synchronize()
        parts = [
            session.forward([array[begin : begin + size] for array in given.inputs])
            for begin in range(0, len(given), size)
        ]
        leaves = [
            self._gathered([part[k] for part in parts], shape, len(given), size)
            for k, shape in enumerate(trace.output_shapes)
        ]
        places = iter(leaves)
        filled = [None if leaf is None else next(places) for _, leaf in flatten(trace.output)]
        return rebuild(trace.output, filled)

    def _gathered(self, parts: list[Array], shape: tuple[int, ...], count: int, size: int) -> Array:
        """One output of all batches, from this rank's rows of each and those of the others."""
        if self._work.size == 1:
            return np.concatenate(parts) if parts else np.zeros((0, *shape), np.float32)
        dtype = comm.broadcast(parts[0].dtype.str if parts else "<f4", 0, self.comm)
        mine = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
        everyone = [np.frombuffer(data, dtype).reshape(-1, *shape) for data in self.comm.allgather(mine)]
        result, at = np.empty((count, *shape), dtype), [0] * self.comm.size
        for begin in range(0, count, size):
            batch = min(size, count - begin)
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
    def gradient_norm(self) -> float:
        """The norm of all gradients together in the last step, before clipping. Needs clip_norm; clip_norm=math.inf only
        measures."""
        if self.clip_norm is None:
            raise ValueError(
                "the norm of the gradients is not measured: compile with clip_norm (math.inf only measures)"
            )
        return self.model.gradient_norm

    @property
    def compression(self) -> dict[str, Any] | None:
        """What the compression of gradients does: {"name", "bytes" that a rank sends in a step, "plain_bytes" without
        compression, "ratio" of the two, "error" of the last step: |left out| / |gradient| on this rank}. None where
        nothing is compressed."""
        found = self.model.compression()
        if found is not None:
            found["ratio"] = found["plain_bytes"] / max(found["bytes"], 1)
        return found

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside `with plan.averaged():` the averages stand in the place of the weights: for evaluate, predict and
        state_dict; training waits until after it. Collective. Raises RuntimeError when there is no average (yet)."""
        model = self.model
        if self.average is None:
            raise RuntimeError("this plan keeps no average: compile with average=samestep.optim.EMA() or SWA(...)")
        self._sessions[self._last][0].gather_slots()
        model.swap_average()
        self._swapped = not self._swapped
        try:
            yield
        finally:
            model.swap_average()
            self._swapped = not self._swapped

    @property
    def gradients(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """The gradients of the last step by parameter name, read-only, as clipped. Under several ranks compile with gradients=True."""
        return _Gradients(self)

    def explain(self, analyze: bool = False) -> Explanation:
        """The order of work: instructions with shapes, kernels, flops, bytes, memory offsets and exchange buckets.
        `print` it. `memory["forecast"]` is known before the first step.

        analyze=True also measures: the times of the steps since it was first asked for (the first call switches
        measuring on, so take some steps between), and the growth of the process's memory since compile.
        """
        model = self.model
        session, _ = self._sessions[self._last]
        if analyze and not self._profiling:
            self._profiling = True
            session.profile(True)
        laid = [model.bytes(), *(other.bytes() for other, _ in self._sessions.values())]
        memory = {"forecast": sum(part["total"] for part in laid)}
        if analyze:
            memory["grown"] = resident() - self._resident
        described = session.explain()
        described["exchange"] = self._exchange_in_words() or described["exchange"]
        return Explanation(described, session.bytes(), model.bytes(), memory, analyze)

    def _exchange_in_words(self) -> str:
        """What `explain` says of an exchange other than the plain one."""
        if self._central:
            bound = f", at most {self._central.staleness} steps ahead" if self._central.mode == "bounded" else ""
            return f"pushes to {self._central.servers} of {self.comm.size} ranks, applied as they come{bound}"
        if self._local:
            inside = self._local.host_period
            often = f", those of a host every {inside}" if inside else ""
            return f"none in a step, {self.comm.size} ranks meet every {self._local.period} steps{often}"
        packed = self.compression
        if packed is not None:
            return f"compressed by {packed['name']}, {packed['bytes']} bytes a step from each rank instead of {packed['plain_bytes']}"
        if self.parallel.owners and self.comm.size > 1:
            return f"direct reduce-scatter in lane order to {self.parallel.owners} of {self.comm.size} ranks, which update and send to all"
        return ""

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


def _limit(value: Any, argument: str) -> float | None:
    """A positive number, infinity included, or None."""
    if value is None:
        return None
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{argument} must be a number or None, not {value!r}")
    if not float(value) > 0:
        raise ValueError(f"{argument} must be positive, but is {value!r}")
    return float(value)


def _power_above(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _comm(value: Any) -> _core.Comm:
    return comm.resolve(value)


def _alone() -> _core.Comm:
    return comm.alone()
