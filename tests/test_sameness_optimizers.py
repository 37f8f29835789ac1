"""Equal bits at 1, 2 and 3 ranks and 1 and 2 threads with groups of parameters, clipping by norm, averages and optimizers
that see parameters whole."""
# ruff: noqa: E501

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

MATRIX = """
import hashlib, json, math
import numpy as np
import samestep as ss
from samestep import nn, optim

VECTORS = [{"params": lambda name, p: p.ndim < 2, "weight_decay": 0.0, "lr": 0.003}]
RULES = {
    "clip": (optim.AdamW(3e-3, groups=VECTORS), dict(clip_norm=0.5, average=optim.EMA(0.9))),
    "value": (optim.RMSprop(1e-3, momentum=0.9, centered=True, groups=VECTORS), dict(clip_value=0.01, average=optim.SWA(5, 3))),
    "lookahead": (optim.Lookahead(optim.NAdam(3e-3), 4), dict(average=optim.EMA(0.9, warmup=True))),
    "lamb": (optim.LAMB(3e-3, groups=VECTORS), dict(clip_norm=0.5, average=optim.EMA(0.9))),
    "muon": (optim.Muon(0.01, groups=[{"params": "11.*", "use_muon": False}]), dict(clip_norm=1.0, average=optim.EMA(0.9))),
    "shampoo": (optim.Shampoo(0.01, update_freq=3, max_extent=80, momentum=0.9, groups=VECTORS), dict(average=optim.EMA(0.9))),
    "lars": (optim.LARS(1.0), dict(clip_norm=math.inf)),
}
rng = np.random.default_rng(7)
x, y = rng.normal(size=(200, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 200)
prints = {}
for name, (rule, options) in RULES.items():
    for threads in (1, 2):
        ss.manual_seed(11)
        shared = nn.Linear(70, 70)
        net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 70), nn.Tanh(),
                            shared, nn.Tanh(), shared, nn.Dropout(0.2), nn.Linear(70, 10))
        plan = ss.compile(net, optimizer=rule, batch_size=29, threads=threads, seed=3, gradients=True, **options)
        losses = plan.run(x, y)
        losses = [losses.tobytes()]
        for step in range(8):
            rule.lr_factor = 1 / (1 + step)
            losses.append(plan.step(x[:29], y[:29]))
        rule.lr_factor = 1
        if "clip_norm" in options:
            losses.append(plan.gradient_norm)
        h = hashlib.sha256(repr(losses).encode())
        for parameter, gradient in plan.gradients.items():
            h.update(parameter.encode() + gradient.tobytes())
        plan._sessions[plan._last][0].gather_slots()
        for slot in plan.model.slots():
            for parameter in plan.gradients:
                h.update(plan.model.get_slot(slot, parameter).tobytes())
        if "average" in options:
            with plan.averaged():
                h.update(ss.fingerprint(net).encode())
        prints.setdefault(name, []).append([ss.fingerprint(net), h.hexdigest()])
everyone = ss.allgather(prints)
assert all(part == prints for part in everyone), "ranks differ"
if ss.rank() == 0:
    print("RESULT", json.dumps(prints))
"""


def test_same_bits_at_every_number_of_ranks(mpi_run):
    results = {}
    for ranks in (1, 2, 3):
        out = mpi_run(MATRIX, n=ranks, timeout=600).stdout
        results[ranks] = json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[7:])
    for name, first in results[1].items():
        for ranks, found in results.items():
            assert all(bits == first[0] for bits in found[name]), f"{name}: other bits at {ranks} ranks"
    assert len({bits[0][0] for bits in results[1].values()}) == len(results[1])
