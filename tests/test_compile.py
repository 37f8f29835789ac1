"""ss.compile: steps, runs, results, gradients, ownership, and errors that name what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import samestep as ss
from samestep import nn, optim


def data(n: int = 40, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)


def net() -> nn.Sequential:
    ss.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def test_step_and_results():
    x, y = data()
    plan = ss.compile(net(), "cross_entropy", optim.SGD(0.1), 40, metrics="accuracy")
    losses = [plan.step(x, y) for _ in range(30)]
    assert losses[-1] < losses[0] and isinstance(losses[0], float)
    assert plan.results["loss"] == losses[-1] and plan.results["accuracy"] > 0.5 and plan.step_count == 30
    assert "40" in repr(plan)


def test_step_by_hand():
    """One layer of plain gradient descent, against NumPy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4)).astype(np.float32), rng.normal(size=(10, 2)).astype(np.float32)
    layer = nn.Linear(4, 2)
    w, b = layer.weight.numpy().astype(float), layer.bias.numpy().astype(float)
    plan = ss.compile(layer, "mse", optim.SGD(0.5), 10)
    error = x @ w.T + b - y
    assert plan.step(x, y) == pytest.approx((error**2).mean(), rel=1e-6)
    gradient = 2 * error.T @ x / error.size
    np.testing.assert_allclose(plan.gradients["weight"], gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.weight, w - 0.5 * gradient, rtol=1e-4, atol=1e-6)
    assert list(plan.gradients) == ["weight", "bias"]
    with pytest.raises(KeyError, match="nothing"):
        plan.gradients["nothing"]
    with pytest.raises(ValueError, match="read-only"):
        plan.gradients["weight"][0] = 1


def test_run_equals_steps():
    x, y = data(50)
    a, b = net(), net()
    first = ss.compile(a, optimizer=optim.Adam(0.01), batch_size=16)
    second = ss.compile(b, optimizer=optim.Adam(0.01), batch_size=16)
    order = np.random.default_rng(3).permutation(50)
    results = first.run(x, y, order)
    assert results.shape == (4, 1, 2)
    losses = [second.step(x[order[k : k + 16]], y[order[k : k + 16]]) for k in range(0, 50, 16)]
    assert losses == (results[:, 0, 0] / results[:, 0, 1]).tolist()
    assert ss.fingerprint(a) == ss.fingerprint(b)
    with pytest.raises(ValueError, match="not among"):
        first.run(x, y, order, first=2, steps=3)


def test_layout_at_the_first_step_or_before():
    x, y = data()
    late, early, example = net(), net(), net()
    plans = [
        ss.compile(late, optimizer=optim.SGD(0.1)),
        ss.compile(early, optimizer=optim.SGD(0.1), batch_size=40, input_shape=(6,)),
        ss.compile(example, optimizer=optim.SGD(0.1), batch_size=40, example=x[:1]),
    ]
    with pytest.raises(RuntimeError, match="laid out"):
        plans[0].explain()
    assert "linear" in str(plans[1].explain())
    assert len({plan.step(x, y) for plan in plans}) == 1
    assert len({ss.fingerprint(item) for item in (late, early, example)}) == 1
    assert plans[0].batch_size == 40


def test_lanes_at_once_and_threads_change_no_bit():
    x, y = data(64)
    prints = set()
    for options in ({}, {"lanes_at_once": 1}, {"lanes_at_once": 2, "threads": 2}, {"threads": 1}):
        module = net()
        plan = ss.compile(module, optimizer=optim.Adam(0.01), batch_size=64, lanes=8, **options)
        for _ in range(5):
            plan.step(x, y)
        prints.add(ss.fingerprint(module))
    assert len(prints) == 1


