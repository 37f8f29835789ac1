"""Operators that drop elements. The random bits are this project's own: distributions are compared, and gradients with
PyTorch's for the mask that was drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from oracle_cases import LOSS_TOLERANCE, Cases
from samestep import nn
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")

TOLERANCE = 2e-6
OPERATORS = ("alpha_dropout", "feature_dropout", "stochastic_depth")
cases = Cases(dict.fromkeys(OPERATORS, TOLERANCE), elsewhere=OPERATORS)

FLAT = -1.7580993408473766


def alpha_values(p: float) -> tuple[float, float]:
    """Factor and shift of alpha dropout."""
    a = ((1 - p) * (1 + p * FLAT**2)) ** -0.5
    return a, -a * FLAT * p


def kind(name: str, p: float) -> tuple[Any, str, tuple[int, ...], bool]:
    """Layer, operator, axes along which one draw holds, alpha."""
    return {
        "Dropout1d": (lambda: nn.Dropout1d(p), "feature_dropout", (2,), False),
        "Dropout2d": (lambda: nn.Dropout2d(p), "feature_dropout", (2, 3), False),
        "Dropout3d": (lambda: nn.Dropout3d(p), "feature_dropout", (2, 3, 4), False),
        "AlphaDropout": (lambda: nn.AlphaDropout(p), "alpha_dropout", (), True),
        "FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(p), "feature_dropout", (2,), True),
        "StochasticDepth": (lambda: nn.StochasticDepth(p, "row"), "stochastic_depth", (1,), False),
    }[name]


SHAPES = {
    "Dropout1d": (40, 70, 3),
    "Dropout2d": (40, 70, 2, 3),
    "Dropout3d": (40, 70, 2, 1, 3),
    "AlphaDropout": (40, 70),
    "FeatureAlphaDropout": (40, 70, 3),
    "StochasticDepth": (600, 3),
}


@pytest.mark.oracle
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", SHAPES)
def test_dropped(name: str, p: float) -> None:
    make, op, axes, alpha = kind(name, p)
    shape = SHAPES[name]
    # No gradient is 0 of itself.
    x, target = np.abs(oracle.grid(shape)) + 0.5, np.full(shape, -9, np.float32)

    def step(seed: int, layers: int = 1, threads: int = 2) -> dict[str, Any]:
        net = nn.Sequential(*[make() for _ in range(layers)])
        return oracle.probe(net, [x], nn.MSELoss("sum"), target, seed=seed, threads=threads)

    found = step(1)
    assert op in found["operators"]
    mask = found["input0"] != 0
    once = mask.all(axis=axes)
    assert np.array_equal(once, mask.any(axis=axes)), "a draw holds for the whole channel or sample"
    count = once.size
    bound = 4.5 * np.sqrt(p * (1 - p) / count)
    assert abs(once.mean() - (1 - p)) < bound
    flat = once.astype(np.float64) - (1 - p)
    for a, b in [(flat[1:], flat[:-1]), *([(flat[:, 1:], flat[:, :-1])] if flat.ndim > 1 else [])]:
        assert abs((a * b).mean()) < 4.5 * p * (1 - p) / np.sqrt(a.size)

    given = torch.tensor(x, requires_grad=True)
    kept = torch.tensor(mask)
    if alpha:
        a, b = alpha_values(p)
        output = torch.where(kept, given, torch.full_like(given, FLAT)) * a + b
    else:
        output = given * kept / (1 - p)
    loss = ((output - torch.tensor(target)) ** 2).sum()
    loss.backward()
    assert oracle.distance(found["input0"], given.grad) <= TOLERANCE
    assert oracle.distance(found["loss"], loss.detach()) <= LOSS_TOLERANCE

    assert np.array_equal(found["input0"], step(1, threads=1)["input0"])
    other = (step(2)["input0"] != 0).all(axis=axes)
    assert abs((once == other).mean() - (p * p + (1 - p) ** 2)) < 4.5 * np.sqrt(0.25 / count)
    both = (step(1, 2)["input0"] != 0).all(axis=axes)  # two layers draw on their own
    assert abs(both.mean() - (1 - p) ** 2) < 4.5 * np.sqrt(0.25 / count)


def test_channels_are_the_same_in_both_layouts() -> None:
    """A convolution before the layer puts channels last in memory; the draw follows PyTorch's order."""
    x = np.abs(oracle.grid((5, 6, 3, 4))) + 0.5
    identity = np.eye(6, dtype=np.float32).reshape(6, 6, 1, 1)
    net = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.Dropout2d(0.5))
    net[0].weight.data = identity

    class Scaled(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.dropout2d(x * 1.0, 0.5)

    ss.manual_seed(3)
    last = net(x)
    ss.manual_seed(3)
    plain = Scaled()(x)
    assert np.array_equal(last, plain) and 0 < (last == 0).mean() < 1


def test_batch_mode_drops_all_or_none() -> None:
    x, layer, dropped = np.ones((4, 5), np.float32), nn.StochasticDepth(0.5, "batch"), []
    for _ in range(64):
        y = layer(x)
        assert np.array_equal(y, np.full_like(y, y[0, 0])) and y[0, 0] in (0, 2)
        dropped.append(y[0, 0] == 0)
    assert abs(np.mean(dropped) - 0.5) < 4.5 * np.sqrt(0.25 / 64)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    normal = np.random.default_rng(0).standard_normal((200, 1000)).astype(np.float32)
    y = nn.AlphaDropout(0.3)(normal)
    assert abs(y.mean()) < 0.02 and abs(y.var() - 1) < 0.03


@pytest.mark.parametrize("name", SHAPES)
def test_ends_and_evaluation(name: str) -> None:
    x = oracle.grid(SHAPES[name])
    assert np.array_equal(kind(name, 0.5)[0]().eval()(x), x)
    assert np.array_equal(kind(name, 0.0)[0]()(x), x)
    assert not kind(name, 1.0)[0]()(x).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Dropout2d(1.5), "p must"),
        (lambda: nn.AlphaDropout(-0.1), "p must"),
        (lambda: nn.StochasticDepth(2.0, "row"), "p must"),
        (lambda: nn.StochasticDepth(0.5, "column"), "mode"),
        (lambda: F.stochastic_depth(np.ones((2, 2), np.float32), 0.5, "column"), "mode"),
        (lambda: nn.Dropout1d()(np.ones((2, 3), np.float32)), "3 axes"),
        (lambda: nn.Dropout3d()(np.ones((2, 3, 4, 5), np.float32)), "5 axes"),
        (lambda: F.feature_alpha_dropout(np.ones(3, np.float32), training=True), "axes"),
    ],
)
def test_errors(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
