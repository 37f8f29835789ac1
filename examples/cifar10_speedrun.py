"""CIFAR-10 from random weights to 94 % on a CPU: a small convolutional network, eleven epochs, one seed at a time.

    python examples/cifar10_speedrun.py --data cifar10-jpg.zip --seed 1     # trains, or goes on where it was interrupted
    python examples/cifar10_speedrun.py --report                            # the table of the seeds so far
    python examples/cifar10_speedrun.py --torch                             # what PyTorch takes for the same step
    python examples/cifar10_speedrun.py --quick                             # a minute's trial on images made on the spot

The data are a zip of JPEG or PNG files train/CLASS/*.jpg and test/CLASS/*.jpg, read once with Pillow. Each seed has a
checkpoint that is written after every epoch and on Ctrl-C, and a file with its result, in the folder --results.

The recipe follows Keller Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024): a first layer that whitens
2x2 patches (Page, "How to train your ResNet", 2019), partial identity as first weights, batch norm without scale, Nesterov
momentum with a triangular rate and a large rate for the biases of batch norm, label smoothing, flips that alternate
between epochs, moves by up to two pixels, and predictions averaged over six views.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import samestep as ss
from samestep import nn, optim, schedules
from samestep.callbacks import Callback

Images = npt.NDArray[np.uint8]
CLASSES, SIZE, MOVE = 10, 32, 2
BATCH, EPOCHS = 1024, 11
MEAN, DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # of CIFAR-10's pixels
MOMENTUM, SMOOTHING, BIAS_FACTOR, SCALE = 0.85, 0.2, 64.0, 1 / 9
# For a sum over 1024 samples, in units of 1024 * (1 + 1 / (1 - momentum)) samples (Jordan 2024).
UNIT = 1024 * (1 + 1 / (1 - MOMENTUM))
RATE, DECAY = 11.5 / UNIT * 1024, 0.0153 * 1024 / UNIT


class Group(nn.Module):
    """Two convolutions, the first followed by pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = (nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4) for _ in range(2))
        self.pool, self.gelu = nn.MaxPool2d(2), nn.GELU(approximate="tanh")
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad = False
        for conv in (self.conv1, self.conv2):  # the first outputs begin as copies of the inputs
            weight = conv.weight.numpy().copy()
            count = min(weight.shape[:2])
            weight[:count] = 0
            weight[np.arange(count), np.arange(count), 1, 1] = 1
            conv.weight.data = weight

    def forward(self, x: Any) -> Any:
        x = self.gelu(self.norm1(self.pool(self.conv1(x))))
        return self.gelu(self.norm2(self.conv2(x)))


class SpeedNet(nn.Module):
    """widths: channels of the three groups."""

    def __init__(self, images: Images, widths: Sequence[int]) -> None:
        super().__init__()
        scale, shift = (
            1 / np.array(DEVIATION, np.float32),
            -np.array(MEAN, np.float32) / np.array(DEVIATION, np.float32),
        )
        self.scale, self.shift = nn.Parameter(scale.reshape(3, 1, 1)), nn.Parameter(shift.reshape(3, 1, 1))
        self.scale.requires_grad = self.shift.requires_grad = False
        filters = whitening(images * scale.reshape(3, 1, 1) + shift.reshape(3, 1, 1))
        self.whiten = nn.Conv2d(3, len(filters), 2)
        self.whiten.weight.data, self.whiten.bias.data = filters, np.zeros(len(filters), np.float32)
        self.whiten.weight.requires_grad = False
        self.gelu = nn.GELU(approximate="tanh")
        self.groups = nn.Sequential(*[Group(a, b) for a, b in zip([len(filters), *widths], widths, strict=False)])
        self.pool, self.out = nn.MaxPool2d(3), nn.Linear(widths[-1], CLASSES, bias=False)

    def forward(self, x: Any) -> Any:
        x = self.gelu(self.whiten(x * self.scale + self.shift))
        return self.out(self.pool(self.groups(x)).flatten(1)) * SCALE


