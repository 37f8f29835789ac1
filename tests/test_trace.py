"""Tracing: the symbolic batch, shapes, arithmetic, and messages that name the layer."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss
from samestep import nn
from samestep._trace import Trace
from samestep.nn import functional as F

X = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)


class Net(nn.Module):
    """A module around a function."""

    def __init__(self, function, **parameters) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda m, x: x + 2, X + 2),
        (lambda m, x: 3 - x, 3 - X),
        (lambda m, x: x * x, X * X),
        (lambda m, x: -x / 4, -X / 4),
        (lambda m, x: x - x * 0.5, X * 0.5),
        (lambda m, x: (x + 1).relu(), np.maximum(X + 1, 0)),
        (lambda m, x: x * m.p, X * np.arange(4)),
        (lambda m, x: m.p + x, X + np.arange(4)),
        (lambda m, x: x - m.p, X - np.arange(4)),
        (lambda m, x: x / (x * x + 1), X / (X * X + 1)),
        (lambda m, x: m.p * m.p + x, np.arange(4) ** 2 + X),
        (lambda m, x: 2.0 / (x * x + m.p + 1), 2 / (X * X + np.arange(4) + 1)),
        (lambda m, x: (x > 0) * x + (x < 0) * 2, np.where(X > 0, X, np.where(X < 0, 2, 0))),
        (lambda m, x: F.where(x > m.p, x, -1.0), np.where(np.arange(4) < X, X, -1)),
        (lambda m, x: x.abs().sqrt() ** 3 + x.square(), np.sqrt(np.abs(X)) ** 3 + X**2),
        (lambda m, x: m.p - x, np.arange(4) - X),
        (lambda m, x: x + np.ones(4), X + 1),
        (lambda m, x: x.view(x.shape[0], -1), X.reshape(5, 24)),
        (lambda m, x: x.view(-1, 24), X.reshape(5, 24)),
        (lambda m, x: x.reshape((x.size(0), 6, 4)), X.reshape(5, 6, 4)),
        (lambda m, x: x.flatten(1), X.reshape(5, 24)),
        (lambda m, x: x.flatten(2), X.reshape(5, 2, 12)),
        (lambda m, x: F.flatten(x, 1, 2), X.reshape(5, 6, 4)),
        (lambda m, x: x.unsqueeze(1).squeeze(1), X),
        (lambda m, x: ss.cat([x, x * 2, x], dim=-1), np.concatenate([X, X * 2, X], -1)),
        (lambda m, x: ss.cat([x] * 19, dim=1), np.concatenate([X] * 19, 1)),
    ],
)
def test_expressions(function, expected):
    net = Net(function, p=np.arange(4))
    for mode in (True, False):
        result = net.train(mode)(X)
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_the_batch_is_symbolic():
    def forward(net, x):
        batch, channels, height, width = x.shape
        assert (channels, height, width) == (2, 3, 4) and x.ndim == x.dim() == 4
        assert batch == x.size(0) and repr(batch) == "B" and repr(batch * 3) == "B*3" and batch * 2 // 2 == batch
        with pytest.raises(TypeError, match="not known"):
            range(batch)
        return x.view(batch, channels * height, width)

    net = Net(forward)
    assert net(X).shape == (5, 6, 4) and net(X[:2]).shape == (2, 6, 4)


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (lambda m, x: x.view(x.shape[0], 5, -1), ValueError, "cannot take the shape"),
        (lambda m, x: x.view(5, 24), ValueError, "batch axis must stay"),
        (lambda m, x: x.view(x.shape[0] * 2, 12), ValueError, "batch axis must stay"),
        (lambda m, x: x.view(-1, -1), ValueError, "batch axis must stay"),
        (lambda m, x: x.flatten(), ValueError, "batch axis"),
        (lambda m, x: F.softmax(x, dim=0), ValueError, "batch axis"),
        (lambda m, x: F.softmax(x, dim=7), ValueError, "not an axis"),
        (lambda m, x: ss.cat([x, x], dim=0), ValueError, "batch axis"),
        (lambda m, x: x if x > 0 else -x, TypeError, "no numbers"),
        (lambda m, x: np.exp(x), TypeError, "ufunc"),
        (lambda m, x: float(x), TypeError, "no numbers"),
        (lambda m, x: x[0], ValueError, "batch axis"),
        (lambda m, x: x / 0, ValueError, "division"),
        (lambda m, x: x.cumulate(1), AttributeError, "cumulate"),
        (lambda m, x: x * np.sqrt(m.p), TypeError, "traced"),
        (lambda m, x: x + nn.Parameter(np.ones(4)), ValueError, "not registered"),
        (lambda m, x: x + "1", TypeError, "str"),
        (lambda m, x: F.linear(x, m.p), ValueError, "linear"),
        (lambda m, x: (x, 1), TypeError, "must return tensors"),
    ],
)
def test_errors(function, error, text):
    net = Net(function, p=np.arange(4))
    with pytest.raises(error, match=text):
        net(X)


def test_messages_carry_the_module_path():
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), Net(lambda m, x: x.view(x.shape[0], 7))))
    with pytest.raises(ValueError, match=r"layer '1\.1'"):
        net(X)
    with pytest.raises(ValueError, match=r"layer 'Net'"):
        Net(lambda m, x: x.view(x.shape[0], 7))(X)


def test_layers_are_named_in_the_graph():
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.ReLU())
    with Trace(net) as trace:
        net(trace.input("x", (2, 3, 4)))
    assert [(node["op"], node["layer"]) for node in trace.graph.nodes()] == [
        ("flatten", "0"),
        ("linear", "1"),
        ("relu", "2"),
    ]
    assert list(trace.stored) == ["1.weight", "1.bias"]


def test_a_failed_trace_leaves_no_trace():
    net = Net(lambda m, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net(X)
    assert nn.ReLU()(X).shape == X.shape


def test_tensors_do_not_escape():
    kept = []
    Net(lambda m, x: kept.append(x) or x)(X)
    with pytest.raises(ValueError, match="another trace"):
        Net(lambda m, x: x + kept[0])(X)


def test_frozen_layers_inside_training():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.9))
    net[0].running_mean.data = np.full(2, 3.0)
    net[0].eval(), net[1].eval()
    np.testing.assert_allclose(net(X), X - 3, rtol=1e-4, atol=1e-4)
    assert (net[0].running_mean.data == 3).all()
