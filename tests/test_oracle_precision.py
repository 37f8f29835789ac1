"""precision="bf16": operands of products are rounded to bfloat16, sums stay float32."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import samestep as ss
from oracle_cases import Cases
from samestep import _eager, nn, optim

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
pytestmark = pytest.mark.oracle

cases = Cases({"bf16_round": 0.0, "function": 0.0}, elsewhere=("bf16_round", "function"))


def rounded(x):
    return x.to(torch.bfloat16).to(torch.float64)


class Rounded(torch.autograd.Function):
    """Rounds to bfloat16 forward, or backward."""

    @staticmethod
    def forward(ctx, x, forward):
        ctx.forward = forward
        return rounded(x) if forward else x.clone()

    @staticmethod
    def backward(ctx, grad):
        return (grad if ctx.forward else rounded(grad)), None


def layer(x, weight, bias):
    x, weight = Rounded.apply(x, True), Rounded.apply(weight, True)
    return Rounded.apply(x @ weight.T, False) + bias


def test_one_step_against_rounding_in_torch() -> None:
    ss.manual_seed(2)
    net = nn.Sequential(nn.Linear(33, 40), nn.Tanh(), nn.Linear(40, 7))
    twin = [torch.tensor(p.numpy(), dtype=torch.float64, requires_grad=True) for p in net.parameters()]
    x, y = oracle.grid((24, 33)), oracle.grid((24, 7), 5000)
    plan = ss.compile(net, "mse", optim.SGD(0.0), 24, precision="bf16")
    loss = plan.step(x, y)
    hidden = layer(torch.tensor(x, dtype=torch.float64), twin[0], twin[1]).tanh()
    # The core rounds float32 values, which may fall on the other side of a tie than float64 ones: compare loosely.
    expected = ((layer(hidden, twin[2], twin[3]) - torch.tensor(y, dtype=torch.float64)) ** 2).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-3)
    plain = ss.compile(net, "mse", optim.SGD(0.0), 24)
    plain.step(x, y)
    for (name, _), parameter in zip(list(net.named_parameters()), twin, strict=True):
        ours, exact = plan_gradient(x, y, name), plain.gradients[name]
        assert oracle.distance(ours, parameter.grad) < 6e-3
        assert not np.array_equal(ours, exact), f"{name} was not rounded"


def plan_gradient(x, y, name):
    ss.manual_seed(2)
    net = nn.Sequential(nn.Linear(33, 40), nn.Tanh(), nn.Linear(40, 7))
    plan = ss.compile(net, "mse", optim.SGD(0.0), 24, precision="bf16")
    plan.step(x, y)
    return np.array(plan.gradients[name])


def test_values_that_bfloat16_holds_pass_unchanged() -> None:
    values = (oracle.whole_numbers(24 * 8, 15).reshape(24, 8) - 7).astype(np.float32)
    net = nn.Linear(8, 3)
    net.weight.data, net.bias.data = np.round(oracle.grid((3, 8)) * 4) / 4, np.zeros(3)
    outputs = [ss.compile(net, "mse", batch_size=24, precision=kind).predict(values) for kind in ("fp32", "bf16")]
    assert np.array_equal(*outputs)


def test_master_weights_stay_float32() -> None:
    """Steps too small for bfloat16 add up."""
    net = nn.Linear(1, 1, bias=False)
    net.weight.data = np.ones((1, 1))
    plan = ss.compile(net, "mse", optim.SGD(1e-5), 8, precision="bf16")
    x = np.ones((8, 1), np.float32)
    for _ in range(50):
        plan.step(x, 0 * x)
    assert net.weight.data[0, 0] == pytest.approx(1 - 50 * 2e-5, abs=5e-6)


def test_the_same_bits_in_any_cut() -> None:
    prints = set()
    x, y = oracle.grid((40, 3, 8, 8)), oracle.labels(40, 5)
    for threads, at_once in ((1, None), (2, None), (2, 1)):
        ss.manual_seed(4)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
        )
        plan = ss.compile(
            net,
            optimizer=optim.Adam(1e-3),
            batch_size=40,
            threads=threads,
            lanes=8,
            lanes_at_once=at_once,
            precision="bf16",
        )
        for _ in range(3):
            plan.step(x, y)
        prints.add(ss.fingerprint(net))
    assert len(prints) == 1


def test_rounding_is_to_the_nearest_even() -> None:
    numbers = np.float32(np.ldexp(1.0 + oracle.whole_numbers(4096, 1 << 20) / (1 << 20), 3))[:, None]
    numbers[:4, 0] = [np.nan, np.inf, -np.inf, 3.4e38]
    numbers[4:8, 0] = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF], np.uint32).view(np.float32)
    found = _eager.call(lambda x: x.trace.emit("bf16_round", [x]), [numbers])
    assert np.array_equal(found, torch.tensor(numbers).to(torch.bfloat16).float().numpy(), equal_nan=True)
