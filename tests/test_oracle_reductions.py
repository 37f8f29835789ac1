"""Reductions and matrix products against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from oracle_cases import Cases
from samestep import nn
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")

cases = Cases(
    {
        "sum": 2e-6, "mean": 2e-6, "max": 1e-6, "min": 1e-6, "prod": 1e-5, "logsumexp": 1.5e-5, "cumsum": 3e-6, "argmax": 1e-6,
        "argmin": 1e-6, "matmul": 3e-6,
    }
)  # fmt: skip

SHAPES = [
    ((9, 37), 1), ((5, 3, 40), 2), ((5, 3, 40), 1), ((5, 3, 4, 6), 2), ((5, 3, 4, 6), (2, 3)), ((5, 3, 4, 6), (1, 2)),
    ((5, 3, 4, 6), (1, 3)), ((5, 3, 4, 6), (1, 2, 3)), ((5, 70, 3), 1), ((5, 3, 4), -1),
]  # fmt: skip
for _op in ("sum", "mean"):
    for _shape, _dim in SHAPES:
        for _keep in (False, True):
            cases.function(
                _op,
                f"{_op}({_dim}, {_keep}) of {_shape}",
                _shape,
                lambda x, f=_op, d=_dim, k=_keep: getattr(x, f)(d, keepdim=k) * 2.0,
            )
for _op, _name in [("logsumexp", "logsumexp"), ("max", "amax"), ("min", "amin")]:
    for _shape, _dim in SHAPES:
        cases.function(_op, f"{_name}({_dim}) of {_shape}", _shape, lambda x, f=_name, d=_dim: getattr(x, f)(d))
cases.function("logsumexp", "far from 0", (9, 30), lambda x: (x * 60.0).logsumexp(1), scale=1.0)
cases.function(
    "max",
    "ties, shared",
    (9, 40),
    lambda x: (x * 2.0).round().amax(1) + x.amax(1),
    lambda x: ((x * 2.0).round() + 0 * x).amax(1) + x.amax(1),
)
for _op in ("max", "min"):
    for _shape, _dim in [((9, 37), 1), ((5, 3, 40), 1), ((5, 70, 3), 1)]:
        cases.function(
            _op, f"first of equal ones, {_op}({_dim}) of {_shape}", _shape, lambda x, f=_op, d=_dim: getattr(x.relu(), f)(d),
            lambda x, f=_op, d=_dim: getattr(x.relu(), f)(d).values,
        )  # fmt: skip
for _shape, _dim in [((9, 7), 1), ((5, 3, 4), 2), ((5, 6, 4), 1)]:
    cases.function("prod", f"prod({_dim}) of {_shape}", _shape, lambda x, d=_dim: x.prod(d))
    cases.function("cumsum", f"cumsum({_dim}) of {_shape}", _shape, lambda x, d=_dim: x.cumsum(d))
for _shape, _dim in [((9, 37), 1), ((5, 3, 40), 1), ((5, 3, 4, 6), (1, 3))]:
    cases.function(
        "sum", f"var({_dim}) of {_shape}", _shape, lambda x, d=_dim: x.var(d) + x.std(d, correction=0, keepdim=False)
    )
    cases.function("sum", f"norm({_dim}) of {_shape}", _shape, lambda x, d=_dim: x.norm(2, d) + x.norm(1, d))
cases.function("argmax", "argmax", (9, 37), lambda x: x + (x * 3).argmax(1, keepdim=True))
cases.function("argmin", "argmin", (5, 4, 6), lambda x: x + (x * 3).argmin(2, keepdim=True))
cases.function(
    "argmax",
    "ties and all axes",
    (9, 6, 7),
    lambda x: (
        x.sum((1, 2)) + x.round().argmax()
        if not isinstance(x, torch.Tensor)
        else x.sum((1, 2)) + x.round().flatten(1).argmax(1)
    ),
)

# ---- matrix products ----

for _a, _b in [
    ((7, 5, 6), (7, 6, 3)), ((3, 2, 33, 20), (3, 2, 20, 17)), ((7, 2, 5, 6), (7, 1, 6, 3)), ((7, 5, 6), (7, 2, 6, 3)),
    ((7, 1, 1), (7, 1, 1)), ((3, 65, 40), (3, 40, 70)),
]:  # fmt: skip
    cases.function(
        "matmul", f"{_a} @ {_b}", (_a, _b), lambda a, b: a @ b,
        lambda a, b: a.unsqueeze(1) @ b if b.ndim > a.ndim else a @ b,
    )  # fmt: skip
cases.function("matmul", "transposed", ((7, 5, 6), (7, 4, 6)), lambda a, b: a @ b.transpose(1, 2))
cases.function("matmul", "a parameter on the right", (7, 5, 6), lambda x, p: x @ p, parameters=((6, 4),))
cases.function("matmul", "vectors and a parameter", (7, 6), lambda x, p: x @ p, parameters=((6, 4),))
cases.function(
    "matmul",
    "a parameter on the left",
    (7, 5, 6),
    lambda x, p: F.matmul(p, x),
    lambda x, p: p @ x,
    parameters=((4, 5),),
)
cases.function("matmul", "parameters with leading axes", (7, 2, 5, 6), lambda x, p: x @ p, parameters=((2, 6, 3),))

test_operator = cases.test()


def test_vectors() -> None:
    class Net(nn.Module):
        def forward(self, a, b):
            return a @ b

    rng = np.random.default_rng(0)
    a, m, b = (rng.normal(size=shape).astype(np.float32) for shape in [(5, 4), (5, 4, 3), (5, 3)])
    assert np.allclose(Net()(a, m), np.einsum("bi,bij->bj", a, m), rtol=1e-5)
    assert np.allclose(Net()(m, b), np.einsum("bij,bj->bi", m, b), rtol=1e-5)
    assert np.allclose(Net()(a, a), np.einsum("bi,bi->b", a, a), rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.sum(0), "batch axis"),
        (lambda x: x.sum((1, 1)), "twice"),
        (lambda x: x.mean(3), "not an axis"),
        (lambda x: x.argmax((1, 2)), "one axis"),
        (lambda x: x @ x, "matmul"),
        (lambda x: x @ np.ones((7, 2)), "matmul"),
        (lambda x: x.var(1, correction=3), "correction"),
        (lambda x: x.norm(3), "p must be"),
    ],
)
def test_errors(function, text) -> None:
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(ValueError, match=text):
        Net()(np.ones((4, 3, 5)))


def test_on_arrays_and_special_values() -> None:
    x = np.array([[1, np.nan, 3], [np.inf, 2, 1], [-np.inf, -np.inf, -np.inf]], np.float32)
    t = torch.tensor(x)
    for name in ("sum", "mean", "logsumexp", "amax", "amin", "prod"):
        np.testing.assert_allclose(
            getattr(F, name)(x, 1), getattr(torch, name)(t, 1).numpy(), rtol=1e-6, equal_nan=True, err_msg=name
        )
    assert np.array_equal(F.argmax(x, 1), t.argmax(1).numpy()) and F.argmax(x, 1).dtype == np.int32
    assert np.array_equal(F.argmin(x, 1), t.argmin(1).numpy())
