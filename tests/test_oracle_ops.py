"""Every operator and optimizer of the core against PyTorch: values, gradients of all inputs and of all parameters, in
training mode and over several shapes.

How a case works: `oracle.Probe` makes the inputs parameters, so one training step through the public API yields the
gradient of each input of each sample.
The loss is the sum of squares of output minus target, unless the case is a loss itself. PyTorch computes the same
twice, in float32 and in float64.

Errors are relative to the largest element of PyTorch's array. The tolerances below are about four times what was
measured (AVX-512, both witnesses); the
core's bits do not change from machine to machine, PyTorch's may. A new operator needs a case here:
test_every_operator_has_a_case fails until it has one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from oracle_cases import LOSS_TOLERANCE, Case, Cases, Ours, compare
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
cases = Cases(TOLERANCE, elsewhere=("accuracy", "cross_entropy", "dropout", "mse"))

# ---- elementwise; scale 12 reaches the flat ends, 60 where exponentials vanish ----

for _op, _name in [
    ("relu", "ReLU"),
    ("leaky_relu", "LeakyReLU"),
    ("sigmoid", "Sigmoid"),
    ("tanh", "Tanh"),
    ("gelu", "GELU"),
    ("silu", "SiLU"),
]:
    for _scale in (1.0, 12.0, 60.0):
        cases.layer(_op, _name, (9, 37), scale=_scale)
    cases.layer(_op, _name, (5, 3, 4, 7))
cases.layer("leaky_relu", "LeakyReLU", (5, 33), 0.3)
cases.layer("leaky_relu", "LeakyReLU", (5, 33), -0.5)
for _scale in (1.0, 12.0, 60.0):
    cases.layer("gelu", "GELU", (9, 37), approximate="tanh", scale=_scale)
cases.function("scale", "3x - 0.7", (7, 19), lambda x: 3 * x - 0.7)
cases.function("scale", "x / 7", (7, 2, 3, 5), lambda x: x / 7)
cases.function("scale", "1 - x", (7, 19), lambda x: 1 - x)

# ---- add, mul: two tensors, and parameters that are broadcast ----

for _op, _f in [("add", lambda a, b: a + b), ("mul", lambda a, b: a * b)]:
    cases.function(_op, f"two tensors, {_op}", ((7, 3, 5), (7, 3, 5)), _f)
    cases.function(_op, f"two images, {_op}", ((5, 3, 4, 6), (5, 3, 4, 6)), _f)
    cases.function(_op, f"a tensor with itself, {_op}", (7, 11), lambda x, f=_f: f(x, x))
    for _shape, _parameter in [
        ((9, 33), (33,)), ((9, 33), (1,)), ((9, 33), ()), ((9, 5, 33), (5, 33)),
        ((9, 5, 33), (33,)), ((9, 5, 33), (5, 1)), ((7, 5, 3, 4), (5, 1, 1)),
        ((7, 5, 3, 4), (3, 4)), ((7, 5, 3, 4), (5, 1, 4)), ((7, 2, 3, 2, 5), (3, 1, 5)),
    ]:  # fmt: skip
        cases.function(_op, f"{_shape} {_op} parameter {_parameter}", _shape, _f, parameters=(_parameter,))
cases.function("mul", "gate", ((7, 6, 5, 5), (7, 6, 5, 5)), lambda a, b: a * b.sigmoid() + a)
cases.function("add", "parameter - x", (9, 33), lambda x, p: p - x, parameters=((33,),))
cases.function("add", "one parameter twice", (9, 33), lambda x, p: (x + p) * p + p, parameters=((33,),))

# ---- shapes ----

cases.layer("flatten", "Flatten", (7, 3, 4, 5))
cases.layer("reshape", "Flatten", (7, 3, 4, 5), 2)
cases.layer("reshape", "Flatten", (7, 3, 4, 5), 1, 2)
cases.function(
    "flatten",
    "flatten after pooling",
    (7, 3, 4, 6),
    lambda x: F.flatten(F.avg_pool2d(x, 2), 1),
    lambda x: TF.avg_pool2d(x, 2).flatten(1),
)
cases.function("reshape", "(B, 12, 5) to (B, 4, 15)", (7, 12, 5), lambda x: x.reshape(x.shape[0], 4, 15))
cases.function(
    "reshape", "an image to (B, 10, 2, 3) and on", (7, 3, 4, 5), lambda x: (x * 2).view(x.shape[0], 10, 2, -1) * 3
)
cases.function("reshape", "unsqueeze and squeeze", (7, 3, 4), lambda x: (x.unsqueeze(1) * 2.0).squeeze(1) + x)
for _shapes, _axis in [
    (((7, 3), (7, 5)), 1), (((7, 3, 4), (7, 2, 4), (7, 1, 4)), 1), (((7, 3, 4), (7, 3, 2)), 2),
    (((5, 3, 4, 6), (5, 2, 4, 6)), 1), (((5, 3, 4, 6), (5, 3, 1, 6)), 2),
    (((5, 3, 4, 6), (5, 3, 4, 2)), -1), (((5, 2),) * 10, 1),
]:  # fmt: skip
    cases.function(
        "concat",
        f"{len(_shapes)} of {_shapes[0]} along {_axis}",
        _shapes,
        lambda *x, d=_axis: ss.cat(x, d) * 2.0,
        lambda *x, d=_axis: torch.cat(x, d) * 2.0,
    )
cases.function(
    "concat", "convolved images", (5, 3, 6, 6), lambda x, a, b: ss.cat([F.conv2d(x, a), F.avg_pool2d(F.conv2d(x, b, padding=1), 3, 1)], 1),
    lambda x, a, b: torch.cat([TF.conv2d(x, a), TF.avg_pool2d(TF.conv2d(x, b, padding=1), 3, 1)], 1),
    parameters=((4, 3, 3, 3), (2, 3, 3, 3)),
)  # fmt: skip

# ---- linear ----

for _shape, _in, _out, _bias in [
    ((9, 7), 7, 5, True), ((9, 7), 7, 5, False), ((1, 784), 784, 10, True),
    ((67, 300), 300, 129, True), ((9, 1), 1, 1, True), ((5, 6, 33), 33, 17, True),
    ((5, 2, 3, 16), 16, 4, False),
]:  # fmt: skip
    cases.layer("linear", "Linear", _shape, _in, _out, bias=_bias)

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
    cases.layer("conv2d", "Conv2d", _shape, *_arguments, **_options)
cases.function(
    "relayout", "back and forth", (7, 3, 6, 8),
    lambda x, w, v: F.softmax(F.conv2d(F.softmax(F.conv2d(x, w, padding=1), 3), v, padding=1), 2),
    lambda x, w, v: TF.conv2d(TF.conv2d(x, w, padding=1).softmax(3), v, padding=1).softmax(2), parameters=((5, 3, 3, 3), (4, 5, 3, 3)),
)  # fmt: skip
cases.function(
    "relayout", "linear between convolutions", (7, 3, 6, 8), lambda x, w, v: F.conv2d(F.linear(F.conv2d(x, w), v), w),
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
    cases.layer("max_pool2d", "MaxPool2d", _shape, **_options)
    cases.layer("avg_pool2d", "AvgPool2d", _shape, **_options)
    cases.layer("avg_pool2d", "AvgPool2d", _shape, count_include_pad=False, **_options)
cases.layer("max_pool2d", "MaxPool2d", (7, 3, 9, 11), 3, dilation=2)
cases.function(
    "max_pool2d",
    "windows of equal elements",
    (7, 3, 8, 10),
    lambda x: F.max_pool2d(F.relu(x), 3, 2, 1),
    lambda x: TF.max_pool2d(x.relu(), 3, 2, 1),
)
cases.function(
    "adaptive_max_pool2d",
    "windows of equal elements",
    (7, 3, 8, 10),
    lambda x: F.adaptive_max_pool2d(F.relu(x), 3),
    lambda x: TF.adaptive_max_pool2d(x.relu(), 3),
)
cases.layer("max_pool2d", "MaxPool2d", (7, 3, 9, 11), (2, 3), stride=(1, 2), padding=1, dilation=(3, 2), ceil_mode=True)
for _size in (1, 2, 3, (2, 5), (None, 3), (8, 10), (11, 13)):
    cases.layer("adaptive_avg_pool2d", "AdaptiveAvgPool2d", (7, 3, 8, 10), _size)
    cases.layer("adaptive_max_pool2d", "AdaptiveMaxPool2d", (7, 3, 8, 10), _size)
cases.layer("adaptive_avg_pool2d", "AdaptiveAvgPool2d", (5, 70, 7, 7), 1)

# ---- softmax ----

for _op, _name in [("softmax", "Softmax"), ("log_softmax", "LogSoftmax")]:
    for _shape, _axis in [
        ((9, 10), 1),
        ((9, 1), 1),
        ((9, 300), -1),
        ((5, 4, 7), 1),
        ((5, 4, 7), 2),
        ((5, 4, 3, 6), 1),
        ((5, 4, 3, 6), 2),
        ((5, 4, 3, 6), 3),
    ]:
        cases.layer(_op, _name, _shape, _axis)
    cases.layer(_op, _name, (9, 33), 1, scale=20.0)

# ---- batch norm in training mode; its running statistics are compared as well ----

for _name, _shape in [
    ("BatchNorm1d", (9, 5)), ("BatchNorm1d", (64, 33)), ("BatchNorm1d", (7, 5, 11)),
    ("BatchNorm2d", (7, 5, 6, 4)), ("BatchNorm2d", (19, 16, 3, 3)),
    ("BatchNorm2d", (1, 20, 5, 4)),
]:  # fmt: skip
    cases.layer("batch_norm", _name, _shape, _shape[1])
cases.layer("batch_norm", "BatchNorm2d", (7, 5, 6, 4), 5, eps=0.1, momentum=0.7)
cases.layer("batch_norm", "BatchNorm2d", (7, 5, 6, 4), 5, affine=False)
cases.function(
    "batch_norm", "far from 0", (33, 6), lambda x, *p: F.batch_norm(x + 50.0, None, None, *p, training=True),
    lambda x, *p: TF.batch_norm(x + 50.0, None, None, *p, training=True), parameters=((6,), (6,)),
)  # fmt: skip


test_operator = cases.test()


def test_every_operator_has_a_case() -> None:
    """Of all files test_oracle_*.py together."""
    for path in Path(__file__).parent.glob("test_oracle_*.py"):
        importlib.import_module(path.stem)
    known = {entry["name"] for entry in _core.operators()}
    covered = set().union(*(group.covered() for group in Cases.everywhere))
    assert known <= covered, f"operators without a case: {sorted(known - covered)}"
    assert covered <= known, f"cases of operators that are not there: {sorted(covered - known)}"
    for group in Cases.everywhere:
        bare = {item.op for item in group.items} - set(group.tolerance)
        assert not bare, f"cases without a tolerance: {sorted(bare)}"


def test_a_wrong_gradient_is_seen() -> None:
    """The harness itself: a factor of 1 + 1e-5 in one weight is found in the output and in the gradient of the input."""
    item = Case("linear", "", ((9, 7),), lambda: nn.Linear(7, 5), lambda: torch.nn.Linear(7, 5))
    assert max(compare(item, torch.float64, TOLERANCE["linear"]).values()) <= TOLERANCE["linear"]

    class Bent(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            bend = torch.ones_like(self.weight)
            bend[int(self.weight.abs().argmax()) // 7, int(self.weight.abs().argmax()) % 7] += 1e-4
            return TF.linear(x, self.weight * bend, self.bias)

    errors = compare(item._replace(theirs=lambda: Bent(7, 5)), torch.float64, TOLERANCE["linear"])
    assert errors["output"] > TOLERANCE["linear"] and errors["gradient of input 0"] > TOLERANCE["linear"]


# ---- losses and metrics ----


def targets(kind: str, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Labels, or probabilities, for logits of the given shape."""
    classes = shape[axis]
    if kind == "labels":
        rest = shape[:axis] + shape[axis + 1 :] if axis >= 0 else shape[:-1]
        return oracle.labels(int(np.prod(rest)), classes).reshape(rest)
    chances = np.exp(oracle.grid(shape, 8 * 10**6).astype(np.float64))
    return (chances / chances.sum(axis=axis, keepdims=True)).astype(np.float32)


