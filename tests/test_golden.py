"""Golden fingerprints: the bits that training gives under the present version of the order of sums, on every CPU, instruction
set and number of threads.

A failure here means that some order of sums, some elementary function, the random numbers, the initial values or an
update rule has changed, or that this
machine computes differently. The first calls for a new version: raise SS_ORDER_VERSION (csrc/base/lanes.h), run

    python tests/test_golden.py

and put what it prints into GOLDEN below, with the new number in ORDER_VERSION. Never replace the constants without
raising the version once a release has
been made: files and machines with the old bits exist.

Nothing here depends on NumPy's random numbers or sums: the data are whole numbers divided by a power of two, the
initial values come from the core.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import _core, nn, optim

ORDER_VERSION = 4
GOLDEN = {
    "data": "4e091b76b306988b4e5d7d25a2c7db0849db4b3e68d90412c3a8b975c5af31f0",
    "initial values": "158e76f80199a3c5963192aff562160bce04957cf1f20f332a3b10ab87a18c68",
    "mlp, SGD with momentum": "ee7ce636eef3b25cd26856d49342ef4341b76ac5e707fdc673b4a3e495d79960",
    "cnn with dropout, Adam": "178be5e2a00e5c37b156a900b9d0c03b477ec46cd178d66142a69e15d90395c4",
    "residual with batch norm, AdamW": "8464d109e598b3a3e2d17d53cbf9203819dd560ef9c9846af2c60a43130fe4e2",
    "every activation, SGD with nesterov": "6e392d092801dd92ddda5c625bb1f14552d9f64f20d622e44170b4bbb81f40d3",
    "causal attention, AdamW": "3639d03f62699345f2b5a627ae859c7bf6fdd85528cad304a1cbd59923260f72",
    "mlp in bf16, SGD with momentum": "2f39eaa92ecc2dc3d0e8e8e233069a71a206238fd5f98a64c056f1ab0ceb4913",
}
"""SHA-256 of names, shapes and bits (ss.fingerprint) after ten steps."""


def mlp() -> Any:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 61), nn.ReLU(), nn.Linear(61, 33), nn.ReLU(), nn.Linear(33, 10)
    ), optim.SGD(0.05, momentum=0.9)


def cnn() -> Any:
    net = nn.Sequential(
        nn.Conv2d(3, 11, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2), nn.Conv2d(11, 17, 3, padding=1),
        nn.GELU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(68, 29), nn.Tanh(), nn.Dropout(0.4), nn.Linear(29, 10),
    )  # fmt: skip
    return net, optim.Adam(2e-3)


def residual() -> Any:
    return oracle.resnet(nn, (9, 20), 1), optim.AdamW(2e-3)


class Activations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(192, 15) for _ in range(6)])
        self.norm = nn.BatchNorm1d(90)
        self.last = nn.Linear(90, 10)

    def forward(self, x: Any) -> Any:
        x = x.flatten(1)
        functions = [nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Softmax(1)]
        parts = [function(part(x)) for function, part in zip(functions, self.parts, strict=True)]
        return self.last(self.norm(ss.cat(parts, 1)))


def activations() -> Any:
    return Activations(), optim.SGD(0.05, momentum=0.8, nesterov=True, weight_decay=1e-3)


class Attention(nn.Module):
    """96 positions: more than one block of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(2, 12), nn.GPTBlock(12, 3), nn.Linear(12, 10)

    def forward(self, x: Any) -> Any:
        return self.last(self.block(self.first(x.reshape(x.shape[0], 96, 2))).mean(1))


def attention() -> Any:
    return Attention(), optim.AdamW(2e-3)


NETWORKS = {
    "mlp, SGD with momentum": (mlp, 37),
    "cnn with dropout, Adam": (cnn, 23),
    "residual with batch norm, AdamW": (residual, 19),
    "every activation, SGD with nesterov": (activations, 45),
    "causal attention, AdamW": (attention, 21),
    "mlp in bf16, SGD with momentum": (mlp, 37),
}


def batches(batch: int) -> Any:
    return oracle.grid((10 * batch, 3, 8, 8)), oracle.labels(10 * batch, 10)


def trained(name: str, threads: int, **options: Any) -> str:
    make, batch = NETWORKS[name]
    ss.manual_seed(11)
    net, rule = make()
    x, y = batches(batch)
    precision = "bf16" if "bf16" in name else "fp32"
    plan = ss.compile(net, "cross_entropy", rule, batch, seed=5, threads=threads, precision=precision, **options)
    for step in range(10):
        plan.step(x[step * batch : (step + 1) * batch], y[step * batch : (step + 1) * batch])
    return ss.fingerprint(net)


def data_print() -> str:
    net = nn.Module()
    net.x, net.y = nn.Buffer(batches(45)[0]), nn.Buffer(batches(45)[1].astype(np.float32))
    return ss.fingerprint(net)


def initial_print() -> str:
    ss.manual_seed(11)
    net = nn.Sequential(*[make()[0] for make, _ in NETWORKS.values()], nn.Linear(10, 10))
    nn.init.kaiming_normal_(net[len(NETWORKS)].weight)
    return ss.fingerprint(net)


def test_version() -> None:
    assert _core.ORDER_VERSION == _core.build_info()["order_version"] == ORDER_VERSION, (
        "the order of sums has a new version: see the top of this file"
    )
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in GOLDEN.values()) and len(set(GOLDEN.values())) == len(
        GOLDEN
    )


def test_data_and_initial_values() -> None:
    """When this fails, the networks below say nothing."""
    assert data_print() == GOLDEN["data"]
    assert initial_print() == GOLDEN["initial values"]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", _core.build_info()["isas_available"])
@pytest.mark.parametrize("name", NETWORKS)
def test_golden(name: str, isa: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMESTEP_ISA", isa)
    assert trained(name, threads) == GOLDEN[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_with_few_lanes_at_once(name: str) -> None:
    assert trained(name, 2, lanes_at_once=1) == GOLDEN[name]


@pytest.mark.mpi
def test_golden_on_three_ranks(mpi_run: Any) -> None:
    done = mpi_run(Path(__file__), n=3)
    assert dict(re.findall(r'"(.*)": "([0-9a-f]{64})"', done.stdout)) == GOLDEN


def test_the_fingerprint_sees_one_bit() -> None:
    net = mlp()[0]
    before = ss.fingerprint(net)
    weight = net[1].weight.numpy()
    weight.view(np.uint32)[3, 5] ^= 1
    net[1].weight.data = weight
    assert ss.fingerprint(net) != before


if __name__ == "__main__":
    prints = {"data": data_print(), "initial values": initial_print(), **{name: trained(name, 2) for name in NETWORKS}}
    if ss.rank() == 0:
        print(f"ORDER_VERSION = {_core.ORDER_VERSION}\nGOLDEN = {{")
        for key, value in prints.items():
            print(f'    "{key}": "{value}",')
        print("}")
