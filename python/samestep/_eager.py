"""Networks and functions on NumPy arrays, at once: traced, compiled for this process alone, run, and kept for the next
call of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import _compile, _core, _random, comm
from ._arrays import as_rows
from ._heads import quotient
from ._structure import flatten, rebuild, tensors
from ._trace import NeedsInteger, Trace
from .nn._stored import Parameter, StepCounter

Array = np.ndarray[Any, Any]
_KEPT = 4  # compiled shapes a module keeps


class _Compiled:
    """One graph with its memory."""

    def __init__(self, trace: Trace, batch: int, training: bool) -> None:
        optimizer = "sgd" if training else None
        self.model = _core.Model(
            trace.graph, comm.alone(), optimizer=optimizer, threads=_compile.default_threads(), seed=_random._seed
        )
        self.plan = _core.Plan(
            self.model, trace.graph, batch=batch, training=training, functions=trace.functions or None
        )

    def load(self, trace: Trace) -> None:
        for name, item in trace.stored.items():
            self.model.set(name, item.data)
        for name, array in trace.constants.items():
            self.model.set(name, array)


def _inputs(arrays: Sequence[Any]) -> list[Array]:
    rows = [as_rows(array, "input" if len(arrays) == 1 else f"input {number}") for number, array in enumerate(arrays)]
    if any(len(array) != len(rows[0]) for array in rows):
        raise ValueError(f"inputs have different numbers of samples: {[len(array) for array in rows]}")
    return rows


def _trace(root: Any, function: Callable[..., Any], rows: list[Array]) -> tuple[Trace, Any]:
    """One pass of function over symbolic inputs, and what it returned."""
    integer: set[str] = set()
    while True:
        try:
            with Trace(root) as trace:
                names = [f"input{number}" for number in range(len(rows))]
                result = function(
                    *[
                        trace.input(name, array.shape[1:], "int32" if name in integer else "float32")
                        for name, array in zip(names, rows, strict=True)
                    ]
                )
        except NeedsInteger as need:  # an input is used as indices
            if need.name in integer:
                raise
            integer.add(need.name)
            _compile.as_whole(rows[names.index(need.name)], need.name if len(rows) > 1 else "input")
            continue
        tensors(result, lambda what: TypeError(f"forward must return tensors; {what}"))
        return trace, result


def _run(trace: Trace, result: Any, rows: list[Array], training: bool, kept: dict[Any, Any] | None) -> Any:
    leaves = tensors(result, TypeError)
    types = [np.dtype(trace.graph.dtype(leaf.value)) for _, leaf in leaves]
    if not len(rows[0]):
        return _filled(
            result, [np.zeros((0, *leaf.sample_shape), kind) for (_, leaf), kind in zip(leaves, types, strict=True)]
        )
    for _, leaf in leaves:
        trace.graph.output(leaf.value)
    arrays = rows
    if training:
        # A plan in training mode needs something to train: one number beside the network, compared with targets that
        # nobody looks at.
        first = next(leaf for (_, leaf), kind in zip(leaves, types, strict=True) if kind == np.float32)
        pretended = trace.emit("add", [first, trace.name(Parameter(0.0), "nothing")], layer="eager")
        target = trace.input("target", first.sample_shape)
        trace.graph.result(trace.emit("mse", [pretended, target], layer="eager").value, "loss")
        arrays = [*rows, np.zeros((len(rows[0]), *first.sample_shape), np.float32)]
    signature = (repr(trace.signature()), tuple((array.shape, str(array.dtype)) for array in rows))
    if trace.functions:
        kept = None  # functions belong to their trace
    compiled = None if kept is None else kept.get(signature)
    if compiled is None:
        compiled = _Compiled(trace, len(rows[0]), training)
        if kept is not None:
            while len(kept) >= _KEPT:
                kept.pop(next(iter(kept)))
            kept[signature] = compiled
    compiled.load(trace)
    outputs = compiled.plan.forward(arrays)
    if training:
        for name, item in trace.stored.items():
            if item._kind == "buffer":
                item.data = compiled.model.get(name)
        compiled.model.step += 1  # the next call drops other elements
    return _filled(result, [np.array(output) for output in outputs])


def _filled(result: Any, arrays: list[Array]) -> Any:
    """The arrays in the structure of what forward returned."""
    places = iter(arrays)
    return rebuild(result, [None if leaf is None else next(places) for _, leaf in flatten(result)])


def call(function: Callable[..., Any], arrays: Sequence[Any], training: bool = False) -> Any:
    """function(*symbolic tensors) on arrays of samples."""
    rows = _inputs(arrays)
    trace, result = _trace(None, function, rows)
    return _run(trace, result, rows, training, None)


def call_module(module: Any, arrays: Sequence[Any], options: Mapping[str, Any] | None = None) -> Any:
    """module(*arrays, **options), in its mode. Arrays among the options, and inside tuples, are inputs like the others."""
    leaves = flatten((tuple(arrays), dict(options or {})))
    given = [leaf for _, leaf in leaves if isinstance(leaf, (np.ndarray, list)) or hasattr(leaf, "__array__")]
    places = [isinstance(leaf, (np.ndarray, list)) or hasattr(leaf, "__array__") for _, leaf in leaves]
    if not given:
        raise TypeError(f"{type(module).__name__} needs an input")
    rows = _inputs(given)

    def run(*symbols: Any) -> Any:
        rest = iter(symbols)
        filled = [next(rest) if place else leaf for (_, leaf), place in zip(leaves, places, strict=True)]
        inputs, named = rebuild((tuple(arrays), dict(options or {})), filled)
        return module(*inputs, **named)

    trace, result = _trace(module, run, rows)
    training = bool(module.training)
    output = _run(trace, result, rows, training, module.__dict__.setdefault("_eager", {}))
    if training and len(rows[0]):
        for buffer in module.buffers():
            if isinstance(buffer, StepCounter):
                buffer.data = buffer.data + 1
    return output


def loss(module: Any, *inputs: Any) -> float:
    """The loss of predictions and targets."""
    if len(inputs) < 2:
        raise TypeError(f"{type(module).__name__} takes predictions and targets, not {len(inputs)} inputs")
    prediction, *targets = _inputs(inputs)
    with Trace() as trace:
        output = trace.input("prediction", prediction.shape[1:])
        wanted = (
            list(module.targets(output.sample_shape, targets))
            if hasattr(module, "targets")
            else [("target", *module.target(output.sample_shape, targets[0]))]
        )
        if len(wanted) != len(targets):
            raise TypeError(f"{type(module).__name__} takes {len(wanted)} targets, not {len(targets)}")
        nodes = []
        for array, (name, shape, dtype) in zip(targets, wanted, strict=True):
            _compile.check_target(array, shape, dtype, name or "target")
            nodes.append(trace.input(name or "target", shape, dtype))
        node = module.emit(trace, output, nodes[0] if len(nodes) == 1 else tuple(nodes), None)
    trace.graph.result(node.value, "loss")
    compiled = _Compiled(trace, max(1, len(prediction)), False)
    compiled.load(trace)
    return quotient(compiled.plan.step([prediction, *targets], update=False)[0])