def test_sample_weights():
    x, y = data(30)
    keep = np.arange(30) % 3 != 0
    a, b = net(), net()
    weighted = ss.compile(a, optimizer=optim.SGD(0.1), batch_size=30)
    fewer = ss.compile(b, optimizer=optim.SGD(0.1), batch_size=30)
    assert weighted.step(x, y, keep.astype(np.float64)) == pytest.approx(fewer.step(x[keep], y[keep]), rel=1e-6)
    np.testing.assert_allclose(a[0].weight, b[0].weight, rtol=1e-4, atol=1e-6)
    assert weighted.evaluate(x, y, sample_weight=keep)["loss"] == pytest.approx(
        fewer.evaluate(x[keep], y[keep])["loss"], rel=1e-4
    )
    assert weighted.step(x, y) > 0  # without weights again
    with pytest.raises(ValueError, match="weight"):
        weighted.step(x, y, -np.ones(30))
    with pytest.raises(ValueError, match="sample_weight has 29 samples"):
        weighted.step(x, y, np.ones(29))


def test_soft_targets():
    x, _ = data(20)
    chances = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    plan = ss.compile(net(), optimizer=optim.SGD(0.1), batch_size=20)
    assert plan.step(x, chances) > plan.step(x, chances)


def test_evaluate_and_predict():
    x, y = data(45)
    module = net()
    plan = ss.compile(module, optimizer=optim.SGD(0.1), batch_size=16, metrics=["accuracy"])
    scores = plan.predict(x)
    assert scores.shape == (45, 3) and plan.predict(x[:0]).shape == (0, 3)
    np.testing.assert_allclose(module.eval()(x), scores, rtol=1e-5, atol=1e-6)
    result = plan.evaluate(x, y)
    assert result["accuracy"] == pytest.approx((scores.argmax(1) == y).mean(), abs=1e-9)
    assert result["loss"] == pytest.approx(nn.CrossEntropyLoss()(scores, y), rel=1e-5)
    assert plan.evaluate(x, y, batch_size=45)["loss"] == pytest.approx(result["loss"], rel=1e-6)
    before = ss.fingerprint(module)
    plan.evaluate(x, y), plan.predict(x)
    assert ss.fingerprint(module) == before and plan.step_count == 0
    with pytest.raises(ValueError, match="no samples"):
        plan.evaluate(x[:0], y[:0])


def test_the_learning_rate_can_change():
    x, y = data()
    module = net()
    optimizer = optim.SGD(0.5, momentum=0.5)
    plan = ss.compile(module, optimizer=optimizer, batch_size=40)
    plan.step(x, y)
    optimizer.lr = 0.0
    before = ss.fingerprint(module)
    plan.step(x, y)
    assert ss.fingerprint(module) == before
    optimizer.lr = 0.1
    plan.step(x, y)
    assert ss.fingerprint(module) != before


def test_a_second_compilation_takes_the_parameters():
    x, y = data()
    module = net()
    old = ss.compile(module, optimizer=optim.SGD(0.1), batch_size=40)
    old.step(x, y)
    before = ss.fingerprint(module)
    view = module[0].weight.data
    new = ss.compile(module, optimizer=optim.SGD(0.1), batch_size=40)
    new.evaluate(x, y)
    assert ss.fingerprint(module) == before
    with pytest.raises(RuntimeError, match="compiled again"):
        old.step(x, y)
    del old
    assert np.isfinite(view).all()  # the view keeps its memory
    new.step(x, y)


