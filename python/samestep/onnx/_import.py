"""From an ONNX file to a Module: its forward walks through the graph with samestep.nn.functional."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from ..nn import functional as F
from ..nn._stored import Parameter, Stored
from ..nn.functional._base import apply
from ..nn.functional.recurrent import scan
from ..nn.module import Module
from . import _import_moves, _import_windows
from ._export import library
from ._import_base import Array, Call, Value, elementwise, first, unary


def load(path: str | os.PathLike[str]) -> Module:
    """The network of an ONNX file. Axis 0 of its inputs is the batch.

    Floating weights become parameters, running statistics buffers, other numbers constants. Raises ValueError that names
    the node and its operator where the file needs what is not mapped, ImportError without the package onnx, OSError.
    """
    return Network(library().load(os.fspath(path)))


class Network(Module):
    """A network that was read from an ONNX model. sample=True: a whole array of the file is one sample."""

    def __init__(self, model: Any, sample: bool = False) -> None:
        super().__init__()
        onnx = library()
        self._onnx, self._sample = onnx, sample
        model = _inlined(onnx, model)
        self._graph, self._opset = model.graph, {item.domain: item.version for item in model.opset_import}
        self._constants: dict[str, Array] = {}
        self._given: dict[str, str] = {}  # initializer -> attribute
        arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
        self._inputs = [item.name for item in model.graph.input if item.name not in arrays]
        uses: dict[str, set[tuple[str, int]]] = {}
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                uses.setdefault(name, set()).add((node.op_type, place))
        for name, array in arrays.items():
            roles = uses.get(name, set())
            trained = (
                array.dtype == np.float32
                and array.ndim > 0
                and all(
                    (op in _TRAINED and place > 0)
                    or op in ("Gather", "Transpose", "Expand", "Add", "Mul", "Reshape", "PRelu")
                    for op, place in roles
                )
            )
            attribute = re.sub(r"\W", "_", name) or "_"
            while attribute in self._given.values() or hasattr(self, attribute):
                attribute += "_"
            if trained and all(op == "BatchNormalization" and place > 2 for op, place in roles):
                self.register_buffer(attribute, array)
            elif trained and np.isfinite(array).all() and not name.startswith("const"):
                self.register_parameter(attribute, Parameter(array))
            else:
                self._constants[name] = array
                continue
            self._given[name] = attribute
        for number, node in enumerate(model.graph.node):
            if node.op_type not in _OPERATORS and node.op_type not in _FOLDED and node.op_type != "Constant":
                raise self._error(node, "is not supported")
            if node.op_type in _GATES:
                self._recurrent_weights(number, node, arrays)

    def _error(self, node: Any, message: str) -> ValueError:
        return ValueError(f"node '{node.name or node.output[0]}': operator {node.op_type} {message}")

    def _recurrent_weights(self, number: int, node: Any, arrays: dict[str, Array]) -> None:
        """Weights with the gates in our order, one set for each direction."""
        if any(name and name not in arrays for name in node.input[1:4]):
            raise self._error(node, "needs weights that are initializers")
        w, r = (arrays[name] for name in node.input[1:3])
        bias = arrays[node.input[3]] if len(node.input) > 3 and node.input[3] else None
        order = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}[node.op_type]

        def ours(array: Array) -> Array:
            parts = np.split(array, len(order))
            return np.concatenate([parts[n] for n in order])

        for d in range(len(w)):
            halves = np.zeros((2, r.shape[1])) if bias is None else np.split(bias[d], 2)
            for name, array in zip(_WEIGHTS, (w[d], r[d], *halves), strict=True):
                self.register_parameter(f"{name}_{number}_{d}", Parameter(ours(array)))

    def forward(self, *inputs: Any) -> Any:
        if len(inputs) != len(self._inputs):
            raise ValueError(
                f"the network takes {len(self._inputs)} inputs ({', '.join(self._inputs)}), not {len(inputs)}"
            )
        values: dict[str, Any] = {"": None, **self._constants}
        values.update({name: getattr(self, attribute) for name, attribute in self._given.items()})
        for name, item in zip(self._inputs, inputs, strict=True):
            values[name] = Value(item, None if self._sample else 0)
        for number, node in enumerate(self._graph.node):
            attributes = {item.name: self._onnx.helper.get_attribute_value(item) for item in node.attribute}
            given = [values[name] for name in node.input]
            if all(item is None or isinstance(item, np.ndarray) for item in given):
                made: Any = self._fold(node, given)
            elif node.op_type not in _OPERATORS:
                raise self._error(node, "is not supported on tensors")
            else:
                call = Call(self, node, number, attributes, given)
                try:
                    made = _OPERATORS[node.op_type](call, *given)
                except (ValueError, TypeError, IndexError, AttributeError) as error:
                    raise self._error(node, f"{attributes or ''}: {error}") from error
            for name, item in zip(node.output, made if isinstance(made, (list, tuple)) else [made], strict=False):
                values[name] = item
        outputs = []
        for item in self._graph.output:
            value = values[item.name]
            if not isinstance(value, Value) or value.batch:
                raise ValueError(
                    f"output '{item.name}' does not depend on the input, or its batch axis is not the first"
                )
            outputs.append(value.tensor)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _fold(self, node: Any, given: list[Any]) -> list[Array]:
        """A node whose inputs are constants."""
        from onnx.reference import ReferenceEvaluator

        helper, kind = self._onnx.helper, self._onnx.helper.np_dtype_to_tensor_dtype
        feeds = {name: item for name, item in zip(node.input, given, strict=False) if name and item is not None}
        if any(name and name not in feeds for name in node.input):  # absent here
            known = [name if name in feeds else "" for name in node.input]
            bare = type(node)()
            bare.CopyFrom(node)
            bare.input[:] = known
            node = bare
        graph = helper.make_graph(
            [node], "fold", [helper.make_tensor_value_info(n, kind(a.dtype), a.shape) for n, a in feeds.items()],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )  # fmt: skip
        imports = [helper.make_opsetid(domain, version) for domain, version in self._opset.items()]
        return [
            np.asarray(item)
            for item in ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, feeds)
        ]


def _inlined(onnx: Any, model: Any) -> Any:
    """The model with each operator that load() does not know, but that ONNX defines by others, replaced by those."""
    if all(node.op_type in KNOWN for node in model.graph.node):
        return model
    from onnx.inliner import inline_selected_functions

    if len({item.domain for item in model.opset_import} & {"", "ai.onnx"}) == 0:
        return model
    completed = onnx.ModelProto()
    completed.CopyFrom(model)
    for node in completed.graph.node:  # definitions refer to attributes, which a node may leave at their defaults
        if node.op_type in KNOWN or not onnx.defs.has(node.op_type, node.domain):
            continue
        there = {item.name for item in node.attribute}
        for name, attribute in onnx.defs.get_schema(node.op_type, node.domain).attributes.items():
            if name not in there and attribute.default_value.type:
                node.attribute.append(attribute.default_value)
    known = [("", name) for name in sorted(KNOWN)]
    completed.graph.value_info.append(
        onnx.helper.make_tensor_value_info("", onnx.TensorProto.FLOAT, None)
    )  # absent inputs
    model = completed
    return inline_selected_functions(model, known, exclude=True, inline_schema_functions=True)


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_TRAINED = {
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "BatchNormalization",
    "LayerNormalization",
    "InstanceNormalization",
}
_FOLDED = {
    "ConstantOfShape",
    "Range",
    "Not",
    "Shape",
    "And",
    "Or",
    "OneHot",
    "EyeLike",
    "NonZero",
    "TopK",
    "ScatterND",
    "ScatterElements",
}


def _reduce(function: Any) -> Any:
    def run(c: Call, x: Any, axes: Any = None) -> Any:
        given = c.axes(axes)
        if not given and c.a.get("noop_with_empty_axes"):
            return x
        given = given or list(range(x.rank))
        dims = sorted(x.axis(n) for n in given)
        return Value(function(x.tensor, dims if len(dims) > 1 else dims[0], bool(c.a.get("keepdims", 1))), x.batch)

    return run


def _softmax(function: Any) -> Any:
    def run(c: Call, x: Any) -> Any:
        if c.net._opset.get("", 0) < 13 and c.a.get("axis", 1) % x.rank != x.rank - 1:
            raise ValueError("before opset 13 only the last axis is supported")
        return Value(function(x.tensor, x.axis(c.a.get("axis", -1))), x.batch)

    return run


class _Turned:
    """A weight with its two axes exchanged, as `linear` takes it."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight


