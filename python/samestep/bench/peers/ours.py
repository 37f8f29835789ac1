"""samestep, through its public API.

Variants: "" takes plan.step on resident arrays, "run" takes many steps in one plan.run over arrays of eight batches.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from typing import Any

import child
import numpy as np
from workloads import ADAM, ADAMW, CLASSES, RESNET_BLOCKS, SGD, VOCABULARY, Workload, data

import samestep as ss
from samestep import nn, optim
from samestep.nn import functional as F

RUN_BATCHES = 8


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.short = nn.Identity()
        if inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        h = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(h)) + self.short(x))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(width, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, length: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * np.random.default_rng(0).standard_normal((length, width), np.float32))
        self.blocks = nn.Sequential(*[TransformerBlock(width, heads) for _ in range(layers)])
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x: Any) -> Any:
        return self.out(self.norm(self.blocks(self.tokens(x) + self.places)))


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(VOCABULARY, 64), nn.LSTM(64, 256, 2, batch_first=True)
        self.out = nn.Linear(256, VOCABULARY)

    def forward(self, x: Any) -> Any:
        return self.out(self.lstm(self.tokens(x))[0])


def network(workload: Workload) -> Any:
    layers: list[Any] = []
    if workload.widths:
        for inputs, outputs in itertools.pairwise(workload.widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])
    if workload.text:
        return GPT(*workload.sample_shape, *workload.blocks) if workload.blocks[0] else LanguageModel()
    if workload.name == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(3136, 128),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(128, CLASSES),
        )
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [Block(*shape) for shape in RESNET_BLOCKS]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def build(setting: child.Setting) -> Any:
    workload = setting.workload
    x, y = data(workload)
    many = functools.cache(lambda: data(workload, RUN_BATCHES))
    ss.manual_seed(0)
    before = child.memory("VmRSS")
    kinds: dict[str, Any] = {"sgd": (optim.SGD, SGD), "adam": (optim.Adam, ADAM), "adamw": (optim.AdamW, ADAMW)}
    kind, settings = kinds[workload.optimizer]
    plan = ss.compile(
        network(workload),
        loss=nn.CrossEntropyLoss(axis=-1) if workload.text else "cross_entropy",
        optimizer=kind(**settings),
        batch_size=workload.batch,
        input_shape=workload.sample_shape,
        threads=setting.threads,
        precision=setting.precision,
    )

    def steps(n: int) -> float:
        loss = 0.0
        for _ in range(n):
            loss = plan.step(x, y)
        return loss

    def run(n: int) -> float:
        many_x, many_y = many()
        order = np.arange(n * workload.batch) % len(many_x)
        return float(np.divide(*plan.run(many_x, many_y, order, batch_size=workload.batch)[-1, 0]))

    def memory() -> dict[str, float]:
        """MiB that the plan's layout asks for, and by how much the process's peak has really grown."""
        return {
            "forecast_mib": plan.explain().memory["forecast"] / 2**20,
            "grown_mib": child.memory("VmHWM") - before,
        }

    def overhead() -> dict[str, float]:
        """Microseconds a step, the least of five bursts: by plan.step, by plan.run (no Python between steps), and
        inside operators on thread 0.

        What plan.step takes beyond plan.run is the call from Python; what plan.run takes beyond the operators is the
        step's own machinery (loading rows, starting threads, joins, exchange) and the optimizer."""
        n = 200 if workload.gflop < 0.5 else 3
        best = {"step_us": float("inf"), "run_us": float("inf"), "operators_us": float("inf")}
        for _ in range(5):
            for name, work in (("step_us", steps), ("run_us", run)):
                started = time.perf_counter()
                work(n)
                best[name] = min(best[name], (time.perf_counter() - started) / n * 1e6)
        plan.explain(analyze=True)
        for _ in range(5):
            run(n)  # each call of plan.run measures anew
            measured = plan.explain(analyze=True).data["instructions"]
            best["operators_us"] = min(
                best["operators_us"], 1e6 * sum(item["seconds"] / max(1, item["calls"]) for item in measured)
            )
        return best

    return ss.__version__, run if setting.variant == "run" else steps, {"overhead": overhead, "memory": memory}


if __name__ == "__main__":
    child.serve(build, int(os.environ.get("OMPI_COMM_WORLD_RANK", "0")))
