"""Activations against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oracle_cases import Cases
from samestep import nn
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")

cases = Cases(
    {
        "elu": 2e-6, "glu": 2e-6, "hardshrink": 1e-6, "hardsigmoid": 1e-6, "hardswish": 1e-6, "hardtanh": 1e-6,
        "logsigmoid": 2e-6, "mish": 2e-6, "prelu": 2e-6, "softmax": 2e-6, "softplus": 2e-6, "softshrink": 1e-6,
        "softsign": 2e-6, "tanhshrink": 2e-6, "threshold": 1e-6,
    }
)  # fmt: skip

LAYERS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("elu", "ELU", ()), ("elu", "ELU", (0.3,)), ("elu", "SELU", ()), ("elu", "CELU", ()), ("elu", "CELU", (1.7,)),
    ("softplus", "Softplus", ()), ("softplus", "Softplus", (2.5, 7.3)), ("softsign", "Softsign", ()), ("mish", "Mish", ()),
    ("hardswish", "Hardswish", ()), ("hardsigmoid", "Hardsigmoid", ()), ("hardtanh", "Hardtanh", ()),
    ("hardtanh", "Hardtanh", (-0.51, 1.57)), ("hardtanh", "ReLU6", ()), ("logsigmoid", "LogSigmoid", ()),
    ("tanhshrink", "Tanhshrink", ()), ("softshrink", "Softshrink", ()), ("softshrink", "Softshrink", (1.21,)),
    ("hardshrink", "Hardshrink", ()), ("hardshrink", "Hardshrink", (1.21,)), ("threshold", "Threshold", (0.31, -2.0)),
    ("prelu", "PReLU", ()), ("prelu", "PReLU", (37,)),
]  # fmt: skip
for _op, _name, _arguments in LAYERS:
    for _scale in (1.0, 12.0, 60.0):
        cases.layer(_op, _name, (9, 37), *_arguments, scale=_scale)
    if _arguments != (37,):
        cases.layer(_op, _name, (5, 3, 4, 7), *_arguments)
cases.layer("prelu", "PReLU", (5, 3, 4, 7), 3)
cases.layer("prelu", "PReLU", (5, 3, 7), 3)
cases.function(
    "prelu", "between convolutions", (5, 3, 6, 6), lambda x, w, a: F.conv2d(F.prelu(F.conv2d(x, w), a), w),
    lambda x, w, a: torch.conv2d(torch.prelu(torch.conv2d(x, w), a), w), parameters=((3, 3, 1, 1), (3,)),
)  # fmt: skip
for _shape, _dim in [((9, 38), -1), ((5, 4, 3), 1), ((5, 3, 4, 6), -1), ((5, 4, 3, 6), 1)]:
    for _scale in (1.0, 12.0):
        cases.layer("glu", "GLU", _shape, _dim, scale=_scale)
        cases.function(
            "glu", f"swiglu of {_shape} along {_dim}", _shape, lambda x, d=_dim: F.swiglu(x, d),
            lambda x, d=_dim: torch.nn.functional.silu(x.chunk(2, d)[0]) * x.chunk(2, d)[1], scale=_scale,
        )  # fmt: skip
cases.layer("softmax", "Softmin", (9, 37), 1)
cases.layer("softmax", "Softmax2d", (5, 3, 4, 7))

test_operator = cases.test()


@pytest.mark.parametrize(("op", "name", "arguments"), [item for item in LAYERS if item[2] != (37,)])
def test_special_values(op: str, name: str, arguments: tuple[Any, ...]) -> None:
    """NaN stays NaN, infinities and zeros go where PyTorch sends them."""
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-30]], np.float32)
    ours = getattr(nn, name)(*arguments).eval()(x)
    theirs = getattr(torch.nn, name)(*arguments)(torch.tensor(x)).detach().numpy()
    assert np.isnan(ours[0, 0])
    keep = slice(3, None) if name in ("Mish", "Softsign", "Hardswish", "Tanhshrink") else slice(1, None)
    assert np.allclose(ours[0, keep], theirs[0, keep], rtol=1e-6, atol=1e-25, equal_nan=True), (ours, theirs)


def test_classes_and_functions() -> None:
    x = np.linspace(-4, 4, 12, dtype=np.float32).reshape(2, 6)
    assert np.array_equal(nn.SwiGLU()(x), F.swiglu(x))
    assert np.array_equal(F.relu6(x), nn.ReLU6()(x)) and np.array_equal(F.softmin(x, 1), nn.Softmin(1)(x))
    assert nn.PReLU(3).state_dict()["weight"].tolist() == [0.25] * 3
    assert repr(nn.Softplus(2.0)) == "Softplus(beta=2.0, threshold=20.0)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Softplus(0), "beta must be positive"),
        (lambda: nn.Softshrink(-1), "lambd must not be negative"),
        (lambda: nn.Hardshrink(-1), "lambd must not be negative"),
        (lambda: nn.Hardtanh(1, 1), "min_val"),
        (lambda: nn.CELU(0), "alpha must not be 0"),
        (lambda: nn.GLU()(np.zeros((2, 3), np.float32)), "no two halves"),
        (lambda: nn.GLU(0)(np.zeros((2, 4), np.float32)), "batch axis"),
        (lambda: nn.PReLU(3)(np.zeros((2, 4), np.float32)), "does not fit"),
        (lambda: nn.Softmax2d()(np.zeros((2, 4), np.float32)), "takes"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