def _matmul(c: Call, a: Any, b: Any) -> Any:
    if isinstance(b, _Turned):
        return Value(F.linear(a.tensor, b.weight), a.batch)
    batch = a.batch if isinstance(a, Value) else b.batch
    made = F.matmul(*[item.tensor if isinstance(item, Value) else item for item in (a, b)])
    return Value(made, batch)


def _transpose(c: Call, x: Any) -> Any:
    if isinstance(x, Stored):
        if x.ndim != 2:
            raise ValueError("a weight of other than two axes is not transposed")
        return _Turned(x)
    perm = c.a.get("perm") or list(range(x.rank))[::-1]
    if x.batch is None:
        return Value(F.permute(x.tensor, [0, *[n + 1 for n in perm]]), None)
    return Value(F.permute(x.tensor, [0, *[x.axis(n) for n in perm if n != x.batch]]), list(perm).index(x.batch))


def _reshape(c: Call, x: Any, shape: Any) -> Any:
    wanted = [int(n) for n in shape]
    if isinstance(x, Stored):
        return _expanded(x, wanted)
    if x.batch is None:
        old = x.tensor.sample_shape
        return Value(x.tensor.reshape(x.tensor.shape[0], *[e if e else old[n] for n, e in enumerate(wanted)]), None)
    old = first(x).shape
    if wanted[0] not in (0, -1):
        raise ValueError(f"the shape {wanted} fixes the batch, which must be 0 or -1")
    return Value(x.tensor.reshape(old[0], *[e if e else old[n + 1] for n, e in enumerate(wanted[1:])]), 0)


