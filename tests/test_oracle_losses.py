"""Losses against PyTorch: values and gradients of predictions, with weights of samples, in both precisions."""

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
pytestmark = pytest.mark.oracle

TOLERANCE = {
    "l1_loss": 2e-6, "huber_loss": 2e-6, "smooth_l1_loss": 2e-6, "bce_loss": 4e-6, "bce_with_logits": 2e-6, "kl_div": 4e-6,
    "hinge_embedding": 2e-6, "soft_margin": 2e-6, "poisson_nll": 4e-6, "nll_loss": 2e-6, "multi_margin": 2e-6, "mean_loss": 4e-6,
}  # fmt: skip
cases = Cases(
    {**TOLERANCE, "confusion": 0.0, "top_k_accuracy": 0.0}, elsewhere=[*TOLERANCE, "confusion", "top_k_accuracy"]
)

A, T = np.ones((4, 3)), np.ones((4, 2))
GRID, OTHER = oracle.grid, lambda shape: oracle.grid(shape, 12345)


def inside(x):
    """(0, 1)."""
    return (x + 2.1) / 4.2


def counts(shape):
    return np.abs(OTHER(shape)).round()


def rates(shape):
    return np.abs(GRID(shape)) + 0.1


def signs(shape):
    return np.where(OTHER(shape) > 0, 1, -1).astype(np.float32)


