#!/usr/bin/env python3
"""Training steps of samestep and PyTorch, in turn, along one extent at a time: batch, width, depth, length, channels, image.

Odd numbers stand among the round ones: a kernel that is fast at 64 may fall off a cliff at 63, 65 or 97. A ratio above 1
means that samestep is faster; points below are listed at the end.

    python benchmarks/scaling.py                                  # all series, some minutes
    python benchmarks/scaling.py --series mlp-width conv-channels
    python benchmarks/scaling.py --json scaling.json --markdown scaling.md --plot scaling.png
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, CLASSES = 65, 10
WARM_UP = 3
RATE, MOMENTUM = 1e-3, 0.9  # small: thousands of steps on one batch of noise must not end in a spike


@dataclass(frozen=True)
class Point:
    """A network and its batch. Extents that its kind has no use for stay 0."""

    kind: str  # mlp, conv, gpt or lstm
    batch: int
    width: int  # of hidden layers; channels of convolutions
    depth: int  # hidden layers, convolutions, blocks or LSTM layers
    length: int = 0  # tokens; height and width of images
    inputs: int = 0  # of the first layer of an mlp
    heads: int = 0

    @property
    def text(self) -> bool:
        return self.kind in ("gpt", "lstm")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        if self.text:
            return (self.length,)
        return (self.inputs,) if self.kind == "mlp" else (3, self.length, self.length)


MLP = Point("mlp", 64, 256, 2, inputs=256)
CONV = Point("conv", 32, 32, 3, length=16)
GPT = Point("gpt", 8, 64, 2, length=64, heads=4)
LSTM = Point("lstm", 32, 128, 1, length=32)

# Series -> the point that is varied, the extent, its values.
SERIES: dict[str, tuple[Point, str, tuple[int, ...]]] = {
    "mlp-batch": (MLP, "batch", (1, 2, 7, 32, 63, 64, 65, 97, 256, 1000)),
    "mlp-width": (MLP, "width", (7, 31, 63, 64, 65, 97, 256, 512, 1000, 1024)),
    "mlp-inputs": (MLP, "inputs", (1, 13, 63, 65, 97, 784, 1000)),
    "mlp-depth": (replace(MLP, width=128), "depth", (0, 1, 4, 8, 16)),
    "conv-batch": (CONV, "batch", (1, 3, 16, 63, 97)),
    "conv-channels": (CONV, "width", (1, 7, 13, 16, 31, 32, 64, 65)),
    "conv-image": (replace(CONV, width=16), "length", (5, 7, 15, 17, 28, 33, 63)),
    "conv-depth": (CONV, "depth", (1, 2, 6, 12)),
    "gpt-batch": (GPT, "batch", (1, 3, 16, 63)),
    "gpt-width": (GPT, "width", (28, 52, 64, 124, 128, 256)),  # heads of 7, 13, 16, 31, 32 and 64
    "gpt-length": (GPT, "length", (1, 7, 31, 63, 65, 97, 128, 256, 500)),
    "gpt-depth": (GPT, "depth", (1, 4, 8)),
    "lstm-batch": (LSTM, "batch", (1, 7, 63, 97)),
    "lstm-width": (LSTM, "width", (7, 31, 63, 64, 65, 97, 256)),
    "lstm-length": (LSTM, "length", (1, 7, 31, 97)),
    "lstm-depth": (LSTM, "depth", (1, 2, 4)),
}


# --- contestants. The same network serves both libraries: `nn` and `F` are those of torch or of samestep.


def network(nn: Any, F: Any, p: Point) -> Any:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(p.width, 3 * p.width), nn.Linear(p.width, p.width)

        def forward(self, x: Any) -> Any:
            batch, length, width = x.shape
            q, k, v = (
                part.view(batch, length, p.heads, width // p.heads).transpose(1, 2)
                for part in self.qkv(x).split(width, 2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(batch, length, width))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.attention, self.norm2 = nn.LayerNorm(p.width), Attention(), nn.LayerNorm(p.width)
            self.feed = nn.Sequential(
                nn.Linear(p.width, 4 * p.width), nn.GELU(approximate="tanh"), nn.Linear(4 * p.width, p.width)
            )

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.feed(self.norm2(x))

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(p.width, p.width, p.depth, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.lstm(x)[0]

    layers: list[Any] = []
    if p.kind == "mlp":
        sizes = [p.inputs, *[p.width] * p.depth]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        layers.append(nn.Linear(sizes[-1], CLASSES))
    elif p.kind == "conv":
        for k in range(p.depth):
            layers += [nn.Conv2d(p.width if k else 3, p.width, 3, padding=1), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(p.width, CLASSES)]
    else:
        layers = [nn.Embedding(VOCABULARY, p.width)]
        layers += [Block() for _ in range(p.depth)] if p.kind == "gpt" else [Recurrent()]
        layers.append(nn.Linear(p.width, VOCABULARY))
    return nn.Sequential(*layers)


def data(p: Point) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    if p.text:
        tokens = random.integers(0, VOCABULARY, (2, p.batch, p.length))
        return tokens[0], tokens[1]
    x = random.standard_normal((p.batch, *p.sample_shape), dtype=np.float32)
    return x, random.integers(0, CLASSES, p.batch)


def build_samestep(p: Point, threads: int) -> list[Any]:
    """Functions that take one step; several where the library offers a choice, the best of which counts."""
    import samestep as ss
    from samestep import nn, optim
    from samestep.nn import functional as F

    ss.manual_seed(0)
    x, y = data(p)
    loss = nn.CrossEntropyLoss(axis=-1) if p.text else "cross_entropy"
    plan = ss.compile(
        network(nn, F, p),
        loss,
        optim.SGD(RATE, momentum=MOMENTUM),
        p.batch,
        input_shape=p.sample_shape,
        threads=threads,
    )
    return [lambda: plan.step(x, y)]


def build_torch(p: Point, threads: int) -> list[Any]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(threads)

    def contestant(layout: Any) -> Any:
        torch.manual_seed(0)
        x, y = map(torch.from_numpy, data(p))
        net = network(nn, F, p)
        if layout is not None:
            net, x = net.to(memory_format=layout), x.to(memory_format=layout)
        optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=MOMENTUM, fused=True)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step

    return [contestant(layout) for layout in ([None, torch.channels_last] if p.kind == "conv" else [None])]


BUILDERS = {"samestep": build_samestep, "torch": build_torch}


def serve(name: str, threads: int) -> None:
    """A contestant's side: a line of JSON each way. {"point": ...} builds; {"seconds": s} takes one burst."""
    steps: list[Any] = []
    counts: list[int] = []
    for line in sys.stdin:
        command, answer = json.loads(line), {}
        try:
            if "point" in command:
                steps.clear()
                steps += BUILDERS[name](Point(**command["point"]), threads)
                counts = [1] * len(steps)
                answer["losses"] = [[step() for _ in range(WARM_UP)] for step in steps]
            else:
                answer["ms"], answer["loss"] = [], []
                for k, step in enumerate(steps):
                    started = time.perf_counter()
                    for _ in range(counts[k]):
                        loss = step()
                    taken = (time.perf_counter() - started) / counts[k]
                    counts[k] = max(1, math.ceil(command["seconds"] / taken))  # the first burst finds the count
                    answer["ms"].append(1e3 * taken)
                    answer["loss"].append(loss)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), flush=True)


