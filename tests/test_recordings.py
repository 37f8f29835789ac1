"""SAMESTEP_TRACE and `samestep diff` on a network with statistics, a shortcut and dropout: equal runs are equal line
by line, and one changed bit is
found in the step and the layer where it was changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from samestep.__main__ import main

pytestmark = [pytest.mark.mpi]

# Arguments: folder of oracle.py; then, to change the last bit of an element, a parameter, and the number of updates before that.
RECORD = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import oracle
import samestep as ss
from samestep import nn, optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.stem(x)))
        x = x + nn.functional.silu(self.inner(x))
        return self.head(self.drop(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))


net = Net()
plan = ss.compile(net, "cross_entropy", optim.Adam(0.01), 21)
x, y = oracle.grid((6 * 21, 3, 8, 8)), oracle.labels(6 * 21, 10)
for step in range(6):
    if len(sys.argv) > 2 and step == int(sys.argv[3]):
        parameter = dict(net.named_parameters())[sys.argv[2]]
        values = parameter.numpy()
        values.view(np.uint32).reshape(-1)[np.abs(values).argmax()] ^= 1
        parameter.data = values
    plan.step(x[step * 21 : step * 21 + 21], y[step * 21 : step * 21 + 21])
"""
HERE = str(Path(__file__).parent)


@pytest.fixture
def record(mpi_run: Any, tmp_path: Path) -> Any:
    def run(name: str, n: int, threads: int, *change: str) -> str:
        mpi_run(RECORD, n=n, threads=threads, args=[HERE, *change], env={"SAMESTEP_TRACE": str(tmp_path / name)})
        return str(tmp_path / name)

    return run


def test_one_bit_is_found(record: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plain = record("plain", 1, 1)
    ranks = record("ranks", 2, 2)
    assert main(["diff", plain, ranks]) == 0, capsys.readouterr().out
    assert re.search(r"equal: \d+ hashes over 6 steps", capsys.readouterr().out)
    lines = Path(plain).read_text().count("\n") - 1
    parts = Path(ranks).read_text().count("\n") - 1, Path(ranks + ".1").read_text().count("\n") - 1
    assert lines == sum(parts) and min(parts) > lines // 3

    for number, (parameter, step, op) in enumerate(
        [
            ("stem.weight", 3, "conv2d"),
            ("norm.weight", 1, "batch_norm"),
            ("inner.weight", 5, "conv2d"),
            ("head.weight", 4, "linear"),
            ("head.bias", 0, "linear"),
        ]
    ):
        changed = record(f"changed{number}", 1 + number % 2, 1, parameter, str(step))
        assert main(["diff", plain, changed]) == 1
        first = capsys.readouterr().out.splitlines()[0]
        assert f"first difference: step {step}, {op} in layer '{parameter.split('.')[0]}', forward" in first, first
