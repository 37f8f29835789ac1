"""Every operator and optimizer of the core against PyTorch: values, gradients of all inputs and of all parameters, in training mode and over several shapes.

How a case works: `oracle.Probe` makes the inputs parameters, so one training step through the public API yields the gradient of each input of each sample.
The loss is the sum of squares of output minus target, unless the case is a loss itself. PyTorch computes the same twice, in float32 and in float64.

Errors are relative to the largest element of PyTorch's array. The tolerances below are about four times what was measured (AVX-512, both witnesses); the
core's bits do not change from machine to machine, PyTorch's may. A new operator needs a case here: test_every_operator_has_a_case fails until it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import _core, nn, optim
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
TF = torch.nn.functional

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]

TOLERANCE = {
    "accuracy": 0.0,
    "adaptive_avg_pool2d": 1e-6,
    "adaptive_max_pool2d": 1e-6,
    "add": 1e-6,
    "avg_pool2d": 1e-6,
    "batch_norm": 5e-6,
    "concat": 1e-6,
    "conv2d": 3e-6,
    "cross_entropy": 2e-6,
    "dropout": 1e-6,
    "flatten": 1e-6,
    "gelu": 2e-6,
    "leaky_relu": 1e-6,
    "linear": 3e-6,
    "log_softmax": 2e-6,
    "max_pool2d": 1e-6,
    "mse": 1e-6,
    "mul": 2e-6,
    "relayout": 3e-6,
    "relu": 1e-6,
    "reshape": 1e-6,
    "scale": 1e-6,
    "sigmoid": 2e-6,
    "silu": 2e-6,
    "softmax": 2e-6,
    "tanh": 2e-6,
}
"""Largest error by operator, relative to the largest element."""


class Case(NamedTuple):
    """ours and theirs: a module, a class of modules with arguments, or a function of tensors; arrays: shapes of the inputs with the batch."""

    op: str
    label: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    scale: float = 1.0


CASES: list[Case] = []


def case(op: str, label: str, shapes: Any, ours: Callable[[], Any], theirs: Callable[[], Any], scale: float = 1.0) -> None:
    CASES.append(Case(op, label, shapes if isinstance(shapes[0], tuple) else (shapes,), ours, theirs, scale))


def layer(op: str, name: str, shape: Any, *arguments: Any, scale: float = 1.0, **options: Any) -> None:
    """A layer that both libraries have, with the same arguments."""
    text = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in options.items())])
    case(
        op, f"{name}({text}) of {shape}", shape, lambda: getattr(nn, name)(*arguments, **options), lambda: getattr(torch.nn, name)(*arguments, **options), scale
    )


class Ours(nn.Module):
    """A function with parameters of given shapes, as a module."""

    def __init__(self, function: Any, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for number, shape in enumerate(shapes):
            self.register_parameter(f"p{number}", nn.Parameter(oracle.grid(shape, 7 * number + 3)))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self._parameters.values())


class Theirs(torch.nn.Module):
    def __init__(self, function: Any, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for number, shape in enumerate(shapes):
            self.register_parameter(f"p{number}", torch.nn.Parameter(torch.zeros(shape)))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self._parameters.values())


def function(op: str, label: str, shapes: Any, ours: Any, theirs: Any = None, parameters: tuple[tuple[int, ...], ...] = (), scale: float = 1.0) -> None:
    """A function of tensors and parameters; `theirs` is the same text where both libraries read alike."""
    other = ours if theirs is None else theirs
    case(op, label, shapes, lambda: Ours(ours, *parameters), lambda: Theirs(other, *parameters), scale)


# ---- elementwise; scale 12 reaches the flat ends, 60 where exponentials vanish ----

for _op, _name in [("relu", "ReLU"), ("leaky_relu", "LeakyReLU"), ("sigmoid", "Sigmoid"), ("tanh", "Tanh"), ("gelu", "GELU"), ("silu", "SiLU")]:
    for _scale in (1.0, 12.0, 60.0):
        layer(_op, _name, (9, 37), scale=_scale)
    layer(_op, _name, (5, 3, 4, 7))
layer("leaky_relu", "LeakyReLU", (5, 33), 0.3)
layer("leaky_relu", "LeakyReLU", (5, 33), -0.5)
for _scale in (1.0, 12.0, 60.0):
    layer("gelu", "GELU", (9, 37), approximate="tanh", scale=_scale)
function("scale", "3x - 0.7", (7, 19), lambda x: 3 * x - 0.7)
function("scale", "x / 7", (7, 2, 3, 5), lambda x: x / 7)
function("scale", "1 - x", (7, 19), lambda x: 1 - x)

# ---- add, mul: two tensors, and parameters that are broadcast ----

for _op, _f in [("add", lambda a, b: a + b), ("mul", lambda a, b: a * b)]:
    function(_op, f"two tensors, {_op}", ((7, 3, 5), (7, 3, 5)), _f)
    function(_op, f"two images, {_op}", ((5, 3, 4, 6), (5, 3, 4, 6)), _f)
    function(_op, f"a tensor with itself, {_op}", (7, 11), lambda x, f=_f: f(x, x))
    for _shape, _parameter in [
        ((9, 33), (33,)), ((9, 33), (1,)), ((9, 33), ()), ((9, 5, 33), (5, 33)), ((9, 5, 33), (33,)), ((9, 5, 33), (5, 1)), ((7, 5, 3, 4), (5, 1, 1)),
        ((7, 5, 3, 4), (3, 4)), ((7, 5, 3, 4), (5, 1, 4)), ((7, 2, 3, 2, 5), (3, 1, 5)),
    ]:  # fmt: skip
        function(_op, f"{_shape} {_op} parameter {_parameter}", _shape, _f, parameters=(_parameter,))
function("mul", "gate", ((7, 6, 5, 5), (7, 6, 5, 5)), lambda a, b: a * b.sigmoid() + a)
function("add", "parameter - x", (9, 33), lambda x, p: p - x, parameters=((33,),))
function("add", "one parameter twice", (9, 33), lambda x, p: (x + p) * p + p, parameters=((33,),))

# ---- shapes ----

layer("flatten", "Flatten", (7, 3, 4, 5))
layer("flatten", "Flatten", (7, 3, 4, 5), 2)
layer("flatten", "Flatten", (7, 3, 4, 5), 1, 2)
function("flatten", "flatten after pooling", (7, 3, 4, 6), lambda x: F.flatten(F.avg_pool2d(x, 2), 1), lambda x: TF.avg_pool2d(x, 2).flatten(1))
function("reshape", "(B, 12, 5) to (B, 4, 15)", (7, 12, 5), lambda x: x.reshape(x.shape[0], 4, 15))
function("reshape", "an image to (B, 10, 2, 3) and on", (7, 3, 4, 5), lambda x: (x * 2).view(x.shape[0], 10, 2, -1) * 3)
function("reshape", "unsqueeze and squeeze", (7, 3, 4), lambda x: (x.unsqueeze(1) * 2.0).squeeze(1) + x)
for _shapes, _axis in [
    (((7, 3), (7, 5)), 1), (((7, 3, 4), (7, 2, 4), (7, 1, 4)), 1), (((7, 3, 4), (7, 3, 2)), 2), (((5, 3, 4, 6), (5, 2, 4, 6)), 1), (((5, 3, 4, 6), (5, 3, 1, 6)), 2),
    (((5, 3, 4, 6), (5, 3, 4, 2)), -1), (((5, 2),) * 10, 1),
]:  # fmt: skip
    function("concat", f"{len(_shapes)} of {_shapes[0]} along {_axis}", _shapes, lambda *x, d=_axis: ss.cat(x, d) * 2.0, lambda *x, d=_axis: torch.cat(x, d) * 2.0)
function(
    "concat", "convolved images", (5, 3, 6, 6), lambda x, a, b: ss.cat([F.conv2d(x, a), F.avg_pool2d(F.conv2d(x, b, padding=1), 3, 1)], 1),
    lambda x, a, b: torch.cat([TF.conv2d(x, a), TF.avg_pool2d(TF.conv2d(x, b, padding=1), 3, 1)], 1), parameters=((4, 3, 3, 3), (2, 3, 3, 3)),
)  # fmt: skip

# ---- linear ----

for _shape, _in, _out, _bias in [
    ((9, 7), 7, 5, True), ((9, 7), 7, 5, False), ((1, 784), 784, 10, True), ((67, 300), 300, 129, True), ((9, 1), 1, 1, True), ((5, 6, 33), 33, 17, True),
    ((5, 2, 3, 16), 16, 4, False),
]:  # fmt: skip
    layer("linear", "Linear", _shape, _in, _out, bias=_bias)

# ---- convolution ----

for _shape, _arguments, _options in [
    ((9, 1, 28, 28), (1, 8, 3), {"padding": 1}),
    ((9, 3, 12, 12), (3, 16, 3), {"padding": 1, "bias": False}),
    ((7, 16, 9, 11), (16, 16, 3), {"padding": 1}),
    ((7, 16, 9, 11), (16, 32, 3), {"padding": 1, "stride": 2}),
    ((7, 16, 9, 11), (16, 24, 1), {}),
    ((7, 16, 9, 11), (16, 24, 1), {"stride": 2}),
    ((7, 5, 9, 11), (5, 7, (3, 2)), {"stride": (2, 1), "padding": (0, 1)}),
    ((7, 5, 9, 11), (5, 7, 3), {"dilation": 2, "padding": 2}),
    ((7, 5, 9, 11), (5, 7, (2, 3)), {"dilation": (3, 2), "stride": (1, 2), "padding": (2, 1)}),
    ((7, 6, 9, 11), (6, 12, 3), {"groups": 3, "padding": 1}),
    ((7, 8, 9, 11), (8, 8, 3), {"groups": 8, "padding": 1}),
    ((7, 8, 9, 11), (8, 16, 3), {"groups": 8, "padding": 1, "stride": 2}),
    ((7, 3, 16, 16), (3, 8, 7), {"stride": 2, "padding": 3}),
    ((7, 3, 16, 16), (3, 8, 4), {"stride": 4}),
    ((7, 4, 8, 8), (4, 6, 3), {"padding": "same", "dilation": 2}),
    ((7, 4, 8, 8), (4, 6, 3), {"padding": "valid"}),
    ((7, 4, 5, 5), (4, 6, 5), {}),
    ((1, 64, 8, 8), (64, 64, 3), {"padding": 1}),
    ((5, 4, 1, 9), (4, 3, (1, 3)), {"padding": (0, 1)}),
]:
    layer("conv2d", "Conv2d", _shape, *_arguments, **_options)
function(
    "relayout", "back and forth", (7, 3, 6, 8),
    lambda x, w, v: F.softmax(F.conv2d(F.softmax(F.conv2d(x, w, padding=1), 3), v, padding=1), 2),
    lambda x, w, v: TF.conv2d(TF.conv2d(x, w, padding=1).softmax(3), v, padding=1).softmax(2), parameters=((5, 3, 3, 3), (4, 5, 3, 3)),
)  # fmt: skip
function(
    "relayout", "flatten between", (7, 3, 6, 8), lambda x, w, v: F.conv2d(F.linear(F.conv2d(x, w), v), w.reshape(w.shape) if False else w),
    lambda x, w, v: TF.conv2d(TF.linear(TF.conv2d(x, w), v), w), parameters=((3, 3, 1, 1), (9, 8)),
)  # fmt: skip

# ---- pooling ----

for _shape, _options in [
    ((7, 3, 8, 10), {"kernel_size": 2}),
    ((7, 3, 9, 11), {"kernel_size": 3, "stride": 2}),
    ((7, 3, 9, 11), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((7, 3, 9, 11), {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0)}),
    ((7, 3, 8, 10), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ((7, 3, 8, 11), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((7, 3, 9, 11), {"kernel_size": 2, "stride": 3, "ceil_mode": True}),
    ((7, 17, 9, 9), {"kernel_size": 3, "stride": 1}),
]:
    layer("max_pool2d", "MaxPool2d", _shape, **_options)
    layer("avg_pool2d", "AvgPool2d", _shape, **_options)
    layer("avg_pool2d", "AvgPool2d", _shape, count_include_pad=False, **_options)
layer("max_pool2d", "MaxPool2d", (7, 3, 9, 11), 3, dilation=2)
layer("max_pool2d", "MaxPool2d", (7, 3, 9, 11), (2, 3), stride=(1, 2), padding=1, dilation=(3, 2), ceil_mode=True)
for _size in (1, 2, 3, (2, 5), (None, 3), (8, 10), (11, 13)):
    layer("adaptive_avg_pool2d", "AdaptiveAvgPool2d", (7, 3, 8, 10), _size)
    layer("adaptive_max_pool2d", "AdaptiveMaxPool2d", (7, 3, 8, 10), _size)
layer("adaptive_avg_pool2d", "AdaptiveAvgPool2d", (5, 70, 7, 7), 1)

# ---- softmax ----

for _op, _name in [("softmax", "Softmax"), ("log_softmax", "LogSoftmax")]:
    for _shape, _axis in [((9, 10), 1), ((9, 1), 1), ((9, 300), -1), ((5, 4, 7), 1), ((5, 4, 7), 2), ((5, 4, 3, 6), 1), ((5, 4, 3, 6), 2), ((5, 4, 3, 6), 3)]:
        layer(_op, _name, _shape, _axis)
    layer(_op, _name, (9, 33), 1, scale=20.0)

# ---- batch norm in training mode; its running statistics are compared as well ----

for _name, _shape in [("BatchNorm1d", (9, 5)), ("BatchNorm1d", (64, 33)), ("BatchNorm1d", (7, 5, 11)), ("BatchNorm2d", (7, 5, 6, 4)), ("BatchNorm2d", (19, 16, 3, 3)), ("BatchNorm2d", (1, 20, 5, 4))]:
    layer("batch_norm", _name, _shape, _shape[1])
layer("batch_norm", "BatchNorm2d", (7, 5, 6, 4), 5, eps=0.1, momentum=0.7)
layer("batch_norm", "BatchNorm2d", (7, 5, 6, 4), 5, affine=False)
function("batch_norm", "far from 0", (33, 6), lambda x, *p: F.batch_norm(x + 50.0, np_zeros(6), np_ones(6), *p, training=True), lambda x, *p: TF.batch_norm(x + 50.0, None, None, *p, training=True), parameters=((6,), (6,)))


def np_zeros(n: int) -> Any:
    return None


def np_ones(n: int) -> Any:
    return None


def arrays_of(item: Case) -> list[np.ndarray]:
    return [oracle.grid(shape, 10**6 * (number + 1)) * np.float32(item.scale) for number, shape in enumerate(item.shapes)]


def ready(item: Case) -> Any:
    """Our module, with parameters that PyTorch's default does not make plain."""
    ss.manual_seed(5)
    net = item.ours()
    for number, (name, parameter) in enumerate(net.named_parameters()):
        if name in ("weight", "bias") and parameter.ndim == 1:
            parameter.data = 1 + oracle.grid(parameter.shape, 99 + number) / 4
    return net


