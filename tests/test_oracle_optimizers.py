"""Optimizers, groups of parameters, clipping and averages against torch, or against plain NumPy in double where torch has
none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import nn, optim

torch = pytest.importorskip("torch")

STEPS = 20


class Flat(nn.Module):
    """One parameter under the name p0."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.p0 = nn.Parameter(oracle.grid(shape, 3))

    def forward(self, x: Any) -> Any:
        return x + self.p0


class Several(nn.Module):
    """Three parameters of several ranks; the output is a scaled copy of each."""

    def __init__(self) -> None:
        super().__init__()
        self.p0 = nn.Parameter(oracle.grid((300,), 1))
        self.inner = Flat((20, 15))
        self.frozen = nn.Parameter(oracle.grid((300,), 9), requires_grad=False)

    def forward(self, x: Any) -> Any:
        return self.inner(x).reshape(x.shape[0], 300) + self.p0 + self.frozen


def data(shape: tuple[int, ...], step: int) -> tuple[np.ndarray, np.ndarray]:
    return oracle.grid((1, *shape), 1000 * step), oracle.grid((1, *shape), 10**7 + 1000 * step)


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("sgd", "SGD", {"lr": 0.05, "momentum": 0.9, "maximize": True}),
    ("adam", "Adam", {"lr": 0.05, "maximize": True, "weight_decay": 0.1}),
    ("adamw", "AdamW", {"lr": 0.05, "maximize": True}),
    ("rmsprop", "RMSprop", {}),
    ("rmsprop", "RMSprop", {"lr": 0.02, "alpha": 0.8, "momentum": 0.9, "weight_decay": 0.1}),
    ("rmsprop", "RMSprop", {"lr": 0.02, "centered": True, "eps": 1e-3, "maximize": True}),
    ("rmsprop", "RMSprop", {"lr": 0.02, "centered": True, "momentum": 0.5, "eps": 1e-2}),
    ("adagrad", "Adagrad", {"lr": 0.1}),
    ("adagrad", "Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("adagrad", "Adagrad", {"lr": 0.1, "eps": 0.1, "maximize": True}),
    ("nadam", "NAdam", {"lr": 0.05}),
    ("nadam", "NAdam", {"lr": 0.05, "weight_decay": 0.1, "momentum_decay": 0.3, "betas": (0.8, 0.9)}),
    ("nadam", "NAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("radam", "RAdam", {"lr": 0.05}),
    ("radam", "RAdam", {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.7)}),
    ("radam", "RAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("adamax", "Adamax", {"lr": 0.05}),
    ("adamax", "Adamax", {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-3, "maximize": True}),
    ("adadelta", "Adadelta", {}),
    ("adadelta", "Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("asgd", "ASGD", {"lr": 0.05}),
    ("asgd", "ASGD", {"lr": 0.05, "lambd": 0.3, "alpha": 0.6, "t0": 4, "weight_decay": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "name", "options"), CASES, ids=[f"{name}({options})" for _, name, options in CASES])
def test_against_torch(op: str, name: str, options: dict[str, Any]) -> None:
    """20 steps; the learning rate changes on the way. The states too are torch's."""
    shape = (300,)
    for dtype in (torch.float32, torch.float64):
        net = Flat(shape)
        parameter = torch.tensor(oracle.grid(shape, 3), dtype=dtype, requires_grad=True)
        rule, twin = getattr(optim, name)(**options), getattr(torch.optim, name)([parameter], **options)
        plan = ss.compile(net, nn.MSELoss("sum"), rule, 1)
        assert rule._core_name == op
        for step in range(STEPS):
            if step == 12 and name != "ASGD":  # whose step size torch computes a step ahead
                plan.optimizer.lr = twin.param_groups[0]["lr"] = rule.lr / 3
            x, target = data(shape, step)
            plan.step(x, target)
            twin.zero_grad()
            ((torch.tensor(x[0], dtype=dtype) + parameter - torch.tensor(target[0], dtype=dtype)) ** 2).sum().backward()
            twin.step()
            assert oracle.distance(net.p0.data, parameter.detach()) <= 4e-6, (dtype, step)
        state = twin.state[parameter]
        for slot in plan.model.slots():
            expected = state.get(slot)
            if expected is not None:
                assert oracle.distance(plan.model.get_slot(slot, "p0"), expected.detach()) <= 4e-6, slot
    assert plan.model.slots()


def numpy_rule(name: str, options: dict[str, Any]) -> Any:
    """step(parameter, gradient, state, t) of optimizers that torch lacks, in double, from their papers."""
    o = options
    lr, decay = o["lr"], o.get("weight_decay", 0.0)
    sign = -1 if o.get("maximize") else 1

    def lion(p: Any, g: Any, s: dict[str, Any]) -> Any:
        beta1, beta2 = o.get("betas", (0.9, 0.99))
        m = s.setdefault("m", np.zeros_like(p))
        c = beta1 * m + (1 - beta1) * g
        s["m"] = beta2 * m + (1 - beta2) * g
        return p - lr * (np.sign(c) + decay * p)

    def ratio(p: Any, u: Any, size: float) -> float:
        return 1.0 if not o.get("adapt", True) or not p.any() or not u.any() else size

    def lamb(p: Any, g: Any, s: dict[str, Any]) -> Any:
        beta1, beta2 = o.get("betas", (0.9, 0.999))
        s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
        s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g * g
        u = s["m"] / (1 - beta1 ** s["t"]) / (np.sqrt(s["v"] / (1 - beta2 ** s["t"])) + o.get("eps", 1e-6))
        u = u + o.get("weight_decay", 0.01) * p
        return p - lr * ratio(p, u, np.sqrt((p * p).sum() / (u * u).sum())) * u

    def lars(p: Any, g: Any, s: dict[str, Any]) -> Any:
        momentum, size = o.get("momentum", 0.9), np.sqrt((p * p).sum())
        local = o.get("trust_coefficient", 1e-3) * size / (np.sqrt((g * g).sum()) + decay * size + o.get("eps", 1e-8))
        step = lr * ratio(p, g, local) * (g + decay * p)
        s["b"] = momentum * s["b"] + (1 - o.get("dampening", 0)) * step if s["t"] > 1 else step
        return p - (step + momentum * s["b"] if o.get("nesterov") else s["b"] if momentum else step)

    def adamw(p: Any, g: Any, s: dict[str, Any]) -> Any:
        beta1, beta2 = o.get("adamw_betas", (0.9, 0.95))
        s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
        s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g * g
        u = s["m"] / (1 - beta1 ** s["t"]) / (np.sqrt(s["v"] / (1 - beta2 ** s["t"])) + o.get("adamw_eps", 1e-10))
        rate = o.get("adamw_lr", 3e-4)
        return p * (1 - rate * o.get("adamw_weight_decay", 0)) - rate * u

    def muon(p: Any, g: Any, s: dict[str, Any]) -> Any:
        if p.ndim < 2 or not o.get("use_muon", True):
            return adamw(p, g, s)
        momentum = o.get("momentum", 0.95)
        a, b, c = o.get("ns_coefficients", (3.4445, -4.7750, 2.0315))
        s["m"] = momentum * s.get("m", 0) + (1 - momentum) * g
        u = momentum * s["m"] + (1 - momentum) * g if o.get("nesterov", True) else s["m"]
        x = u.reshape(len(u), -1)
        rows, cols = x.shape
        x = x / max(np.sqrt((x * x).sum()), 1e-7)
        for _ in range(o.get("ns_steps", 5)):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        adjusted = (
            0.2 * math.sqrt(max(rows, cols))
            if o.get("adjust_lr_fn") == "match_rms_adamw"
            else math.sqrt(max(1, rows / cols))
        )
        return p * (1 - lr * o.get("weight_decay", 0.1)) - lr * adjusted * x.reshape(p.shape)

    def root(a: Any) -> Any:
        values, vectors = np.linalg.eigh(a)
        return vectors @ np.diag(values**-0.25) @ vectors.T

    def shampoo(p: Any, g: Any, s: dict[str, Any]) -> Any:
        eps, most = o.get("epsilon", 1e-4), o.get("max_extent", 1024)
        d = g + decay * p
        if p.ndim < 2:
            s["sum"] = s.get("sum", eps) + d * d
            step = d / np.sqrt(s["sum"])
        else:
            x = d.reshape(len(d), -1)
            for name, side in (("L", x @ x.T), ("R", x.T @ x)):
                side = side if len(side) <= most else np.diag(np.diag(side))
                s[name] = s.get(name, eps * np.eye(len(side))) + side
                if (s["t"] - 1) % o.get("update_freq", 10) == 0 or len(side) > most:
                    s["root" + name] = root(s[name]) if len(side) <= most else np.diag(np.diag(s[name]) ** -0.25)
            step = (s["rootL"] @ x @ s["rootR"]).reshape(p.shape)
        s["b"] = o.get("momentum", 0) * s.get("b", 0) + step
        return p - lr * s["b"]

    rule = {"Lion": lion, "LAMB": lamb, "LARS": lars, "Muon": muon, "Shampoo": shampoo}[name]
    return lambda p, g, s: rule(p, sign * g, s)


NUMPY_CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("lion", "Lion", {"lr": 0.01}),
    ("lion", "Lion", {"lr": 0.01, "betas": (0.7, 0.8), "weight_decay": 0.3, "maximize": True}),
    ("lamb", "LAMB", {"lr": 0.05}),
    ("lamb", "LAMB", {"lr": 0.05, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.3, "maximize": True}),
    ("lamb", "LAMB", {"lr": 0.05, "adapt": False}),
    ("lars", "LARS", {"lr": 30.0}),
    ("lars", "LARS", {"lr": 3.0, "trust_coefficient": 0.02, "weight_decay": 0.3, "nesterov": True, "momentum": 0.5}),
    ("lars", "LARS", {"lr": 3.0, "trust_coefficient": 0.02, "dampening": 0.5, "maximize": True}),
    ("lars", "LARS", {"lr": 3.0, "trust_coefficient": 0.02, "momentum": 0.0}),
    ("lars", "LARS", {"lr": 0.02, "adapt": False}),
    ("muon", "Muon", {"lr": 0.02}),
    ("shampoo", "Shampoo", {"lr": 0.1, "epsilon": 0.1}),
    ("shampoo", "Shampoo", {"lr": 0.1, "epsilon": 0.1, "update_freq": 1, "momentum": 0.5, "weight_decay": 0.1}),
    ("shampoo", "Shampoo", {"lr": 0.1, "epsilon": 0.1, "max_extent": 17, "update_freq": 3, "maximize": True}),
    ("shampoo", "Shampoo", {"lr": 0.1, "epsilon": 0.1, "max_extent": 3}),
    (
        "muon",
        "Muon",
        {"lr": 0.02, "nesterov": False, "momentum": 0.8, "ns_steps": 3, "weight_decay": 0.5, "maximize": True},
    ),
    (
        "muon",
        "Muon",
        {"lr": 0.02, "ns_coefficients": (2.0, -1.5, 0.5), "adjust_lr_fn": "match_rms_adamw", "adamw_lr": 0.05},
    ),
    (
        "muon",
        "Muon",
        {"lr": 0.02, "use_muon": False, "adamw_lr": 0.05, "adamw_betas": (0.8, 0.9), "adamw_weight_decay": 0.1},
    ),
]


@pytest.mark.parametrize(
    ("op", "name", "options"), NUMPY_CASES, ids=[f"{name}({options})" for _, name, options in NUMPY_CASES]
)
@pytest.mark.parametrize("shape", [(300,), (20, 15), (15, 4, 5), (5000,)])
def test_against_numpy(op: str, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    net, rule = Flat(shape), getattr(optim, name)(**options)
    plan = ss.compile(net, nn.MSELoss("sum"), rule, 1, threads=2)
    step_of, state = numpy_rule(name, options), {}
    p = oracle.grid(shape, 3).astype(np.float64)
    assert rule._core_name == op
    for step in range(STEPS):
        x, target = data(shape, step)
        plan.step(x, target)
        state["t"] = step + 1
        p = step_of(p, 2 * (x[0].astype(np.float64) + p - target[0]), state)
        assert oracle.distance(net.p0.data, p) <= 1e-5, step


@pytest.mark.parametrize("options", [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.3}])
@pytest.mark.parametrize("shape", [(20, 15), (15, 40)])
def test_muon_is_torch_s_but_for_bfloat16(shape: tuple[int, int], options: dict[str, Any]) -> None:
    """Torch iterates in bfloat16, whose relative error is 2^-8 an operation: the steps are compared, roughly."""
    net, p = Flat(shape), torch.tensor(oracle.grid(shape, 3), requires_grad=True)
    plan = ss.compile(net, nn.MSELoss("sum"), optim.Muon(0.02, **options), 1)
    twin = torch.optim.Muon([p], 0.02, **options)
    for step in range(STEPS):
        before = [np.array(net.p0.data), p.detach().numpy().copy()]
        x, target = data(shape, step)
        plan.step(x, target)
        twin.zero_grad()
        ((torch.tensor(x[0]) + p - torch.tensor(target[0])) ** 2).sum().backward()
        twin.step()
        moved = [net.p0.data - before[0], p.detach().numpy() - before[1]]
        assert np.linalg.norm(moved[0] - moved[1]) <= 0.1 * np.linalg.norm(moved[1]), step
        with torch.no_grad():
            p.copy_(torch.tensor(np.array(net.p0.data)))
    assert oracle.distance(plan.model.get_slot("momentum_buffer", "p0"), twin.state[p]["momentum_buffer"]) <= 4e-6


# ---- groups ----


def several(**options: Any) -> tuple[Several, Any]:
    net = Several()
    return net, ss.compile(net, nn.MSELoss("sum"), options.pop("optimizer"), 1, **options)


def several_step(plan: Any, step: int) -> None:
    x = oracle.grid((1, 20, 15), 1000 * step)
    plan.step(x, oracle.grid((1, 300), 10**7 + 1000 * step))


def several_twin() -> tuple[Any, Any, Any]:
    """Parameters of Several in torch, and its loss."""
    net = Several()
    p0 = torch.tensor(np.array(net.p0.data), requires_grad=True)
    inner = torch.tensor(np.array(net.inner.p0.data), requires_grad=True)
    frozen = torch.tensor(np.array(net.frozen.data))

    def loss(step: int) -> Any:
        x, y = (
            torch.tensor(oracle.grid((1, 20, 15), 1000 * step)),
            torch.tensor(oracle.grid((1, 300), 10**7 + 1000 * step)),
        )
        return (((x + inner).reshape(1, 300) + p0 + frozen - y) ** 2).sum()

    return p0, inner, loss


DESCRIPTIONS = {
    "pattern": lambda net: "inner.*",
    "function": lambda net: lambda name, p: p.ndim == 2,
    "parameter": lambda net: net.inner.p0,
    "parameters": lambda net: [net.inner.p0],
    "module": lambda net: net.inner,
    "mixed": lambda net: [net.inner, "inner*"],
}


@pytest.mark.parametrize("kind", list(DESCRIPTIONS))
def test_groups(kind: str) -> None:
    net = Several()
    groups = [{"params": DESCRIPTIONS[kind](net), "lr": 0.01, "weight_decay": 0.5, "amsgrad": True}]
    plan = ss.compile(net, nn.MSELoss("sum"), optim.AdamW(0.05, weight_decay=0.0, groups=groups), 1)
    p0, inner, loss = several_twin()
    twin = torch.optim.AdamW(
        [{"params": [p0]}, {"params": [inner], "lr": 0.01, "weight_decay": 0.5, "amsgrad": True}],
        0.05,
        weight_decay=0.0,
    )
    frozen = np.array(net.frozen.data)
    for step in range(STEPS):
        if step == 5:
            plan.optimizer.groups[0].lr = twin.param_groups[1]["lr"] = 0.03
        if step == 9:
            plan.optimizer.lr = twin.param_groups[0]["lr"] = 0.02
        if step == 14:
            plan.optimizer.lr_factor = 0.5
            for group in twin.param_groups:
                group["lr"] *= 0.5
        several_step(plan, step)
        twin.zero_grad()
        loss(step).backward()
        twin.step()
        assert oracle.distance(net.p0.data, p0.detach()) <= 4e-6, step
        assert oracle.distance(net.inner.p0.data, inner.detach()) <= 4e-6, step
    assert np.array_equal(net.frozen.data, frozen)
    assert plan.model.hyper("lr") == 0.01 and plan.model.hyper("lr", 1) == 0.015 and plan.model.hyper("amsgrad", 1) == 1


def test_first_match_has_the_parameter() -> None:
    net = Several()
    rule = optim.SGD(0.1, groups=[{"params": ["p0", "inner.p0"], "lr": 0.0}, {"params": "*", "lr": 7.0}])
    plan = ss.compile(net, nn.MSELoss("sum"), rule, 1)
    before = np.array(net.p0.data)
    several_step(plan, 0)
    assert np.array_equal(net.p0.data, before)
    assert rule._assign({"p0": net.p0, "inner.p0": net.inner.p0, "z": net.frozen}) == [["p0", "inner.p0"], ["z"]]


def test_groups_are_checked_and_shown() -> None:
    for params, text in (("nothing.*", "nothing"), (["p0", "bias"], "'bias'"), (lambda name, p: False, "function")):
        with pytest.raises(ValueError, match=text):
            several(optimizer=optim.SGD(0.1, groups=[{"params": params, "lr": 1.0}]), input_shape=(20, 15))
    with pytest.raises(AttributeError, match="momentun"):
        optim.SGD(0.1, groups=[{"params": "*", "momentun": 1.0}])
    with pytest.raises(ValueError, match="lr"):
        optim.SGD(0.1, groups=[{"params": "*", "lr": -1}])
    with pytest.raises(TypeError, match="params"):
        optim.SGD(0.1, groups=[{"lr": 1}])
    with pytest.raises(TypeError, match="groups"):
        optim.SGD(0.1, groups={"params": "*"})
    with pytest.raises(ValueError, match="nesterov"):
        optim.SGD(0.1, groups=[{"params": "*", "nesterov": True}])
    rule = optim.SGD(0.1, groups=[{"params": ["*.bias", "b"], "lr": 0.5}])
    assert rule.groups[0].lr == 0.5 and rule.groups[0].momentum == 0
    rule.momentum = 0.9
    assert rule.groups[0].momentum == 0.9 and "'*.bias', 'b'], 'lr': 0.5" in repr(rule)
    assert rule != optim.SGD(0.1, momentum=0.9)
    with pytest.raises(ValueError, match="lr_factor"):
        rule.lr_factor = -1


def test_momentum_in_one_group_only() -> None:
    net, plan = several(optimizer=optim.SGD(0.02, groups=[{"params": "inner.p0", "momentum": 0.9}]))
    p0, inner, loss = several_twin()
    twin = torch.optim.SGD([{"params": [p0]}, {"params": [inner], "momentum": 0.9}], 0.02)
    for step in range(STEPS):
        several_step(plan, step)
        twin.zero_grad()
        loss(step).backward()
        twin.step()
    assert oracle.distance(net.p0.data, p0.detach()) <= 4e-6
    assert oracle.distance(net.inner.p0.data, inner.detach()) <= 4e-6


# ---- clipping ----


LIMITS = [
    {"clip_norm": 3.0}, {"clip_norm": 1e9}, {"clip_value": 0.25}, {"clip_norm": 3.0, "clip_value": 0.3}, {"clip_norm": math.inf},
]  # fmt: skip


@pytest.mark.parametrize("options", LIMITS)
@pytest.mark.parametrize("threads", [1, 2])
def test_clipping(options: dict[str, float], threads: int) -> None:
    net, plan = several(optimizer=optim.SGD(0.05, momentum=0.9), threads=threads, **options)
    p0, inner, loss = several_twin()
    twin = torch.optim.SGD([p0, inner], 0.05, momentum=0.9)
    for step in range(STEPS):
        several_step(plan, step)
        twin.zero_grad()
        loss(step).backward()
        if "clip_value" in options:
            torch.nn.utils.clip_grad_value_([p0, inner], options["clip_value"])
        if "clip_norm" in options:
            norm = torch.nn.utils.clip_grad_norm_([p0, inner], options["clip_norm"])
            assert plan.gradient_norm == pytest.approx(float(norm), rel=1e-6)
        twin.step()
        assert oracle.distance(plan.gradients["p0"], p0.grad) <= 4e-6
        assert oracle.distance(net.inner.p0.data, inner.detach()) <= 4e-6, step


def test_clipping_is_checked_and_changes() -> None:
    for name, value in (("clip_norm", 0), ("clip_norm", -1), ("clip_value", float("nan"))):
        with pytest.raises(ValueError, match=name):
            several(optimizer="sgd", **{name: value})
    with pytest.raises(TypeError, match="clip_norm"):
        several(optimizer="sgd", clip_norm="1")
    _, plan = several(optimizer=optim.SGD(0.1), clip_norm=0.5)
    several_step(plan, 0)
    assert np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in plan.gradients.values())) == pytest.approx(
        0.5, rel=1e-5
    )
    plan.clip_norm = None
    several_step(plan, 1)
    assert np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in plan.gradients.values())) > 1
    with pytest.raises(ValueError, match="clip_norm"):
        _ = plan.gradient_norm
    _, plan = several(optimizer=optim.SGD(0.1))
    several_step(plan, 0)
    plan.clip_norm = 1.0
    with pytest.raises(ValueError, match="compile again"):
        several_step(plan, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite(bad: float) -> None:
    """As torch does: an infinite gradient leaves zeros and NaN, a NaN makes all NaN."""
    _, plan = several(optimizer=optim.SGD(0.1), clip_norm=1.0)
    x, y = oracle.grid((1, 20, 15)), oracle.grid((1, 300), 5)
    x[0, 1, 1] = bad
    plan.step(x, y)
    assert not np.isfinite(plan.gradient_norm)
    gradient = np.array(plan.gradients["p0"])
    assert (
        np.isnan(gradient).all()
        if np.isnan(bad)
        else np.isnan(gradient).sum() == 1 and np.nansum(np.abs(gradient)) == 0
    )


# ---- averages and lookahead ----


AVERAGES = [optim.EMA(0.9), optim.EMA(0.99, warmup=True), optim.SWA(4), optim.SWA(5, every=3), None]


@pytest.mark.parametrize("average", AVERAGES, ids=repr)
@pytest.mark.parametrize("lookahead", [None, (3, 0.5), (1, 0.3)])
def test_averages(average: Any, lookahead: Any) -> None:
    """Against the averages of the weights that the same run shows without them."""
    rule = optim.Adam(0.05) if lookahead is None else optim.Lookahead(optim.Adam(0.05), *lookahead)
    net, plan = several(optimizer=rule, average=average, threads=2)
    p0, inner, loss = several_twin()
    twin = torch.optim.Adam([p0, inner], 0.05)
    mean, slow, count = None, p0.detach().numpy().astype(np.float64), 0
    slow_inner = inner.detach().clone()
    for step in range(1, STEPS + 1):
        several_step(plan, step)
        twin.zero_grad()
        loss(step).backward()
        twin.step()
        if lookahead and step % lookahead[0] == 0:
            slow = slow + lookahead[1] * (p0.detach().numpy() - slow)
            slow_inner += lookahead[1] * (inner.detach() - slow_inner)
            with torch.no_grad():
                p0.copy_(torch.tensor(slow))
                inner.copy_(slow_inner)
        assert oracle.distance(net.p0.data, p0.detach()) <= 1e-5, step
        now = p0.detach().numpy().astype(np.float64)
        if isinstance(average, optim.EMA):
            decay = min(average.decay, (1 + step) / (10 + step)) if average.warmup else average.decay
            mean = now if mean is None else decay * mean + (1 - decay) * now
        elif isinstance(average, optim.SWA) and step >= average.start and (step - average.start) % average.every == 0:
            count += 1
            mean = now if mean is None else mean + (now - mean) / count
    slots = {"slow"} if lookahead else set()
    if lookahead:
        assert oracle.distance(plan.model.get_slot("slow", "p0"), slow) <= 1e-5
    if average is not None:
        name = "ema" if isinstance(average, optim.EMA) else "swa_mean"
        slots.add(name)
        assert oracle.distance(plan.model.get_slot(name, "p0"), mean) <= 1e-5
        fast = np.array(net.p0.data)
        with plan.averaged():
            assert oracle.distance(net.p0.data, mean) <= 1e-5
            with pytest.raises(RuntimeError, match="exchange them back"):
                several_step(plan, 0)
        assert np.array_equal(net.p0.data, fast)
        several_step(plan, 0)
    assert slots <= set(plan.model.slots())


def test_ema_is_torch_s() -> None:
    """torch.optim.swa_utils.AveragedModel counts from the first update too."""
    _, plan = several(optimizer=optim.SGD(0.02), average=optim.EMA(0.9))
    p0, inner, loss = several_twin()
    module = torch.nn.ParameterList([p0, inner])
    twin = torch.optim.SGD([p0, inner], 0.02)
    averaged = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for step in range(STEPS):
        several_step(plan, step)
        twin.zero_grad()
        loss(step).backward()
        twin.step()
        averaged.update_parameters(module)
    assert oracle.distance(plan.model.get_slot("ema", "p0"), next(averaged.parameters()).detach()) <= 4e-6


def test_averages_are_checked() -> None:
    for make, text in (
        (lambda: optim.EMA(1.5), "decay"), (lambda: optim.SWA(0), "start"), (lambda: optim.SWA(1, 0), "every"),
        (lambda: optim.Lookahead("sgd", k=0), "k"), (lambda: optim.Lookahead("sgd", alpha=2), "alpha"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            make()
    with pytest.raises(TypeError, match="average"):
        several(optimizer="sgd", average="ema")
    with pytest.raises(TypeError, match="Lookahead"):
        optim.Lookahead(optim.Lookahead("sgd"))
    _, plan = several(optimizer="sgd", average=optim.SWA(3))
    several_step(plan, 0)
    with pytest.raises(RuntimeError, match="no average yet"), plan.averaged():
        pass
    _, plan = several(optimizer="sgd")
    several_step(plan, 0)
    with pytest.raises(RuntimeError, match="keeps no average"), plan.averaged():
        pass
    rule = optim.Lookahead(optim.RMSprop(0.1, alpha=0.7), alpha=0.25)
    rule.lr, rule.lr_factor = 0.2, 0.5
    assert (
        rule.optimizer.lr == 0.2 and rule.hypers()["lr"] == 0.1 and rule.hypers()["alpha"] == 0.7 and rule.alpha == 0.25
    )


# ---- checkpoints ----

ALL = ["sgd", "adam", "adamw", *sorted({op for op, _, _ in CASES + NUMPY_CASES} - {"sgd", "adam", "adamw"})]


@pytest.mark.parametrize("name", [*ALL, "lookahead"])
def test_checkpoints_keep_all_state(name: str, tmp_path: Any) -> None:
    x = oracle.grid((24, 20, 15))
    y = oracle.grid((24, 300), 7)

    def trainer(file: str) -> ss.Trainer:
        rule = optim.Lookahead(optim.Adam(0.05), 3) if name == "lookahead" else optim.resolve(name)
        if name == "sgd":
            rule = optim.SGD(0.01, momentum=0.9, groups=[{"params": "p0", "lr": 0.001}])
        return ss.Trainer(
            Several(), nn.MSELoss("mean"), rule, average=optim.EMA(0.9), clip_norm=1.0, checkpoint=tmp_path / file
        )

    whole, first, second = trainer("a"), trainer("b"), trainer("b")
    whole.fit(x, y, epochs=2, batch_size=8, verbose=False)
    first.fit(x, y, epochs=1, batch_size=8, verbose=False)
    second.fit(x, y, epochs=2, batch_size=8, verbose=False, resume=True)
    assert ss.fingerprint(whole.net) == ss.fingerprint(second.net) != ss.fingerprint(first.net)
    for slot in whole.plan.model.slots():
        for parameter in ("p0", "inner.p0"):
            assert np.array_equal(
                whole.plan.model.get_slot(slot, parameter), second.plan.model.get_slot(slot, parameter), equal_nan=True
            ), (slot, parameter)