# --- the runner


class Contestant:
    """A process that builds networks and takes its turns."""

    def __init__(self, name: str, threads: int) -> None:
        ours = ("SAMESTEP_", "OMP_", "OMPI_", "PMIX_")  # settings that would change what is compared
        environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        environ |= {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
        self.name = name
        line = [sys.executable, str(Path(__file__).resolve()), "--serve", name, "--threads", str(threads)]
        self._process = subprocess.Popen(
            line, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Raises RuntimeError where it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError(f"{self.name} has ended") from None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended without an answer"}
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure(point: Point, field: list[Contestant], rounds: int, seconds: float) -> dict[str, Any]:
    """{"ms": best by contestant, "ratio": ..., "rounds": the ratio in each round}, or {"error": ...}."""
    bursts: dict[str, list[float]] = {}
    try:
        first = {child.name: child.ask(point=asdict(point))["losses"][0][0] for child in field}
        for child in field:
            child.ask(seconds=seconds)  # finds how many steps fill a burst
        for _ in range(rounds):
            for child in field:
                answer = child.ask(seconds=seconds)
                bursts.setdefault(child.name, []).append(min(answer["ms"]))
                if not all(loss < first[child.name] for loss in answer["loss"]):
                    raise RuntimeError(f"{child.name}: the loss did not fall: {first[child.name]} to {answer['loss']}")
    except RuntimeError as error:
        return {"error": str(error)}
    best = {name: min(times) for name, times in bursts.items()}
    each = [theirs / ours for ours, theirs in zip(bursts["samestep"], bursts["torch"], strict=True)]
    return {"ms": best, "ratio": best["torch"] / best["samestep"], "rounds": each}


def below(result: dict[str, Any], limit: float = 1.0) -> list[dict[str, Any]]:
    """Points whose ratio is below the limit, the worst first."""
    found = [item for item in result["points"] if item.get("ratio", limit) < limit]
    return sorted(found, key=lambda item: item["ratio"])


def table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    from samestep.bench.report import number

    head = ["series", "extent", "value", "samestep", "torch", "ratio", "of rounds", ""]
    rows = []
    for item in result["points"]:
        row = [item["series"], item["extent"], str(item["value"])]
        if "error" in item:
            rows.append([*row, "-", "-", "-", "-", "failed"])
            continue
        spread = f"{min(item['rounds']):.2f}-{max(item['rounds']):.2f}"
        row += [number(item["ms"]["samestep"]), number(item["ms"]["torch"]), number(item["ratio"]), spread]
        rows.append([*row, "below 1" if item["ratio"] < 1 else ""])
    return head, rows


def plot(result: dict[str, Any], file: Path) -> None:
    """A panel for each series: the ratio over the extent."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(item["series"] for item in result["points"]))
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * lines), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(lines, columns, place)
        points = [item for item in result["points"] if item["series"] == name and "ratio" in item]
        values = [max(item["value"], 0.5) for item in points]  # a depth of 0 has no logarithm
        axes.plot(values, [item["ratio"] for item in points], marker="o", markersize=4)
        axes.fill_between(
            values, [min(item["rounds"]) for item in points], [max(item["rounds"]) for item in points], alpha=0.2
        )
        axes.axhline(1.0, color="0.3", linewidth=1)
        axes.set(xscale="log", yscale="log", title=name, ylabel="torch / samestep")
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(file)


def points(names: list[str], quick: bool) -> Iterator[tuple[str, str, int, Point]]:
    for name in names:
        base, extent, values = SERIES[name]
        for value in values[:2] if quick else values:
            yield name, extent, value, replace(base, **{extent: value})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    help = f"which to run: {', '.join(SERIES)} (default: all)"
    add("--series", nargs="+", choices=SERIES, default=list(SERIES), metavar="NAME", help=help)
    add("--threads", type=int, metavar="N", help="of each contestant (default: 2, or all where there are fewer)")
    add("--rounds", type=int, default=4, metavar="R", help="each round times both once (default: 4)")
    add("--seconds", type=float, default=0.1, metavar="S", help="of one turn (default: 0.1)")
    add("--quick", action="store_true", help="two points a series")
    add("--json", type=Path, metavar="FILE", help="write all figures and facts of the machine")
    add("--markdown", type=Path, metavar="FILE", help="write the table as markdown")
    add("--plot", type=Path, metavar="FILE", help="draw the ratios (needs matplotlib)")
    add("--serve", choices=BUILDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.threads)
        return 0

    from samestep.bench import history, machine, report

    args.threads = args.threads or min(2, len(os.sched_getaffinity(0)))
    if args.rounds < 1 or args.seconds <= 0 or args.threads < 1:
        parser.error("--rounds, --seconds and --threads must be positive")
    if args.plot:
        try:
            report.check_plot(args.plot)
        except (ImportError, ValueError) as problem:
            parser.error(f"--plot {args.plot}: {problem}")
    try:
        cpus = machine.processors(args.threads)
        import torch
    except ValueError:
        parser.error(f"--threads {args.threads}: this process may use {len(os.sched_getaffinity(0))} processors")
    except ImportError:
        parser.error("torch is not installed: pip install torch")
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    result: dict[str, Any] = {
        "started": started,
        "commit": history.commit(),
        "settings": {"threads": args.threads, "rounds": args.rounds, "seconds": args.seconds},
        "machine": machine.facts(),
        "versions": {"torch": torch.__version__},
        "points": [],
    }
    wanted = list(points(args.series, args.quick))
    interrupted = False
    with machine.bound(cpus):
        field = [Contestant(name, args.threads) for name in BUILDERS]
        try:
            for place, (name, extent, value, point) in enumerate(wanted, 1):
                print(f"{place} of {len(wanted)}: {name} {value}", file=sys.stderr, flush=True)
                item = {"series": name, "extent": extent, "value": value, "point": asdict(point)}
                result["points"].append(item | measure(point, field, args.rounds, args.seconds))
                if args.json:
                    args.json.write_text(json.dumps(result, indent=1) + "\n")
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted: these are the points that were finished", file=sys.stderr)
        finally:
            for child in field:
                child.end()
    head, rows = table(result)
    print(report.plain_table(head, rows))
    ratios = [item["ratio"] for item in result["points"] if "ratio" in item]
    slower, failed = below(result), [item for item in result["points"] if "error" in item]
    mean = report.number(report.geometric_mean(ratios))
    lines = [f"{len(ratios)} points; geometric mean of the ratios {mean}; {len(slower)} below 1.0"]
    lines += [f"below 1.0: {item['series']} {item['extent']}={item['value']}: {item['ratio']:.2f}" for item in slower]
    lines += [f"failed: {item['series']} {item['extent']}={item['value']}: {item['error']}" for item in failed]
    print("\n" + "\n".join(lines))
    if args.markdown:
        listed = "\n".join(f"- {line}" for line in lines)
        args.markdown.write_text(f"{report.markdown_table(head, rows)}\n\n{listed}\n")
    if args.plot and result["points"]:
        plot(result, args.plot)
    return 130 if interrupted else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
