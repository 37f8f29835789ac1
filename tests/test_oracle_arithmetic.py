"""Elementwise arithmetic against PyTorch: one and two operands, broadcasting, comparisons, parameters in any place."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import samestep as ss
from oracle_cases import Cases
from samestep import nn
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")

UNARY = {
    "exp": 2e-6, "log": 2e-6, "log1p": 2e-6, "expm1": 2e-6, "sqrt": 1e-6, "rsqrt": 2e-6, "reciprocal": 2e-6, "abs": 1e-6,
    "sign": 1e-6, "square": 2e-6, "sin": 1e-6, "cos": 1e-6, "erf": 2e-6, "floor": 1e-6, "ceil": 1e-6, "round": 1e-6,
}  # fmt: skip
BINARY = {"sub": 1e-6, "div": 3e-6, "pow": 2e-5, "maximum": 1e-6, "minimum": 1e-6}
COMPARED = {
    "greater": 1e-6, "greater_equal": 1e-6, "less": 1e-6, "less_equal": 1e-6, "equal": 1e-6, "not_equal": 1e-6,
}  # fmt: skip
cases = Cases(
    {**UNARY, **BINARY, **COMPARED, "clip": 1e-6, "power": 1e-5, "where": 1e-6, "expand": 2e-6, "broadcast_to": 2e-6}
)


def positive(x):
    return x * x + 0.5


for _op in UNARY:
    _inside = positive if _op in ("log", "log1p", "sqrt", "rsqrt", "reciprocal") else lambda x: x * 1.0
    for _shape in [(9, 37), (5, 3, 4, 2)]:
        cases.function(
            _op, f"{_op} of {_shape}", _shape, lambda x, f=_op, i=_inside: getattr(F, f)(i(x)),
            lambda x, f=_op, i=_inside: getattr(torch, f)(i(x)),
        )  # fmt: skip
for _low, _high in [(-0.5, 0.75), (None, 0.5), (0.25, None)]:
    cases.function("clip", f"clamp {_low} {_high}", (9, 37), lambda x, a=_low, b=_high: x.clamp(a, b))
for _exponent in (3, 0, 1, -1, 5, 0.5, -0.5, 1.7, -2.25):
    cases.function("power", f"x ** {_exponent}", (9, 37), lambda x, e=_exponent: positive(x) ** e)
cases.function("power", "a negative base", (9, 37), lambda x: x**3)
cases.function("exp", "2 ** x", (9, 37), lambda x: 2.0**x)

SHAPES = [
    ((7, 3, 5), (7, 3, 5)), ((7, 3, 5), (7, 1, 5)), ((7, 3, 1), (7, 1, 5)), ((7, 4, 3, 5), (7, 4, 1, 1)),
    ((7, 1), (7, 6)), ((7, 2, 1, 3, 1), (7, 1, 4, 1, 5)),
]  # fmt: skip
PAIRS = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / (b * b + 0.5),
    "pow": lambda a, b: (a * a + 0.5) ** b,
}  # fmt: skip
cases.tolerance.update(add=2e-6, mul=2e-6)
for _op, _f in PAIRS.items():
    for _shapes in SHAPES:
        cases.function(_op, f"{_op} of {_shapes}", _shapes, _f)
for _op in ("maximum", "minimum"):
    for _shapes in SHAPES[:4]:
        cases.function(
            _op, f"{_op} of {_shapes}", _shapes, lambda a, b, f=_op: getattr(F, f)(a, b), lambda a, b, f=_op: getattr(torch, f)(a, b)
        )  # fmt: skip
    cases.function(
        _op, "ties", ((9, 40), (9, 40)), lambda a, b, f=_op: getattr(F, f)(a.round(), b.round()),
        lambda a, b, f=_op: getattr(torch, f)(a.round() + (a - a), b.round() + (b - b)),
    )  # fmt: skip
for _op, _f in {
    "greater": lambda a, b: a > b, "greater_equal": lambda a, b: a >= b, "less": lambda a, b: a < b, "less_equal": lambda a, b: a <= b,
}.items():  # fmt: skip
    cases.function(
        _op, f"{_op}, rounded", ((9, 4, 10), (9, 1, 10)), lambda a, b, f=_f: f(a.round(), b.round()) * a + b,
        lambda a, b, f=_f: f(a.round(), b.round()).to(a.dtype) * a + b,
    )  # fmt: skip
cases.function(
    "equal",
    "eq",
    ((9, 40), (9, 40)),
    lambda a, b: a.round().eq(b.round()) * a + b,
    lambda a, b: (a.round() == b.round()) * a + b,
)
cases.function(
    "not_equal", "ne", ((9, 40), (9, 40)), lambda a, b: a.round().ne(0) * a + b, lambda a, b: (a.round() != 0) * a + b
)
cases.function(
    "where",
    "where",
    ((9, 4, 5), (9, 4, 1), (9, 1, 5)),
    lambda c, a, b: F.where(c > 0.25, a, b) + c,
    lambda c, a, b: torch.where(c > 0.25, a, b) + c,
)
cases.function(
    "where",
    "with a number",
    (9, 33),
    lambda x: F.where(x > 0, x * 3, 0.5),
    lambda x: torch.where(x > 0, x * 3, torch.tensor(0.5, dtype=x.dtype)),
)
cases.function(
    "where", "logic", ((9, 33), (9, 33)), lambda a, b: F.masked_fill(a, F.logical_and(a > 0, F.logical_not(b > 0)), -1.5) + b,
    lambda a, b: a.masked_fill((a > 0) & ~(b > 0), -1.5) + b,
)  # fmt: skip

for _shape, _parameter in [((9, 33), (33,)), ((9, 5, 3), (5, 1)), ((9, 5, 3), ()), ((9, 1, 3), (4, 3))]:
    for _op, _f in {
        "div": lambda x, p: x / (p * p + 0.5), "expand": lambda x, p: p / (x * x + 0.5), "maximum": lambda x, p: x.maximum(p),
    }.items():  # fmt: skip
        cases.function(_op, f"{_shape} and parameter {_parameter}, {_op}", _shape, _f, parameters=(_parameter,))
cases.function(
    "expand", "parameters alone", (9, 6), lambda x, p, q: x * (p * q + p / (q * q + 1) - 2), parameters=((6,), (1,))
)
cases.function(
    "expand",
    "a larger parameter",
    (9, 6),
    lambda x, p: x + p.exp(),
    lambda x, p: x[:, None] + p.exp(),
    parameters=((4, 6),),
)
cases.function(
    "expand",
    "its methods",
    (9, 6),
    lambda x, p: x * p.reshape(x.shape[0], 6),
    lambda x, p: x * p.reshape(6),
    parameters=((2, 3),),
)

test_operator = cases.test()


def test_the_bits_of_plain_addition_did_not_change() -> None:
    """Broadcasting goes through operators of its own: equal shapes and parameters still are one node."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(np.ones(5))

        def forward(self, x):
            return (x + x) * self.p + self.p - x

    plan = ss.compile(Net(), "mse", batch_size=4, input_shape=(5,))
    assert [node["op"] for node in oracle.nodes(plan)] == ["add", "mul", "add", "sub", "mse"]


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (lambda x: x + np.ones(4), ValueError, "broadcast"),
        (lambda x: x + ss.cat([x, x], 1), ValueError, "broadcast"),
        (lambda x: x * "2", TypeError, "str"),
        (lambda x: x / 0, ValueError, "division"),
        (lambda x: (-2.0) ** x, ValueError, "positive"),
        (lambda x: x.clamp(), ValueError, "clamp"),
        (lambda x: x if x > 0 else -x, TypeError, "no numbers"),
    ],
)
def test_errors_name_the_layer(function, error, text) -> None:
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(error, match=text):
        Net()(np.ones((3, 5)))


def test_special_values() -> None:
    x = np.array([[0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 80.0, -80.0, 1e5]], np.float32)
    t = torch.tensor(x)
    for name in [
        "exp",
        "log",
        "log1p",
        "expm1",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "abs",
        "erf",
        "floor",
        "ceil",
        "round",
        "sin",
        "cos",
    ]:
        np.testing.assert_allclose(
            getattr(F, name)(x), getattr(torch, name)(t).numpy(), rtol=2e-6, atol=1e-37, equal_nan=True, err_msg=name
        )
    for exponent in (2.0, 3.0, 0.0, 0.5, -1.0, -0.5, 1.7):
        np.testing.assert_allclose(
            F.pow(x, exponent),
            torch.pow(t, exponent).numpy(),
            rtol=1e-4,
            atol=1e-37,
            equal_nan=True,
            err_msg=str(exponent),
        )
    grid = [-np.inf, -2.5, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, np.inf, np.nan]
    a, b = (part.astype(np.float32).ravel()[None] for part in np.meshgrid(grid, grid))
    from samestep import _eager

    found = _eager.call(F.pow, [a, b])
    np.testing.assert_allclose(found, torch.pow(torch.tensor(a), torch.tensor(b)).numpy(), rtol=1e-5, equal_nan=True)
