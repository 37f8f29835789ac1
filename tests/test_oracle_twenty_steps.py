"""ResNet-20, a GPT, an LSTM language model and an autoencoder: the loss of twenty steps against PyTorch in float64.

Each network is written once and made with both libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import nn, optim

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")

pytestmark = pytest.mark.oracle

STEPS, VOCABULARY, LENGTH = 20, 29, 24


def gpt(m: Any) -> Any:
    functional = m.functional

    class Attention(m.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.qkv, self.out, self.heads = m.Linear(width, 3 * width), m.Linear(width, width), heads

        def forward(self, x: Any) -> Any:
            batch, length, width = x.shape
            q, k, v = (
                part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
                for part in self.qkv(x).split(width, 2)
            )
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(batch, length, width))

    class Block(m.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.norm1, self.attention, self.norm2 = m.LayerNorm(width), Attention(width, heads), m.LayerNorm(width)
            self.feed = m.Sequential(m.Linear(width, 4 * width), m.GELU(approximate="tanh"), m.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.feed(self.norm2(x))

    return m.Sequential(
        m.Embedding(VOCABULARY, 32), Block(32, 4), Block(32, 4), m.LayerNorm(32), m.Linear(32, VOCABULARY, bias=False)
    )


def language_model(m: Any) -> Any:
    class Model(m.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.out = m.Embedding(VOCABULARY, 16), m.Linear(40, VOCABULARY)
            self.lstm = m.LSTM(16, 40, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.out(self.lstm(self.embedding(x))[0])

    return Model()


def autoencoder(m: Any) -> Any:
    return m.Sequential(
        m.Linear(64, 40), m.SiLU(), m.Linear(40, 6), m.Linear(6, 40), m.SiLU(), m.Linear(40, 64), m.Sigmoid()
    )


def tokens() -> tuple[np.ndarray, np.ndarray]:
    starts = np.random.default_rng(3).integers(0, VOCABULARY, (8 * STEPS, 1))
    text = (starts + 5 * np.arange(LENGTH + 1)) % VOCABULARY
    return text[:, :-1], text[:, 1:]


def pixels() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(3).uniform(size=(16 * STEPS, 64)).astype(np.float32)
    return images, images


def text_loss(scores: Any, target: Any) -> Any:
    return torch.nn.functional.cross_entropy(scores.reshape(-1, VOCABULARY), target.reshape(-1))


# maker, data, samples a step, our loss, PyTorch's, rate, largest error relative to the first loss
NETWORKS: dict[str, tuple[Callable[[Any], Any], Any, int, Any, Any, float, float]] = {
    "resnet-20": (
        oracle.NETWORKS["resnet-20 with silu"][0], lambda: oracle.batches("resnet-20 with silu", STEPS),
        oracle.NETWORKS["resnet-20 with silu"][2], "cross_entropy", torch.nn.functional.cross_entropy, 1e-3, 2e-4,
    ),
    "gpt": (gpt, tokens, 8, nn.CrossEntropyLoss(axis=-1), text_loss, 3e-3, 2e-6),
    "lstm": (language_model, tokens, 8, nn.CrossEntropyLoss(axis=-1), text_loss, 1e-2, 2e-6),
    "autoencoder": (autoencoder, pixels, 16, "mse", torch.nn.functional.mse_loss, 1e-2, 2e-6),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_of_twenty_steps(name: str) -> None:
    make, data, batch, loss, their_loss, rate, tolerance = NETWORKS[name]
    torch.manual_seed(1)
    theirs, ours = make(torch.nn), make(nn)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    theirs = theirs.double()
    rule = torch.optim.Adam(theirs.parameters(), lr=rate)
    plan = ss.compile(ours, loss, optim.Adam(rate), batch, threads=2)
    x, y = data()
    errors, losses = [], []
    for step in range(STEPS):
        rows = slice(step * batch, (step + 1) * batch)
        inputs, target = torch.tensor(x[rows]), torch.tensor(y[rows])
        inputs, target = (part.double() if part.is_floating_point() else part for part in (inputs, target))
        rule.zero_grad()
        expected = their_loss(theirs(inputs), target)
        expected.backward()
        rule.step()
        losses.append(expected.item())
        errors.append(abs(plan.step(x[rows], y[rows]) - losses[-1]) / losses[0])
    assert losses[-1] < losses[0]
    assert max(errors) <= tolerance, errors