POINTWISE: list[tuple[str, Any, Any, Any, Any]] = [
    ("l1_loss", nn.L1Loss(), TF.l1_loss, GRID, OTHER),
    ("huber_loss", nn.HuberLoss(delta=0.7), lambda x, t, **o: TF.huber_loss(x, t, delta=0.7, **o), GRID, OTHER),
    ("smooth_l1_loss", nn.SmoothL1Loss(beta=0.6), lambda x, t, **o: TF.smooth_l1_loss(x, t, beta=0.6, **o), GRID, OTHER),
    ("smooth_l1_loss", nn.SmoothL1Loss(beta=0), lambda x, t, **o: TF.smooth_l1_loss(x, t, beta=0.0, **o), GRID, OTHER),
    ("bce_loss", nn.BCELoss(), TF.binary_cross_entropy, lambda s: inside(GRID(s)), lambda s: inside(OTHER(s))),
    ("bce_with_logits", nn.BCEWithLogitsLoss(), TF.binary_cross_entropy_with_logits, lambda s: 9 * GRID(s), lambda s: inside(OTHER(s))),
    ("kl_div", nn.KLDivLoss(), TF.kl_div, GRID, lambda s: inside(OTHER(s))),
    ("kl_div", nn.KLDivLoss(log_target=True), lambda x, t, **o: TF.kl_div(x, t, log_target=True, **o), GRID, OTHER),
    ("hinge_embedding", nn.HingeEmbeddingLoss(0.8), lambda x, t, **o: TF.hinge_embedding_loss(x, t, 0.8, **o), GRID, signs),
    ("soft_margin", nn.SoftMarginLoss(), TF.soft_margin_loss, lambda s: 5 * GRID(s), signs),
    ("poisson_nll", nn.PoissonNLLLoss(), TF.poisson_nll_loss, GRID, counts),
    ("poisson_nll", nn.PoissonNLLLoss(False), lambda x, t, **o: TF.poisson_nll_loss(x, t, False, **o), rates, counts),
]  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
@pytest.mark.parametrize("shape", [(9,), (9, 5), (7, 3, 6, 4), (33, 300)])
@pytest.mark.parametrize("number", range(len(POINTWISE)), ids=[f"{item[0]}-{n}" for n, item in enumerate(POINTWISE)])
def test_pointwise(number, shape, reduction, weighted) -> None:
    op, loss, theirs, make, make_target = POINTWISE[number]
    if reduction not in loss._reductions:
        pytest.skip("only KLDivLoss has it")
    loss.reduction = reduction
    x, target = make(shape).astype(np.float32), make_target(shape).astype(np.float32)
    weights = np.abs(oracle.grid((shape[0],), 80)) if weighted else None
    found = oracle.probe(nn.Identity(), [x], loss, target, weights=weights)
    evaluated = found["plan"].evaluate(np.eye(len(x), dtype=np.float32), target, sample_weight=weights)["loss"]
    assert op in found["operators"]
    for dtype in (torch.float32, torch.float64):
        given = torch.tensor(x, dtype=dtype, requires_grad=True)
        each = theirs(given, torch.tensor(target, dtype=dtype), reduction="none")
        w = torch.ones(len(x), dtype=dtype) if weights is None else torch.tensor(weights, dtype=dtype)
        expected = (each * w.reshape(-1, *[1] * (each.ndim - 1))).sum()
        if reduction != "sum":
            expected = expected / (w.sum() * (each.numel() // len(each) if reduction == "mean" else 1))
        expected.backward()
        errors = [
            oracle.distance(found["input0"], given.grad),
            oracle.distance(found["loss"], expected.detach()),
            oracle.distance(evaluated, expected.detach()),
        ]
        assert max(errors) <= TOLERANCE[op], (dtype, errors)


@pytest.mark.parametrize("shape", [(9, 5), (4, 3, 5)])
def test_pos_weight(shape) -> None:
    factors = np.linspace(0.5, 3, 5).astype(np.float32)
    x, target = 6 * oracle.grid(shape), (OTHER(shape) > 0).astype(np.float32)
    found = oracle.probe(nn.Identity(), [x], nn.BCEWithLogitsLoss(pos_weight=factors), target)
    given = torch.tensor(x, requires_grad=True)
    expected = TF.binary_cross_entropy_with_logits(given, torch.tensor(target), pos_weight=torch.tensor(factors))
    expected.backward()
    assert (
        oracle.distance(found["input0"], given.grad) <= 2e-6
        and oracle.distance(found["loss"], expected.detach()) <= 2e-6
    )


OF_CLASSES = [
    ("nll_loss", {}, nn.NLLLoss, TF.nll_loss),
    ("multi_margin", {}, nn.MultiMarginLoss, TF.multi_margin_loss),
    ("multi_margin", {"p": 2, "margin": 0.6}, nn.MultiMarginLoss, TF.multi_margin_loss),
]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("class_weights", [False, True])
@pytest.mark.parametrize("number", range(len(OF_CLASSES)))
def test_of_classes(number, class_weights, reduction) -> None:
    op, options, ours, theirs = OF_CLASSES[number]
    x, labels = oracle.grid((23, 6)), oracle.labels(23, 6)
    weight = np.linspace(0.2, 2, 6).astype(np.float32) if class_weights else None
    found = oracle.probe(nn.Identity(), [x], ours(weight=weight, reduction=reduction, **options), labels)
    assert op in found["operators"]
    for dtype in (torch.float32, torch.float64):
        given = torch.tensor(x, dtype=dtype, requires_grad=True)
        w = None if weight is None else torch.tensor(weight, dtype=dtype)
        expected = theirs(given, torch.tensor(labels), weight=w, reduction=reduction, **options)
        expected.backward()
        assert oracle.distance(found["input0"], given.grad) <= TOLERANCE[op]
        assert oracle.distance(found["loss"], expected.detach()) <= TOLERANCE[op]


def test_nll_of_log_softmax_is_cross_entropy() -> None:
    x, labels = oracle.grid((23, 6, 4)), oracle.labels(92, 6).reshape(23, 4)
    found = oracle.probe(nn.LogSoftmax(1), [x], nn.NLLLoss(ignore_index=2), labels)
    other = oracle.probe(nn.Identity(), [x], nn.CrossEntropyLoss(ignore_index=2), labels)
    assert found["loss"] == pytest.approx(other["loss"], rel=1e-6)
    np.testing.assert_allclose(found["input0"], other["input0"], rtol=1e-4, atol=1e-8)


def test_any_function_of_tensors_is_a_loss() -> None:
    x, target = oracle.grid((23, 6)), OTHER((23, 6))
    weights = np.abs(oracle.grid((23,), 80))
    found = oracle.probe(nn.Identity(), [x], lambda o, t: (o - t).abs() ** 1.5 + o * o, target, weights=weights)
    given = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    each = (given - torch.tensor(target)).abs() ** 1.5 + given * given
    w = torch.tensor(weights, dtype=torch.float64)[:, None]
    expected = (each * w).sum() / (w.sum() * 6)
    expected.backward()
    assert (
        oracle.distance(found["input0"], given.grad) <= 4e-6
        and oracle.distance(found["loss"], expected.detach()) <= 4e-6
    )


def test_a_target_may_be_computed() -> None:
    """Elementwise losses take a target that other layers make: both sides receive a gradient."""

    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x):
            return self.a(x) - self.b(x)

    plan = ss.compile(Siamese(), lambda o, t: o.square(), optim.SGD(0.1), 8)
    x = oracle.grid((8, 5))
    assert plan.step(x, np.zeros((8, 3))) > plan.step(x, np.zeros((8, 3)))


def test_on_arrays() -> None:
    x, t = oracle.grid((7, 3)), OTHER((7, 3))
    assert F.l1_loss(x, t) == pytest.approx(float(np.abs(x - t).mean()), rel=1e-6)
    assert F.huber_loss(x, t, "sum", 0.5) == pytest.approx(
        TF.huber_loss(torch.tensor(x), torch.tensor(t), "sum", delta=0.5).item(), rel=1e-5
    )
    assert F.nll_loss(x, [0, 1, 2, 0, 1, 2, 0]) == pytest.approx(
        -x[np.arange(7), [0, 1, 2, 0, 1, 2, 0]].mean(), rel=1e-6
    )


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.L1Loss("none"), ValueError, "reduction"),
        (lambda: nn.HuberLoss(delta=0), ValueError, "delta"),
        (lambda: nn.MultiMarginLoss(p=3), ValueError, "p must"),
        (lambda: nn.NLLLoss(weight=[-1, 1]), ValueError, "weight"),
        (lambda: nn.BCEWithLogitsLoss(pos_weight=[np.nan]), ValueError, "pos_weight"),
        (lambda: ss.compile(nn.Linear(3, 2), "l3"), ValueError, "l3"),
        (lambda: ss.compile(nn.Linear(3, 2), nn.BCEWithLogitsLoss("mean", [1, 2, 3]), batch_size=4).step(A, T), ValueError, "pos_weight"),
        (lambda: ss.compile(nn.Linear(3, 2), lambda o, t: 3, batch_size=4).step(A, T), TypeError, "tensor of terms"),
        (lambda: ss.compile(nn.Linear(3, 2), "nll", batch_size=4).step(A, [0, 1, 2, 0]), ValueError, "label of sample 2"),
    ],
)  # fmt: skip
def test_errors(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(("shape", "axis"), [((29, 6), 1), ((9, 6, 5), 1), ((9, 5, 6), -1)])
def test_counts_against_torch(shape, axis) -> None:
    scores = oracle.grid(shape) + oracle.grid(shape, 31) / np.float32(4099)  # no two are equal
    labels = oracle.labels(scores.size // 6, 6).reshape(np.delete(shape, axis))
    loss = nn.CrossEntropyLoss(axis=axis, ignore_index=2)
    found = oracle.probe(nn.Identity(), [scores], loss, labels, metrics=["top3_accuracy", "confusion_matrix"])
    assert {"top_k_accuracy", "confusion"} <= found["operators"]
    rows = torch.tensor(scores).movedim(axis, -1).reshape(-1, 6)
    target = torch.tensor(labels).reshape(-1)
    kept = target != 2
    among = (rows.topk(3).indices == target[:, None]).any(1)[kept].double().mean().item()
    counts = torch.bincount(target[kept] * 6 + rows.argmax(1)[kept], minlength=36).reshape(6, 6)
    assert found["metrics"]["top3_accuracy"] == pytest.approx(among, rel=1e-6)
    assert np.array_equal(found["metrics"]["confusion_matrix"], counts.numpy())