def compare(item: Case, dtype: Any) -> dict[str, float]:
    """Errors of one case by array, against PyTorch in one precision."""
    arrays, net = arrays_of(item), ready(item)
    twin = item.theirs().to(dtype)
    twin.load_state_dict({name: torch.as_tensor(value) for name, value in net.state_dict().items()})
    inputs = [torch.tensor(array, dtype=dtype, requires_grad=True) for array in arrays]
    output = twin.train()(*inputs)
    target = oracle.grid(tuple(output.shape), 5 * 10**6)
    loss = ((output - torch.tensor(target, dtype=dtype)) ** 2).sum()
    loss.backward()

    eager = ready(item).train()(*arrays)
    found = oracle.probe(net, arrays, nn.MSELoss("sum"), target)
    assert item.op in found["operators"], f"the case runs {found['operators']}, not {item.op}"
    errors = {"output": oracle.distance(eager, output.detach()), "loss": oracle.distance(found["loss"], loss.detach())}
    for number, x in enumerate(inputs):
        errors[f"gradient of input {number}"] = oracle.distance(found[f"input{number}"], x.grad)
    theirs = dict(twin.named_parameters())
    assert set(found["parameters"]) == set(theirs)
    for name, parameter in theirs.items():
        errors[f"gradient of {name}"] = oracle.distance(found["parameters"][name], parameter.grad)
    for name, buffer in twin.named_buffers():
        errors[name] = oracle.distance(found["buffers"][name], buffer)
    return errors


@pytest.mark.parametrize("item", CASES, ids=[f"{item.op}-{item.label}" + (f", scale {item.scale:g}" if item.scale != 1 else "") for item in CASES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_operator(item: Case, dtype: Any) -> None:
    errors = compare(item, dtype)
    assert max(errors.values()) <= TOLERANCE[item.op], errors