def _expanded(x: Any, shape: list[int]) -> Any:
    """A parameter of another shape: once for every sample."""
    return Value(x._tensor().reshape(-1, *np.empty(x.shape).reshape(shape).shape), None)


def _squeeze(c: Call, x: Any, axes: Any = None) -> Any:
    given = sorted(n % x.rank for n in (c.axes(axes) or []))
    if not given:
        raise ValueError("axes must be given")
    dims = [x.axis(n) for n in given]
    shape = [e for n, e in enumerate(x.tensor.sample_shape) if n + 1 not in dims]
    batch = x.batch and x.batch - sum(n < x.batch for n in given)
    return Value(x.tensor.reshape(x.tensor.shape[0], *shape), batch)


def _unsqueeze(c: Call, x: Any, axes: Any = None) -> Any:
    given = c.axes(axes)
    new = {n % (x.rank + len(given)) for n in given}
    old = iter([*([None] if x.batch is None else []), *range(x.rank)][x.batch is None :])
    layout: list[Any] = ["new" if n in new else next(old) for n in range(x.rank + len(given))]
    sizes = list(x.tensor.sample_shape)
    if x.batch is not None:
        sizes.insert(x.batch, None)
    shape = [1 if n == "new" else sizes[n] for n in layout]
    batch = None if x.batch is None else shape.index(None)
    return Value(x.tensor.reshape(x.tensor.shape[0], *[e for e in shape if e is not None]), batch)