def whitening(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Filters (24, 3, 2, 2): the principal directions of 2x2 patches, each divided by its deviation, and their opposites."""
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(2, 3))  # (n, 3, 31, 31, 2, 2)
    rows = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12).astype(np.float64)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    filters = (vectors / np.sqrt(values + 5e-4)).T[::-1].reshape(12, 3, 2, 2)
    return np.concatenate([filters, -filters]).astype(np.float32)


def views(images: Images) -> list[tuple[float, Images]]:
    """The image and its mirror image, and both moved by a pixel up and left, and down and right."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    moved = [(0.5, images), (0.25, padded[:, :, :SIZE, :SIZE]), (0.25, padded[:, :, 2:, 2:])]
    return [(weight / 2, np.ascontiguousarray(part[..., ::way])) for weight, part in moved for way in (1, -1)]


class Augment(Callback):
    """Writes each epoch's images into `images`: a function of the seed and the epoch alone. Sums the seconds of training."""

    def __init__(self, source: Images, images: Images, seed: int) -> None:
        self.padded = np.pad(source, ((0, 0), (0, 0), (MOVE, MOVE), (MOVE, MOVE)), "reflect")
        self.images, self.seed, self.seconds = images, seed, 0.0

    def on_epoch_begin(self, trainer: ss.Trainer, epoch: int) -> None:
        random = np.random.default_rng((self.seed, epoch))
        moves = random.integers(0, 2 * MOVE + 1, (len(self.images), 2))
        for y in range(2 * MOVE + 1):
            for x in range(2 * MOVE + 1):
                rows = np.flatnonzero((moves[:, 0] == y) & (moves[:, 1] == x))
                self.images[rows] = self.padded[rows, :, y : y + SIZE, x : x + SIZE]
        first = np.random.default_rng((self.seed, 0)).random(len(self.images)) < 0.5
        mirrored = np.flatnonzero(first ^ bool(epoch % 2))
        self.images[mirrored] = self.images[mirrored, :, :, ::-1]
        self.started = time.perf_counter()

    def on_epoch_end(self, trainer: ss.Trainer, epoch: int, logs: Mapping[str, float]) -> None:
        self.seconds += time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seconds = float(state["seconds"])


def triangle(steps: int) -> Callable[[int], float]:
    """From 0.2 up to 1 at 23 % of the steps and down to 0.07."""
    peak = 0.23 * steps
    return lambda step: 0.2 + 0.8 * step / peak if step < peak else 1 - 0.93 * (step - peak) / (steps - peak)


def trainer_of(
    net: Any,
    samples: int,
    seed: int,
    epochs: int,
    batch: int,
    augment: Augment,
    checkpoint: Path,
    threads: int | None,
    precision: str,
) -> ss.Trainer:
    biases = {"params": "*norm?.bias", "lr": RATE * BIAS_FACTOR, "weight_decay": DECAY / (RATE * BIAS_FACTOR)}
    rule = optim.SGD(RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY / RATE, groups=[biases])
    return ss.Trainer(
        net,
        nn.CrossEntropyLoss(label_smoothing=SMOOTHING),
        rule,
        metrics="accuracy",
        seed=seed,
        threads=threads,
        precision=precision,
        schedule=schedules.LambdaLR(triangle(epochs * -(-samples // batch)), unit="step"),
        callbacks=[augment],
        checkpoint=checkpoint,
    )


def load(path: Path, cache: Path) -> dict[str, npt.NDArray[Any]]:
    """x, y, xt, yt: uint8 images (n, 3, 32, 32) and classes; read from the zip once and kept in `cache`."""
    kept = cache / "cifar10.npz"
    if kept.exists():
        with np.load(kept) as file:
            return dict(file)
    if not path.exists():
        sys.exit(
            f"cifar10_speedrun: no data at {path}: give --data, a zip of train/CLASS/*.jpg and test/CLASS/*.jpg, or --quick"
        )
    from PIL import Image
    from tqdm import tqdm

    found: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".png")))
        classes = sorted({name.split("/")[-2] for name in names})
        for part, (x, y) in {"train": ("x", "y"), "test": ("xt", "yt")}.items():
            chosen = [name for name in names if f"{part}/" in name]
            images = np.empty((len(chosen), 3, SIZE, SIZE), np.uint8)
            for place, name in enumerate(tqdm(chosen, desc=f"reading {part}", unit="image")):
                images[place] = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")).transpose(2, 0, 1)
            found |= {x: images, y: np.array([classes.index(name.split("/")[-2]) for name in chosen])}
    cache.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial.npz")
    np.savez(partial, **found)
    os.replace(partial, kept)
    return found


def made_up(count: int) -> dict[str, npt.NDArray[Any]]:
    """Noisy coloured squares whose place is the class: for --quick."""
    random = np.random.default_rng(0)
    y = np.arange(count) % CLASSES
    x = random.integers(60, 120, (count, 3, SIZE, SIZE)).astype(np.uint8)
    for place, label in enumerate(y):
        row, column = 4 + 12 * (label // 5), 2 + 6 * (label % 5)
        x[place, label % 3, row : row + 6, column : column + 4] += 100
    half = count // 2
    return {"x": x[:half], "y": y[:half], "xt": x[half:], "yt": y[half:]}


def train(options: argparse.Namespace) -> None:
    quick = options.quick
    data = made_up(600) if quick else load(options.data, options.results)
    widths, batch = ((16, 24, 24), 100) if quick else ((64, 256, 256), BATCH)
    epochs = options.epochs or (3 if quick else EPOCHS)
    result = options.results / f"seed-{options.seed}.json"
    if result.exists() and not options.again:
        print(f"{result} is there already; --again trains once more")
        return
    options.results.mkdir(parents=True, exist_ok=True)
    checkpoint = options.results / f"seed-{options.seed}.checkpoint"
    if options.again:
        checkpoint.unlink(missing_ok=True)
    ss.manual_seed(options.seed)
    images = data["x"].copy()
    augment = Augment(data["x"], images, options.seed)
    net = SpeedNet(data["x"][:5000], widths)
    trainer = trainer_of(
        net, len(images), options.seed, epochs, batch, augment, checkpoint, options.threads, options.precision
    )
    try:
        trainer.fit(images, data["y"], epochs=epochs, batch_size=batch, resume=checkpoint.exists())
    except KeyboardInterrupt:
        sys.exit(f"interrupted; the same command goes on from {checkpoint}")
    plain = float(np.mean(trainer.predict(data["xt"], batch).argmax(1) == data["yt"]))
    averaged = sum(weight * trainer.predict(view, batch) for weight, view in views(data["xt"]))
    accuracy = float(np.mean(averaged.argmax(1) == data["yt"]))
    step = sum(item["flops"] for item in trainer.plan.explain().data["instructions"])
    steps = epochs * -(-len(images) // batch)
    record = {
        "seed": options.seed, "epochs": epochs, "seconds": augment.seconds, "accuracy": accuracy, "accuracy_of_one_view": plain,
        "flops": step * steps, "steps": steps, "threads": trainer.plan.threads, "precision": options.precision,
        "machine": platform.processor() or platform.machine(),
        "fingerprint": ss.fingerprint(net),
    }  # fmt: skip
    if ss.rank() == 0:
        result.write_text(json.dumps(record, indent=1) + "\n")
        print(f"test accuracy {accuracy:.4f} (one view {plain:.4f}) after {epochs} epochs in {augment.seconds:.0f} s")
        print("fingerprint", record["fingerprint"])


def report(folder: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*.json"))]
    if not found:
        sys.exit(f"no results in {folder} yet")
    print("seed  epochs  seconds  TFLOP  GFLOP/s  accuracy  one view")
    for item in found:
        print(
            f"{item['seed']:4}  {item['epochs']:6}  {item['seconds']:7.0f}  {item['flops'] / 1e12:5.0f}  "
            f"{item['flops'] / max(item['seconds'], 1e-9) / 1e9:7.0f}  {item['accuracy']:8.4f}  {item['accuracy_of_one_view']:8.4f}"
        )
    print(f"mean accuracy {np.mean([item['accuracy'] for item in found]):.4f} of {len(found)} seeds")


def compare_with_torch(threads: int, batch: int, steps: int = 3) -> None:
    """Seconds of a step of the same network, PyTorch's in both memory formats, and samestep's, in turn."""
    import torch
    from torch import nn as tnn

    torch.set_num_threads(threads)

    def group(inputs: int, outputs: int) -> list[Any]:
        layers: list[Any] = []
        for first, before in ((True, inputs), (False, outputs)):
            layers += [tnn.Conv2d(before, outputs, 3, padding=1, bias=False), *([tnn.MaxPool2d(2)] if first else [])]
            layers += [tnn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4), tnn.GELU(approximate="tanh")]
            layers[-2].weight.requires_grad_(False)
        return layers

    def torch_steps(layout: Any) -> Callable[[], None]:
        whiten = tnn.Conv2d(3, 24, 2)
        whiten.weight.requires_grad_(False)
        net = tnn.Sequential(
            whiten, tnn.GELU(approximate="tanh"), *group(24, 64), *group(64, 256), *group(256, 256),
            tnn.MaxPool2d(3), tnn.Flatten(), tnn.Linear(256, CLASSES, bias=False),
        ).to(memory_format=layout)  # fmt: skip
        rule = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.01, momentum=MOMENTUM, nesterov=True)
        x = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=layout)
        y = torch.randint(0, CLASSES, (batch,))

        def step() -> None:
            rule.zero_grad(set_to_none=True)
            tnn.functional.cross_entropy(net(x) * SCALE, y, label_smoothing=SMOOTHING).backward()
            rule.step()

        return step

    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (batch, 3, SIZE, SIZE), np.uint8), random.integers(0, CLASSES, batch)
    plan = ss.compile(
        SpeedNet(x, (64, 256, 256)), nn.CrossEntropyLoss(label_smoothing=SMOOTHING),
        optim.SGD(0.01, momentum=MOMENTUM, nesterov=True), batch, threads=threads,
    )  # fmt: skip
    contestants: dict[str, Callable[[], Any]] = {
        "samestep": lambda: plan.step(x, y),
        "torch": torch_steps(torch.contiguous_format),
        "torch channels-last": torch_steps(torch.channels_last),
    }
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(steps):
        for name, step in contestants.items():
            started = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - started)
    for name, seconds in best.items():
        print(f"{name:20} {seconds:.3f} s a step of {batch}; {seconds / best['samestep']:.2f} of samestep's")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path("cifar10-jpg.zip"), help="zip of train/CLASS/*.jpg and test/CLASS/*.jpg"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("cifar10-speedrun"),
        help="folder of results, checkpoints and the data as arrays",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, help=f"default {EPOCHS}")
    parser.add_argument("--threads", type=int, help="default: all processors")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="default bf16")
    parser.add_argument("--again", action="store_true", help="train this seed once more, from the beginning")
    parser.add_argument("--quick", action="store_true", help="a narrow network on a few images made on the spot")
    parser.add_argument("--report", action="store_true", help="show the results so far and end")
    parser.add_argument("--torch", action="store_true", help="measure PyTorch's step beside samestep's and end")
    options = parser.parse_args(arguments)
    if options.report:
        report(options.results)
    elif options.torch:
        compare_with_torch(options.threads or os.cpu_count() or 1, BATCH if not options.quick else 32)
    else:
        train(options)


if __name__ == "__main__":
    main()
