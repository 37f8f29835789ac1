"""Embeddings against PyTorch: values, gradients, and the same bits however the work is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import samestep as ss
from oracle_cases import Cases
from samestep import nn, optim
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
rng = np.random.default_rng(5)
ELSEWHERE = ("constant_index", "embedding", "one_hot")
cases = Cases(dict.fromkeys(ELSEWHERE, 4e-6), elsewhere=ELSEWHERE)


def make(nn_: Any, positions: Any, padding_idx: int | None, rows: int, width: int) -> Any:
    class Net(nn_.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.tok = nn_.Embedding(rows, width, padding_idx=padding_idx)
            self.pos = nn_.Embedding(9, width)
            self.out = nn_.Linear(width, 3)

        def forward(self, x: Any) -> Any:
            return self.out(self.tok(x) + self.pos(positions))

    return Net()


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
@pytest.mark.parametrize(("padding_idx", "rows", "width"), [(None, 11, 6), (2, 5, 40), (-1, 300, 7)])
def test_against_torch(shape: tuple[int, ...], padding_idx: int | None, rows: int, width: int) -> None:
    positions = rng.integers(0, 9, shape)
    batch = 13
    tokens, target = rng.integers(0, rows, (batch, *shape)), rng.normal(size=(batch, *shape, 3)).astype(np.float32)
    net = make(nn, positions, padding_idx, rows, width)
    values = {name: torch.tensor(value) for name, value in net.state_dict().items()}
    if padding_idx is not None:
        assert not np.asarray(values["tok.weight"][padding_idx]).any()
    plan = ss.compile(net, nn.MSELoss("sum"), optim.SGD(0.0), batch, lanes=4)
    loss = plan.step(tokens, target)
    for dtype in (torch.float32, torch.float64):
        twin = make(torch.nn, torch.tensor(positions), padding_idx, rows, width).to(dtype)
        twin.load_state_dict(values)
        theirs = ((twin(torch.tensor(tokens)) - torch.tensor(target, dtype=dtype)) ** 2).sum()
        theirs.backward()
        assert abs(loss - float(theirs.detach())) <= 4e-6 * abs(loss)
        for name, parameter in twin.named_parameters():
            want = parameter.grad.numpy()
            assert np.abs(plan.gradients[name] - want).max() <= 4e-6 * np.abs(want).max(), name
        assert np.allclose(plan.predict(tokens), twin(torch.tensor(tokens)).detach().numpy(), atol=1e-5)


def test_same_bits_however_the_work_is_cut() -> None:
    tokens, target = rng.integers(0, 9, (32, 7)), rng.normal(size=(32, 7, 3)).astype(np.float32)
    net = make(nn, np.arange(7), None, 9, 40)
    start, prints = net.state_dict(), set()
    for options in ({}, {"lanes_at_once": 1}, {"lanes_at_once": 2, "threads": 3}, {"threads": 1}, {"threads": 4}):
        net.load_state_dict(start)
        plan = ss.compile(net, "mse", optim.SGD(0.1), 32, lanes=8, **options)
        for _ in range(3):
            plan.step(tokens, target)
        prints.add(ss.fingerprint(net))
    assert len(prints) == 1


def test_constant_positions_with_a_batch_axis() -> None:
    layer = nn.Embedding(6, 4)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos = layer

        def forward(self, x: Any) -> Any:
            return self.pos(np.arange(3)[None])

    assert np.array_equal(Net()(np.zeros((2, 1), np.float32)), np.stack([layer.weight.data[:3]] * 2))


def test_on_arrays() -> None:
    table = rng.normal(size=(7, 3)).astype(np.float32)
    tokens = rng.integers(0, 7, (4, 5))
    assert np.array_equal(F.embedding(tokens, nn.Parameter(table)), table[tokens])
    assert np.array_equal(nn.Embedding.from_pretrained(table)(tokens), table[tokens])
    assert not nn.Embedding.from_pretrained(table).weight.requires_grad
    want = torch.nn.functional.one_hot(torch.tensor(tokens), 9).numpy()
    assert np.array_equal(F.one_hot(tokens, 9), want)
    assert np.array_equal(F.one_hot(np.arange(6)), np.eye(6))


def test_a_part_of_the_input() -> None:
    """Columns of the data; a number outside of the table that the data check cannot see gives nan, not other memory."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.Embedding(4, 3)

        def forward(self, x: Any) -> Any:
            return self.e(x[:, 1])

    net, x = Net(), np.array([[9, 1], [9, 3]])
    assert np.array_equal(net(x), net.e.weight.data[[1, 3]])
    assert np.isnan(net(x + 1)[1]).all() and np.isfinite(net(x + 1)[0]).all()


def test_errors() -> None:
    with pytest.raises(ValueError, match="max_norm is not supported"):
        nn.Embedding(3, 4, max_norm=1.0)
    with pytest.raises(ValueError, match="scale_grad_by_freq is not supported"):
        nn.Embedding(3, 4, scale_grad_by_freq=True)
    with pytest.raises(ValueError, match="padding_idx=3"):
        nn.Embedding(3, 4, padding_idx=3)
    with pytest.raises(ValueError, match="two axes"):
        nn.Embedding.from_pretrained(np.zeros(3))
    net = nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(8, 2))
    plan = ss.compile(net, "cross_entropy", optim.SGD(0.1), 4)
    tokens, labels = np.zeros((4, 2), np.int64), np.zeros(4, np.int64)
    plan.step(tokens, labels)
    tokens[2, 1] = 3
    with pytest.raises(
        ValueError, match=r"layer '0'.*sample 2 of the batch at position 1 is 3; the table has the rows 0 to 2"
    ):
        plan.step(tokens, labels)
    tokens[2, 1] = -1
    with pytest.raises(ValueError, match="is -1"):
        plan.step(tokens, labels)
    with pytest.raises(TypeError, match="whole numbers"):
        plan.step(np.zeros((4, 2), np.float32), labels)
    with pytest.raises(ValueError, match=r"layer '1'.*whole numbers from the data"):
        nn.Sequential(nn.Tanh(), nn.Embedding(3, 4))(np.zeros((2, 3), np.float32))


def test_summary_of_a_network_that_takes_indices() -> None:
    assert "Embedding" in str(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).summary((2,)))
