"""What plan.explain counts and measures, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss
from samestep import _core, nn, optim


def measured(net, x, y, **more):
    plan = ss.compile(net, optimizer=optim.SGD(0.1), batch_size=len(x), input_shape=x.shape[1:], **more)
    plan.explain(analyze=True)
    for _ in range(3):
        plan.step(x, y)
    return plan.explain(analyze=True)


def flops(shown, op):
    return [(item["pass"], item["flops"]) for item in shown.data["instructions"] if item["op"] == op]


def test_operations_of_a_linear_network():
    """The first layer needs no gradient of its input."""
    batch = 20
    shown = measured(
        nn.Sequential(nn.Linear(30, 50), nn.ReLU(), nn.Linear(50, 7)),
        np.ones((batch, 30), np.float32),
        np.zeros(batch, int),
    )
    first, second = 2 * batch * 30 * 50, 2 * batch * 50 * 7
    assert flops(shown, "linear") == [
        ("forward", first), ("forward", second), ("backward", 2 * second), ("backward", first),
    ]  # fmt: skip
    rows = [item for item in shown.data["instructions"] if item["op"] == "linear"]
    assert rows[0]["bytes"] == 4 * (batch * (30 + 50) + 50 * 30 + 50)
    assert rows[3]["bytes"] == 4 * (batch * (30 + 50) * 2 + 2 * (50 * 30 + 50))


def test_operations_of_a_convolutional_network():
    batch = 6
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 3)
    )
    net[0].weight.requires_grad = net[0].bias.requires_grad = False
    shown = measured(net, np.ones((batch, 3, 8, 8), np.float32), np.zeros(batch, int))
    first, second = 2 * batch * 8 * 8 * 8 * 3 * 9, 2 * batch * 3 * 3 * 4 * 8 * 9
    # Below a frozen first layer nothing is computed backwards: the second has its weight's gradient alone.
    assert flops(shown, "conv2d") == [("forward", first), ("forward", second), ("backward", second)]


def test_rates_and_shares():
    x = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    shown = measured(nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 5)), x, np.arange(64) % 5, threads=1)
    peak, memory = shown.peak
    assert peak > 0.1 and memory > 0.1
    rates = {item["index"]: item for item in shown.rates()}
    for item in shown.data["instructions"]:
        assert item["calls"] == 3
        rate = rates[item["index"]]
        assert rate["seconds"] == item["seconds"] / 3
        assert rate["gflops"] == pytest.approx(item["flops"] * 3 / item["seconds"] / 1e9)
        assert rate["share"] == (pytest.approx(rate["gflops"] / peak) if item["flops"] else None)
    assert shown.data["finishes"] == 3 and shown.data["finish_seconds"] > 0
    text = str(shown)
    assert "of peak" in text.splitlines()[0] and "3 steps measured" in text and "GB/s" in text
    assert "of peak" in shown._repr_html_()


def test_nothing_measured_yet():
    plan = ss.compile(nn.Linear(4, 2), optimizer=optim.SGD(0.1), batch_size=5, input_shape=(4,))
    assert "nothing measured yet" in str(plan.explain(analyze=True))
    pytest.importorskip("matplotlib")
    with pytest.raises(RuntimeError, match="nothing measured"):
        plan.explain(analyze=True).plot()
    with pytest.raises(RuntimeError, match="nothing measured"):
        plan.explain().plot()


def test_roofline(tmp_path):
    pytest.importorskip("matplotlib")
    shown = measured(
        nn.Sequential(nn.Linear(30, 50), nn.ReLU(), nn.Linear(50, 7)), np.ones((9, 30), np.float32), np.zeros(9, int)
    )
    figure = shown.plot(tmp_path / "roof.png")
    (axes,) = figure.axes
    roof = axes.lines[0].get_ydata()
    assert roof[1] == roof[2] == shown.peak[0]
    points = sum(len(group.get_offsets()) for group in axes.collections)
    assert points == sum(item["intensity"] is not None for item in shown.rates()) >= 5
    assert (tmp_path / "roof.png").stat().st_size > 5000


@pytest.mark.parametrize("isa", ["", "scalar"])
def test_peak(isa):
    gflops, gbytes = _core.peak(isa, 1, 0.02)
    assert 0.1 < gflops < 1e5 and 0.1 < gbytes < 1e5
    for wrong in ((isa, 0, 0.1), (isa, 1, 0.0), (isa, 1, float("nan")), ("sse", 1, 0.1)):
        with pytest.raises(ValueError):
            _core.peak(*wrong)