LOGITS = [
    ((9, 10), 1),
    ((1, 3), 1),
    ((67, 33), 1),
    ((3, 1100), 1),
    ((7, 5, 6), 1),
    ((7, 6, 5), -1),
    ((5, 4, 3, 6), 1),
    ((5, 3, 6, 4), -1),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"ignore_index": 1},
    {"class_weights": True},
    {"class_weights": True, "label_smoothing": 0.3},
    {"class_weights": True, "ignore_index": 0, "reduction": "sum", "label_smoothing": 0.2},
    {"sample_weights": True},
    {"sample_weights": True, "class_weights": True, "ignore_index": 1, "label_smoothing": 0.1},
]


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize(
    "options", OPTIONS, ids=[", ".join(f"{k}={v}" for k, v in options.items()) or "defaults" for options in OPTIONS]
)
@pytest.mark.parametrize(("shape", "axis"), LOGITS, ids=[f"{shape} axis {axis}" for shape, axis in LOGITS])
def test_cross_entropy(shape: tuple[int, ...], axis: int, options: dict[str, Any], kind: str) -> None:
    options = dict(options)
    if kind == "probabilities" and "ignore_index" in options:
        pytest.skip("PyTorch too ignores labels only")
    classes = shape[axis]
    logits, target = oracle.grid(shape) * 3, targets(kind, shape, axis)
    class_weights = np.abs(oracle.grid((classes,), 77)) + 0.25 if options.pop("class_weights", False) else None
    sample_weights = np.abs(oracle.grid((shape[0],), 78)) if options.pop("sample_weights", False) else None
    loss = nn.CrossEntropyLoss(class_weights, axis=axis, **options)
    found = oracle.probe(nn.Identity(), [logits], loss, target, weights=sample_weights)
    assert "cross_entropy" in found["operators"]
    evaluated = found["plan"].evaluate(np.eye(len(logits), dtype=np.float32), target, sample_weight=sample_weights)[
        "loss"
    ]

    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(logits, dtype=dtype, requires_grad=True)
        t = torch.tensor(target) if kind == "labels" else torch.tensor(target, dtype=dtype)
        scores = x if axis == 1 else x.movedim(-1, 1)
        weight = None if class_weights is None else torch.tensor(class_weights, dtype=dtype)
        if kind != "labels" and axis == -1:
            t = t.movedim(-1, 1)
        if sample_weights is None:
            expected = TF.cross_entropy(scores, t, weight, **options)
        else:  # a weighted mean: PyTorch's terms, and its denominator sample by sample
            each = TF.cross_entropy(scores, t, weight, **{**options, "reduction": "none"})
            counts = torch.ones_like(each)
            if kind == "labels":
                counts = (t != options.get("ignore_index", -100)).to(dtype) * (1 if weight is None else weight[t])
            w = torch.tensor(sample_weights, dtype=dtype).reshape(-1, *[1] * (each.ndim - 1))
            expected = (w * each).sum() / (w * counts).sum()
        expected.backward()
        errors = {
            "gradient": oracle.distance(found["input0"], x.grad),
            "loss": oracle.distance(found["loss"], expected.detach()),
            "loss in evaluation": oracle.distance(evaluated, expected.detach()),
        }
        assert max(errors.values()) <= TOLERANCE["cross_entropy"], (dtype, errors)


