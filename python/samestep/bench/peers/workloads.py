"""The benchmark set: what every contestant trains, on which data, and how many floating-point operations a step needs.

Networks are written out in each contestant's own file, in that library's idiom; this file holds what they must agree on.
It needs NumPy alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

CLASSES = 10
SGD = {"lr": 0.01, "momentum": 0.9}
ADAM = {"lr": 1e-3}
ADAMW = {"lr": 1e-3, "weight_decay": 0.01}
VOCABULARY = 65


@dataclass(frozen=True)
class Workload:
    """One network and the way it is trained."""

    name: str
    network: str
    batch: int  # global batch, samples
    sample_shape: tuple[int, ...]  # channels first
    optimizer: str  # "sgd", "adam" or "adamw" (SGD, ADAM, ADAMW above)
    products: tuple[int, ...]  # multiply-adds of each layer with weights, per sample, forward
    widths: tuple[int, ...] = ()  # of a network of Linear and ReLU alone: inputs, hidden, outputs
    blocks: tuple[int, int, int] = (0, 0, 0)  # of a GPT: layers, width, heads

    @property
    def gflop(self) -> float:
        """GFLOP of one step: a multiply-add counts two; forward, weight gradient and input gradient cost the same, and
        the first layer needs no input gradient (a text's first layer is a table, without a product). What is not a
        product (activations, batch norm, optimizer) counts nothing."""
        return 2 * self.batch * (3 * sum(self.products) - self.products[0]) / 1e9

    @property
    def text(self) -> bool:
        """Samples are rows of tokens, and so are the targets."""
        return len(self.sample_shape) == 1 and not self.widths

    @property
    def convolutional(self) -> bool:
        return len(self.sample_shape) == 3


def _dense(*widths: int) -> tuple[int, ...]:
    return tuple(a * b for a, b in itertools.pairwise(widths))


def _perceptron(name: str, batch: int, optimizer: str, *widths: int) -> Workload:
    return Workload(name, "-".join(map(str, widths)), batch, widths[:1], optimizer, _dense(*widths), widths)


# ResNet-20 (He et al. 2016, section 4.2), with 1x1 convolutions where the shape changes: (input channels, output
# channels, stride) of its nine blocks.
RESNET_BLOCKS = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2


def _resnet_products() -> tuple[int, ...]:
    size, products = 32, [9 * 3 * 16 * 32 * 32]
    for inputs, outputs, stride in RESNET_BLOCKS:
        size //= stride
        products += [9 * inputs * outputs * size * size, 9 * outputs * outputs * size * size]
        if inputs != outputs:
            products.append(inputs * outputs * size * size)
    return (*products, 64 * CLASSES)


def _gpt(name: str, batch: int, length: int, layers: int, width: int, heads: int) -> Workload:
    """Each token meets the weights of every block once (4 width^2 in attention, 8 in the feed-forward part) and, causal,
    half of the other tokens, in scores and in outputs."""
    each = length * 12 * width * width + length * length * width
    network = f"{layers} blocks of {width} with {heads} heads, {length} tokens"
    products = (0, *[each] * layers, length * width * VOCABULARY)
    return Workload(name, network, batch, (length,), "adamw", products, blocks=(layers, width, heads))


# Embedding 64, two LSTM layers of 256, 64 tokens.
_LSTM = (0, 64 * 4 * 256 * (64 + 256), 64 * 4 * 256 * (256 + 256), 64 * 256 * VOCABULARY)

WORKLOADS = {
    item.name: item
    for item in (
        _perceptron("logreg", 32, "sgd", 784, 10),
        _perceptron("mlp", 64, "sgd", 784, 512, 256, 10),
        _perceptron("mlpbig", 256, "adam", 784, 2048, 2048, 2048, 10),
        Workload(
            "cnn",
            "conv32-pool-conv64-pool-128-dropout-10",
            64,
            (1, 28, 28),
            "adam",
            (9 * 32 * 28 * 28, 9 * 32 * 64 * 14 * 14, *_dense(3136, 128, 10)),
        ),
        Workload("resnet", "ResNet-20", 128, (3, 32, 32), "sgd", _resnet_products()),
        _gpt("gpt", 16, 128, 4, 128, 4),
        _gpt("gpt384", 8, 256, 6, 384, 6),
        Workload("lstm", "embedding 64, 2 x LSTM 256, 64 tokens", 32, (64,), "adam", _LSTM),
    )
}


def data(workload: Workload, batches: int = 1, channels_last: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """x [batches * batch, *sample_shape] float32 and y [batches * batch] int64 (texts: both int64, of one shape): the
    same noise and labels for every contestant. A step on resident arrays costs the same whatever they hold, and a network
    that learns can learn these by heart: its loss falls."""
    random = np.random.default_rng(1)
    count = batches * workload.batch
    if workload.text:
        tokens = random.integers(0, VOCABULARY, (2, count, *workload.sample_shape))
        return tokens[0], tokens[1]
    x = random.standard_normal((count, *workload.sample_shape), dtype=np.float32)
    y = random.integers(0, CLASSES, count)
    if channels_last and workload.convolutional:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    return x, y


def share(x: np.ndarray, y: np.ndarray, rank: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of one of several ranks that divide a batch evenly."""
    each = len(x) // ranks
    return x[rank * each : (rank + 1) * each], y[rank * each : (rank + 1) * each]
