"""Compression and rare synchronisation on a slow network: steps a second, and the loss after a fixed number of steps.

    python benchmarks/compression.py --hosts 1 2 4 --rate 100 --json FILE --markdown FILE --plot FILE

Hosts are network namespaces of this machine that send and receive `rate` Mbit/s (tests/hosts.py), one rank of one thread
on each; they share this machine's processors, so four hosts on two processors compute half as fast as four machines
would. The networks cnn, resnet and gpt are those of `samestep bench`; they learn scikit-learn's digits, enlarged, or text
from a random automaton, so that the loss means something. All ways train on the same batches. One way after another runs,
each for its own number of steps in one job; the steps a second are those of the last two thirds of them.

Standard output receives the tables, standard error the progress.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "python" / "samestep" / "bench" / "peers"
sys.path.insert(0, str(ROOT / "tests"))

WAYS = {
    "none": "ss.AllReduce()",
    "fp16": "ss.AllReduce(C.FP16())",
    "bf16": "ss.AllReduce(C.BF16())",
    "int8": "ss.AllReduce(C.Int8())",
    "onebit": "ss.AllReduce(C.OneBit())",
    "topk 1 %": "ss.AllReduce(C.TopK(0.01))",
    "randomk 1 %": "ss.AllReduce(C.RandomK(0.01))",
    "powersgd 4": "ss.AllReduce(C.PowerSGD(4))",
    "local 8": "ss.LocalSGD(8)",
    "diloco 16": "ss.LocalSGD(16, outer=ss.parallel.Nesterov())",
}
WORKLOADS = {"cnn": 120, "resnet": 40, "gpt": 60}  # steps
LIMIT = 900.0  # seconds that a job may take


def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 8 - 1).astype(np.float32), data.target.astype(np.int64)


def text(length: int, symbols: int) -> npt.NDArray[np.int64]:
    """From an automaton of order 1 whose states have four likely successors each."""
    random = np.random.default_rng(0)
    successors = random.integers(0, symbols, (symbols, 4))
    choices, out = random.integers(0, 4, length), np.zeros(length, np.int64)
    for k in range(1, length):
        out[k] = successors[out[k - 1], choices[k]]
    return out


def examples(name: str, batch: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Inputs and targets, a multiple of the batch."""
    if name == "gpt":
        length = shape[0]
        stream = text(length * batch * 12 + 1, 65)
        return stream[:-1].reshape(-1, length), stream[1:].reshape(-1, length)
    images, y = digits()
    scale = 3 if name == "cnn" else 4
    x = np.kron(images, np.ones((1, scale, scale), np.float32))[:, None]
    x = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=-1) if name == "cnn" else np.repeat(x, 3, 1)
    count = len(x) // batch * batch
    return x[:count], y[:count]