def test_cross_entropy_of_extreme_logits() -> None:
    logits = np.array([[1e4, -1e4, 0], [80, 0, -80], [-3e38, 3e38, 0], [1e-30, 0, -1e-30]], np.float32)
    for labels in ([0, 0, 1, 2], [1, 2, 1, 0]):
        found = oracle.probe(nn.Identity(), [logits], nn.CrossEntropyLoss(), np.array(labels))
        x = torch.tensor(logits, requires_grad=True)
        expected = TF.cross_entropy(x, torch.tensor(labels))
        expected.backward()
        assert oracle.distance(found["loss"], expected.detach()) <= TOLERANCE["cross_entropy"]
        assert oracle.distance(found["input0"], x.grad) <= TOLERANCE["cross_entropy"]


@pytest.mark.parametrize(("shape", "axis"), LOGITS, ids=[f"{shape} axis {axis}" for shape, axis in LOGITS])
@pytest.mark.parametrize("ignore", [-100, 1])
def test_accuracy(shape: tuple[int, ...], axis: int, ignore: int) -> None:
    logits, target = oracle.grid(shape), targets("labels", shape, axis)
    half = torch.tensor(logits).argmax(axis).numpy()
    target = np.where(
        oracle.whole_numbers(target.size, 2).reshape(target.shape) == 1, half, target
    )  # so that about half are right
    weights = np.abs(oracle.grid((shape[0],), 79))
    for sample_weights in (None, weights):
        found = oracle.probe(
            nn.Identity(),
            [logits],
            nn.CrossEntropyLoss(axis=axis, ignore_index=ignore),
            target,
            weights=sample_weights,
            metrics=["accuracy"],
        )
        w = np.ones(len(logits)) if sample_weights is None else sample_weights.astype(np.float64)
        w = w.reshape(-1, *[1] * (target.ndim - 1)) * (target != ignore)
        assert "accuracy" in found["operators"]
        assert found["metrics"]["accuracy"] == pytest.approx((w * (half == target)).sum() / w.sum(), rel=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(9,), (9, 5), (7, 3, 6, 4), (1, 1), (33, 300)])