def test_assignment_reaches_the_compiled_network():
    x, y = data()
    module = net()
    plan = ss.compile(module, optimizer=optim.SGD(0.0), batch_size=40)
    plan.step(x, y)
    for parameter in module.parameters():
        parameter.data = np.zeros(parameter.shape)
    assert plan.step(x, y) == pytest.approx(np.log(3), rel=1e-6)
    module[2].bias[0] = 50.0
    assert (plan.predict(x).argmax(1) == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        module[0].weight.data[...] = 1


def test_fixed_parameters_stay():
    x, y = data()
    module = net()
    module[0].requires_grad_(False)
    plan = ss.compile(module, optimizer=optim.SGD(0.5), batch_size=40)
    before = module.state_dict()
    plan.step(x, y)
    after = module.state_dict()
    assert (before["0.weight"] == after["0.weight"]).all() and not (before["2.weight"] == after["2.weight"]).all()
    assert list(plan.gradients) == ["2.weight", "2.bias"]


def test_batch_counters():
    x, y = data()
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    plan = ss.compile(module, optimizer=optim.SGD(0.1), batch_size=40)
    for _ in range(3):
        plan.step(x, y)
    assert module.state_dict()["1.num_batches_tracked"] == 3
    module[1].num_batches_tracked.data = np.int64(10)
    plan.step(x, y)
    assert module.state_dict()["1.num_batches_tracked"] == 11
    twin = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    twin.load_state_dict(module.state_dict())
    assert twin[1].num_batches_tracked.data == 11


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ss.compile(3), TypeError, "net"),
        (lambda: ss.compile(net(), "crossentropy"), ValueError, "crossentropy"),
        (lambda: ss.compile(net(), optimizer="tiger"), ValueError, "tiger"),
        (lambda: ss.compile(net(), optimizer=3), TypeError, "optimizer"),
        (lambda: ss.compile(net(), batch_size=0), ValueError, "batch_size"),
        (lambda: ss.compile(net(), batch_size=2.5), TypeError, "batch_size"),
        (lambda: ss.compile(net(), metrics=["f7"]), ValueError, "f7"),
        (lambda: ss.compile(net(), "mse", metrics=["accuracy"]), ValueError, "accuracy"),
        (lambda: ss.compile(net(), backend="cuda"), ValueError, "backend"),
        (lambda: ss.compile(net(), threads=0), ValueError, "threads"),
        (lambda: ss.compile(net(), seed=-1), ValueError, "seed"),
        (lambda: ss.compile(net(), batch_size=8, lanes_at_once=3, input_shape=(6,)), ValueError, "lanes_at_once"),
        (lambda: ss.compile(net(), batch_size=8, input_shape=(7,)), ValueError, "layer '0'"),
        (lambda: ss.compile(net(), comm=3), TypeError, "comm"),
        (lambda: optim.SGD(lr=-1), ValueError, "lr"),
        (lambda: optim.SGD(lr="fast"), TypeError, "lr"),
        (lambda: optim.SGD(nesterov=True), ValueError, "nesterov"),
        (lambda: optim.Adam(betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda: optim.Adam(betas=0.9), TypeError, "betas"),
        (lambda: optim.AdamW(eps=float("nan")), ValueError, "eps"),
        (lambda: setattr(optim.Adam(), "momentum", 1), AttributeError, "momentum"),
    ],
)
def test_arguments_are_checked(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_optimizers_show_themselves():
    assert repr(optim.Adam(0.01)) == "Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False)"
    assert optim.AdamW().weight_decay == 0.01 and optim.Adam() == optim.Adam() != optim.AdamW()


def test_batches_of_other_sizes():
    x, y = data(40)
    plan = ss.compile(net(), optimizer=optim.SGD(0.1), batch_size=16)
    plan.step(x[:16], y[:16]), plan.step(x[:1], y[:1])
    with pytest.raises(ValueError, match="17 samples"):
        plan.step(x[:17], y[:17])
    assert plan.rows() == (0, 16) and plan.rows(5) == (0, 5)
    plan.step(x[:16], y[:16], local=True)
    with pytest.raises(ValueError, match="local=True"):
        plan.step(x[:15], y[:15], local=True)


def test_explain():
    x, y = data()
    plan = ss.compile(net(), optimizer=optim.SGD(0.1), batch_size=40, input_shape=(6,))
    text = str(plan.explain())
    assert "backward" in text and "lanes" in text and "ms" not in text.split("\n")[0].split()
    plan.explain(analyze=True)
    for _ in range(3):
        plan.step(x, y)
    shown = plan.explain(analyze=True)
    assert "ms" in str(shown).split("\n")[0] and "<table>" in shown._repr_html_()
    assert any(item.get("calls") for item in shown.data["instructions"])


def test_no_allocation_after_the_first_steps():
    from samestep import _core

    x, y = data()
    plan = ss.compile(net(), optimizer=optim.Adam(0.1), batch_size=40)
    plan.step(x, y), plan.step(x, y)
    before = _core.alloc_count()
    for _ in range(10):
        plan.step(x, y)
    assert _core.alloc_count() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_no_allocation_in_many_steps(threads):
    """Also with the loader thread, which gathers batches of 1 MiB and more, and in evaluation."""
    from samestep import _core

    x = np.random.default_rng(0).normal(size=(700, 1800)).astype(np.float32)
    y, order = np.arange(700) % 3, np.random.default_rng(1).permutation(700)
    plan = ss.compile(
        nn.Linear(1800, 3), optimizer=optim.Adam(0.1), batch_size=150, threads=threads, metrics="accuracy"
    )

    def work():
        plan.run(x, y, order)
        plan.evaluate(x, y)

    work(), work()
    before = _core.alloc_count()
    plan.run(x, y, order, steps=1)
    one = _core.alloc_count() - before
    before = _core.alloc_count()
    plan.run(x, y, order)
    assert _core.alloc_count() - before == one, "memory is allocated by the step"
    assert one <= 2, "a call allocates no more than its loader"
    before = _core.alloc_count()
    plan.evaluate(x, y)
    assert _core.alloc_count() - before <= one


def test_a_step_remembers_what_it_has_checked():
    """The second step on arrays of the same kind skips the checks: other kinds are checked still, settings still count."""
    x, y = np.ones((6, 4), np.float32), np.arange(6) % 3

    def three_steps(second, third, wrap=lambda optimizer: optimizer):
        ss.manual_seed(0)
        groups = [{"params": "*bias", "lr": 0.2}]
        plan = ss.compile(nn.Linear(4, 3), optimizer=wrap(optim.SGD(0.1, groups=groups)), batch_size=6)
        plan.step(x, y)
        second(plan), plan.step(x, y)
        third(plan), plan.step(x, y)
        return plan

    def none(plan):
        pass

    def slower(plan):
        plan.optimizer.lr = 0.01

    def slower_bias(plan):
        plan.optimizer.groups[0].lr = 0.01

    def bad(plan):
        for wrong_x, wrong_y, error in (
            (x[:, :3], y, ValueError),
            (x.astype(complex), y, TypeError),
            (x, y.astype(np.float32), TypeError),
            (x, y[:5], ValueError),
            (x[:, ::-1][:, :3], y, ValueError),
            (np.ones((7, 4), np.float32), np.zeros(7, int), ValueError),
            (x, y + 3, ValueError),
        ):
            with pytest.raises(error):
                plan.step(wrong_x, wrong_y)

    plain = three_steps(none, none)
    assert ss.fingerprint(three_steps(bad, bad).net) == ss.fingerprint(plain.net)
    prints = {
        ss.fingerprint(three_steps(*ways).net)
        for ways in ((slower, none), (none, slower), (slower_bias, none), (none, slower_bias))
    }
    assert len(prints | {ss.fingerprint(plain.net)}) == 5
    wrapped = {
        ss.fingerprint(three_steps(*ways, optim.Lookahead).net)
        for ways in ((none, none), (slower, none), (none, slower), (slower_bias, none), (none, slower_bias))
    }
    assert len(wrapped) == 5, "settings that are assigned through Lookahead count too"
    a = np.arange(24, dtype=np.float32).reshape(4, 6).T
    assert plain.evaluate(a, y)["loss"] == plain.step(a, y)


def test_threads_default(monkeypatch):
    monkeypatch.setenv("SAMESTEP_THREADS", "3")
    assert ss.compile(net()).threads == 3
    monkeypatch.setenv("SAMESTEP_THREADS", "none")
    with pytest.raises(ValueError, match="SAMESTEP_THREADS"):
        ss.compile(net())
