"""From the traced graph to ONNX: one function for each operator that takes a node and adds ONNX nodes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._structure import tensors
from .._trace import NeedsInteger, Tensor, Trace
from ..safetensors_io import atomic_file

OPSET = 20
"""Version of the operators in exported files; 20 is the first with Gelu."""
IR_VERSION = 9
"""Version of the file format."""

Array = np.ndarray[Any, Any]


def library() -> Any:
    """The package onnx. Raises ImportError that names the extra."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError('ONNX files need the package onnx: pip install "samestep[onnx]"') from error
    return onnx


def export(net: Any, path: str | os.PathLike[str], input_shape: Any = None, example: Any = None) -> None:
    """Writes the network as it computes in evaluation mode to an ONNX file, in one move.

    input_shape: the shape of one sample, or a list of shapes for several inputs; or example: an array of samples (a tuple
    of arrays for several inputs). Inputs are called x (x0, x1, ...), outputs y (y0, y1, ...), the batch axis N is
    dynamic. Inputs that are used as indices are int64. Parameters keep their names. Raises ValueError for an operator
    that has no counterpart (the message names it and the layer), ImportError without the package onnx, OSError.
    """
    library()
    if (input_shape is None) == (example is None):
        raise ValueError("export: give either input_shape or example")
    if example is not None:
        shapes = [np.shape(item)[1:] for item in (example if isinstance(example, tuple) else (example,))]
    elif isinstance(input_shape, (int, np.integer)):
        shapes = [(int(input_shape),)]
    elif len(input_shape) and isinstance(input_shape[0], (tuple, list)):
        shapes = [tuple(shape) for shape in input_shape]
    else:
        shapes = [tuple(input_shape)]
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        model = _Writer(net, shapes).model()
    finally:
        for module, mode in modes:
            object.__setattr__(module, "training", mode)
    library().checker.check_model(model, full_check=True)
    with atomic_file(path) as file:
        file.write(model.SerializeToString())


