"""One convolutional network, and all the ways in which ranks can train it together. Run it on several ranks:

    samestep run -n 3 examples/ways_to_exchange.py          # or: mpiexec -n 3 python examples/ways_to_exchange.py

prints a table: how many bytes a rank sends in a step, the loss of the last epoch, the accuracy on held-out digits, and
whether the bits are those of one process. On one rank nothing is exchanged, and all ways but local training with an outer
step are the same. Needs scikit-learn for the digits.
"""

from __future__ import annotations

import argparse
from typing import Any

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import samestep as ss
from samestep import compress, nn, optim
from samestep.parallel import Nesterov

WAYS: dict[str, Any] = {
    "all-reduce": ss.AllReduce(),
    "servers in step": ss.ParameterServer(1),
    "bfloat16": ss.AllReduce(compress.BF16()),
    "int8": ss.AllReduce(compress.Int8()),
    "one bit": ss.AllReduce(compress.OneBit()),
    "top 5 %": ss.AllReduce(compress.TopK(0.05)),
    "PowerSGD": ss.AllReduce(compress.PowerSGD(2)),
    "local, 8 steps": ss.LocalSGD(8),
    "DiLoCo, 16 steps": ss.LocalSGD(16, outer=Nesterov(0.7, 0.5)),
    "server, bounded": ss.ParameterServer(1, "bounded", staleness=2),
    "server, asynchronous": ss.ParameterServer(1, "async"),
}


def network() -> nn.Module:
    ss.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def sent(trainer: ss.Trainer) -> float:
    """Bytes that a rank (a worker, where there are servers) sends in a step, on average."""
    plan, ranks = trainer.plan, ss.size()
    if plan.compression is not None:
        return float(plan.compression["bytes"])
    servers = plan.servers
    if servers is not None:
        return float(servers[0]["bytes"])
    elements = sum(value.size for value in trainer.net.state_dict().values())
    return 4 * 2 * elements * (ranks - 1) / ranks / getattr(plan.parallel.exchange, "period", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="default: all")
    options = parser.parse_args()
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    x, held_x, y, held_y = train_test_split(
        images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )

    plain = ""
    if ss.rank() == 0:
        print(f"{ss.size()} ranks, {options.epochs} epochs\n\n{'':22}  KB a step    loss  accuracy  bits of all-reduce")
    for name in options.ways:
        net, way = network(), WAYS[name]
        # Where every push is an update there are as many more of them as workers, so each is smaller.
        pushes = isinstance(way, ss.ParameterServer) and way.mode != "sync"
        rate = 0.05 / max(1, ss.size() - way.servers) if pushes else 0.05
        trainer = ss.Trainer(net, optimizer=optim.SGD(rate, momentum=0.9), metrics="accuracy", parallel=way)
        history = trainer.fit(x, y, options.epochs, 64, verbose=False).to_dict()
        accuracy, size = trainer.evaluate(held_x, held_y)["accuracy"], sent(trainer)
        plain = plain or ss.fingerprint(net)
        if ss.rank() == 0:
            same = "yes" if ss.fingerprint(net) == plain else "no"
            print(f"{name:22}  {size / 1e3:9.1f}  {history['loss'][-1]:.4f}    {accuracy:.4f}  {same}", flush=True)
    if ss.rank() == 0:
        print("fingerprint", plain)


if __name__ == "__main__":
    main()
