"""`samestep demo`: trains a small convolutional network on handwritten digits, on several ranks and then in one
process, and compares the bits."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, SEED, RATE, TARGET = 64, 0, 8e-3, 0.98
STARTED = ".started"  # a file that shows that the launcher did start ranks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `samestep demo`."""
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks of the first run (default: 2)")
    parser.add_argument("--epochs", type=int, default=16, metavar="E", help="epochs of each run (default: 16)")
    parser.add_argument("--plot", metavar="FILE.png", help="save the curves of loss and accuracy (needs matplotlib)")
    parser.add_argument("--worker", metavar="FILE", help=argparse.SUPPRESS)


def digits() -> tuple[Any, Any, Any, Any]:
    """1,797 digits of 8x8 pixels that scikit-learn carries, three quarters for training: X (n, 1, 8, 8) in [0, 1], y,
    Xt, yt."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise SystemExit("samestep demo needs scikit-learn for its digits: pip install scikit-learn") from None
    data = load_digits()
    images = (data.images[:, None] / 16).astype("float32")
    X, Xt, y, yt = train_test_split(images, data.target, train_size=0.75, stratify=data.target, random_state=SEED)
    return X, y, Xt, yt


def train(epochs: int) -> dict[str, Any]:
    """One run on the ranks at hand."""
    import samestep as ss
    from samestep import nn, optim

    X, y, Xt, yt = digits()
    ss.manual_seed(SEED)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(512, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip
    if ss.rank() == 0:
        parameters = sum(parameter.numel() for parameter in net.parameters())
        print(
            f"  {len(X)} digits to learn from, {len(Xt)} to test; {parameters:,} parameters; {ss.size()} rank{'s' if ss.size() > 1 else ''}"
        )

    def slow_down(trainer: ss.Trainer, epoch: int, logs: Any) -> None:
        """The learning rate falls evenly to a hundredth."""
        trainer.optimizer.lr = RATE * max(1 - epoch / epochs, 0.01)

    trainer = ss.Trainer(
        net, loss="cross_entropy", optimizer=optim.AdamW(RATE), metrics=["accuracy"], seed=SEED, callbacks=[slow_down]
    )
    began = time.perf_counter()
    history = trainer.fit(X, y, epochs=epochs, batch_size=BATCH, validation=(Xt, yt))
    return {
        "ranks": ss.size(),
        "accuracy": history["val_accuracy"][-1] if epochs else trainer.evaluate(Xt, yt)["accuracy"],
        "fingerprint": ss.fingerprint(net),
        "seconds": time.perf_counter() - began,
        "history": history.to_dict(),
    }


def _on_ranks(ranks: int, epochs: int, file: str) -> str:
    """Starts this file on several ranks; the result is written to `file`. Returns why that was not possible, or
    nothing."""
    from . import _launch, _libraries

    if _libraries.under_launcher():
        return "this process was itself started by a launcher"
    if sys.stderr.isatty():
        os.environ.setdefault("SAMESTEP_PROGRESS", "1")  # below mpiexec the ranks see a pipe
    try:
        code = _launch.run(ranks, ["-m", "samestep", "demo", "--worker", file, "--epochs", str(epochs)])
    except _launch.LaunchError as error:
        return str(error)
    return "" if code == 0 else f"mpiexec ended with code {code}"


def _title(text: str) -> None:
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"\n\033[1m{text}\033[0m" if bold else f"\n{text}", flush=True)


def main(args: argparse.Namespace) -> int:
    """0: as promised; 1: the ranks failed, the fingerprints differ, the accuracy was missed or there are no curves; 2:
    wrong arguments."""
    if args.worker:
        Path(args.worker + STARTED).touch()
        result = train(args.epochs)
        import samestep as ss

        if ss.rank() == 0:
            Path(args.worker).write_text(json.dumps(result))
        return 0
    if args.ranks < 1 or args.epochs < 1:
        print("samestep demo: --ranks and --epochs must be at least 1", file=sys.stderr)
        return 2
    runs = []
    if args.ranks > 1:
        _title(f"1. Training on {args.ranks} ranks")
        with tempfile.TemporaryDirectory(prefix="samestep-demo-") as folder:
            file = os.path.join(folder, "result.json")
            problem = _on_ranks(args.ranks, args.epochs, file)
            if problem and os.path.exists(file + STARTED):
                print(f"  The ranks started, but did not finish: {problem}", file=sys.stderr)
                return 1
            if problem:
                print(f"  could not start {args.ranks} ranks, so one process does all: {problem}")
            else:
                runs.append(json.loads(Path(file).read_text()))
    _title(f"{2 if args.ranks > 1 else 1}. Training in one process")
    runs.append(train(args.epochs))
    _title("Result")
    for run in runs:
        print(
            f"  {run['ranks']} rank{'s' if run['ranks'] > 1 else ' '}  accuracy {run['accuracy']:.4f}  "
            f"{run['seconds']:5.1f} s  {run['fingerprint']}"
        )
    good = True
    if args.plot:
        from .history import History

        try:
            History(runs[-1]["history"]).plot(args.plot)
            print(f"  curves in {args.plot}")
        except (ImportError, OSError, ValueError) as error:
            print(f"  no curves: {error}", file=sys.stderr)
            good = False
    if len(runs) > 1:
        equal = runs[0]["fingerprint"] == runs[1]["fingerprint"]
        good = good and equal
        print(
            "  Every bit of every parameter is equal."
            if equal
            else "  The parameters differ: please report this, with the output of `samestep doctor`."
        )
    if args.epochs >= 16 and runs[-1]["accuracy"] < TARGET:
        print(f"  The accuracy is below {TARGET}.")
        good = False
    return 0 if good else 1