def test_mse(shape: tuple[int, ...], weighted: bool, reduction: str) -> None:
    prediction, target = oracle.grid(shape), oracle.grid(shape, 555)
    weights = np.abs(oracle.grid((shape[0],), 80)) if weighted else None
    found = oracle.probe(nn.Identity(), [prediction], nn.MSELoss(reduction), target, weights=weights)
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(prediction, dtype=dtype, requires_grad=True)
        each = TF.mse_loss(x, torch.tensor(target, dtype=dtype), reduction="none")
        w = torch.ones(len(prediction), dtype=dtype) if weights is None else torch.tensor(weights, dtype=dtype)
        expected = (each * w.reshape(-1, *[1] * (each.ndim - 1))).sum()
        if reduction == "mean":
            expected = expected / (w.sum() * (each.numel() // len(each)))
        if weights is None:
            assert torch.allclose(expected, TF.mse_loss(x, torch.tensor(target, dtype=dtype), reduction=reduction))
        expected.backward()
        assert oracle.distance(found["input0"], x.grad) <= TOLERANCE["mse"]
        assert oracle.distance(found["loss"], expected.detach()) <= LOSS_TOLERANCE


# ---- dropout: the bits are this project's own, so the distribution is compared ----


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(64, 1000), (32, 10, 10, 20)])
def test_dropout(p: float, shape: tuple[int, ...]) -> None:
    def step(seed: int, layers: int = 1) -> dict[str, Any]:
        return oracle.probe(nn.Sequential(*[nn.Dropout(p)] * layers), [x], nn.MSELoss("sum"), target, seed=seed)

    x, target = (
        np.abs(oracle.grid(shape)) + 0.5,
        np.full(shape, -1, np.float32),
    )  # no element and no gradient is 0 of itself
    found = step(1)
    kept = found["input0"] != 0
    count = kept.size
    assert abs(kept.mean() - (1 - p)) < 4.5 * np.sqrt(p * (1 - p) / count)
    per_sample = kept.reshape(len(kept), -1).mean(axis=1)
    assert np.abs(per_sample - (1 - p)).max() < 5.5 * np.sqrt(p * (1 - p) / (count / len(kept)))
    flat = kept.reshape(len(kept), -1).astype(np.float64) - (1 - p)
    for pair in (
        (flat[:, 1:], flat[:, :-1]),
        (flat[1:], flat[:-1]),
        (flat[:, 4:], flat[:, :-4]),
    ):  # neighbours are independent
        assert abs((pair[0] * pair[1]).mean()) < 4.5 * p * (1 - p) / np.sqrt(pair[0].size)

    given = torch.tensor(x, requires_grad=True)
    loss = ((given * torch.tensor(kept) / (1 - p) - torch.tensor(target)) ** 2).sum()
    loss.backward()
    assert oracle.distance(found["input0"], given.grad) <= TOLERANCE["dropout"]
    assert oracle.distance(found["loss"], loss.detach()) <= LOSS_TOLERANCE

    assert np.array_equal(found["input0"], step(1)["input0"])
    assert abs((kept == (step(2)["input0"] != 0)).mean() - (p * p + (1 - p) ** 2)) < 4.5 / np.sqrt(count)
    both = step(1, 2)["input0"] != 0  # two layers draw on their own
    assert abs(both.mean() - (1 - p) ** 2) < 4.5 * np.sqrt(0.25 / count)


