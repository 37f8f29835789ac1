"""Mixup and cutmix: what a batch becomes, seen through a network that gives its input back."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import augment, nn, optim


class Sees(ss.Function):
    """Keeps what it is given."""

    def __init__(self):
        self.seen = []

    def forward(self, x):
        self.seen.append(np.array(x))
        return x

    def backward(self, grad, x):
        return grad

    def output_shape(self, shape):
        return shape


class Net(nn.Module):
    """Scores of 3 classes, which are a free parameter: their gradient shows the mixed targets."""

    def __init__(self, shape):
        super().__init__()
        self.sees, self.flat, self.out = Sees(), nn.Flatten(), nn.Linear(int(np.prod(shape)), 3)

    def forward(self, x):
        return self.out(self.flat(self.sees(x)))


def mixed(rule, shape, count=64, epoch=0, lanes=8, **options):
    """The batch as the network saw it, given samples that are constants 0, 1, 2, ..."""
    x = np.broadcast_to(np.arange(count, dtype=np.float32).reshape(-1, *[1] * len(shape)), (count, *shape))
    y = np.arange(count) % 3
    net = Net(shape)
    net.out.weight.data, net.out.bias.data = np.zeros(net.out.weight.shape), np.zeros(3)
    plan = ss.compile(net, optimizer=optim.SGD(0.0), batch_size=count, augment=rule, lanes=lanes, seed=5, **options)
    plan.run(x, y, batch_size=count, steps=1, epoch=epoch)
    return np.concatenate(net.sees.seen), plan, y


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_is_a_convex_mixture_with_beta_weights(alpha) -> None:
    seen, plan, y = mixed(augment.MixUp(alpha), (2,), 4096, lanes=1)
    value = seen[:, 0].astype(np.float64)
    assert np.array_equal(seen[:, 0], seen[:, 1])
    own = np.arange(4096)
    for shift in range(1, 4096):  # the partner stands the same number of places further for all samples
        partner = (own + shift) % 4096
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = (value - partner) / (own - partner)
        if ((weight > -1e-3) & (weight < 1 + 1e-3)).all():
            break
    else:
        raise AssertionError("no shift explains the batch")
    assert weight.mean() == pytest.approx(0.5, abs=0.03)
    assert weight.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)
    # Scores are 0, so the gradient of the bias is the mean of 1/3 - target.
    wanted = np.eye(3)[y] * weight[:, None] + np.eye(3)[y[partner]] * (1 - weight[:, None])
    np.testing.assert_allclose(plan.gradients["out.bias"], (1 / 3 - wanted).mean(0), atol=1e-5)


def test_cutmix_replaces_a_rectangle() -> None:
    seen, plan, y = mixed(augment.CutMix(1.0), (3, 9, 12), 300, lanes=1)
    parts, partners = [], []
    for number, image in enumerate(seen):
        assert (image[0] == image[1]).all() and (image[0] == image[2]).all()
        other = image[0] != number
        parts.append(1 - other.mean())
        if not other.any():
            partners.append(None)
            continue
        rows, columns = other.any(1), other.any(0)
        assert other[np.ix_(rows, columns)].all() and np.diff(np.flatnonzero(rows)).max(initial=1) == 1
        values = np.unique(image[0][other])
        assert len(values) == 1
        partners.append((int(values[0]) - number) % 300)
    assert len({shift for shift in partners if shift is not None}) == 1
    assert np.std(parts) > 0.15
    shift = next(shift for shift in partners if shift is not None)
    part = np.array(parts)[:, None]
    wanted = np.eye(3)[y] * part + np.eye(3)[y[(np.arange(300) + shift) % 300]] * (1 - part)
    np.testing.assert_allclose(plan.gradients["out.bias"], (1 / 3 - wanted).mean(0), atol=1e-5)


def test_epochs_differ_and_repeat_and_cuts_do_not_matter() -> None:
    first, again, other = (mixed(augment.MixUp(1.0), (2, 3), epoch=epoch)[0] for epoch in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    swept = mixed(augment.MixUp(1.0), (2, 3), lanes_at_once=1, threads=1)[0]
    assert np.array_equal(first[np.lexsort(first.reshape(64, -1).T)], swept[np.lexsort(swept.reshape(64, -1).T)])


def test_channels_last_images_are_mixed_alike() -> None:
    """A convolution wants its input channels last: the rectangle is the same."""
    x, y = oracle.grid((16, 3, 6, 7)), oracle.labels(16, 3)
    losses = []
    for first in (nn.Conv2d(3, 3, 1, groups=3, bias=False), nn.Identity()):
        net = nn.Sequential(first, nn.Flatten(), nn.Linear(126, 3))
        if isinstance(first, nn.Conv2d):
            first.weight.data = np.ones((3, 1, 1, 1))
        net[2].weight.data, net[2].bias.data = oracle.grid((3, 126)) / 8, np.zeros(3)
        plan = ss.compile(net, batch_size=16, augment=augment.CutMix(), seed=3)
        losses.append(plan.step(x, y))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_trainer_measures_labels_and_resumes(tmp_path) -> None:
    x, y = oracle.grid((60, 8)), oracle.labels(60, 3)

    def trainer(net):
        return ss.Trainer(
            net,
            optimizer=optim.Adam(0.01),
            metrics=["accuracy"],
            augment=augment.MixUp(0.4),
            checkpoint=tmp_path / "run.safetensors",
        )

    def net():
        ss.manual_seed(1)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    whole, parts = net(), net()
    history = trainer(whole).fit(x, y, epochs=4, batch_size=16, validation=(x, y), verbose=False)
    assert 0 <= history["accuracy"][-1] <= 1 and "val_accuracy" in history
    (tmp_path / "run.safetensors").unlink()
    trainer(parts).fit(x, y, epochs=2, batch_size=16, verbose=False)
    trainer(parts).fit(x, y, epochs=4, batch_size=16, verbose=False, resume=True)
    assert ss.fingerprint(whole) == ss.fingerprint(parts)


def test_float_targets_are_mixed() -> None:
    net = nn.Linear(1, 1, bias=False)
    net.weight.data = np.full((1, 1), 2.0)
    plan = ss.compile(net, "mse", optim.SGD(0.0), 32, augment=augment.MixUp(1.0))
    x = oracle.grid((32, 1))
    assert plan.step(x, 2 * x) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: augment.MixUp(0), ValueError, "alpha"),
        (lambda: augment.MixUp("much"), TypeError, "alpha"),
        (lambda: ss.compile(nn.Linear(2, 3), augment="mixup"), TypeError, "augment"),
        (lambda: mixed(augment.CutMix(), (4,)), ValueError, "images"),
        (
            lambda: ss.compile(nn.Linear(4, 3), augment=augment.MixUp(), batch_size=8).step(
                np.zeros((8, 4)), np.full(8, 3)
            ),
            ValueError,
            "label in row 0 is 3",
        ),
    ],
)
def test_arguments_are_checked(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()
