"""Handwritten digits: a perceptron with one hidden layer beside scikit-learn's LogisticRegression, with a plot of both.

    python examples/mlp_and_logistic.py --epochs 30 --plot comparison.png

Both see the same numbers and are measured on the same held-out quarter. Needs scikit-learn, and matplotlib for the plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import samestep as ss
from samestep import nn, optim


def plot(path: str, history: list[float], logistic: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot(range(1, len(history) + 1), history, label="perceptron (samestep)")
    axes.axhline(logistic, color="grey", linestyle="--", label="logistic regression (scikit-learn)")
    axes.set(xlabel="epoch", ylabel="accuracy on held-out digits")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--plot", help="file for the plot, such as comparison.png")
    options = parser.parse_args(arguments)

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    X, Xt, y, yt = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)

    logistic = LogisticRegression(max_iter=2000).fit(X, y).score(Xt, yt)

    ss.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, options.hidden), nn.ReLU(), nn.Linear(options.hidden, 10))
    trainer = ss.Trainer(net, "cross_entropy", optim.AdamW(3e-3), metrics=["accuracy"])
    history = trainer.fit(X, y, epochs=options.epochs, batch_size=64, validation=(Xt, yt), verbose=False)
    perceptron = trainer.evaluate(Xt, yt)["accuracy"]

    if ss.rank() == 0:
        print(f"logistic regression: accuracy {logistic:.4f}")
        print(f"perceptron: accuracy {perceptron:.4f}")
        print("fingerprint", ss.fingerprint(net))
        if options.plot:
            plot(options.plot, history["val_accuracy"], logistic)
            print("plot in", options.plot)


if __name__ == "__main__":
    main()
