"""Equal bits on any number of ranks and threads, in any cut and on every instruction set, for text: embeddings, attention,
recurrent layers, normalisation, arithmetic with parameters, clipping, groups, averages, whole-parameter optimizers and bf16."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from samestep import _core

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

JOB = """
import json, sys
import numpy as np
import samestep as ss
from samestep import nn, optim
from samestep.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.positions = nn.Parameter(np.linspace(-1, 1, 9 * 16).reshape(9, 16))
        self.block = nn.GPTBlock(16, 4, dropout=0.1, n_kv_heads=2, rotary=True)
        self.rnn = nn.LSTM(16, 12, bidirectional=True)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 11)

    def forward(self, x):
        hidden = self.block(self.embedding(x) + self.positions)
        y, _ = self.rnn(hidden)
        return self.head(self.norm(y).mean(1) * F.sqrt(y.square().mean(1) + 1))


rng = np.random.default_rng(0)
X, Y = rng.integers(0, 11, (300, 9)), rng.integers(0, 11, 300)
threads, at_once = int(sys.argv[1]), int(sys.argv[2]) or None
groups = [{"params": "*.bias", "weight_decay": 0.0}]
found = {}
for name, optimizer, options in [
    ("adamw", optim.AdamW(3e-3, groups=groups), {"clip_norm": 0.5, "average": optim.EMA(0.9)}),
    ("lamb", optim.LAMB(1e-2), {}),
    ("muon", optim.Muon(1e-2), {}),
    ("bf16", optim.SGD(0.1), {"precision": "bf16"}),
]:
    ss.manual_seed(1)
    net = Net()
    trainer = ss.Trainer(
        net, optimizer=optimizer, metrics=["accuracy"], threads=threads, lanes=8, lanes_at_once=at_once, **options
    )
    trainer.fit(X, Y, epochs=2, batch_size=64, verbose=False)
    found[name] = [ss.fingerprint(net), trainer.history["loss"], trainer.history["accuracy"]]
if ss.rank() == 0:
    print(json.dumps(found), flush=True)
"""


def run(tmp_path, ranks: int, threads: int, at_once: int, isa: str = "") -> dict:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    done = subprocess.run(
        [sys.executable, "-m", "samestep", "run", "-n", str(ranks), str(script), str(threads), str(at_once)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **({"SAMESTEP_ISA": isa} if isa else {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_ranks_threads_sweeps_and_instruction_sets(tmp_path) -> None:
    expected = run(tmp_path, 1, 1, 0)
    assert len({prints[0] for prints in expected.values()}) == 4
    for ranks, threads, at_once in ((1, 2, 1), (2, 2, 0), (3, 1, 2), (4, 1, 0)):
        assert run(tmp_path, ranks, threads, at_once) == expected, (ranks, threads, at_once)
    for isa in _core.build_info()["isas_available"]:
        assert run(tmp_path, 2, 1, 0, isa) == expected, isa