def _concat(c: Call, *parts: Any) -> Any:
    given = [part for part in parts if isinstance(part, Value) or part.size]
    whole = next(part for part in given if isinstance(part, Value))
    if len(given) == 1:
        return whole
    tensors = [part.tensor if isinstance(part, Value) else _repeated(whole, part) for part in given]
    return Value(F.cat(tensors, whole.axis(c.a["axis"])), whole.batch)


def _repeated(x: Value, constant: Any) -> Any:
    """A constant beside a tensor: once for every sample."""
    if x.batch is not None:
        raise ValueError("a constant beside tensors with a batch is not supported")
    return x.tensor.trace.constant(np.asarray(constant, np.float32))


def _slice(c: Call, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    first = [int(n) for n in (starts if starts is not None else c.a["starts"])]
    last = [int(n) for n in (ends if ends is not None else c.a["ends"])]
    along = c.axes(axes) or list(range(len(first)))
    strides = [1] * len(first) if steps is None else [int(n) for n in steps]
    tensor = x.tensor
    for start, end, axis, step in zip(first, last, along, strides, strict=True):
        place = x.axis(axis)
        size = tensor.sample_shape[place - 1]
        stop = None if step < 0 and end < -size else end
        tensor = tensor[(slice(None),) * place + (slice(start, stop, step),)]
    return Value(tensor, x.batch)


def _split(c: Call, x: Any, sizes: Any = None) -> Any:
    axis = x.axis(c.a.get("axis", 0))
    given = sizes if sizes is not None else c.a.get("split")
    extent, parts = x.tensor.shape[axis], len(c.node.output)
    wanted = -(-extent // parts) if given is None else [int(n) for n in given]
    if not isinstance(wanted, int) and 0 in wanted:  # pieces without elements are constants
        nothing = np.zeros((0,), np.float32)
        pieces = iter(F.split(x.tensor, [n for n in wanted if n], axis))
        return [Value(next(pieces), x.batch) if n else nothing for n in wanted]
    return [Value(part, x.batch) for part in F.split(x.tensor, wanted, axis)]


def _gather(c: Call, x: Any, index: Any) -> Any:
    axis = c.a.get("axis", 0)
    if isinstance(x, Parameter) and axis == 0 and x.ndim == 2:
        return Value(F.embedding(index.tensor, x), index.batch)
    if isinstance(index, np.ndarray) and isinstance(x, Value):
        place = x.axis(axis)
        made = F.index_select(x.tensor, place, np.atleast_1d(index))
        batch = x.batch
        return Value(made if index.ndim else F.select(made, place, 0), batch)
    if x.batch is None and index.batch is None:
        return Value(F.index_select(x.tensor, x.axis(axis), index.tensor), None)
    raise ValueError("these indices are not supported")


def _instance_norm(c: Call, x: Any, w: Any, b: Any) -> Any:
    scale, shift = (item if isinstance(item, Stored) else x.tensor.trace.constant(item) for item in (w, b))
    return Value(F.group_norm(first(x), x.tensor.shape[1], scale, shift, c.a.get("epsilon", 1e-5)), 0)


def _recurrent(c: Call, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, *states: Any) -> Any:
    op, a = c.node.op_type.lower(), c.a
    usual = {"lstm": [b"Sigmoid", b"Tanh", b"Tanh"], "gru": [b"Sigmoid", b"Tanh"], "rnn": [b"Tanh"]}[op]
    found = a.get("activations", usual * 2)[: len(usual)]
    relu = op == "rnn" and found == [b"Relu"]
    if (found != usual and not relu) or "clip" in a or a.get("input_forget") or any(s is not None for s in states[2:]):
        raise ValueError("other activations, clip, input_forget and peepholes are not supported")
    if x.batch != (0 if a.get("layout") else 1) or isinstance(lengths, np.ndarray):
        raise ValueError("the batch is not where layout says, or the lengths are constants")
    direction = c.text("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    outputs, last = [], []
    for d in range(count):
        weights = [getattr(c.net, f"{name}_{c.number}_{d}") for name in _WEIGHTS]
        first = [s.tensor[:, d] for s in states[: 1 + (op == "lstm")] if s is not None]
        attrs: dict[str, float] = {"reverse": float(direction == "reverse" or d == 1)}
        if op == "rnn":
            attrs["nonlinearity"] = float(relu)
        steps = None if lengths is None else lengths.tensor
        if op == "gru" and not a.get("linear_before_reset"):
            if steps is not None:
                raise ValueError("lengths together with linear_before_reset=0 are not supported")
            steps_of, state = _gru_reset_first(x.tensor, weights, first, bool(attrs["reverse"]))
            outputs.append(steps_of.unsqueeze(2))
            last.append([state.unsqueeze(1)])
            continue
        made = scan(op, x.tensor, weights, first, op == "lstm", steps, attrs)
        outputs.append(made[0].unsqueeze(2))
        last.append([state.unsqueeze(1) for state in made[1:]])
    joined = [F.cat(list(parts), 1) for parts in zip(*last, strict=True)]
    place = 0 if a.get("layout") else None
    return [
        Value(F.cat(outputs, 2), 2 if place is None else 0),
        *[Value(s, 1 if place is None else 0) for s in joined],
    ]


def _gru_reset_first(x: Any, weights: list[Any], states: list[Any], reverse: bool) -> tuple[Any, Any]:
    """A GRU whose reset gate comes before the product with the hidden weights; the core's, like PyTorch's, has it after.
    Step by step from other operators."""
    w, r, b_ih, b_hh = weights
    units, length = r.shape[1], x.sample_shape[0]
    ahead = F.linear(x, w, b_ih)  # (samples, steps, 3 units)
    state = states[0] if states else F.scale(ahead[:, 0, :units], 0.0)
    outputs: list[Any] = [None] * length
    for t in range(length)[:: -1 if reverse else 1]:
        now, back = ahead[:, t], F.linear(state, r, b_hh)
        reset = F.sigmoid(F.add(now[:, :units], back[:, :units]))
        update = F.sigmoid(F.add(now[:, units : 2 * units], back[:, units : 2 * units]))
        fresh = F.linear(F.mul(reset, state), r, b_hh)[:, 2 * units :]
        candidate = F.tanh(F.add(now[:, 2 * units :], fresh))
        state = F.add(candidate, F.mul(update, F.sub(state, candidate)))
        outputs[t] = state
    return F.stack(outputs, 1), state


def _expand(c: Call, x: Any, shape: Any) -> Any:
    wanted = [int(n) for n in shape]
    if not isinstance(x, Value):
        return x  # once for every sample, which broadcasting does
    if x.batch == 0:
        if len(wanted) > x.rank or (len(wanted) == x.rank and wanted[0] not in (1, -1)):
            raise ValueError("the shape changes the batch")
        wanted = wanted[1:] if len(wanted) == x.rank else wanted
    full = np.broadcast_shapes(x.tensor.sample_shape, tuple(wanted))
    tensor = x.tensor.reshape(x.tensor.shape[0], *[1] * (len(full) - x.tensor.ndim + 1), *x.tensor.sample_shape)
    return Value(F.broadcast_to(tensor, (-1, *full)), x.batch)


def _cast(c: Call, x: Any) -> Any:
    if not isinstance(x, Value):
        return x
    kind = c.a["to"]
    return x if kind not in (6, 7) or x.tensor.origin else Value(x.tensor.int(), x.batch)


def _selu(c: Call, x: Any) -> Any:
    alpha, gamma = c.a.get("alpha", 1.6732632423543772), c.a.get("gamma", 1.0507009873554805)
    return apply("elu", [x], attrs={"alpha": alpha, "scale": gamma})


def _clip(c: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    given = [None if item is None else float(np.ravel(item)[0]) for item in (low, high)]
    bounds = [c.a.get(name) if item is None else item for name, item in zip(("min", "max"), given, strict=True)]
    return x if bounds == [None, None] else Value(F.clamp(x.tensor, *bounds), x.batch)


def _pad(c: Call, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    given = [int(n) for n in (pads if pads is not None else c.a["pads"])]
    along = c.axes(axes) or list(range(x.rank))
    both = np.zeros((x.tensor.ndim, 2), int)
    for axis, before, after in zip(along, given[: len(along)], given[len(along) :], strict=True):
        if before or after:
            both[x.axis(axis)] = before, after
    mode = {"edge": "replicate", "wrap": "circular"}.get(c.text("mode", "constant"), c.text("mode", "constant"))
    number = float(np.ravel(value)[0]) if value is not None and np.size(value) else None
    return Value(F.pad(x.tensor, [int(n) for n in both[:0:-1].ravel()], mode, number), x.batch)


def _shape_of(c: Call, x: Any) -> Any:
    if isinstance(x, Stored):
        return np.array(x.shape)
    sizes = list(x.tensor.sample_shape)
    if x.batch is not None:
        sizes.insert(x.batch, -1)
    return np.array(sizes[c.a.get("start", 0) : c.a.get("end")], np.int64)


_OPERATORS: dict[str, Any] = {
    **{name: elementwise(getattr(F, ours)) for name, ours in {
        "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Greater": "gt", "GreaterOrEqual": "ge",
        "Less": "lt", "LessOrEqual": "le", "Equal": "eq", "Xor": "ne", "And": "logical_and", "Or": "logical_or", "Where": "where",
    }.items()},
    **{name: unary(lambda c, x, f=getattr(F, ours): f(x)) for name, ours in {  # noqa: B008
        "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs", "Neg": "neg", "Sign": "sign", "Sin": "sin", "Cos": "cos",
        "Erf": "erf", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Reciprocal": "reciprocal", "Relu": "relu",
        "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Softsign": "softsign", "Mish": "mish",
        "HardSwish": "hardswish", "Not": "logical_not",
    }.items()},
    **{f"Reduce{name}": _reduce(getattr(F, ours)) for name, ours in {
        "Sum": "sum", "Mean": "mean", "Prod": "prod", "Max": "max", "Min": "min", "LogSumExp": "logsumexp",
    }.items()},
    "ReduceL1": _reduce(lambda x, d, k: F.norm(x, 1, d, k)), "ReduceL2": _reduce(lambda x, d, k: F.norm(x, 2, d, k)),
    "ReduceSumSquare": _reduce(lambda x, d, k: F.sum(F.square(x), d, k)),
    "ReduceLogSum": _reduce(lambda x, d, k: F.log(F.sum(x, d, k))),
    "Identity": lambda c, x: x, "Clip": _clip,
    "Elu": unary(lambda c, x: F.elu(x, c.a.get("alpha", 1.0))),
    "Celu": unary(lambda c, x: F.celu(x, c.a.get("alpha", 1.0))), "Selu": unary(_selu),
    "LeakyRelu": unary(lambda c, x: F.leaky_relu(x, c.a.get("alpha", 0.01))),
    "Gelu": unary(lambda c, x: F.gelu(x, c.text("approximate", "none"))),
    "HardSigmoid": unary(lambda c, x: F.clamp(F.scale(x, c.a.get("alpha", 0.2), c.a.get("beta", 0.5)), 0.0, 1.0)),
    "Softmax": _softmax(F.softmax),
    "LogSoftmax": _softmax(F.log_softmax), "MatMul": _matmul, "Transpose": _transpose, "Reshape": _reshape,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Concat": _concat, "Slice": _slice,
    "Split": _split, "Gather": _gather, "InstanceNormalization": _instance_norm,
    "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent, "Expand": _expand, "Cast": _cast, "Pad": _pad,
    "Shape": _shape_of, "Constant": None,
    **_import_moves.OPERATORS, **_import_windows.OPERATORS,
}  # fmt: skip
KNOWN = {*_OPERATORS, *_FOLDED, "Constant"}
"""Operators that load() accepts."""
