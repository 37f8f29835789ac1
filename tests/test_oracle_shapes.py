"""Operators that move elements, against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import samestep as ss
from oracle_cases import Cases
from samestep import nn
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
TF = torch.nn.functional
rng = np.random.default_rng(3)

ELSEWHERE = ("cast", "constant_index", "gather")
cases = Cases(
    dict.fromkeys(("broadcast_to", "concat", "index_select", "pad", "permute", "slice", *ELSEWHERE), 1e-6),
    elsewhere=ELSEWHERE,
)

for _shape, _dims in [
    ((5, 3, 17), (0, 2, 1)), ((5, 3, 17, 4), (0, 2, 1, 3)), ((5, 3, 7, 4), (0, 3, 1, 2)),
    ((5, 3, 7, 4), (0, 2, 3, 1)), ((5, 3, 7, 4), (0, 3, 2, 1)), ((3, 2, 3, 4, 5), (0, 4, 2, 1, 3)),
]:  # fmt: skip
    cases.function("permute", f"{_shape} {_dims}", _shape, lambda x, d=_dims: x.permute(*d) * 2.0)
cases.function("permute", "transpose", (5, 3, 17), lambda x: x.transpose(1, 2) * 2.0)
cases.function("permute", "mT", (5, 3, 17), lambda x: x.mT * 2.0)
cases.function(
    "permute", "heads", (5, 6, 8), lambda x: x.view(x.shape[0], 6, 2, 4).transpose(1, 2) * 2.0,
)  # fmt: skip
cases.function("permute", "movedim", (5, 3, 17, 4), lambda x: x.movedim(1, -1) * 2.0)
cases.function(
    "permute", "after a convolution", (5, 3, 6, 6), lambda x, w: F.conv2d(x, w).permute(0, 2, 3, 1) * 2.0,
    lambda x, w: TF.conv2d(x, w).permute(0, 2, 3, 1) * 2.0, parameters=((4, 3, 3, 3),),
)  # fmt: skip

_everything = slice(None)
for _shape, _index in [
    ((5, 7), (_everything, slice(2, 6))), ((5, 7), (_everything, 3)), ((5, 7, 4), (_everything, slice(None, None, 2))),
    ((5, 7, 4), (_everything, -1)), ((5, 7, 4), (..., -1)), ((5, 7, 4), (_everything, None, 1, slice(1, 3))),
    ((5, 7, 4, 3), (_everything, slice(1, -1), ..., 2)), ((5, 7, 4), (_everything, slice(-3, None), None, ...)),
]:  # fmt: skip
    cases.function("slice", f"{_shape} {_index}", _shape, lambda x, i=_index: x[i] * 2.0)
cases.function("slice", "flip", (5, 3, 4, 6), lambda x: x.flip(1, 3) * 2.0)
cases.function("slice", "split", (5, 9), lambda x: x.split(4, 1)[1] * x.split([2, 4, 3], 1)[1])
cases.function("slice", "chunk", (5, 9, 2), lambda x: sum(part * (n + 1.0) for n, part in enumerate(x.chunk(3, 1))))
cases.function("slice", "unbind", (5, 3, 4), lambda x: x.unbind(1)[0] * x.unbind(1)[2])
cases.function("slice", "narrow and select", (5, 3, 4), lambda x: x.narrow(1, 1, 2).select(2, 3) * 2.0)
cases.function(
    "slice", "of convolved images", (5, 3, 6, 6), lambda x, w: F.conv2d(F.conv2d(x, w)[:, :3, 1:, ::2], w),
    lambda x, w: TF.conv2d(TF.conv2d(x, w)[:, :3, 1:, ::2], w), parameters=((4, 3, 1, 1),),
)  # fmt: skip
cases.function("concat", "roll", (5, 3, 4), lambda x: x.roll((1, -2), (1, 2)) * 2.0)
cases.function(
    "concat", "stack", ((5, 3, 4), (5, 3, 4)), lambda a, b: ss.stack([a, b, a], 2) * 2.0,
    lambda a, b: torch.stack([a, b, a], 2) * 2.0,
)  # fmt: skip

for _shape, _pad, _mode in [
    ((5, 7), (2, 3), "constant"), ((5, 3, 4, 5), (1, 2, 3, 0), "constant"), ((5, 3, 4, 5), (-1, 2, 3, -2), "constant"),
    ((5, 3, 7), (3, 6), "reflect"), ((5, 3, 4, 5), (1, 2, 3, 0), "reflect"), ((5, 3, 4, 5), (1, 2, 7, 9), "replicate"),
    ((5, 3, 4, 5), (5, 2, 4, 1), "circular"), ((3, 2, 3, 4, 5), (1, 2, 3, 1, 2, 2), "replicate"),
]:  # fmt: skip
    cases.function(
        "pad", f"{_shape} {_pad} {_mode}", _shape, lambda x, p=_pad, m=_mode: F.pad(x, p, m) * 2.0,
        lambda x, p=_pad, m=_mode: TF.pad(x, p, m) * 2.0,
    )  # fmt: skip
cases.function(
    "pad",
    "value",
    (5, 3, 4),
    lambda x: F.pad(x, (1, 1, 2, 0), value=-1.5) * 2.0,
    lambda x: TF.pad(x, (1, 1, 2, 0), value=-1.5) * 2.0,
)
for _number, _shape in [(1, (5, 3, 6)), (2, (5, 3, 6, 5)), (3, (3, 2, 3, 4, 5))]:
    for _name in ("CircularPad", "ReflectionPad", "ReplicationPad", "ZeroPad"):
        cases.layer("pad", f"{_name}{_number}d", _shape, 2)
    cases.layer("pad", f"ConstantPad{_number}d", _shape, (1, 2) * _number, 0.5)
cases.function(
    "pad", "between convolutions", (5, 3, 6, 6), lambda x, w: F.conv2d(F.pad(F.conv2d(x, w), (1, 2, 2, 1), "reflect"), w),
    lambda x, w: TF.conv2d(TF.pad(TF.conv2d(x, w), (1, 2, 2, 1), "reflect"), w), parameters=((3, 3, 1, 1),),
)  # fmt: skip

cases.function("broadcast_to", "expand", (5, 1, 4, 1), lambda x: x.expand(-1, 3, -1, 6) * 2.0)
cases.function("broadcast_to", "repeat", (5, 2, 3), lambda x: x.repeat(1, 2, 4) * 2.0)
cases.function("broadcast_to", "repeat_interleave", (5, 2, 3), lambda x: x.repeat_interleave(3, 1) * 2.0)
cases.function(
    "index_select", "constant indices", (5, 6, 3), lambda x: x.index_select(1, np.array([5, 0, 0, 2])) * 2.0,
    lambda x: x.index_select(1, torch.tensor([5, 0, 0, 2])) * 2.0,
)  # fmt: skip
cases.function("index_select", "an index of lists", (5, 6, 3), lambda x: x[:, [5, 0, 0, 2]] * 2.0)

test_operator = cases.test()


class Net(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Any) -> Any:
        return self.function(*x)


def test_unflatten() -> None:
    x = rng.normal(size=(5, 12)).astype(np.float32)
    assert np.array_equal(nn.Unflatten(1, (3, -1))(x), torch.nn.Unflatten(1, (3, -1))(torch.tensor(x)).numpy())


@pytest.mark.parametrize(("dim", "shape"), [(1, (5, 4, 3)), (2, (5, 3, 7)), (1, (5, 2, 2))])
def test_gather(dim: int, shape: tuple[int, ...]) -> None:
    x, index = rng.normal(size=(5, 4, 3)).astype(np.float32), rng.integers(0, 3, shape)
    assert np.array_equal(F.gather(x, dim, index), torch.gather(torch.tensor(x), dim, torch.tensor(index)).numpy())


def test_gradient_of_gather() -> None:
    """The index comes from the data and the elements from a layer."""
    index = rng.integers(0, 6, (8, 5))

    class Ours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.lin = nn.Embedding(6, 6), nn.Linear(6, 6)

        def forward(self, i: Any) -> Any:
            return self.lin(self.table(i)).gather(2, i.unsqueeze(2)).squeeze(2)

    class Theirs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.lin = torch.nn.Embedding(6, 6), torch.nn.Linear(6, 6)

        forward = Ours.forward

    net, twin = Ours(), Theirs()
    twin.load_state_dict({name: torch.tensor(value) for name, value in net.state_dict().items()})
    target = rng.normal(size=(8, 5)).astype(np.float32)
    plan = ss.compile(net, nn.MSELoss("sum"), ss.optim.SGD(0.0), 8)
    plan.step(index, target)
    ((twin(torch.tensor(index)) - torch.tensor(target)) ** 2).sum().backward()
    for name, parameter in twin.named_parameters():
        assert np.allclose(plan.gradients[name], parameter.grad.numpy(), rtol=1e-4, atol=1e-4), name


def test_batched_index_select_and_casts() -> None:
    x, index = rng.normal(size=(5, 4, 3)).astype(np.float32), rng.integers(0, 4, (5, 6))
    expected = np.stack([row[number] for row, number in zip(x, index, strict=True)])
    assert np.array_equal(Net(lambda v, i: F.index_select(v, 1, i))(x, index), expected)
    values = np.array([[1.9, -1.9, 3.0e9, np.nan]], np.float32)
    assert np.array_equal(Net(lambda v: v.long().float())(values), np.float32([[1, -1, 2**31 - 1, 0]]))


def test_whole_numbers_move_unchanged() -> None:
    """Large whole numbers, which float32 does not hold, through every operator that moves elements."""
    tokens = rng.integers(2**30, 2**31, (5, 4))

    def moved(t: Any) -> Any:
        t = t.trace.as_integer(t)
        t = ss.cat([t.flip(1), t[:, 1:3], F.pad(t, (1, 0), value=7)], 1).reshape(t.shape[0], 1, 11)
        return t.expand(-1, 2, -1).transpose(1, 2).index_select(1, np.arange(11)[::-1])

    found = Net(moved).eval()(tokens)
    row = np.concatenate([tokens[:, ::-1], tokens[:, 1:3], np.full((5, 1), 7), tokens], axis=1)[:, ::-1]
    assert found.dtype == np.int32 and np.array_equal(found, np.repeat(row[:, :, None], 2, 2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[0], "batch axis"),
        (lambda x: x[1:], "batch axis"),
        (lambda x: x[None], "batch axis"),
        (lambda x: x[:, 9], "outside"),
        (lambda x: x[:, 2:2], "takes nothing"),
        (lambda x: x[:, 0, 0, 0], "does not fit"),
        (lambda x: x.transpose(0, 1), "batch axis"),
        (lambda x: x.permute(1, 0, 2), "batch axis"),
        (lambda x: x.permute(0, 1), "each axis"),
        (lambda x: x.flip(0), "batch axis"),
        (lambda x: x.expand(-1, 7, 4), "does not take the shape"),
        (lambda x: x.expand(3, -1, -1), "batch axis"),
        (lambda x: x.repeat(2, 1, 1), "1 for the batch"),
        (lambda x: x.split(2, 0), "batch axis"),
        (lambda x: x.split([1, 1], 1), "sum to 3"),
        (lambda x: F.pad(x, (1,)), "two for each axis"),
        (lambda x: F.pad(x, (4, 0), "reflect"), "at most 3"),
        (lambda x: F.pad(x, (1, 1), "mirror"), "mode"),
        (lambda x: F.pad(x, (-4, 0)), "leaves nothing"),
        (lambda x: x.index_select(1, [3]), "outside"),
        (lambda x: x.index_select(1, [0.5]), "whole numbers"),
        (lambda x: (x * 2.0).gather(1, x * 1.0), "whole numbers from the data"),
    ],
)
def test_errors_name_the_layer(function: Any, message: str) -> None:
    net = nn.Sequential(nn.Identity(), Net(function))
    with pytest.raises(ValueError, match=message) as caught:
        net(np.zeros((2, 3, 4), np.float32))
    if not message.startswith("mode"):
        assert "layer '1'" in str(caught.value)


def test_index_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="indexed by numbers"):
        Net(lambda x: x[:, "a"])(np.zeros((2, 3), np.float32))


def test_indices_from_the_data_are_checked() -> None:
    with pytest.raises(ValueError, match="sample 1 of the batch at position 2 is 4"):
        F.gather(np.zeros((2, 4), np.float32), 1, np.array([[0, 1, 2], [0, 1, 4]]))
    with pytest.raises(TypeError, match="whole numbers"):
        F.gather(np.zeros((2, 4), np.float32), 1, np.zeros((2, 3)))