def test_dropout_of_other_steps_and_of_evaluation() -> None:
    x = np.abs(oracle.grid((64, 500))) + 0.5
    net = nn.Dropout(0.5)
    first, second = net(x), net(x)
    assert ((first == 0) != (second == 0)).any()
    values = torch.nn.Dropout(0.5)(torch.tensor(x)).numpy()
    assert np.array_equal(first[first != 0], 2 * x[first != 0]) and np.array_equal(
        values[values != 0], 2 * x[values != 0]
    )
    assert first.mean() == pytest.approx(x.mean(), rel=0.02)
    assert np.array_equal(net.eval()(x), x)
    assert np.array_equal(nn.Dropout(0.0)(x), x) and not nn.Dropout(1.0)(x).any()
    assert not oracle.probe(nn.Dropout(1.0), [x], nn.MSELoss("sum"), x)["input0"].any()


# ---- batch norm outside of training, frozen, and by groups ----


def norm_pair(shape: tuple[int, ...], **options: Any) -> tuple[Any, Any]:
    """Our layer and PyTorch's with running statistics and parameters that are no defaults."""
    name, channels = ("BatchNorm2d" if len(shape) == 4 else "BatchNorm1d"), shape[1]
    ours, theirs = getattr(nn, name)(channels, **options), getattr(torch.nn, name)(channels)
    ours.running_mean.data = oracle.grid((channels,), 1)
    ours.running_var.data = np.abs(oracle.grid((channels,), 2)) + 0.5
    ours.weight.data, ours.bias.data = oracle.grid((channels,), 3) + 3, oracle.grid((channels,), 4)
    theirs.load_state_dict({name: torch.as_tensor(value) for name, value in ours.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("shape", [(9, 5), (7, 5, 11), (7, 5, 6, 4), (1, 5, 3, 3), (33, 70)])
def test_batch_norm_in_evaluation(shape: tuple[int, ...]) -> None:
    ours, theirs = norm_pair(shape)
    x = oracle.grid(shape)
    assert oracle.distance(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach()) <= TOLERANCE["batch_norm"]


@pytest.mark.parametrize("shape", [(9, 5), (7, 5, 11), (7, 5, 6, 4)])
def test_frozen_batch_norm_in_a_network_that_trains(shape: tuple[int, ...]) -> None:
    ours, theirs = norm_pair(shape)
    ours.eval(), theirs.eval()
    before = {name: value.clone() for name, value in theirs.named_buffers()}
    x, target = oracle.grid(shape), oracle.grid(shape, 999)
    found = oracle.probe(ours, [x], nn.MSELoss("sum"), target)
    given = torch.tensor(x, requires_grad=True)
    ((theirs(given) - torch.tensor(target)) ** 2).sum().backward()
    assert oracle.distance(found["input0"], given.grad) <= TOLERANCE["batch_norm"]
    for name in ("weight", "bias"):
        assert oracle.distance(found["parameters"][name], theirs.get_parameter(name).grad) <= TOLERANCE["batch_norm"]
    for name in ("running_mean", "running_var"):
        assert np.array_equal(found["buffers"][name], before[name].numpy())


@pytest.mark.parametrize("shape", [(24, 5), (24, 5, 6, 4)])
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_batch_norm_by_groups_of_lanes(shape: tuple[int, ...], lanes: int) -> None:
    """stats_lanes=k: each group of k of the 8 lanes is a batch of its own; the running statistics are those of the whole batch."""
    ours, theirs = norm_pair(shape, stats_lanes=lanes)
    whole = norm_pair(shape)[1]
    x, target = oracle.grid(shape), oracle.grid(shape, 999)
    found = oracle.probe(ours, [x], nn.MSELoss("sum"), target, lanes=8)
    given = torch.tensor(x, requires_grad=True)
    output = torch.cat([theirs(part) for part in given.split(24 // 8 * lanes)])
    ((output - torch.tensor(target)) ** 2).sum().backward()
    whole(torch.tensor(x))
    assert oracle.distance(found["input0"], given.grad) <= TOLERANCE["batch_norm"]
    for name in ("weight", "bias"):
        assert oracle.distance(found["parameters"][name], theirs.get_parameter(name).grad) <= TOLERANCE["batch_norm"]
    for name in ("running_mean", "running_var"):
        assert oracle.distance(found["buffers"][name], whole.get_buffer(name)) <= TOLERANCE["batch_norm"]


# ---- what is not a number stays so ----


def test_nan_and_infinity() -> None:
    x = oracle.grid((3, 2, 6, 6))
    x[0, 0, 2, 2], x[1, 1, 0, 0], x[2, 0, 5, 5] = np.nan, np.inf, -np.inf
    given = torch.tensor(x)
    pairs = [
        (F.relu, TF.relu), (F.leaky_relu, TF.leaky_relu), (F.sigmoid, torch.sigmoid),
        (F.tanh, torch.tanh), (lambda a: F.max_pool2d(a, 3, 1, 1), lambda a: TF.max_pool2d(a, 3, 1, 1)),
        (lambda a: F.avg_pool2d(a, 2), lambda a: TF.avg_pool2d(a, 2)),
        (lambda a: F.adaptive_max_pool2d(a, 2), lambda a: TF.adaptive_max_pool2d(a, 2)),
    ]  # fmt: skip
    for number, (ours, theirs) in enumerate(pairs):
        np.testing.assert_allclose(
            ours(x), theirs(given).numpy(), rtol=1e-6, atol=1e-7, equal_nan=True, err_msg=str(number)
        )


# ---- optimizers ----

OPTIMIZERS = [
    ("sgd", "SGD", {"lr": 0.1}),
    ("sgd", "SGD", {"lr": 0.1, "weight_decay": 0.3}),
    ("sgd", "SGD", {"lr": 0.05, "momentum": 0.9}),
    ("sgd", "SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1}),
    ("sgd", "SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("adam", "Adam", {"lr": 0.05}),
    ("adam", "Adam", {"lr": 0.05, "betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.2}),
    ("adam", "Adam", {"lr": 0.05, "amsgrad": True}),
    ("adamw", "AdamW", {"lr": 0.05}),
    ("adamw", "AdamW", {"lr": 0.05, "weight_decay": 0.5, "betas": (0.8, 0.9)}),
    ("adamw", "AdamW", {"lr": 0.05, "weight_decay": 0.5, "amsgrad": True}),
]


@pytest.mark.parametrize(
    ("op", "name", "options"), OPTIMIZERS, ids=[f"{name}({options})" for _, name, options in OPTIMIZERS]
)
def test_optimizer(op: str, name: str, options: dict[str, Any]) -> None:
    """20 steps of one layer whose gradient is (parameter + sample - target), so errors are the optimizer's own; the
    learning rate changes on the way."""
    shape = (300,)
    net = Ours(lambda x, p: x + p, shape)
    rule = getattr(optim, name)(**options)
    plan = ss.compile(net, nn.MSELoss("sum"), rule, 1, seed=3)
    for dtype in (torch.float32, torch.float64):
        parameter = torch.tensor(oracle.grid(shape, 3), dtype=dtype, requires_grad=True)
        twin = getattr(torch.optim, name)([parameter], **options)
        net.p0.data = oracle.grid(shape, 3)
        plan = ss.compile(net, nn.MSELoss("sum"), getattr(optim, name)(**options), 1)
        for step in range(20):
            if step == 12:
                plan.optimizer.lr = twin.param_groups[0]["lr"] = options["lr"] / 3
            x, target = oracle.grid((1, *shape), 1000 * step), oracle.grid((1, *shape), 10**7 + 1000 * step)
            plan.step(x, target)
            twin.zero_grad()
            ((torch.tensor(x[0], dtype=dtype) + parameter - torch.tensor(target[0], dtype=dtype)) ** 2).sum().backward()
            twin.step()
            assert oracle.distance(net.p0.data, parameter.detach()) <= 2e-6, (dtype, step)


def test_every_optimizer_has_a_case() -> None:
    from test_oracle_optimizers import CASES, NUMPY_CASES

    assert {entry["name"] for entry in _core.optimizers()} == {op for op, _, _ in OPTIMIZERS + CASES + NUMPY_CASES}
