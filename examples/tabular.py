"""Regression on a table: scikit-learn's diabetes data, or a generated table with a curved answer; R2 beside a linear model.

    python examples/tabular.py --data generated --epochs 100

Needs scikit-learn. The diabetes data are few and nearly linear, so there the linear model is hard to beat.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import samestep as ss
from samestep import nn, optim


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["diabetes", "generated"], default="diabetes")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(arguments)

    if options.data == "diabetes":
        X, y = load_diabetes(return_X_y=True)
    else:
        X, y = make_friedman1(2000, noise=1.0, random_state=0)
    X, Xt, y, yt = train_test_split(X, y, test_size=0.25, random_state=0)
    linear = r2_score(yt, LinearRegression().fit(X, y).predict(Xt))

    columns, answers = StandardScaler().fit(X), StandardScaler().fit(y[:, None])  # of the training rows alone
    X, Xt = (columns.transform(part).astype("float32") for part in (X, Xt))

    ss.manual_seed(0)
    net = nn.Sequential(nn.Linear(X.shape[1], 32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    trainer = ss.Trainer(net, "mse", optim.AdamW(3e-3, weight_decay=0.1))
    trainer.fit(X, answers.transform(y[:, None]).astype("float32"), epochs=options.epochs, batch_size=32, verbose=False)
    network = r2_score(yt, answers.inverse_transform(trainer.predict(Xt))[:, 0])
    if ss.rank() == 0:
        print(f"linear model: R2 {linear:.4f}")
        print(f"network: R2 {network:.4f}")
        print("fingerprint", ss.fingerprint(net))


if __name__ == "__main__":
    main()
