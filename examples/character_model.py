"""A language model of characters: an LSTM, or transformer blocks as in GPT-2, learns a text and writes some of its own.

    python examples/character_model.py --text book.txt --model gpt --epochs 5

Without --text it learns sums such as "3+4=7;", made on the spot.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import samestep as ss
from samestep import nn, optim


class LSTMModel(nn.Module):
    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.lstm = nn.LSTM(width, width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Any) -> Any:
        output, _ = self.lstm(self.embedding(x))
        return self.head(output)


class GPTModel(nn.Module):
    """Positions by rotation, so that no table of positions is needed."""

    def __init__(self, characters: int, width: int, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.blocks = nn.Sequential(*[nn.GPTBlock(width, 4, rotary=True) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.blocks(self.embedding(x))))


def sums(count: int) -> str:
    a, b = np.random.default_rng(0).integers(0, 10, (2, count))
    return "".join(f"{i}+{j}={i + j};" for i, j in zip(a, b, strict=True))


def sample(trainer: ss.Trainer, start: np.ndarray, length: int, temperature: float) -> list[int]:
    """Goes on from `start` character by character: each is drawn from the model's distribution after the last
    len(start) ones."""
    rng, window, made = np.random.default_rng(0), start.copy(), []
    for _ in range(length):
        scores = trainer.predict(window[None])[0, -1].astype(np.float64) / temperature
        chances = np.exp(scores - scores.max())
        made.append(int(rng.choice(len(chances), p=chances / chances.sum())))
        window = np.append(window[1:], made[-1])
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="a text file (UTF-8)")
    parser.add_argument("--model", choices=["lstm", "gpt"], default="lstm")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--width", type=int, default=64, help="features of a character; a multiple of 8")
    parser.add_argument("--length", type=int, default=32, help="characters the model sees at once")
    parser.add_argument("--sums", type=int, default=4000, help="sums in the text that is made without --text")
    parser.add_argument("--sample", type=int, default=80, help="characters to write at the end")
    parser.add_argument("--temperature", type=float, default=0.5)
    options = parser.parse_args(arguments)

    text = Path(options.text).read_text(encoding="utf-8") if options.text else sums(options.sums)
    if len(text) <= 2 * options.length:
        parser.error(f"the text has {len(text)} characters; --length {options.length} needs more than twice as many")
    characters = sorted(set(text))
    numbers = np.searchsorted(characters, list(text)).astype(np.int32)
    count = (len(numbers) - 1) // options.length
    X = numbers[: count * options.length].reshape(count, options.length)
    y = numbers[1 : count * options.length + 1].reshape(count, options.length)  # the next character at each place
    held_out = max(1, count // 10)

    ss.manual_seed(0)
    make = {"lstm": LSTMModel, "gpt": GPTModel}[options.model]
    net = make(len(characters), options.width)
    trainer = ss.Trainer(net, nn.CrossEntropyLoss(axis=-1), optim.AdamW(3e-3), clip_norm=1.0)
    validation = (X[-held_out:], y[-held_out:])
    before = trainer.evaluate(*validation)["loss"]
    trainer.fit(X[:-held_out], y[:-held_out], epochs=options.epochs, batch_size=32, verbose=False)
    after = trainer.evaluate(*validation)["loss"]
    written = "".join(characters[number] for number in sample(trainer, X[0], options.sample, options.temperature))
    if ss.rank() == 0:
        print(f"held-out loss: before {before:.4f}, after {after:.4f}")
        print(f"uniform guess {np.log(len(characters)):.4f}")
        print("sample", repr(written))
        print("fingerprint", ss.fingerprint(net))


if __name__ == "__main__":
    main()