def work(names: list[str]) -> None:
    """One rank: trains each network in each way, and prints what it measured on rank 0."""
    sys.path.insert(0, str(PEERS))
    import ours
    from workloads import WORKLOADS as known

    import samestep as ss
    from samestep import compress as C  # noqa: F401 - in the texts of WAYS
    from samestep import nn, optim

    ways = json.loads(os.environ["WAYS"])
    for name in names:
        workload = next(item for item in (known.values() if isinstance(known, dict) else known) if item.name == name)
        x, y = examples(name, workload.batch, workload.sample_shape)
        order = np.random.default_rng(1).permutation(len(x))
        for way in ways:
            ss.manual_seed(0)
            plan = ss.compile(
                ours.network(workload),
                nn.CrossEntropyLoss(axis=-1) if workload.text else "cross_entropy",
                optim.AdamW(1e-3) if workload.text else optim.SGD(0.02, momentum=0.9),
                workload.batch,
                input_shape=workload.sample_shape,
                threads=1,
                parallel=eval(WAYS[way]),
            )
            steps, losses, began = WORKLOADS[name], [], 0.0
            batches = len(x) // workload.batch
            for step in range(steps):
                if step == steps // 3:
                    ss.barrier()
                    began = time.perf_counter()
                rows = order[step % batches * workload.batch :][: workload.batch]
                losses.append(plan.step(x[rows], y[rows]))
            plan.synchronize()
            ss.barrier()
            seconds = (time.perf_counter() - began) / (steps - steps // 3)
            losses = np.mean(ss.allgather(np.array(losses)), axis=0).tolist()
            packed = plan.compression
            elements = sum(p.size for p in plan.net.state_dict().values())
            plain = 2 * 4 * elements * (ss.size() - 1) // ss.size()
            period = getattr(plan.parallel.exchange, "period", 1)
            if ss.rank() == 0:
                answer = {
                    "workload": name,
                    "way": way,
                    "ranks": ss.size(),
                    "seconds": seconds,
                    "loss": float(np.mean(losses[-max(1, steps // 10) :])),
                    "bytes": packed["bytes"] if packed else plain / period,
                    "steps": steps,
                }
                print(json.dumps(answer), flush=True)


def measure(count: int, rate: float, names: list[str], ways: list[str]) -> list[dict[str, Any]]:
    import hosts as network
    from samestep import _launch

    found: list[dict[str, Any]] = []
    environ = {**os.environ, "WAYS": json.dumps(ways if count > 1 else ways[:1]), "SAMESTEP_TIMEOUT": "300"}
    script = [str(Path(__file__).resolve()), "--work", *names]
    with network.Hosts(count, rate=rate * 1e6) as where, tempfile.TemporaryDirectory() as folder:
        line, env = _launch.command(
            count, script, threads=1, hosts=where.slots(), environ={**environ, **where.mpi_environment()}
        )
        line = [*line[:1], "-x", "WAYS", "-x", "SAMESTEP_TIMEOUT", *line[1:]]
        child = where.start(line, env=env, cwd=Path(folder), stdout=subprocess.PIPE)
        assert child.stdout is not None
        for answer in child.stdout:
            found.append(json.loads(answer))
            print(f"{count} hosts: {answer.strip()}", file=sys.stderr, flush=True)
        if child.wait(LIMIT) != 0:
            raise SystemExit(f"compression.py: the job on {count} hosts ended with {child.returncode}")
    return found


def tables(found: list[dict[str, Any]], rate: float) -> str:
    out = []
    for name in dict.fromkeys(item["workload"] for item in found):
        items = [item for item in found if item["workload"] == name]
        counts = sorted({item["ranks"] for item in items})
        alone = next((item for item in items if item["ranks"] == 1), None)
        out += [
            f"{name}, {items[0]['steps']} steps, {rate:g} Mbit/s"
            + (f"; one host: {1 / alone['seconds']:.2f} steps/s, loss {alone['loss']:.3f}" if alone else ""),
            "",
        ]
        many = [count for count in counts if count > 1]
        out += ["| way | " + " | ".join(f"{count} hosts: MB a step | steps/s | loss" for count in many) + " |"]
        out += ["|---|" + "---:|" * (3 * len(many))]
        for way in dict.fromkeys(item["way"] for item in items):
            cells = []
            for count in many:
                item = next((item for item in items if item["way"] == way and item["ranks"] == count), None)
                cells += (
                    [f"{item['bytes'] / 1e6:.3f}", f"{1 / item['seconds']:.2f}", f"{item['loss']:.3f}"]
                    if item
                    else ["-"] * 3
                )
            if any(cell != "-" for cell in cells):
                out.append(f"| {way} | {' | '.join(cells)} |")
        out.append("")
    return "\n".join(out)


def plot(found: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(item["workload"] for item in found))
    figure, axes = plt.subplots(2, len(names), figsize=(5 * len(names), 8), squeeze=False)
    for column, name in enumerate(names):
        items = [item for item in found if item["workload"] == name]
        alone = next((item for item in items if item["ranks"] == 1), None)
        for way in dict.fromkeys(item["way"] for item in items):
            own = sorted(
                (item for item in items if item["way"] == way and item["ranks"] > 1), key=lambda item: item["ranks"]
            )
            own = ([alone] if alone else []) + own
            for row, value in ((0, lambda item: 1 / item["seconds"]), (1, lambda item: item["loss"])):
                axes[row][column].plot([item["ranks"] for item in own], [value(item) for item in own], "o-", label=way)
        axes[0][column].set(title=name, ylabel="steps a second", xticks=sorted({item["ranks"] for item in items}))
        axes[1][column].set(
            xlabel="hosts",
            ylabel=f"loss after {items[0]['steps']} steps",
            xticks=sorted({item["ranks"] for item in items}),
        )
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rate", type=float, default=100.0, help="Mbit/s of each host (default 100)")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    import hosts as network

    reason = network.available()
    if reason:
        sys.exit(f"compression.py: no hosts can be made: {reason}")
    found: list[dict[str, Any]] = []
    for count in options.hosts:
        found += measure(count, options.rate, options.workloads, options.ways)
    shown = tables(found, options.rate)
    print(shown)
    if options.json:
        options.json.write_text(
            json.dumps({"command": sys.argv, "rate_mbit": options.rate, "found": found}, indent=1) + "\n"
        )
    if options.markdown:
        options.markdown.write_text(shown)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
