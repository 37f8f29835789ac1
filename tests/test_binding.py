"""samestep._core against hostile arguments: every wrong size, number and array is an exception, and nothing is leaked."""

from __future__ import annotations

import gc
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from samestep import _core

ROWS = 20


def new_graph() -> _core.Graph:
    graph = _core.Graph()
    x, y = graph.input("x", (3,)), graph.input("y", (), "int32")
    weight = graph.parameter("w", (4, 3))
    logits = graph.node("linear", [x, weight], {}, "fc")
    graph.output(logits)
    graph.output(y)
    graph.result(graph.node("cross_entropy", [logits, y], {}, "loss"), "loss")
    return graph


def new_plan(**options: Any) -> _core.Plan:
    graph = new_graph()
    model = _core.Model(graph, _core.Comm(single=True), optimizer="sgd", hypers={"lr": 0.1})
    return _core.Plan(model, graph, **{"batch": 8, "training": True, **options})


@pytest.fixture
def plan() -> _core.Plan:
    return new_plan()


X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
Y = np.arange(ROWS) % 4


@pytest.mark.parametrize("shape", [(-1,), (0, 3), (2**62, 2**62), (1,) * 7, (2**70,), ("a",), 5])
def test_shapes(shape: Any) -> None:
    graph = _core.Graph()
    for add in (graph.input, graph.parameter, graph.buffer):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            add("v", shape)
    with pytest.raises(ValueError):
        graph.shape(0)  # nothing was added


def test_huge_parameters_are_a_memory_error() -> None:
    graph = _core.Graph()
    for k in range(20):
        graph.parameter(f"p{k}", (2**20, 2**20))
    with pytest.raises(MemoryError):
        _core.Model(graph, _core.Comm(single=True), optimizer="adam", hypers={})


