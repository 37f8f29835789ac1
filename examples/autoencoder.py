"""Handwritten digits through a narrow middle: an autoencoder beside principal components of the same width.

    python examples/autoencoder.py --code 8 --epochs 60

Needs scikit-learn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

import samestep as ss
from samestep import nn, optim


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--code", type=int, default=8, help="numbers that an image is reduced to")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(arguments)

    X = (load_digits().data / 16).astype("float32")
    X, Xt = train_test_split(X, test_size=0.25, random_state=0)

    ss.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, options.code),
        nn.Linear(options.code, 128), nn.SiLU(), nn.Linear(128, 64),
    )  # fmt: skip
    trainer = ss.Trainer(net, "mse", optim.AdamW(3e-3))
    trainer.fit(X, X, epochs=options.epochs, batch_size=64, verbose=False)
    error = trainer.evaluate(Xt, Xt)["loss"]

    components = PCA(options.code, random_state=0).fit(X)
    linear = ((components.inverse_transform(components.transform(Xt)) - Xt) ** 2).mean()
    mean = ((Xt - X.mean(axis=0)) ** 2).mean()
    if ss.rank() == 0:
        print(f"error of the mean image {mean:.5f}")
        print(f"error of {options.code} principal components {linear:.5f}")
        print(f"error of the autoencoder {error:.5f}")
        print("fingerprint", ss.fingerprint(net))


if __name__ == "__main__":
    main()
