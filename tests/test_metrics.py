"""Metrics against scikit-learn, over batches of unequal size and in any cut."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import metrics, nn

sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")

SCORES, LABELS = oracle.grid((101, 4)), oracle.labels(101, 4)
SCORES[np.arange(0, 101, 2), LABELS[::2]] += 1.5
WEIGHTS = np.abs(oracle.grid((101,), 7)) + 0.1


def measure(loss, names, scores, target, weights=None, **options):
    """evaluate() of the identity, in batches of 32."""
    plan = ss.compile(nn.Sequential(Times()), loss, batch_size=32, metrics=names, **options)
    return plan.evaluate(scores, target, sample_weight=weights)


class Times(nn.Module):
    """x * 1: something to train."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(np.ones(1))

    def forward(self, x):
        return x * self.one


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_classes(weights) -> None:
    names = ["accuracy", "top2_accuracy", "confusion_matrix", "roc_auc", "perplexity", "precision", "recall", "f1"]
    found = measure("cross_entropy", names, SCORES, LABELS, weights)
    said, w = SCORES.argmax(1), weights
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(LABELS, said, sample_weight=w), rel=1e-6)
    assert found["top2_accuracy"] == pytest.approx(
        sk.top_k_accuracy_score(LABELS, SCORES, k=2, sample_weight=w), rel=1e-6
    )
    np.testing.assert_allclose(found["confusion_matrix"], sk.confusion_matrix(LABELS, said, sample_weight=w), rtol=1e-6)
    chances = np.exp(SCORES - SCORES.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    area = np.mean([sk.roc_auc_score(k == LABELS, chances[:, k], sample_weight=w) for k in range(4)])
    assert found["roc_auc"] == pytest.approx(area, rel=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(sk.log_loss(LABELS, chances, sample_weight=w)), rel=1e-5)
    for name, score in [("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)]:
        assert found[name] == pytest.approx(score(LABELS, said, average="macro", sample_weight=w), rel=1e-6)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_averages(average) -> None:
    said = SCORES.argmax(1)
    for kind, score in [
        (metrics.Precision, sk.precision_score),
        (metrics.Recall, sk.recall_score),
        (metrics.F1, sk.f1_score),
    ]:
        found = measure("cross_entropy", [kind(average)], SCORES, LABELS)
        assert found[kind.name] == pytest.approx(score(LABELS, said, average=average), rel=1e-6)


@pytest.mark.parametrize("loss", ["bce_with_logits", "bce"])
def test_binary(loss) -> None:
    scores = SCORES[:, 0] if loss == "bce_with_logits" else (SCORES[:, 0] + 4) / 8
    true, said = (LABELS == 0).astype(int), SCORES[:, 0] > 0
    names = ["accuracy", "precision", "recall", "f1", "roc_auc", "confusion_matrix"]
    found = measure(loss, names, scores[:, None], true[:, None], WEIGHTS)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, said, sample_weight=WEIGHTS), rel=1e-6)
    for name, score in [("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)]:
        assert found[name] == pytest.approx(score(true, said, sample_weight=WEIGHTS), rel=1e-6)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(true, scores, sample_weight=WEIGHTS), rel=1e-6)
    np.testing.assert_allclose(
        found["confusion_matrix"], sk.confusion_matrix(true, said, sample_weight=WEIGHTS), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_regression(weights) -> None:
    y = SCORES + oracle.grid((101, 4), 999) / 2 + 1000
    found = measure("mse", ["mse", "mae", "r2"], SCORES + 1000, y, weights)
    given, y = (SCORES + 1000).astype(np.float32), y.astype(np.float32)
    assert (
        found["mse"] == found["loss"] == pytest.approx(sk.mean_squared_error(y, given, sample_weight=weights), rel=1e-4)
    )
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, given, sample_weight=weights), rel=1e-4)
    assert found["r2"] == pytest.approx(sk.r2_score(y, given, sample_weight=weights), rel=1e-6)


def test_every_sample_counts_once_in_any_cut() -> None:
    kept = [
        measure("cross_entropy", ["confusion_matrix"], SCORES, LABELS, lanes=lanes, threads=threads)["confusion_matrix"]
        for lanes, threads in ((8, 1), (8, 2), (3, 2), (1, 1))
    ]
    assert kept[0].sum() == 101 and all(np.array_equal(kept[0], other) for other in kept)


def test_metrics_do_not_train() -> None:
    prints = set()
    for names in ((), ["mae", "mse"], ["r2"]):
        net = Times()
        plan = ss.compile(net, "huber", batch_size=32, metrics=names)
        plan.step(SCORES[:32], SCORES[:32] * 2)
        assert set(plan.results) == {"loss", *(name for name in names if name != "r2")}
        prints.add(ss.fingerprint(net))
    assert len(prints) == 1


def test_in_training_and_history() -> None:
    trainer = ss.Trainer(nn.Linear(4, 4), metrics=["accuracy", "f1", "confusion_matrix", "roc_auc"])
    history = trainer.fit(SCORES, LABELS, epochs=2, batch_size=32, validation=(SCORES, LABELS), verbose=False)
    assert {"accuracy", "f1", "val_f1", "val_roc_auc"} <= set(history) and "confusion_matrix" not in history


@pytest.mark.parametrize(
    ("loss", "name", "error"),
    [
        ("mse", "accuracy", ValueError), ("mse", "f1", ValueError), ("cross_entropy", "mae", ValueError),
        ("cross_entropy", "r2", ValueError), ("mse", "perplexity", ValueError), ("mse", 3, TypeError), ("mse", "best", ValueError),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_loss(loss, name, error) -> None:
    with pytest.raises(error):
        ss.compile(Times(), loss, metrics=[name])


def test_a_metric_of_ones_own() -> None:
    class Largest(metrics.Metric):
        name = "large"

        def emit(self, trace, output, target, weight, loss):
            return [(trace.emit("mean_loss", [output > 1.0, weight], {}, "large"), "large")]

        def value(self, sums):
            return {"large": float(sums["large"][0][0]) / sums["large"][1]}

    found = measure("mse", [Largest()], SCORES, SCORES)
    assert found["large"] == pytest.approx((SCORES > 1).mean(), rel=1e-6)
