#!/usr/bin/env python3
"""Counts the instructions of a training step with callgrind, and compares them with the counts that were recorded.

Counts do not depend on what else the machine is doing, so they show a regression of a few percent that times on a busy
machine would hide. They are not times: waiting for memory costs no instruction. One thread, AVX2 code (valgrind knows no
AVX-512); the difference of a run with many steps and one with few, so that start-up does not count.

    python benchmarks/instructions.py            # compares with benchmarks/results/instructions.json
    python benchmarks/instructions.py --update   # records anew
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BASELINE = Path(__file__).resolve().parent / "results" / "instructions.json"
TOLERANCE = 0.02
STEPS = {"logreg": 200, "mlp": 10, "cnn": 2, "residual": 2, "text": 2}  # beyond the first two

# Small enough that valgrind, which is some fifty times slower, needs seconds.
SCRIPT = """
import sys
import numpy as np
import samestep as ss
from samestep import nn, optim
from samestep.nn import functional as F

class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + x)

class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.n1, self.attention, self.n2 = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True), nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    def forward(self, x):
        h = self.n1(x)
        x = x + self.attention(h, h, h, need_weights=False, is_causal=True)[0]
        return x + self.feed(self.n2(x))

ss.manual_seed(0)
random = np.random.default_rng(0)
name, steps = sys.argv[1], int(sys.argv[2])
images = lambda *shape: (random.standard_normal(shape, np.float32), random.integers(0, 10, shape[0]))
loss = "cross_entropy"
if name == "logreg":
    net, (x, y), optimizer = nn.Linear(784, 10), images(32, 784), optim.SGD(0.01, momentum=0.9)
elif name == "mlp":
    net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    (x, y), optimizer = images(64, 784), optim.SGD(0.01, momentum=0.9)
elif name == "cnn":
    net = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
                        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10))
    (x, y), optimizer = images(8, 1, 28, 28), optim.Adam(1e-3)
elif name == "residual":
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Residual(16), Residual(16),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    (x, y), optimizer = images(8, 3, 32, 32), optim.SGD(0.01, momentum=0.9)
else:
    net = nn.Sequential(nn.Embedding(65, 64), Block(64, 4), Block(64, 4), nn.LayerNorm(64), nn.Linear(64, 65))
    tokens = random.integers(0, 65, (2, 4, 64))
    x, y, loss, optimizer = tokens[0], tokens[1], nn.CrossEntropyLoss(axis=-1), optim.AdamW(1e-3)
plan = ss.compile(net, loss, optimizer, len(x), threads=1)
for _ in range(2 + steps):
    plan.step(x, y)
"""


def count(name: str, steps: int, folder: Path) -> int:
    """Instructions of a process that takes steps. Raises RuntimeError with valgrind's words."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SAMESTEP_")}
    environ |= {"SAMESTEP_ISA": "avx2", "PYTHONHASHSEED": "0", "OPENBLAS_CORETYPE": "Haswell"}
    environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    command = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={folder / 'out'}",
        sys.executable,
        str(script),
        name,
        str(steps),
    ]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"{name}: callgrind failed:\n{done.stderr[-2000:]}")
    return int(found.group(1))


def compiler() -> str:
    """The C compiler of this machine: another one makes other code."""
    done = subprocess.run([os.environ.get("CC", "gcc"), "-dumpfullversion"], capture_output=True, text=True, timeout=20)
    return done.stdout.strip()


def measure(names: list[str]) -> dict[str, int]:
    """Instructions of one step, by workload."""
    counts = {}
    with tempfile.TemporaryDirectory(prefix="samestep-instructions-") as folder:
        for name in names:
            print(f"{name}: counting", file=sys.stderr, flush=True)
            many, few = (count(name, steps, Path(folder)) for steps in (STEPS[name], 0))
            counts[name] = (many - few) // STEPS[name]
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--workloads", nargs="+", choices=STEPS, default=list(STEPS), metavar="NAME", help=", ".join(STEPS)
    )
    parser.add_argument("--update", action="store_true", help="record the counts instead of comparing")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if known.get("compiler") != compiler() and not args.update:
        print(
            f"recorded with the compiler {known.get('compiler')}, this is {compiler()}: counts may differ",
            file=sys.stderr,
        )
    counts = measure(args.workloads)
    worse = []
    for name, value in counts.items():
        before = known.get(name)
        ratio = f"{value / before:.4f} of the recorded {before:,}" if before else "not recorded"
        print(f"{name:10} {value:14,} instructions a step; {ratio}")
        if before is None or abs(value / before - 1) > TOLERANCE:
            worse.append(name)
    if args.update:
        BASELINE.write_text(json.dumps(known | counts | {"compiler": compiler()}, indent=1) + "\n")
        return 0
    if worse:
        print(
            f"more than {TOLERANCE:.0%} away from the record: {', '.join(worse)}; find out why, then --update",
            file=sys.stderr,
        )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
