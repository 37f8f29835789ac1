"""Operators that the plan joins, moves or runs in place leave every bit as it was. A value that a loss looks at cannot be
fused away: the same network with and without such a loss (of weight 0) must train alike."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss
from samestep import nn, optim
from samestep.nn import functional as F


class Normed(nn.Module):
    """relu(bn(conv)), with what lies between as a second output."""

    def __init__(self, open_: bool) -> None:
        super().__init__()
        self.conv, self.bn, self.open = nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), open_
        self.out = nn.Linear(5 * 36, 3)

    def forward(self, x):
        between = self.bn(self.conv(x))
        y = self.out(F.relu(between).flatten(1))
        return (y, between) if self.open else y


class Residual(nn.Module):
    """relu(bn(conv(h)) + h), and with a norm in the shortcut relu(bn(conv(h)) + bn(conv(h)))."""

    def __init__(self, open_: bool, projected: bool) -> None:
        super().__init__()
        self.first, self.conv, self.bn, self.open = (
            nn.Conv2d(2, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            open_,
        )
        self.short = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) if projected else nn.Identity()
        self.out = nn.Linear(4 * 36, 3)

    def forward(self, x):
        h = self.first(x)
        between = self.bn(self.conv(h)) + self.short(h)
        y = self.out(F.relu(between).flatten(1))
        return (y, between) if self.open else y


class Pooled(nn.Module):
    """max_pool(relu(conv))."""

    def __init__(self, open_: bool, padding: int) -> None:
        super().__init__()
        self.conv, self.pool, self.open = nn.Conv2d(2, 5, 3, padding=1), nn.MaxPool2d(3, 2, padding), open_
        self.out = nn.Linear(5 * (9 if padding else 4), 3)

    def forward(self, x):
        between = F.relu(self.conv(x))
        y = self.out(self.pool(between).flatten(1))
        return (y, between) if self.open else y


class Attention(nn.Module):
    """Causal attention of heads that are cut out of one projection."""

    def __init__(self, open_: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.open = nn.Linear(6, 24), nn.Linear(8 * 12, 3), open_

    def forward(self, x):
        between = self.qkv(x.reshape(-1, 12, 6))
        q, k, v = (part.view(x.shape[0], 12, 2, 4).transpose(1, 2) for part in between.split(8, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self.out(y.transpose(1, 2).reshape(x.shape[0], 12, 8).flatten(1))
        return (y, between) if self.open else y


NETWORKS = {
    "attention": (Attention, lambda ops: "permute" not in ops and "slice" not in ops),
    "norm": (Normed, lambda ops: "relu" not in ops),
    "residual": (lambda open_: Residual(open_, False), lambda ops: "relu" not in ops and "add" not in ops),
    "projected residual": (lambda open_: Residual(open_, True), lambda ops: "relu" not in ops and "add" not in ops),
    "pool": (lambda open_: Pooled(open_, 0), lambda ops: ops.index("max_pool2d") < ops.index("relu")),
    "padded pool": (lambda open_: Pooled(open_, 1), lambda ops: ops.index("max_pool2d") < ops.index("relu")),
}


def trained(name, open_, threads, lanes_at_once, precision="fp32", steps=4):
    """(fingerprint, operators of the forward pass, predictions after training)."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(13, 2, 6, 6)).astype(np.float32), rng.integers(0, 3, 13)
    ss.manual_seed(1)
    net = NETWORKS[name][0](open_)
    more = {"loss_weights": (1.0, 0.0)} if open_ else {}
    plan = ss.compile(
        net,
        ("cross_entropy", "mse") if open_ else "cross_entropy",
        optim.AdamW(0.01),
        13,
        input_shape=(2, 6, 6),
        threads=threads,
        lanes_at_once=lanes_at_once,
        precision=precision,
        **more,
    )
    nothing = np.zeros((13, *plan.predict(x)[1].shape[1:]), np.float32) if open_ else None
    for _ in range(steps):
        plan.step(x, (y, nothing) if open_ else y)
    rows = plan.explain().data["instructions"]
    ops = [row["op"] for row in rows if row["pass"] == "forward" and row["stage"] == "run"]
    found = plan.predict(x)
    return ss.fingerprint(net), ops, (found[0] if open_ else found)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_bits(name, precision):
    print_, ops, found = trained(name, True, 1, None, precision)
    assert not NETWORKS[name][1](ops), "a value that a loss looks at was fused away"
    for threads in (1, 2):
        for lanes_at_once in (None, 1):
            fused, joined, other = trained(name, False, threads, lanes_at_once, precision)
            assert NETWORKS[name][1](joined), joined
            assert fused == print_
            np.testing.assert_array_equal(found, other)


def test_a_value_with_two_users_stays():
    """relu(bn) where bn's output is also added elsewhere."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.out = nn.BatchNorm1d(6), nn.Linear(6, 3)

        def forward(self, x):
            h = self.bn(x)
            return self.out(F.relu(h) + h)

    plan = ss.compile(Net(), optimizer=optim.SGD(0.1), batch_size=5, input_shape=(6,))
    assert "relu" in [row["op"] for row in plan.explain().data["instructions"]]


def test_in_place_needs_less_memory():
    """A chain of activations whose outputs alone are kept: each lies over its input, and on the way back each gradient
    over the one before."""

    def activations(depth):
        layers = [nn.Linear(64, 64)]
        for _ in range(depth):
            layers += [nn.Dropout(0.1)]
        plan = ss.compile(
            nn.Sequential(*layers, nn.Linear(64, 3)), optimizer=optim.SGD(0.1), batch_size=64, input_shape=(64,)
        )
        return plan.explain().bytes["plan"]["activations"]

    # A dropout keeps a byte an element; its values and gradients need no room of their own.
    assert activations(9) - activations(1) < 8 * 64 * 64 * 2