class _Recording(Trace):
    """A trace that remembers which value each constant is."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.places: dict[int, str] = {}

    def constant(self, values: Any, buffer: bool = False) -> Tensor:
        made = super().constant(values, buffer)
        self.places[made.value] = next(reversed(self.constants))
        return made


class _Writer:
    """One export: the nodes and initializers made so far."""

    def __init__(self, net: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        self.onnx = library()
        self.nodes: list[Any] = []
        self.initializers: dict[str, Array] = {}
        self.made = 0
        self.casts: dict[str, str] = {}
        names = ["x"] if len(shapes) == 1 else [f"x{n}" for n in range(len(shapes))]
        integers: set[str] = set()
        while True:
            try:
                with _Recording(net) as trace:
                    given = [
                        trace.input(name, shape, "int32" if name in integers else "float32")
                        for name, shape in zip(names, shapes, strict=True)
                    ]
                    result = net(*given)
                break
            except NeedsInteger as need:
                if need.name in integers:
                    raise
                integers.add(need.name)
        self.trace, self.graph = trace, trace.graph
        leaves = tensors(result, lambda what: TypeError(f"forward must return tensors; {what}"))
        self.outputs = [leaf for _, leaf in leaves]
        self.inputs = list(zip(names, given, strict=True))
        stored = {id(item): name for name, item in trace.stored.items()}
        self.values: dict[int, str] = {item.value: name for name, item in self.inputs}
        self.arrays: dict[int, tuple[str, Array]] = {}
        for key, value in trace._values.items():
            if key in stored:
                name = stored[key]
                self.arrays[value] = (name, np.array(trace.stored[name].data, np.float32))
        for value, name in trace.places.items():  # type: ignore[attr-defined]
            self.arrays[value] = (name, trace.constants[name])
        self.layer, self.op = "", ""

    # ---- for the operators

    def error(self, message: str) -> ValueError:
        return ValueError(f"export: operator '{self.op}' of layer '{self.layer}': {message}")

    def shape(self, value: int) -> tuple[int, ...]:
        return tuple(self.graph.shape(value))

    def name(self, value: int) -> str:
        """The ONNX name of a value; parameters become initializers at their first use."""
        if value not in self.values:
            name, array = self.arrays[value]
            self.initializers[name] = array
            self.values[value] = name
        return self.values[value]

    def array(self, value: int) -> Array:
        """The numbers of a parameter or constant."""
        return self.arrays[value][1]

    def fresh(self, hint: str) -> str:
        self.made += 1
        return f"{hint}.{self.made}"

    def const(self, values: Any, dtype: Any = np.int64, name: str | None = None) -> str:
        """An initializer."""
        name = name or self.fresh("const")
        self.initializers[name] = np.array(values, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, **attributes: Any) -> Any:
        """Adds an ONNX node: the name of its output, or a list of several."""
        names = [self.fresh(op.lower()) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        label = f"{self.layer}/{op}.{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), names, name=label, **attributes))
        return names[0] if outputs == 1 or len(names) == 1 else names

    def chain(self, x: str, *steps: Any) -> str:
        """Nodes of one input and constants: ("Mul", 2.0), "Exp", ..."""
        for step in steps:
            if isinstance(step, str):
                x = self.node(step, [x])
            else:
                x = self.node(step[0], [x, *[s if isinstance(s, str) else self.const(s, np.float32) for s in step[1:]]])
        return x

    def reshape(self, x: str, shape: Sequence[int], batch: int = 0) -> str:
        return self.node("Reshape", [x, self.const([batch, *shape])])

    # ---- the file

    def model(self) -> Any:
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        for node in self.graph.nodes():
            self.layer, self.op = node["layer"], node["op"]
            write = OPERATORS.get(self.op)
            if write is None:
                raise ValueError(
                    f"export: operator '{self.op}' of layer '{self.layer}' has no counterpart in ONNX opset {OPSET} here"
                )
            made = write(self, list(node["inputs"]), node["attrs"], node["output"])
            for number, name in enumerate(made if isinstance(made, list) else [made]):
                self.values[node["output"] + number] = name

        def info(name: str, tensor: Tensor) -> Any:
            kind = kinds.INT64 if self.graph.dtype(tensor.value) == "int32" else kinds.FLOAT
            return helper.make_tensor_value_info(name, kind, ["N", *tensor.sample_shape])

        self.layer = "output"
        names = ["y"] if len(self.outputs) == 1 else [f"y{n}" for n in range(len(self.outputs))]
        for name, leaf in zip(names, self.outputs, strict=True):
            self.node("Identity", [self.name(leaf.value)], [name])
        graph = helper.make_graph(
            self.nodes,
            type(self.trace.root).__name__,
            [info(name, item) for name, item in self.inputs],
            [info(name, item) for name, item in zip(names, self.outputs, strict=True)],
            [self.onnx.numpy_helper.from_array(array, name) for name, array in self.initializers.items()],
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="samestep",
        )


# ---- operators: functions of (writer, inputs, attributes, first output) that give names of outputs

_In = list[int | None]
_Attrs = dict[str, float]
OPERATORS: dict[str, Callable[[_Writer, Any, _Attrs, int], Any]] = {}


def _operator(*names: str) -> Any:
    def register(function: Any) -> Any:
        for name in names:
            OPERATORS[name] = function
        return function

    return register


def _simple(op: str) -> Any:
    return lambda w, i, a, o: w.node(op, [w.name(v) for v in i])


def _steps(*steps: Any) -> Any:
    return lambda w, i, a, o: w.chain(w.name(i[0]), *steps)


for _name, _op in {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "sin": "Sin", "cos": "Cos", "erf": "Erf",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "reciprocal": "Reciprocal", "relu": "Relu", "sigmoid": "Sigmoid",
    "tanh": "Tanh", "softsign": "Softsign", "mish": "Mish", "hardswish": "HardSwish", "add": "Add", "sub": "Sub",
    "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min", "dropout": "Identity",
    "alpha_dropout": "Identity", "feature_dropout": "Identity", "stochastic_depth": "Identity",
}.items():  # fmt: skip
    OPERATORS[_name] = _simple(_op)
OPERATORS["rsqrt"] = _steps("Sqrt", "Reciprocal")
OPERATORS["log1p"] = _steps(("Add", 1.0), "Log")
OPERATORS["expm1"] = _steps("Exp", ("Sub", 1.0))
OPERATORS["logsigmoid"] = _steps("Neg", "Softplus", "Neg")


@_operator("square")
def _square(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("Mul", [w.name(i[0])] * 2)


@_operator("silu")
def _silu(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x = w.name(i[0])
    return w.node("Mul", [x, w.node("Sigmoid", [x])])


@_operator("tanhshrink")
def _tanhshrink(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x = w.name(i[0])
    return w.node("Sub", [x, w.node("Tanh", [x])])


@_operator("gelu")
def _gelu(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("Gelu", [w.name(i[0])], approximate="tanh" if a["tanh"] else "none")


@_operator("leaky_relu")
def _leaky(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("LeakyRelu", [w.name(i[0])], alpha=a["negative_slope"])


@_operator("hardsigmoid")
def _hardsigmoid(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("HardSigmoid", [w.name(i[0])], alpha=1 / 6, beta=0.5)


@_operator("elu")
def _elu(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x = w.name(i[0])
    if a["input_scale"] == 1 and a["scale"] == 1:
        return w.node("Elu", [x], alpha=a["alpha"])
    if a["input_scale"] == 1:
        return w.node("Selu", [x], alpha=a["alpha"], gamma=a["scale"])
    if a["scale"] == 1 and abs(a["input_scale"] * a["alpha"] - 1) < 1e-6:
        return w.node("Celu", [x], alpha=a["alpha"])
    raise w.error("this combination of alpha, scale and input_scale has no counterpart")


@_operator("softplus")
def _softplus(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x = w.name(i[0])
    if a["beta"] == 1:
        return w.node("Softplus", [x])
    return w.chain(x, ("Mul", a["beta"]), "Softplus", ("Div", a["beta"]))


@_operator("softshrink", "hardshrink")
def _shrink(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    bias = a["lambda"] if w.op == "softshrink" else 0.0
    return w.node("Shrink", [w.name(i[0])], lambd=a["lambda"], bias=bias)


@_operator("hardtanh", "clip")
def _clip(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    low, high = (a["min_val"], a["max_val"]) if w.op == "hardtanh" else (a["low"], a["high"])
    bounds = [w.const(value, np.float32) if math.isfinite(value) else "" for value in (low, high)]
    return w.node("Clip", [w.name(i[0]), *bounds])


@_operator("threshold")
def _threshold(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x = w.name(i[0])
    above = w.node("Greater", [x, w.const(a["threshold"], np.float32)])
    return w.node("Where", [above, x, w.const(a["value"], np.float32)])


@_operator("prelu")
def _prelu(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    rank = len(w.shape(i[0]))
    slope = w.name(i[1])
    if w.shape(i[1]) != (1,) and rank > 1:
        slope = w.node("Reshape", [slope, w.const([-1, *[1] * (rank - 1)])])
    return w.node("PRelu", [w.name(i[0]), slope])


@_operator("scale")
def _scale(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x = w.name(i[0])
    if a["mul"] != 1 or a["add"] == 0:
        x = w.chain(x, ("Mul", a["mul"]))
    return w.chain(x, ("Add", a["add"])) if a["add"] else x


@_operator("power")
def _power(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.chain(w.name(i[0]), ("Pow", a["exponent"]))


@_operator("glu")
def _glu(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    first, second = w.node("Split", [w.name(i[0])], 2, axis=_axis(w, i[0], a), num_outputs=2)
    if a["swish"]:
        return w.node("Mul", [w.node("Mul", [first, w.node("Sigmoid", [first])]), second])
    return w.node("Mul", [first, w.node("Sigmoid", [second])])


def _axis(w: _Writer, value: int, a: _Attrs) -> int:
    """The attribute `axis`, with the batch counted."""
    axis = int(a["axis"])
    return axis + 1 if axis >= 0 else axis + 1 + len(w.shape(value))


@_operator("softmax", "log_softmax")
def _softmax(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    op = "Softmax" if w.op == "softmax" else "LogSoftmax"
    return w.node(op, [w.name(i[0])], axis=_axis(w, i[0], a))


# ---- products


@_operator("linear")
def _linear(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x, weight = w.name(i[0]), w.name(i[1])
    bias = [w.name(i[2])] if len(i) > 2 and i[2] is not None else []
    if len(w.shape(i[0])) == 1:
        return w.node("Gemm", [x, weight, *bias], transB=1)
    made = w.node("MatMul", [x, w.node("Transpose", [weight], perm=[1, 0])])
    return w.node("Add", [made, *bias]) if bias else made


@_operator("matmul")
def _matmul(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    parts = []
    for value, turned in zip(i, (a["transpose_a"], a["transpose_b"]), strict=True):
        name = w.name(value)
        if turned:
            rank = len(w.shape(value)) + w.graph.batched(value)
            name = w.node("Transpose", [name], perm=[*range(rank - 2), rank - 1, rank - 2])
        parts.append(name)
    return w.node("MatMul", parts)


def _by_axis(a: _Attrs, name: str, axes: int) -> list[int]:
    return [int(a[f"{name}_{axis}"]) for axis in "dhw"[-axes:]]


@_operator("conv2d")
def _conv(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    axes = len(w.shape(i[0])) - 1
    begin, end = _by_axis(a, "pad", axes), _by_axis(a, "pad_end", axes)
    return w.node(
        "Conv",
        [w.name(v) for v in i if v is not None],
        strides=_by_axis(a, "stride", axes),
        dilations=_by_axis(a, "dilation", axes),
        pads=[*begin, *[b if e < 0 else e for b, e in zip(begin, end, strict=True)]],
        group=int(a["groups"]),
        kernel_shape=list(w.shape(i[1])[2:]),
    )


@_operator("conv_transpose")
def _conv_transpose(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    axes = len(w.shape(i[0])) - 1
    return w.node(
        "ConvTranspose",
        [w.name(v) for v in i if v is not None],
        strides=_by_axis(a, "stride", axes),
        dilations=_by_axis(a, "dilation", axes),
        pads=_by_axis(a, "pad", axes) * 2,
        output_padding=_by_axis(a, "output_pad", axes),
        group=int(a["groups"]),
        kernel_shape=list(w.shape(i[1])[2:]),
    )


# ---- pooling


@_operator("max_pool2d", "avg_pool2d")
def _pool(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    axes = len(w.shape(i[0])) - 1
    kernel = _by_axis(a, "kernel", axes)
    steps = [step or extent for step, extent in zip(_by_axis(a, "stride", axes), kernel, strict=True)]
    pads, ceil = _by_axis(a, "pad", axes) * 2, int(a["ceil_mode"])
    reach = _by_axis(a, "dilation", axes) if w.op == "max_pool2d" else [1] * axes
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, reach, strict=True)]
    if ceil:
        # A last window that would begin beyond the input and its left padding is left out, which ONNX has no word for:
        # the padding at the end says how many windows there are.
        more = [
            (out - 1) * step + span - extent - pads[n]
            for n, (out, step, span, extent) in enumerate(
                zip(w.shape(o)[1:], steps, spans, w.shape(i[0])[1:], strict=True)
            )
        ]
        if w.op == "max_pool2d" or not a["count_include_pad"] or all(m <= p for m, p in zip(more, pads, strict=False)):
            ceil, pads = 0, [*pads[:axes], *(max(0, m) for m in more)]
    options: dict[str, Any] = {"kernel_shape": kernel, "strides": steps, "pads": pads, "ceil_mode": ceil}
    if w.op == "max_pool2d":
        return w.node("MaxPool", [w.name(i[0])], dilations=_by_axis(a, "dilation", axes), **options)
    made = w.node("AveragePool", [w.name(i[0])], count_include_pad=int(a["count_include_pad"]) or 0, **options)
    if a["divisor_override"]:
        if not a["count_include_pad"] or a["ceil_mode"]:
            raise w.error("divisor_override needs count_include_pad=True and ceil_mode=False")
        made = w.chain(made, ("Mul", math.prod(kernel) / a["divisor_override"]))
    return made


@_operator("adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    extents, out = w.shape(i[0])[1:], w.shape(o)[1:]
    kind = "AveragePool" if "avg" in w.op else "MaxPool"
    if all(extent == 1 for extent in out):
        return w.node(f"Global{kind}", [w.name(i[0])])
    if any(extent % size for extent, size in zip(extents, out, strict=True)):
        raise w.error(f"windows of different sizes ({extents} to {out}) have no counterpart")
    window = [extent // size for extent, size in zip(extents, out, strict=True)]
    return w.node(kind, [w.name(i[0])], kernel_shape=window, strides=window)


@_operator("upsample")
def _upsample(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    extents, out = w.shape(i[0])[1:], w.shape(o)[1:]
    steps = [a[f"step_{axis}"] for axis in "dhw"[-len(out) :]]
    ratios = [n / m for n, m in zip(extents, out, strict=True)]
    if any(step and abs(step - ratio) > 1e-9 for step, ratio in zip(steps, ratios, strict=True)):
        raise w.error("a scale factor that is not the ratio of the extents has no counterpart")
    place = "align_corners" if a["align_corners"] else "half_pixel" if a["linear"] else "asymmetric"
    return w.node(
        "Resize",
        [w.name(i[0]), "", "", w.const(list(out))],
        axes=list(range(2, 2 + len(out))),
        mode="linear" if a["linear"] else "nearest",
        coordinate_transformation_mode=place,
        nearest_mode="floor",
    )


@_operator("pixel_shuffle")
def _shuffle(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x, r = w.name(i[0]), int(a["factor"])
    if not a["inverse"]:
        return w.node("DepthToSpace", [x], blocksize=r, mode="CRD")
    c, h, width = w.shape(i[0])
    x = w.reshape(x, [c, h // r, r, width // r, r])
    x = w.node("Transpose", [x], perm=[0, 1, 3, 5, 2, 4])
    return w.reshape(x, [c * r * r, h // r, width // r])


# ---- normalisation


def _weights(w: _Writer, i: Any, places: Sequence[int], shape: Sequence[int]) -> list[str]:
    """Weight and bias, or ones and zeros."""
    made = []
    for number, place in enumerate(places):
        given = i[place] if place < len(i) else None
        made.append(
            w.const(np.full(shape, 1 - min(number, 1)), np.float32, w.fresh("constant.norm"))
            if given is None
            else w.name(given)
        )
    return made


@_operator("batch_norm")
def _batch_norm(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    if len(i) < 5 or i[3] is None or i[4] is None:
        raise w.error("statistics of the batch have no counterpart; running statistics are needed")
    channels = w.shape(i[0])[:1]
    scale, bias = _weights(w, i, (1, 2), channels)
    return w.node("BatchNormalization", [w.name(i[0]), scale, bias, w.name(i[3]), w.name(i[4])], epsilon=a["eps"])


@_operator("layer_norm")
def _layer_norm(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    axes = int(a["axes"])
    weights = _weights(w, i, (1, 2), w.shape(i[0])[-axes:])
    return w.node("LayerNormalization", [w.name(i[0]), *weights], axis=-axes, epsilon=a["eps"])


@_operator("rms_norm")
def _rms_norm(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    axes = int(a["axes"])
    x = w.name(i[0])
    mean = w.node("ReduceMean", [w.node("Mul", [x, x]), w.const(list(range(-axes, 0)))])
    made = w.node("Div", [x, w.chain(mean, ("Add", a["eps"]), "Sqrt")])
    return w.node("Mul", [made, w.name(i[1])]) if len(i) > 1 and i[1] is not None else made


@_operator("group_norm")
def _group_norm(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    shape, groups = w.shape(i[0]), int(a["num_groups"])
    x = w.reshape(w.name(i[0]), [groups, -1])
    ones, zeros = w.const(np.ones(groups), np.float32), w.const(np.zeros(groups), np.float32)
    x = w.reshape(w.node("InstanceNormalization", [x, ones, zeros], epsilon=a["eps"]), shape)
    for op, place in (("Mul", 1), ("Add", 2)):
        if place < len(i) and i[place] is not None:
            factor = w.name(i[place])
            if len(shape) > 1:
                factor = w.node("Reshape", [factor, w.const([-1, *[1] * (len(shape) - 1)])])
            x = w.node(op, [x, factor])
    return x


@_operator("local_response_norm")
def _lrn(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    if int(a["size"]) % 2 == 0:
        raise w.error("an even size has no counterpart: ONNX's window lies otherwise")
    shape = w.shape(i[0])
    options: dict[str, Any] = {"size": int(a["size"]), "alpha": a["alpha"], "beta": a["beta"], "bias": a["k"]}
    image = w.reshape(
        w.name(i[0]), [shape[0], math.prod(shape[1:]), 1]
    )  # other programs want two axes behind the channels
    return w.reshape(w.node("LRN", [image], **options), shape)


@_operator("normalize")
def _normalize(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x, axis = w.name(i[0]), w.const([_axis(w, i[0], a)])
    if a["p"] not in (1.0, 2.0):
        raise w.error("only p=1 and p=2 have a counterpart")
    norm = w.node("ReduceL1" if a["p"] == 1 else "ReduceL2", [x, axis])
    return w.node("Div", [x, w.chain(norm, ("Max", a["eps"]))])


# ---- reductions


@_operator("sum", "mean", "prod", "max", "min", "logsumexp")
def _reduce(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    op = {"logsumexp": "ReduceLogSumExp"}.get(w.op, f"Reduce{w.op.capitalize()}")
    first = int(a["first"]) + 1
    return w.node(op, [w.name(i[0]), w.const(list(range(first, first + int(a["count"]))))], keepdims=0)


@_operator("argmax", "argmin")
def _arg(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    if a["count"] != 1:
        raise w.error("several axes at once have no counterpart")
    return w.node("ArgMax" if w.op == "argmax" else "ArgMin", [w.name(i[0])], axis=int(a["first"]) + 1, keepdims=0)


@_operator("cumsum")
def _cumsum(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("CumSum", [w.name(i[0]), w.const(int(a["first"]) + 1)])


# ---- shapes


@_operator("reshape", "flatten")
def _reshape(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.reshape(w.name(i[0]), w.shape(o))


@_operator("permute")
def _permute(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    order = [int(a[f"p{place}"]) + 1 for place in range(int(a["rank"]))]
    return w.node("Transpose", [w.name(i[0])], perm=[0, *order])


@_operator("slice")
def _slice(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    start, step, count = int(a["start"]), int(a["step"]), int(a["count"])
    end = start + step * count
    if end < 0:
        end = -(2**31)
    return w.node("Slice", [w.name(i[0]), *[w.const([n]) for n in (start, end, _axis(w, i[0], a), step)]])


@_operator("concat")
def _concat(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("Concat", [w.name(v) for v in i], axis=_axis(w, i[0], a))


@_operator("pad")
def _pad(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    rank, axis = len(w.shape(i[0])) + 1, _axis(w, i[0], a)
    pads = [0] * (2 * rank)
    pads[axis], pads[rank + axis] = int(a["before"]), int(a["after"])
    mode = ("constant", "reflect", "edge", "wrap")[int(a["mode"])]
    more = [w.const(a["value"], np.int64 if a["integer"] else np.float32)] if mode == "constant" else []
    return w.node("Pad", [w.name(i[0]), w.const(pads), *more], mode=mode)


@_operator("broadcast_to")
def _broadcast_to(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("Expand", [w.name(i[0]), w.const([1, *w.shape(o)])])


@_operator("expand")
def _expand(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    """A parameter once for every sample: the batch's size comes from the first input."""
    size = w.node("Shape", [w.name(i[0])], start=0, end=1)
    shape = w.node("Concat", [size, w.const(list(w.shape(o)))], axis=0) if w.shape(o) else size
    return w.node("Expand", [w.name(i[1]), shape])


