"""Networks and functions on NumPy arrays, at once: traced, compiled for this process alone, run, and kept for the next
call of the same shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _compile, _core, _random, comm
from ._arrays import as_rows
from ._trace import Tensor, Trace
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
        self.plan = _core.Plan(self.model, trace.graph, batch=batch, training=training)

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


def _trace(root: Any, function: Callable[..., Any], rows: list[Array]) -> tuple[Trace, Tensor]:
    with Trace(root) as trace:
        result = function(*[trace.input(f"input{number}", array.shape[1:]) for number, array in enumerate(rows)])
    if not isinstance(result, Tensor):
        raise TypeError(f"forward must return one tensor, not {type(result).__name__}")
    return trace, result


def _run(trace: Trace, result: Tensor, rows: list[Array], training: bool, kept: dict[Any, Any] | None) -> Array:
    if not len(rows[0]):
        return np.zeros((0, *result.sample_shape), np.float32)
    trace.graph.output(result.value)
    arrays = rows
    if training:
        # A plan in training mode needs something to train: one number beside the network, compared with targets that
        # nobody looks at.
        pretended = trace.emit("add", [result, trace.name(Parameter(0.0), "nothing")], layer="eager")
        target = trace.input("target", result.sample_shape)
        trace.graph.result(trace.emit("mse", [pretended, target], layer="eager").value, "loss")
        arrays = [*rows, np.zeros((len(rows[0]), *result.sample_shape), np.float32)]
    signature = (repr(trace.signature()), tuple((array.shape, str(array.dtype)) for array in rows))
    compiled = None if kept is None else kept.get(signature)
    if compiled is None:
        compiled = _Compiled(trace, len(rows[0]), training)
        if kept is not None:
            while len(kept) >= _KEPT:
                kept.pop(next(iter(kept)))
            kept[signature] = compiled
    compiled.load(trace)
    output = compiled.plan.forward(arrays)[0]
    if training:
        for name, item in trace.stored.items():
            if item._kind == "buffer":
                item.data = compiled.model.get(name)
        compiled.model.step += 1  # the next call drops other elements
    return np.array(output)


def call(function: Callable[..., Any], arrays: Sequence[Any], training: bool = False) -> Array:
    """function(*symbolic tensors) on arrays of samples."""
    rows = _inputs(arrays)
    trace, result = _trace(None, function, rows)
    return _run(trace, result, rows, training, None)


def call_module(module: Any, arrays: Sequence[Any]) -> Array:
    """module(*arrays), in its mode."""
    if not arrays:
        raise TypeError(f"{type(module).__name__} needs an input")
    rows = _inputs(arrays)
    trace, result = _trace(module, module, rows)
    training = bool(module.training)
    output = _run(trace, result, rows, training, module.__dict__.setdefault("_eager", {}))
    if training and len(rows[0]):
        for buffer in module.buffers():
            if isinstance(buffer, StepCounter):
                buffer.data = buffer.data + 1
    return output


def loss(module: Any, *inputs: Any) -> float:
    """The loss of predictions and targets."""
    if len(inputs) != 2:
        raise TypeError(f"{type(module).__name__} takes predictions and targets, not {len(inputs)} inputs")
    prediction, target = _inputs(inputs)
    with Trace() as trace:
        output = trace.input("prediction", prediction.shape[1:])
        shape, dtype = module.target(output.sample_shape, target)
        _compile.check_target(target, shape, dtype, "target")
        node = module.emit(trace, output, trace.input("target", shape, dtype), None)
    trace.graph.result(node.value, "loss")
    compiled = _Compiled(trace, max(1, len(prediction)), False)
    compiled.load(trace)
    return _compile.quotient(compiled.plan.step([prediction, target], update=False)[0])
