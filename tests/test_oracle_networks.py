"""Whole networks against PyTorch: same weights, same batches, ten steps; the loss of every step, the parameters and
running statistics at the end.

Rounding is amplified by training itself: by Adam, whose first steps divide tiny gradients by their own size, and by
deep networks of ReLUs, where it decides the sign of some inputs. PyTorch in float64 is the main witness (its own
rounding hardly counts then), PyTorch in float32 the second one. ResNet-20 multiplies a difference by about ten in each
step: after ten steps PyTorch's float32 is 2e-4 to 1e-3 (loss) and 0.1 to 0.3 (change of a parameter) away from its own
float64, and so are we. There the sharp tests are test_step_by_step, which starts every step at PyTorch's parameters,
and the same network with SiLU, which has no kinks.

The tolerances are about four times the largest of what was measured (AVX-512, all optimizers, both witnesses).
Bit-for-bit equality over ranks, threads and instruction sets is the business of test_sameness.py.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import nn, optim

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed (the extra 'oracles')")

pytestmark = [pytest.mark.oracle]

STEPS = 10
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("SGD", {"lr": 0.02, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
    "adam": ("Adam", {"lr": 1e-3}),
    "adamw": ("AdamW", {"lr": 1e-3, "weight_decay": 0.05}),
}
LOSS = {"mlp": 1e-6, "cnn": 1e-6, "resnet-20": 8e-3, "resnet-20 with silu": 4e-6, "resnet-small": 1.2e-5}
"""Largest error of the loss of a step, relative to the loss of the first."""
CHANGE = {"mlp": 1e-4, "cnn": 2e-4, "resnet-20": 1.0, "resnet-20 with silu": 2e-3, "resnet-small": 1e-2}
"""Largest error of a parameter's whole change in ten steps: norm of the difference over norm of the change."""
GRADIENT = {"resnet-20": 1e-2, "resnet-20 with silu": 4e-5}
"""Largest error of the gradient of a parameter by its norm, at equal parameters: one ReLU whose input is rounded to the
other side of 0 moves it by as much."""
STATISTICS = {"mlp": 0.0, "cnn": 0.0, "resnet-20": 4e-2, "resnet-20 with silu": 1.5e-3, "resnet-small": 4e-4}
"""Largest error of running statistics, relative to the largest element."""


def settings(name: str, rule: str) -> tuple[str, dict[str, Any]]:
    """ResNet-20 gets a fifth of the rate, which slows the amplification down."""
    kind, options = OPTIMIZERS[rule]
    return kind, {**options, "lr": options["lr"] / 5} if name == "resnet-20" else options


def train_torch(
    name: str, start: dict[str, Any], kind: str, options: dict[str, Any], dtype: Any
) -> tuple[list[float], dict[str, Any]]:
    make, _, batch = oracle.NETWORKS[name]
    net = make(torch.nn).to(dtype)
    net.load_state_dict(start)
    x, y = oracle.batches(name, STEPS)
    rule = getattr(torch.optim, kind)(net.parameters(), **options)
    losses = []
    for step in range(STEPS):
        rows = slice(step * batch, (step + 1) * batch)
        rule.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.tensor(x[rows], dtype=dtype)), torch.tensor(y[rows]))
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return losses, {key: value.detach().numpy() for key, value in net.state_dict().items()}


def train_ours(name: str, path: Path, kind: str, options: dict[str, Any]) -> tuple[list[float], Any, Any]:
    make, _, batch = oracle.NETWORKS[name]
    net = make(nn)
    net.load(path)
    x, y = oracle.batches(name, STEPS)
    plan = ss.compile(net, "cross_entropy", getattr(optim, kind)(**options), batch, threads=2)
    losses = [
        plan.step(x[step * batch : (step + 1) * batch], y[step * batch : (step + 1) * batch]) for step in range(STEPS)
    ]
    return losses, net, plan