def test_nodes() -> None:
    graph = new_graph()
    for inputs in ([2**32], [-1], [99], ["a"], 7, [0] * 9):
        with pytest.raises((ValueError, TypeError)):
            graph.node("relu", inputs, {}, "l")
    for attrs in ({"p": float("nan")}, {"p": "a"}, {"q": 1}, {1: 2}, {"p": None}, []):
        with pytest.raises((ValueError, TypeError)):
            graph.node("dropout", [0], attrs, "l")
    with pytest.raises(ValueError, match="loss or metric"):
        graph.node("relu", [graph.node("cross_entropy", [3, 1], {}, "l2")], {}, "after")
    with pytest.raises(ValueError):
        graph.output(2**32)

    class Grows:
        def __float__(self) -> float:
            mapping.update({f"k{k}": 1 for k in range(1000)})
            return 0.5

    mapping: dict[str, Any] = {"p": Grows()}
    with pytest.raises(RuntimeError, match="changed"):
        graph.node("dropout", [0], mapping, "l")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_hypers(plan: _core.Plan, value: float) -> None:
    with pytest.raises(ValueError, match="lr"):
        plan.model.set_hyper("lr", value)
    graph = new_graph()
    with pytest.raises(ValueError, match="lr"):
        _core.Model(graph, _core.Comm(single=True), optimizer="sgd", hypers={"lr": value})
    assert plan.model.hyper("lr") == 0.1


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"batch": -1}, {"batch": 2**31}, {"lanes": 0}, {"lanes": 2**32 + 1}, {"lanes": 1025}]
    + [{"lanes_at_once": 3}, {"lanes_at_once": 2**32}, {"lanes_at_once": -1}],
)
def test_plans(options: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        new_plan(**options)


def test_a_failed_plan_leaves_the_graph_open() -> None:
    graph = new_graph()
    model = _core.Model(graph, _core.Comm(single=True))
    other = new_graph()
    with pytest.raises(ValueError, match="cannot train"):
        _core.Plan(model, other, batch=8, training=True)
    other.input("late", (1,))
    with pytest.raises(RuntimeError, match="compiled"):
        graph.input("late", (1,))


@pytest.mark.parametrize("order", [[0, ROWS], [-1, 0], [2**40, 1]])
def test_order_out_of_range(plan: _core.Plan, order: list[int]) -> None:
    before = plan.model.fingerprint()
    with pytest.raises(ValueError, match="outside the 20 rows"):
        plan.run([X, Y], order=order, batch=2, first=0, steps=1)
    assert plan.model.fingerprint() == before


@pytest.mark.parametrize("order", [[0.5], [[0, 1]], ["a"], [0, None]])
def test_order_of_another_kind(plan: _core.Plan, order: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        plan.run([X, Y], order=order, batch=2, first=0, steps=1)


@pytest.mark.parametrize(
    "run",
    [
        {"batch": 4, "first": 4, "steps": 2},
        {"batch": 4, "first": -1, "steps": 1},
        {"batch": 4, "first": 0, "steps": -2},
        {"batch": 0, "first": 0, "steps": 1},
        {"batch": 9, "first": 0, "steps": 1},
        {"batch": 4, "first": 2**62, "steps": 2**62},
        {"batch": 4, "first": 0, "steps": 2**62},
    ],
)
def test_runs(plan: _core.Plan, run: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        plan.run([X, Y], order=None, **run)


def test_rows_without_end(plan: _core.Plan) -> None:
    x, y = np.broadcast_to(X[0].astype("i1"), (2**60, 3)), np.broadcast_to(Y[0].astype("i1"), (2**60,))
    assert plan.run([x, y], order=None, batch=8, first=2**57 - 1, steps=1).shape == (1, 1, 2)
    with pytest.raises(ValueError):
        plan.run([x, y], order=None, batch=8, first=2**57, steps=1)
    with pytest.raises(ValueError):
        plan.rows(2**62)


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ([X], ValueError),
        ([X, Y, Y], ValueError),
        ([X, Y.astype("float32")], TypeError),
        ([X.astype(complex), Y], TypeError),
        ([X.astype(object), Y], TypeError),
        ([X[:, :2], Y], ValueError),
        ([X, Y[:5]], ValueError),
        ([X, Y + 2**40], ValueError),
        ([X[:0], Y[:0]], ValueError),
        ([np.zeros(ROWS, [("a", "f4", 3)]), Y], TypeError),
        (None, TypeError),
        ([None, None], (TypeError, ValueError)),
    ],
)
def test_arrays(plan: _core.Plan, arrays: Any, error: Any) -> None:
    before = plan.model.fingerprint()
    with pytest.raises(error):
        plan.run(arrays, order=None, batch=4, first=0, steps=1)
    with pytest.raises(error):
        plan.step(arrays)
    with pytest.raises(error):
        plan.forward(arrays)
    assert plan.model.fingerprint() == before


def test_arrays_of_every_layout(plan: _core.Plan) -> None:
    """The same numbers, however they lie in memory, give the same sums."""
    rows = 8
    x, y = X[:rows], Y[:rows]
    wanted = plan.step([x, y], update=False)
    for same in (np.asfortranarray(x), x.astype(">f4"), x.astype("f8"), np.repeat(x, 2, 0)[::2], x[::-1].copy()[::-1]):
        assert (plan.step([same, y], update=False) == wanted).all()
    for kind in ("i1", "u1", ">i2", "u4", "i8", "u8"):
        assert (plan.step([x, y.astype(kind)], update=False) == wanted).all()


def test_a_list_that_changes_while_it_is_read(plan: _core.Plan) -> None:
    class Clears:
        def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
            arrays.clear()
            gc.collect()
            return X[:8]

    arrays: list[Any] = [Clears(), Y[:8].copy()]
    assert plan.step(arrays).shape == (1, 2)


def test_whole_numbers_come_back_whole(plan: _core.Plan) -> None:
    logits, labels = plan.forward([X[:8], Y[:8]])
    assert logits.dtype == np.float32 and labels.dtype == np.int32 and (labels == Y[:8]).all()


def test_parts(plan: _core.Plan) -> None:
    with pytest.raises(ValueError, match="batch="):
        plan.step([X[:8], Y[:8]], local=True)
    with pytest.raises(ValueError, match="this rank's part"):
        plan.step([X[:8], Y[:8]], local=True, batch=7)
    with pytest.raises(ValueError):
        plan.step([X[:8], Y[:8]], local=True, batch=2**60)
    with pytest.raises(ValueError, match="this rank's part"):
        plan.step([X[:0], Y[:0]], local=True, batch=8)


def test_views_keep_their_owners() -> None:
    plan = new_plan()
    plan.step([X[:8], Y[:8]])
    weight, gradient = plan.model.get("w"), plan.gradient("w")
    kept = weight.copy(), gradient.copy()
    del plan
    gc.collect()
    others = [new_plan() for _ in range(5)]
    assert (weight == kept[0]).all() and (gradient == kept[1]).all() and not weight.flags.writeable
    del others


def test_no_reference_is_lost() -> None:
    plan = new_plan()
    x, y, order = X.copy(), Y.copy(), np.arange(ROWS)
    bad = y.astype("float32")
    plan.run([x, y], order=order, batch=4, first=0, steps=5)
    before = [sys.getrefcount(thing) for thing in (x, y, bad, order, plan, plan.model)]
    for _ in range(10):
        plan.run([x, y], order=order, batch=4, first=0, steps=5)
        plan.step([x[:8], y[:8]])
        plan.forward([x[:8], y[:8]])
        for arrays in ([x, bad], [x, y, y], [x, y[:3]]):
            with pytest.raises((ValueError, TypeError)):
                plan.run(arrays, order=order, batch=4, first=0, steps=5)
        with pytest.raises(ValueError):
            plan.run([x, y], order=order, batch=4, first=3, steps=5)
        with pytest.raises(ValueError):
            plan.model.set("w", x)
    del arrays
    after = [sys.getrefcount(thing) for thing in (x, y, bad, order, plan, plan.model)]
    assert after == before


def test_numbers_of_a_model(plan: _core.Plan) -> None:
    for step in (-1, 2**63, 2**64):
        with pytest.raises((ValueError, OverflowError)):
            plan.model.step = step
    with pytest.raises((ValueError, OverflowError)):
        plan.model.seed = 2**64
    plan.model.seed = 2**64 - 1
    assert plan.model.seed == 2**64 - 1 and plan.model.step == 0
    for value in (np.zeros((3, 4)), np.zeros((4, 3), complex), "a", None):
        with pytest.raises((ValueError, TypeError)):
            plan.model.set("w", value)


def test_one_thread_at_a_time() -> None:
    """A second thread that steps or changes the model during a run is told so, or finds it free: never in between."""
    plan = new_plan()
    x, y = np.tile(X, (1000, 1)), np.tile(Y, 1000)
    refused, done = [], threading.Event()

    def disturb() -> None:
        while not done.is_set():
            for call in (lambda: plan.step([X[:8], Y[:8]], update=False), lambda: plan.model.set_hyper("lr", 0.1)):
                try:
                    call()
                except RuntimeError as error:
                    assert "another thread" in str(error)
                    refused.append(error)
                time.sleep(0.0002)

    thread = threading.Thread(target=disturb)
    thread.start()
    runs, deadline = 0, time.monotonic() + 60
    try:
        while (runs < 3 or not refused) and time.monotonic() < deadline:
            try:
                plan.run([x, y], order=None, batch=8, first=0, steps=len(x) // 8)
                runs += 1
            except RuntimeError as error:
                assert "another thread" in str(error)
                time.sleep(0.001)
    finally:
        done.set()
        thread.join()
    assert refused and runs >= 3
