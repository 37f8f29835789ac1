"""ss.Function: a user's forward and backward in NumPy inside a plan."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import nn, optim

X, Y = oracle.grid((24, 6)), oracle.grid((24, 4), 900)


class Scale(ss.Function):
    """x * w, with a parameter."""

    def forward(self, x, w):
        return x * w

    def backward(self, grad, x, w):
        return grad * w, (grad * x).sum(0)


class Net(nn.Module):
    def __init__(self, function=None):
        super().__init__()
        self.linear, self.w, self.out = nn.Linear(6, 5), nn.Parameter(np.linspace(0.5, 1.5, 5)), nn.Linear(5, 4)
        self.function = function

    def forward(self, x):
        hidden = self.linear(x).tanh()
        hidden = self.function(hidden, self.w) if self.function else hidden * self.w
        return self.out(hidden)


def net(function=None) -> Net:
    ss.manual_seed(1)
    return Net(function)


def test_equals_the_operator_it_imitates() -> None:
    plans = [ss.compile(net(function), "mse", optim.SGD(0.1), 24) for function in (None, Scale())]
    for _ in range(3):
        losses = [plan.step(X, Y) for plan in plans]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in plans[0].gradients.items():
        np.testing.assert_allclose(plans[1].gradients[name], gradient, rtol=2e-5, atol=1e-7)
    np.testing.assert_array_equal(plans[0].predict(X).shape, plans[1].predict(X).shape)
    assert np.allclose(Scale()(X, np.broadcast_to(2.0, X.shape)), 2 * X)


def test_the_same_bits_in_any_cut() -> None:
    prints = set()
    for threads, at_once in ((1, None), (2, None), (1, 1), (2, 2)):
        module = net(Scale())
        plan = ss.compile(module, "mse", optim.Adam(0.01), 24, threads=threads, lanes=8, lanes_at_once=at_once)
        for _ in range(4):
            plan.step(X, Y)
        prints.add(ss.fingerprint(module))
    assert len(prints) == 1


def test_called_with_one_lane_at_a_time() -> None:
    sizes = []

    class Watch(Scale):
        def forward(self, x, w):
            sizes.append(len(x))
            return x * w

        def output_shape(self, x, w):
            return x

    plan = ss.compile(net(Watch()), "mse", optim.SGD(0.1), 24, lanes=8)
    plan.step(X, Y)
    assert sizes == [3] * 8


class Broken(Scale):
    def __init__(self, where: str) -> None:
        self.where, self.armed = where, False

    def forward(self, x, w):
        if self.armed and self.where == "forward":
            raise KeyError("no such thing")
        if self.armed and self.where == "forward shape":
            return x[:, :1]
        return x * w

    def backward(self, grad, x, w):
        if self.armed and self.where == "backward":
            raise ZeroDivisionError("in my own code")
        if self.armed and self.where == "backward shape":
            return grad[:, :2], None
        if self.armed and self.where == "count":
            return grad
        return super().backward(grad, x, w)


@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        ("forward", KeyError, "no such thing"),
        ("backward", ZeroDivisionError, "own code"),
        ("forward shape", ValueError, r"\(B, 5\)"),
        ("backward shape", ValueError, r"\(B, 5\)"),
        ("count", ValueError, "1 gradients for 2 inputs"),
    ],
)
def test_failures_change_nothing(where, error, text) -> None:
    function = Broken(where)
    module = net(function)
    plan = ss.compile(module, "mse", optim.SGD(0.1), 24)
    plan.step(X, Y)
    before = ss.fingerprint(module)
    function.armed = True
    for _ in range(2):
        with pytest.raises(error, match=text) as caught:
            plan.step(X, Y)
    if where in ("forward", "backward"):
        assert any(frame.name == where for frame in caught.traceback)
    assert ss.fingerprint(module) == before and plan.step_count == 1
    function.armed = False
    assert np.isfinite(plan.step(X, Y)) and plan.step_count == 2


def test_wrong_output_is_refused_when_traced() -> None:
    class Scalar(ss.Function):
        def forward(self, x):
            return x.sum()

    class Uses(nn.Module):
        def forward(self, x):
            return Scalar()(x)

    with pytest.raises(ValueError, match="first axis must be the samples"):
        ss.compile(nn.Sequential(nn.Linear(6, 4), Uses()), "mse", batch_size=4, input_shape=(6,))


@pytest.mark.mpi
def test_an_exception_on_one_rank_reaches_all(tmp_path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import numpy as np, samestep as ss
            from samestep import nn, optim

            class Fails(ss.Function):
                def forward(self, x):
                    if ss.rank() == 1 and armed:
                        raise ZeroDivisionError("only here")
                    return 2 * x
                def backward(self, grad, x):
                    return 2 * grad

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)
                    self.f = Fails()
                def forward(self, x):
                    return self.b(self.f(self.a(x)))

            armed = False
            net = Net()
            x, y = np.ones((24, 6), np.float32), np.ones((24, 4), np.float32)
            plan = ss.compile(net, "mse", optim.SGD(0.1), 24)
            plan.step(x, y)
            before = ss.fingerprint(net)
            armed = True
            try:
                plan.step(x, y)
                raise SystemExit("nothing was raised")
            except ZeroDivisionError as error:
                assert ss.rank() == 1 and "only here" in str(error)
            except RuntimeError as error:
                assert ss.rank() != 1 and "rank 1" in str(error) and "ZeroDivisionError" in str(error), str(error)
            assert ss.fingerprint(net) == before
            armed = False
            plan.step(x, y)
            ss.barrier()
            print("fine", plan.step_count, flush=True)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "samestep", "run", "-n", "3", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "SAMESTEP_TIMEOUT": "30"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("fine 2") == 3