def difference(start: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """Largest error of a change of parameters, and of statistics."""
    change = statistics = 0.0
    for key, value in theirs.items():
        if key.endswith("num_batches_tracked"):
            assert int(ours[key]) == int(value) == STEPS
        elif key.endswith(("running_mean", "running_var")):
            statistics = max(statistics, oracle.distance(ours[key], value))
        else:
            a, b, c = (np.asarray(part[key], np.float64) for part in (ours, theirs, start))
            change = max(change, float(np.linalg.norm(a - b) / np.linalg.norm(b - c)))
    return change, statistics


@pytest.fixture(scope="module")
def starts() -> dict[str, dict[str, Any]]:
    """PyTorch's own initial values."""
    torch.manual_seed(1)
    return {name: copy.deepcopy(make(torch.nn).state_dict()) for name, (make, _, _) in oracle.NETWORKS.items()}


@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("name", oracle.NETWORKS)
def test_training(name: str, rule: str, starts: dict[str, Any], tmp_path: Path) -> None:
    kind, options = settings(name, rule)
    start = starts[name]
    files.save_file(start, tmp_path / "start.safetensors")
    losses, net, plan = train_ours(name, tmp_path / "start.safetensors", kind, options)
    assert losses[-1] < 0.95 * losses[0]
    for dtype in (torch.float64, torch.float32):
        expected, final = train_torch(name, start, kind, options, dtype)
        error = max(abs(a - b) for a, b in zip(losses, expected, strict=True)) / expected[0]
        change, statistics = difference(start, net.state_dict(), final)
        report = f"{name}, {rule}, {dtype}: loss {error:.1e}, change {change:.1e}, statistics {statistics:.1e}"
        assert error <= LOSS[name] and change <= CHANGE[name] and statistics <= STATISTICS[name], report

    # What was trained here goes to PyTorch, with all keys, and gives the same outputs there.
    net.save(tmp_path / "end.safetensors")
    twin = oracle.NETWORKS[name][0](torch.nn)
    twin.load_state_dict(files.load_file(tmp_path / "end.safetensors"), strict=True)
    x, y = oracle.batches(name, 1)
    with torch.no_grad():
        scores = twin.eval()(torch.tensor(x))
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(y)).item()
    assert oracle.distance(plan.predict(x), scores) <= 2e-5
    # A loss near 0 is a small difference of scores that are not.
    assert plan.evaluate(x, y)["loss"] == pytest.approx(loss, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("name", GRADIENT)
def test_step_by_step(name: str, starts: dict[str, Any]) -> None:
    """Ten steps of PyTorch in float64; each of them is taken here too, from the same parameters: loss, every
    gradient and the statistics."""
    make, _, batch = oracle.NETWORKS[name]
    x, y = oracle.batches(name, STEPS)
    twin, net = make(torch.nn).double(), make(nn)
    twin.load_state_dict(starts[name])
    rule = torch.optim.SGD(twin.parameters(), lr=0.02, momentum=0.9)
    plan = ss.compile(net, "cross_entropy", optim.SGD(0.0), batch, threads=2)
    for step in range(STEPS):
        xb, yb = x[step * batch : (step + 1) * batch], y[step * batch : (step + 1) * batch]
        rounded = {
            key: value.float() if value.is_floating_point() else value for key, value in twin.state_dict().items()
        }
        twin.load_state_dict(rounded)  # both start at float32 numbers
        net.load_state_dict(rounded)
        rule.zero_grad()
        expected = torch.nn.functional.cross_entropy(twin(torch.tensor(xb).double()), torch.tensor(yb))
        expected.backward()
        assert plan.step(xb, yb) == pytest.approx(expected.item(), rel=1e-6), step
        for key, parameter in twin.named_parameters():
            theirs = parameter.grad.numpy()
            error = np.linalg.norm(plan.gradients[key] - theirs) / np.linalg.norm(theirs)
            assert error <= GRADIENT[name], (step, key, error)
        for key, buffer in twin.named_buffers():
            if not key.endswith("num_batches_tracked"):
                assert oracle.distance(net.state_dict()[key], buffer) <= 2e-6, (step, key)
        rule.step()


@pytest.mark.parametrize("name", oracle.NETWORKS)
def test_weights_travel_both_ways(name: str, starts: dict[str, Any], tmp_path: Path) -> None:
    make = oracle.NETWORKS[name][0]
    files.save_file(starts[name], tmp_path / "theirs.safetensors")
    net = make(nn)
    found = net.load(tmp_path / "theirs.safetensors", strict=True)
    assert not found.missing_keys and not found.unexpected_keys
    net.save(tmp_path / "ours.safetensors")
    back = files.load_file(tmp_path / "ours.safetensors")
    assert list(net.state_dict()) == list(starts[name])
    for key, value in starts[name].items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key
    make(torch.nn).load_state_dict(back, strict=True)
    make(nn).load_state_dict(starts[name])  # tensors as they are
    first = next(iter(starts[name]))
    lacking = {key: value for key, value in back.items() if key != first}
    with pytest.raises(ss.CheckpointError, match=first):
        net.load_state_dict(lacking)


def test_initial_values_have_pytorchs_distribution() -> None:
    """Linear and Conv2d start uniform between PyTorch's bounds; Kolmogorov's distance of two samples at the level of 1e-4."""
    ss.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = oracle.cnn(nn).state_dict(), oracle.cnn(torch.nn).state_dict()
    for key, value in theirs.items():
        a, b = np.sort(ours[key].ravel()), np.sort(value.numpy().ravel())
        assert np.abs(a).max() <= np.abs(b).max() * 1.3 + 1e-6 and len(a) == len(b)
        both = np.concatenate([a, b])
        gap = np.abs(np.searchsorted(a, both, "right") - np.searchsorted(b, both, "right")).max() / len(a)
        assert gap <= 2.23 * np.sqrt(2 / len(a)), key


RANKS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import oracle
import samestep as ss
from samestep import nn, optim

results = {}
for name in sys.argv[3].split(","):
    make, _, batch = oracle.NETWORKS[name]
    net = make(nn)
    net.load(f"{sys.argv[2]}/{name}.safetensors")
    x, y = oracle.batches(name, 10)
    plan = ss.compile(net, "cross_entropy", optim.SGD(0.02, momentum=0.9), batch)
    losses = [plan.step(x[k * batch : (k + 1) * batch], y[k * batch : (k + 1) * batch]) for k in range(10)]
    results[name] = [losses, ss.fingerprint(net)]
if ss.rank() == 0:
    print(json.dumps(results))
"""


@pytest.mark.mpi
def test_two_ranks(mpi_run: Any, starts: dict[str, Any], tmp_path: Path) -> None:
    """The losses of two ranks against PyTorch's, and against those of one process, where not one bit may differ."""
    names = ["mlp", "cnn", "resnet-small"]
    kind, options = OPTIMIZERS["momentum"]
    for name in names:
        files.save_file(starts[name], tmp_path / f"{name}.safetensors")
    done = mpi_run(RANKS, n=2, args=[str(Path(__file__).parent), str(tmp_path), ",".join(names)], timeout=120)
    found = json.loads(done.stdout)
    for name in names:
        losses, fingerprint = found[name]
        alone, net, _ = train_ours(name, tmp_path / f"{name}.safetensors", kind, options)
        assert losses == alone and fingerprint == ss.fingerprint(net)
        expected, _ = train_torch(name, starts[name], kind, options, torch.float64)
        assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) / expected[0] <= LOSS[name]