# ---- indices


@_operator("embedding")
def _embedding(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("Gather", [w.name(i[1]), w.name(i[0])], axis=0)


@_operator("gather")
def _gather(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    x = w.name(i[0])
    shape, index, axis = w.shape(i[0]), w.shape(i[1]), _axis(w, i[0], a) - 1
    if any(n != axis and small != large for n, (small, large) in enumerate(zip(index, shape, strict=True))):
        axes = [n for n in range(len(shape)) if n != axis]
        x = w.node(
            "Slice",
            [x, w.const([0] * len(axes)), w.const([index[n] for n in axes]), w.const([n + 1 for n in axes])],
        )
    return w.node("GatherElements", [x, w.name(i[1])], axis=axis + 1)


@_operator("index_select")
def _index_select(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    if w.graph.batched(i[1]):
        if _axis(w, i[0], a) != 1:
            raise w.error("indices of the data along another axis than 1 have no counterpart")
        index = w.node("Unsqueeze", [w.name(i[1]), w.const([-1])])
        return w.node("GatherND", [w.name(i[0]), index], batch_dims=1)
    index = w.const(w.array(i[1]))
    return w.node("Gather", [w.name(i[0]), index], axis=_axis(w, i[0], a))


@_operator("constant_index")
def _constant_index(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    size = w.node("Shape", [w.name(i[0])], start=0, end=1)
    shape = w.node("Concat", [size, w.const(list(w.shape(o)))], axis=0)
    return w.node("Expand", [w.const(w.array(i[1])), shape])


@_operator("one_hot")
def _one_hot(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    return w.node("OneHot", [w.name(i[0]), w.const([int(a["classes"])]), w.const([0, 1], np.float32)], axis=-1)


@_operator("cast")
def _cast(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    kinds = w.onnx.TensorProto
    return w.node("Cast", [w.name(i[0])], to=kinds.INT64 if a["to_int"] else kinds.FLOAT)


@_operator("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
def _compare(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    op = {
        "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual",
        "equal": "Equal", "not_equal": "Equal",
    }[w.op]  # fmt: skip
    made = w.node(op, [w.name(v) for v in i])
    if w.op == "not_equal":
        made = w.node("Not", [made])
    return w.node("Cast", [made], to=w.onnx.TensorProto.FLOAT)


@_operator("where")
def _where(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    chosen = w.node("Cast", [w.name(i[0])], to=w.onnx.TensorProto.BOOL)
    return w.node("Where", [chosen, w.name(i[1]), w.name(i[2])])


# ---- attention


@_operator("attention")
def _attention(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    q, k, v = (w.name(value) for value in i[:3])
    (heads, steps, features), (groups, keys, _), width = w.shape(i[0]), w.shape(i[1]), w.shape(i[2])[2]
    if groups != heads:  # neighbouring query heads share a key head
        q = w.reshape(q, [groups, heads // groups, steps, features])
        k, v = w.reshape(k, [groups, 1, keys, features]), w.reshape(v, [groups, 1, keys, width])
    rank = 4 if groups == heads else 5
    turned = w.node("Transpose", [k], perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = w.chain(w.node("MatMul", [q, turned]), ("Mul", a["scale"] or 1 / math.sqrt(features)))
    if groups != heads:
        scores = w.reshape(scores, [heads, steps, keys])
    hidden = False
    if a["is_causal"]:
        mask = np.where(np.tri(steps, keys, dtype=bool), 0, -np.inf)
        scores = w.node("Add", [scores, w.const(mask, np.float32)])
    if len(i) > 3 and i[3] is not None:
        mask_name, shape = w.name(i[3]), w.shape(i[3])
        if w.graph.batched(i[3]) and len(shape) == 2:
            mask_name = w.reshape(mask_name, [1, *shape])
        scores, hidden = w.node("Add", [scores, mask_name]), True
    if len(i) > 4 and i[4] is not None:
        seen = w.node("Cast", [w.reshape(w.name(i[4]), [1, 1, keys])], to=w.onnx.TensorProto.BOOL)
        scores, hidden = w.node("Where", [seen, scores, w.const(-np.inf, np.float32)]), True
    weights = w.node("Softmax", [scores], axis=-1)
    if hidden:  # a query that sees no key gives 0
        weights = w.node("Where", [w.node("IsNaN", [weights]), w.const(0, np.float32), weights])
    if groups == heads:
        return w.node("MatMul", [weights, v])
    weights = w.reshape(weights, [groups, heads // groups, steps, keys])
    return w.reshape(w.node("MatMul", [weights, v]), [heads, steps, width])


@_operator("rope")
def _rope(w: _Writer, i: Any, a: _Attrs, o: int) -> str:
    shape = w.shape(i[0])
    steps, half = shape[-2], shape[-1] // 2
    x, last = w.name(i[0]), -1
    cosines, sines = (w.array(value)[:steps] for value in i[1:3])
    if a["interleaved"]:
        x = w.reshape(x, [*shape[:-1], half, 2])
        cosines, sines = cosines[..., None], sines[..., None]
    first, second = w.node("Split", [x], 2, axis=last, num_outputs=2)
    c, s = w.const(cosines, np.float32), w.const(sines, np.float32)
    turned = [
        w.node("Sub", [w.node("Mul", [first, c]), w.node("Mul", [second, s])]),
        w.node("Add", [w.node("Mul", [first, s]), w.node("Mul", [second, c])]),
    ]
    return w.reshape(w.node("Concat", turned, axis=last), shape)


# ---- recurrent layers


@_operator("lstm", "gru", "rnn")
def _recurrent(w: _Writer, i: Any, a: _Attrs, o: int) -> list[str]:
    given = [*i, *[None] * (8 - len(i))]
    memory = w.op == "lstm"
    hidden = w.shape(given[2])[1]
    # The rows of our gates in ONNX's order: i o f g for LSTM, z r n for GRU.
    order = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2], "rnn": [0]}[w.op]

    def sorted_rows(array: Array) -> Array:
        parts = np.split(array, len(order))
        return np.concatenate([parts[n] for n in order])

    weights = [sorted_rows(w.array(given[n]))[None] for n in (1, 2)]
    names = [w.const(array, np.float32, w.arrays[given[n + 1]][0] + ".onnx") for n, array in enumerate(weights)]
    bias = ""
    if given[3] is not None:
        both = np.concatenate([sorted_rows(w.array(given[n])) for n in (3, 4)])[None]
        bias = w.const(both, np.float32, w.arrays[given[3]][0] + ".onnx")
    states = [w.node("Unsqueeze", [w.name(v), w.const([0])]) if v is not None else "" for v in given[5 : 6 + memory]]
    steps = given[6 + memory]
    lengths = w.node("Cast", [w.name(steps)], to=w.onnx.TensorProto.INT32) if steps is not None else ""
    options: dict[str, Any] = {"hidden_size": hidden, "direction": "reverse" if a["reverse"] else "forward"}
    if w.op == "gru":
        options["linear_before_reset"] = 1
    if w.op == "rnn":
        options["activations"] = ["Relu" if a["nonlinearity"] else "Tanh"]
    x = w.node("Transpose", [w.name(given[0])], perm=[1, 0, 2])
    made = w.node(w.op.upper(), [x, *names, bias, lengths, *states], 2 + memory, **options)
    first = w.node("Transpose", [w.node("Squeeze", [made[0], w.const([1])])], perm=[1, 0, 2])
    return [first, *[w.node("Squeeze", [state, w.const([0])]) for state in made[1:]]]
