"""What users pass as arrays: every number dtype and memory layout gives the same bits or a clear error, and no array of
theirs is written."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss
from samestep import nn, optim

RNG = np.random.default_rng(0)
X = RNG.integers(-8, 8, size=(20, 6)).astype(np.float32)
Y = RNG.integers(0, 3, size=20)


def net() -> nn.Module:
    ss.manual_seed(2)
    return nn.Linear(6, 3)


def train(x, y):
    module = net()
    plan = ss.compile(module, optimizer=optim.SGD(0.1), batch_size=8)
    plan.step(x[:8], y[:8])
    plan.run(x, y, np.arange(20)[::-1])
    plan.evaluate(x, y), plan.predict(x), module(x)
    return ss.fingerprint(module)


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


EXPECTED = train(X, Y)
LAYOUTS = {
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int8": lambda a: a.astype(np.int8),
    "int64": lambda a: a.astype(np.int64),
    "swapped": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "swapped64": lambda a: a.astype(">f8"),
    "columns": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "backwards columns": lambda a: a[:, ::-1].copy()[:, ::-1],
    "read-only": read_only,
    "unaligned": unaligned,
    "list": lambda a: a.tolist(),
    "subclass": lambda a: a.view(np.matrix),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_x(name):
    x = LAYOUTS[name](X)
    before = np.array(x).tobytes()
    if name == "list":
        x = np.array(x)
    assert train(x, Y) == EXPECTED
    assert np.array(x).tobytes() == before


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", ">i8", ">i2"])
def test_dtypes_of_labels(dtype):
    assert train(X, Y.astype(dtype)) == EXPECTED


def test_labels_strided_and_read_only():
    assert train(X, np.repeat(Y, 3)[::3]) == EXPECTED
    assert train(X, read_only(Y)) == EXPECTED
    assert train(X, unaligned(Y)) == EXPECTED


def test_booleans():
    assert np.isfinite(nn.Linear(6, 3)(X > 0)).all()


def test_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert train(np.load(tmp_path / "x.npy", mmap_mode="r"), Y) == EXPECTED


ERRORS = [
    (X.astype(object), Y, TypeError, "xb"),
    ([[1.0, 2.0], [3.0]], Y, TypeError, "xb"),
    (X.astype(complex), Y, TypeError, "xb"),
    (X.astype(str), Y, TypeError, "xb"),
    (np.float32(3), Y, ValueError, "xb"),
    (None, Y, TypeError, "xb"),
    (X[:0], Y[:0], ValueError, "0"),
    (X[:, :5], Y, ValueError, r"\(samples, 6\)"),
    (X[..., None], Y, ValueError, "shape"),
    (X, Y[:19], ValueError, "yb has 19"),
    (X, Y[:, None], ValueError, "yb"),
    (X, Y.astype(float), TypeError, "yb"),
    (X, Y.astype(object), TypeError, "yb"),
    (X, Y + 1, ValueError, "label"),
    (X, Y - 1, ValueError, "label"),
    (X, Y.astype(np.int64) + 2**32, ValueError, ""),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
@pytest.mark.parametrize("compiled", [False, True])
def test_errors(number, compiled):
    x, y, error, text = ERRORS[number]
    if not compiled and text in (r"\(samples, 6\)", "shape"):
        pytest.skip("the first batch defines the shape")
    plan = ss.compile(net(), optimizer=optim.SGD(0.1), batch_size=20)
    if compiled:
        plan.step(X, Y)
    before = ss.fingerprint(plan.net)
    with pytest.raises(error) as caught:
        plan.step(x, y)
    import re

    assert re.search(text, str(caught.value)), caught.value
    assert ss.fingerprint(plan.net) == before
    plan.step(X, Y)  # and the plan goes on


@pytest.mark.parametrize("method", ["evaluate", "run", "fit"])
def test_errors_elsewhere(method):
    trainer = ss.Trainer(net(), optimizer=optim.SGD(0.1))
    options = {"verbose": False} if method == "fit" else {}
    function = trainer.fit if method == "fit" else getattr(trainer.plan, method)
    for x, y, error, text in [
        (X.astype(object), Y, TypeError, "X"),
        (X, Y[:3], ValueError, "y has 3"),
        (X, Y.astype(float), TypeError, "y must hold class numbers"),
        (X, Y + 1, ValueError, "label"),
        (X[:0], Y[:0], ValueError, "X has no samples"),
    ]:
        with pytest.raises(error, match=text):
            function(x, y, **options)
    function(X, Y, **options)


def test_regression_targets():
    plan = ss.compile(nn.Linear(6, 2), "mse", optim.SGD(0.1), 20)
    plan.step(X, np.zeros((20, 2), np.int64))
    with pytest.raises(ValueError, match=r"yb must have the shape \(samples, 2\)"):
        plan.step(X, np.zeros(20))


def test_numbers_beyond_float32_in_parameters():
    layer = nn.Linear(6, 3)
    with pytest.raises(ValueError, match="range of float32"):
        layer.weight.data = np.full((3, 6), 1e300)
    layer.weight.data = np.full((3, 6), np.inf)  # what is meant is kept
    with pytest.raises(TypeError, match="data"):
        layer.weight.data = np.full((3, 6), "a")


def test_arrays_read_in_place_count_like_copies_of_them():
    """Rows that lie as a step wants them are read where they lie; nothing is written to them, and nothing stays behind after a failure."""
    x = np.random.default_rng(3).normal(size=(8, 5)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32) % 3
    wide = np.zeros((8, 10), np.float32)
    wide[:, ::2] = x

    def losses(*steps):
        ss.manual_seed(0)
        module = nn.Linear(5, 3)
        plan = ss.compile(module, "cross_entropy", optim.SGD(lr=0.1, momentum=0.9), batch_size=8)
        found = []
        for features, targets in steps:
            try:
                found.append(plan.step(features, targets))
            except ValueError:
                found.append(None)
        return found, ss.fingerprint(module)

    before = x.copy(), labels.copy()
    plain = losses((x, labels), (x[:3], labels[:3]), (x, labels))
    assert plain == losses(
        (x.astype(np.float64), labels.astype(np.int64)),
        (wide[:3, ::2], list(labels[:3])),
        (x.tolist(), labels.astype(np.uint8)),
    )
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(labels, before[1])
    # A bad label is found after the features have been lent; the next step brings others, which are copied.
    other = (-x).astype(np.float64)
    failed = losses((x, labels), (x, np.full(8, 7, np.int32)), (other, labels))
    assert failed[0][1] is None
    good = losses((x, labels), (other, labels))
    assert (failed[0][0], failed[0][2], failed[1]) == (good[0][0], good[0][1], good[1])
