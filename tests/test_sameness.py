"""The promise: equal bits after 50 steps for every number of ranks and threads, every lanes_at_once, and scalar, AVX2
and AVX-512 code."""
# ruff: noqa: E501

from __future__ import annotations

import json

import pytest

from samestep import _core

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

# One job runs the whole matrix of its rank count in one process a rank.
MATRIX = """
import json, os, sys
import numpy as np
import samestep as ss
from samestep import nn, optim


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = nn.functional.relu(self.norm1(self.conv1(x)))
        return nn.functional.relu(x + self.norm2(self.conv2(y)))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 37), nn.ReLU(), nn.Linear(37, 19), nn.GELU(), nn.Linear(19, 10)), optim.SGD(0.1, momentum=0.9), 53


def cnn():
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(),
                        nn.Linear(36, 21), nn.Tanh(), nn.Dropout(0.3), nn.Linear(21, 10))
    return net, optim.AdamW(3e-3), 29


def residual():
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), Block(16), nn.MaxPool2d(2), Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(16, 10), nn.BatchNorm1d(10))
    return net, optim.Adam(3e-3), 21


rng = np.random.default_rng(7)
x, y = rng.normal(size=(400, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 400)
steps = int(sys.argv[1])
prints = {}
for make in (mlp, cnn, residual):
    for isa in sys.argv[2].split(","):
        os.environ["SAMESTEP_ISA"] = isa
        for threads in (1, 2):
            for at_once in (1, None):
                ss.manual_seed(11)
                net, optimizer, batch = make()
                plan = ss.compile(net, optimizer=optimizer, batch_size=batch, threads=threads, lanes_at_once=at_once, seed=3, metrics=["accuracy"])
                losses, done = [], 0
                while done < steps:  # the last batch of each round is smaller
                    count = min(steps - done, -(-len(x) // batch))
                    losses.append(plan.run(x, y, steps=count).tobytes())
                    done += count
                assert plan.model.isa == isa and plan.step_count == steps
                scores = plan.evaluate(x, y)
                import hashlib
                digest = hashlib.sha256(b"".join(losses) + repr(scores).encode() + plan.predict(x[:50]).tobytes()).hexdigest()[:16]
                prints[f"{make.__name__} isa={isa} threads={threads} lanes_at_once={at_once}"] = (ss.fingerprint(net), digest)
everyone = ss.allgather(prints)
assert all(part == prints for part in everyone), "ranks differ"
if ss.rank() == 0:
    print("RESULT", json.dumps(prints))
"""

ISAS = ",".join(_core.build_info()["isas_available"])


def run(mpi_run, ranks: int) -> dict[str, list[str]]:
    out = mpi_run(MATRIX, n=ranks, args=["50", ISAS], timeout=600).stdout
    return json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[7:])


def test_every_combination_has_the_same_bits(mpi_run):
    results = {ranks: run(mpi_run, ranks) for ranks in (1, 2, 3, 4)}
    wrong = []
    expected: dict[str, list[str]] = {}
    for ranks, prints in results.items():
        for combination, bits in prints.items():
            name = combination.split()[0]
            if bits != expected.setdefault(name, bits):
                wrong.append(f"{ranks} ranks, {combination}")
    assert len(expected) == 3 and len({bits[0] for bits in expected.values()}) == 3
    assert not wrong, "other bits than the first combination: " + "; ".join(wrong)
