"""Normalisation against PyTorch; see oracle_cases.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from oracle_cases import Cases
from samestep import nn, optim
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
TF = torch.nn.functional

cases = Cases(
    {
        "batch_norm": 5e-6,
        "group_norm": 5e-6,
        "layer_norm": 5e-6,
        "local_response_norm": 3e-6,
        "normalize": 3e-6,
        "rms_norm": 5e-6,
    }
)

for _shape, _normalized in [
    ((9, 5), 5), ((9, 64), 64), ((5, 7, 33), 33), ((5, 7, 128), [128]), ((5, 3, 4, 6), (4, 6)),
    ((5, 3, 4, 6), (3, 4, 6)), ((3, 700), 700),
]:  # fmt: skip
    cases.layer("layer_norm", "LayerNorm", _shape, _normalized)
    cases.layer("rms_norm", "RMSNorm", _shape, _normalized)
cases.layer("layer_norm", "LayerNorm", (5, 7, 33), 33, eps=0.1)
cases.layer("layer_norm", "LayerNorm", (5, 7, 33), 33, bias=False)
cases.layer("layer_norm", "LayerNorm", (5, 7, 33), 33, elementwise_affine=False)
cases.layer("rms_norm", "RMSNorm", (5, 7, 33), 33, eps=0.1)
cases.layer("rms_norm", "RMSNorm", (5, 7, 33), 33, elementwise_affine=False)
for _arguments, _shape in [
    ((2, 6), (7, 6)), ((3, 6), (7, 6, 5)), ((4, 64), (5, 64, 7, 6)), ((1, 10), (5, 10, 3, 4)),
    ((10, 10), (5, 10, 3, 4)), ((5, 185), (3, 185, 3)), ((2, 4), (5, 4, 2, 3, 4)),
]:  # fmt: skip
    cases.layer("group_norm", "GroupNorm", _shape, *_arguments)
cases.layer("group_norm", "GroupNorm", (5, 6, 3, 4), 3, 6, affine=False, eps=0.1)
for _name, _shape in [
    ("InstanceNorm1d", (5, 6, 9)), ("InstanceNorm2d", (5, 3, 6, 4)), ("InstanceNorm3d", (5, 3, 2, 3, 4)),
]:  # fmt: skip
    cases.layer("group_norm", _name, _shape, _shape[1])
    cases.layer("group_norm", _name, _shape, _shape[1], affine=True)
cases.layer("batch_norm", "BatchNorm3d", (5, 3, 2, 3, 4), 3)
cases.layer("batch_norm", "BatchNorm1d", (9, 5), 5, momentum=None)
cases.layer("batch_norm", "BatchNorm2d", (9, 5, 3, 2), 5, track_running_stats=False)

_FAR = {
    "layer_norm": (lambda x, *p: F.layer_norm(x + 50.0, (33,), *p), lambda x, *p: TF.layer_norm(x + 50.0, (33,), *p)),
    "group_norm": (lambda x, *p: F.group_norm(x + 50.0, 3, *p), lambda x, *p: TF.group_norm(x + 50.0, 3, *p)),
}
for _shape, _dim in [((9, 10), 1), ((9, 130), -1), ((5, 4, 7), 1), ((5, 4, 7), 2), ((5, 4, 3, 6), 2)]:
    for _p in (1.0, 2.0, 3.0, 1.5, float("inf")):
        cases.function(
            "normalize", f"p={_p} along {_dim} of {_shape}", _shape, lambda x, p=_p, d=_dim: F.normalize(x, p, d),
            lambda x, p=_p, d=_dim: TF.normalize(x, p, d),
        )  # fmt: skip
cases.function("normalize", "eps", (9, 10), lambda x: F.normalize(x, eps=3.5), lambda x: TF.normalize(x, eps=3.5))
for _shape, _arguments, _options in [
    ((5, 9, 4), (5,), {}), ((5, 9, 3, 4), (3,), {"alpha": 0.7, "beta": 0.5, "k": 2.0}),
    ((5, 9, 3, 4), (4,), {"alpha": 1.0}), ((5, 3, 2, 3, 4), (8,), {"alpha": 1.0}), ((5, 9, 4), (1,), {"alpha": 1.0}),
]:  # fmt: skip
    cases.layer("local_response_norm", "LocalResponseNorm", _shape, *_arguments, **_options)

# Here PyTorch's float32 is 5.1e-6 from its own float64; this project's is 1.6e-6 from that.
far = Cases({"layer_norm": 2e-5, "group_norm": 2e-5})
for _op, (_ours, _theirs) in _FAR.items():
    far.function(_op, "far from 0", (9, 33), _ours, _theirs, parameters=((33,), (33,)))

test_operator = cases.test()
test_far_from_0 = far.test()

PAIRS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("BatchNorm3d", (4,), {}),
    ("BatchNorm1d", (4,), {"track_running_stats": False}),
    ("SyncBatchNorm", (4,), {}),
    ("LayerNorm", ((3, 4),), {}),
    ("LayerNorm", (4,), {"bias": False}),
    ("LayerNorm", (4,), {"elementwise_affine": False}),
    ("RMSNorm", (4,), {}),
    ("GroupNorm", (2, 4), {}),
    ("InstanceNorm2d", (4,), {}),
    ("InstanceNorm2d", (4,), {"affine": True}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), PAIRS, ids=[f"{n}{a}{o}" for n, a, o in PAIRS])
def test_state_of_a_new_layer(name: str, arguments: Any, options: Any) -> None:
    ours = getattr(nn, name)(*arguments, **options).state_dict()
    theirs = getattr(torch.nn, name)(*arguments, **options).state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert np.array_equal(ours[key], value.numpy()), key


def test_cumulative_average() -> None:
    x = oracle.grid((4 * 8, 5))
    net, twin = nn.BatchNorm1d(5, momentum=None), torch.nn.BatchNorm1d(5, momentum=None)
    plan = ss.compile(net, nn.MSELoss(), optim.SGD(0.0), 8)
    for step in range(4):
        part = x[8 * step : 8 * step + 8]
        plan.step(part, part)
        twin(torch.tensor(part))
    for key in ("running_mean", "running_var"):
        assert oracle.distance(net.state_dict()[key], getattr(twin, key)) <= 1e-6, key
    assert int(net.num_batches_tracked.data) == int(twin.num_batches_tracked) == 4


def test_evaluation_without_running_statistics() -> None:
    x = oracle.grid((9, 5, 3))
    net, twin = nn.BatchNorm1d(5, track_running_stats=False), torch.nn.BatchNorm1d(5, track_running_stats=False)
    assert oracle.distance(net.eval()(x), twin.eval()(torch.tensor(x)).detach()) <= 2e-6
    assert oracle.distance(net.eval()(x[:4]), twin.eval()(torch.tensor(x[:4])).detach()) <= 2e-6


class Everything(nn.Module):
    """Every normalisation and every layer that drops."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.Dropout2d(0.2), nn.InstanceNorm2d(8, affine=True),
            nn.LocalResponseNorm(3), nn.StochasticDepth(0.2, "row"), nn.StochasticDepth(0.1, "batch"),
            nn.LayerNorm((4, 5)), nn.Flatten(), nn.BatchNorm1d(160, momentum=None), nn.Linear(160, 33),
            nn.RMSNorm(33), nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.1),
        )  # fmt: skip
        self.last = nn.Linear(33, 4)

    def forward(self, x: Any) -> Any:
        return self.last(F.normalize(self.body(x)))


