"""Cheap activations of large plans are made again for the backward pass: less memory, the same bits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samestep as ss
from samestep import nn, optim

BATCH, WIDTH = 600, 4096  # 9.4 MiB in each of five activations: above the limit on one rank, below it on two


def network() -> Any:
    ss.manual_seed(7)
    block = [nn.Linear(5, WIDTH), nn.GELU(), nn.Linear(WIDTH, 5)]
    last = [nn.Linear(5, WIDTH), nn.SiLU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)]
    return nn.Sequential(*block, nn.Linear(5, WIDTH), nn.GELU(), nn.Linear(WIDTH, 5), *last)


def trained() -> tuple[str, list[str], Any]:
    generator = np.random.default_rng(3)
    x = generator.integers(-64, 64, (BATCH, 5)).astype(np.float32) / 64
    y = generator.integers(0, 2, BATCH)
    net = network()
    plan = ss.compile(net, "cross_entropy", optim.SGD(0.1, momentum=0.9), BATCH)
    for _ in range(3):
        plan.step(x, y)
    rows = plan.explain().data["instructions"]
    first = next(n for n, row in enumerate(rows) if row["pass"] == "backward")
    again = [row["op"] for row in rows[first:] if row["pass"] == "forward"]
    return ss.fingerprint(net), again, plan


def test_what_is_made_again_saves_memory() -> None:
    _, again, plan = trained()
    assert again == ["layer_norm", "silu", "gelu", "gelu"]
    kept = 7 * BATCH * WIDTH * 4  # outputs of three linear layers, of three activations, and of the norm
    assert plan.explain().bytes["plan"]["activations"] < kept


def test_what_is_made_again_is_counted_each_time() -> None:
    _, again, plan = trained()
    rows = [row for row in plan.explain().data["instructions"] if row["pass"] == "forward"]
    for op in set(again):
        work = [row["flops"] for row in rows if row["op"] == op]
        assert len(work) == 2 * again.count(op) and set(work) == {work[0]} and work[0] > 0


@pytest.mark.mpi
def test_the_same_bits_where_nothing_is_made_again(mpi_run: Any) -> None:
    """Two ranks hold half the rows each, which is below the limit."""
    done = mpi_run(Path(__file__), n=2)
    found = dict(re.findall(r"(fingerprint|again) (\S+)", done.stdout))
    assert found["again"] == "[]" and found["fingerprint"] == trained()[0]


if __name__ == "__main__":
    fingerprint, again, _ = trained()
    if ss.rank() == 0:
        print("fingerprint", fingerprint)
        print("again", again)
