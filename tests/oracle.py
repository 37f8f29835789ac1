"""What the tests against outside witnesses share: a probe that shows the gradients of inputs, networks that are
written once for samestep and PyTorch,
and data that do not depend on the version of NumPy. PyTorch itself is imported nowhere here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import samestep as ss
from samestep import nn, optim
from samestep.nn import functional as F

Array = np.ndarray


def distance(ours: Any, theirs: Any) -> float:
    """Largest difference, relative to the largest element of `theirs`."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    assert np.isfinite(b).all(), "the witness is not finite"
    if not b.size:
        return 0.0
    if not np.isfinite(a).all():
        return float("inf")
    scale = np.abs(b).max()
    return float(np.abs(a - b).max() / scale) if scale > 0 else float(np.abs(a).max())


class Probe(nn.Module):
    """A network whose inputs are parameters, so that training yields the gradient of each input of each sample.

    Sample b of the batch is the b-th unit vector; a linear layer without bias, whose weight holds the samples as
    columns, turns it into sample b: every
    other product is 0, so neither the values nor their gradients are rounded on the way.
    """

    def __init__(self, function: Any, arrays: list[Array]) -> None:
        super().__init__()
        self.function = function
        self.shapes = [array.shape[1:] for array in arrays]
        for number, array in enumerate(arrays):
            self.register_parameter(f"input{number}", nn.Parameter(array.reshape(len(array), -1).T))

    def forward(self, unit: Any) -> Any:
        inputs = [
            F.linear(unit, getattr(self, f"input{n}")).reshape(unit.shape[0], *shape)
            for n, shape in enumerate(self.shapes)
        ]
        return self.function(*inputs)


def probe(
    function: Any,
    arrays: list[Array],
    loss: Any,
    target: Array,
    *,
    weights: Array | None = None,
    threads: int = 2,
    **options: Any,
) -> dict[str, Any]:
    """loss(function(*arrays), target) in training mode: the loss, the gradients of inputs ("input0", ...) and of
    parameters (by their names in the module),
    the metrics, the buffers after the step, and the names of all operators that took part."""
    net = Probe(function, arrays)
    plan = ss.compile(net, loss, optim.SGD(0.0), len(arrays[0]), threads=threads, **options)
    found: dict[str, Any] = {"loss": plan.step(np.eye(len(arrays[0]), dtype=np.float32), target, weights)}
    found["metrics"] = dict(plan.results)
    found["parameters"] = {}
    for name, gradient in plan.gradients.items():
        if name.startswith("input"):
            array = arrays[int(name.removeprefix("input"))]
            found[name] = np.array(gradient).T.reshape(array.shape)
        else:
            found["parameters"][name.removeprefix("function.")] = np.array(gradient)
    found["buffers"] = {name.removeprefix("function."): np.array(item.data) for name, item in net.named_buffers()}
    found["operators"] = {str(item["op"]) for item in plan.explain().data["instructions"]} | {
        node["op"] for node in nodes(plan)
    }
    found["plan"] = plan
    return found


def nodes(plan: Any) -> list[dict[str, Any]]:
    """The traced graph of a plan's training step, before the plan changes anything."""
    return plan._sessions[plan._last][1].graph.nodes()


# ---- data ----


def whole_numbers(count: int, below: int, start: int = 0) -> Array:
    """`count` whole numbers in [0, below) from a mixing function of 64-bit integers (splitmix64: Steele, Lea, Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = (np.arange(start, start + count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) % np.uint64(below)).astype(np.int64)


def grid(shape: tuple[int, ...], start: int = 0) -> Array:
    """float32 numbers in [-2, 2), multiples of 1/1024: equal on every machine."""
    count = int(np.prod(shape))
    return ((whole_numbers(count, 4096, start) - 2048).astype(np.float32) / np.float32(1024)).reshape(shape)


def labels(count: int, classes: int, start: int = 0) -> Array:
    return whole_numbers(count, classes, start + 10**9)


# ---- networks, for torch.nn and samestep.nn alike ----


def mlp(nn: Any) -> Any:
    """784-512-256-10 with ReLU."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn(nn: Any, p: float = 0.0) -> Any:
    """conv32-pool-conv64-pool-128-dropout-10 on 28x28."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(3136, 128), nn.ReLU(), nn.Dropout(p), nn.Linear(128, 10),
    )  # fmt: skip


def resnet(nn: Any, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 3, activation: str = "relu") -> Any:
    """A residual network for small images: 6 * blocks + 2 layers with three widths, so ResNet-20 by default (He et al., 2015, 4.2)."""
    act = getattr(nn.functional, activation)

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.c1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.b1 = nn.BatchNorm2d(after)
            self.c2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.b2 = nn.BatchNorm2d(after)
            self.sc = None
            if stride != 1 or before != after:
                self.sc = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

        def forward(self, x: Any) -> Any:
            y = act(self.b1(self.c1(x)))
            y = self.b2(self.c2(y))
            return act(y + (x if self.sc is None else self.sc(x)))

    layers: list[Any] = [
        nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        {"relu": nn.ReLU, "silu": nn.SiLU}[activation](),
    ]
    before = widths[0]
    for number, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(before, width, 2 if block == 0 and number > 0 else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


NETWORKS = {
    "mlp": (mlp, (784,), 64),
    "cnn": (cnn, (1, 28, 28), 64),
    "resnet-20": (resnet, (3, 32, 32), 32),
    "resnet-20 with silu": (lambda nn: resnet(nn, activation="silu"), (3, 32, 32), 32),
    "resnet-small": (lambda nn: resnet(nn, (8, 16), 1), (3, 16, 16), 27),
}
"""Name: (network of torch.nn or samestep.nn, shape of a sample, samples in a batch)."""


def batches(name: str, steps: int) -> tuple[Array, Array]:
    """(steps * batch, ...) samples and labels: a coarse pattern for each of ten classes, plus noise of half its size."""
    _, shape, batch = NETWORKS[name]
    y = labels(steps * batch, 10)
    noise = grid((steps * batch, *shape)) / 2
    if len(shape) == 1:
        patterns = np.repeat(grid((10, shape[0] // 16), 10**8), 16, axis=1)
    else:
        patterns = grid((10, shape[0], shape[1] // 4, shape[2] // 4), 10**8).repeat(4, axis=2).repeat(4, axis=3)
    return patterns[y] + noise, y
