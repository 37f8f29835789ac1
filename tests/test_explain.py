"""What plan.explain counts and measures, against counts by hand."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

import samestep as ss
from conftest import run_job
from samestep import _core, nn, optim
from samestep.bench import contestants


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


def test_operations_of_a_recurrent_network():
    """Numbers as inputs need no gradient, a table's rows do."""
    batch, steps, inputs, units = 4, 6, 5, 8
    x, y = np.ones((batch, steps, inputs), np.float32), np.zeros(batch, int)

    class Last(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first, self.lstm, self.out = first, nn.LSTM(inputs, units, batch_first=True), nn.Linear(units, 3)

        def forward(self, x):
            return self.out(self.lstm(self.first(x))[0][:, -1])

    gates = 4 * units * batch * steps
    into, within, rest = 2 * gates * inputs, 2 * gates * units, gates * 25
    for first, given, products in ((nn.Identity(), x, 1), (nn.Embedding(9, inputs), y[:, None].repeat(steps, 1), 2)):
        shown = measured(Last(first), given, y)
        assert flops(shown, "lstm") == [
            ("forward", into + within + rest), ("backward", products * into + 2 * within + gates * 15),
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["logreg", "mlp", "mlpbig", "cnn", "resnet"])
def test_products_of_the_benchmark_set(name):
    """explain and `samestep bench` count alike."""
    code = """
import sys
import ours, workloads
import samestep as ss
w = workloads.WORKLOADS[sys.argv[1]]
data = ss.compile(ours.network(w), optimizer="sgd", batch_size=w.batch, input_shape=w.sample_shape).explain().data
found = sum(item["flops"] for item in data["instructions"] if item["op"] in ("linear", "conv2d")) * data["sweeps"]
assert abs(found / 1e9 / w.gflop - 1) < 1e-12, (found, w.gflop)
"""
    done = run_job([sys.executable, "-c", code, name], os.environ | {"PYTHONPATH": str(contestants.SCRIPTS)}, 60.0)
    assert done.returncode == 0, done.stderr


NETWORKS_OF_FORECASTS = {
    "linear": ((512, 1024), "nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)"),
    "convolutions": (
        (64, 3, 64, 64),
        "nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)",
    ),
}


@pytest.mark.parametrize("name", NETWORKS_OF_FORECASTS)
def test_forecast_of_memory(name):
    """In a process of its own, where nothing else asks for memory meanwhile. The forecast is known before the first step."""
    shape, layers = NETWORKS_OF_FORECASTS[name]
    code = f"""
import numpy as np
import samestep as ss
from samestep import nn, optim
x = np.ones({shape}, np.float32)
y = np.zeros(len(x), int)
net = nn.Sequential({layers})
plan = ss.compile(net, optimizer=optim.Adam(1e-3), batch_size=len(x), input_shape=x.shape[1:], threads=2)
forecast = plan.explain().memory["forecast"]
for _ in range(3):
    plan.step(x, y)
memory = plan.explain(analyze=True).memory
assert forecast == memory["forecast"] > 30e6, forecast
print(memory["grown"] / forecast)
"""
    done = run_job([sys.executable, "-c", code], os.environ, 60.0)
    assert done.returncode == 0, done.stderr
    assert 0.95 < float(done.stdout) < 1.05


def test_memory_in_words():
    x = np.ones((8, 4), np.float32)
    shown = measured(nn.Linear(4, 2), x, np.zeros(8, int))
    assert set(shown.memory) == {"forecast", "grown"}
    assert shown.memory["forecast"] == shown.bytes["model"]["total"] + shown.bytes["plan"]["total"]
    assert "forecast" in str(shown) and "resident memory has grown by" in str(shown)
    plan = ss.compile(nn.Linear(4, 2), optimizer=optim.SGD(0.1), batch_size=8, input_shape=(4,))
    assert set(plan.explain().memory) == {"forecast"} and "resident" not in str(plan.explain())
    before = plan.explain().memory["forecast"]
    plan.predict(x)
    assert plan.explain().memory["forecast"] > before, "an evaluation has memory of its own"


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