def test_threads_and_sweeps_change_no_bit() -> None:
    x, y = oracle.grid((3 * 21, 3, 4, 5)), oracle.labels(3 * 21, 4)
    found = set()
    for options in ({"threads": 1}, {"threads": 3}, {"threads": 2, "lanes_at_once": 1}, {"lanes_at_once": 4}):
        ss.manual_seed(4)
        net = Everything()
        plan = ss.compile(net, "cross_entropy", optim.AdamW(1e-2), 21, seed=7, lanes=8, **options)
        for step in range(3):
            plan.step(x[21 * step : 21 * step + 21], y[21 * step : 21 * step + 21])
        found.add(ss.fingerprint(net))
    assert len(found) == 1
    ss.manual_seed(4)
    assert ss.fingerprint(Everything()) not in found


def test_convert_sync_batchnorm() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert nn.SyncBatchNorm.convert_sync_batchnorm(net) is net


@pytest.mark.parametrize("layer", [nn.LayerNorm(16), nn.RMSNorm(16), nn.GroupNorm(4, 16)], ids=repr)
def test_nan_stays_in_its_sample(layer: Any) -> None:
    x = oracle.grid((6, 16))
    clean = layer(x)
    x[2, 3] = np.nan
    got = layer(x)
    assert np.array_equal(np.delete(got, 2, 0), np.delete(clean, 2, 0))
    assert np.isnan(got[2, 3])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.LayerNorm(()), "normalized_shape"),
        (lambda: nn.LayerNorm(0), "normalized_shape"),
        (lambda: nn.LayerNorm(4, eps=-1.0), "eps"),
        (lambda: nn.LayerNorm(4)(np.zeros((2, 5), np.float32)), "normalized_shape"),
        (lambda: nn.LayerNorm((2, 5))(np.zeros((2, 5), np.float32)), "normalized_shape"),
        (lambda: F.layer_norm(np.zeros((2, 5), np.float32), (4,)), "normalized_shape"),
        (lambda: nn.RMSNorm(4)(np.zeros((2, 5), np.float32)), "normalized_shape"),
        (lambda: nn.GroupNorm(4, 6), "num_groups"),
        (lambda: nn.GroupNorm(2, 6)(np.zeros((2, 4), np.float32)), "6 channels"),
        (lambda: F.group_norm(np.zeros((2, 6), np.float32), 4), "groups"),
        (lambda: nn.InstanceNorm1d(4, track_running_stats=True), "track_running_stats"),
        (lambda: nn.InstanceNorm1d(4)(np.zeros((2, 4), np.float32)), "3 axes"),
        (lambda: nn.InstanceNorm1d(4)(np.zeros((2, 4, 1), np.float32)), "position"),
        (lambda: F.normalize(np.ones((2, 4), np.float32), p=0.0), "p must"),
        (lambda: F.normalize(np.ones((2, 4), np.float32), dim=0), "batch"),
        (lambda: F.normalize(np.ones((2, 4), np.float32), dim=2), "dim"),
        (lambda: nn.LocalResponseNorm(0), "size"),
        (lambda: F.local_response_norm(np.ones((2, 4, 3), np.float32), 0), "size"),
        (lambda: F.local_response_norm(np.ones((2, 4), np.float32), 3), "length"),
        (lambda: nn.BatchNorm1d(4, momentum=2.0), "momentum"),
        (lambda: nn.BatchNorm3d(4)(np.zeros((2, 4, 3, 3), np.float32)), "5 axes"),
        (lambda: nn.SyncBatchNorm(4, process_group=1), "process_group"),
    ],
)
def test_errors(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
