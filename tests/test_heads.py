"""Networks with several inputs, outputs and losses."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import nn, optim

A, B = oracle.grid((24, 5)), oracle.grid((24, 3), 1000)
LABELS, VALUES = oracle.labels(24, 4), oracle.grid((24, 2), 2000)


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self, named: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(3, 6)
        self.scores, self.values = nn.Linear(6, 4), nn.Linear(6, 2)
        self.named = named

    def forward(self, left, right):
        x = (self.a(left) + self.b(right)).tanh()
        scores, values = self.scores(x), self.values(x)
        return {"scores": scores, "values": values} if self.named else (scores, values)


def net(named: bool = True) -> Two:
    ss.manual_seed(3)
    return Two(named)


LOSS = {"scores": "cross_entropy", "values": "mse"}


def test_inputs_by_position_and_by_name_and_outputs_by_name_and_number() -> None:
    results = []
    for named, x, y in [
        (True, (A, B), {"scores": LABELS, "values": VALUES}),
        (True, {"left": A, "right": B}, {"values": VALUES, "scores": LABELS}),
        (True, {"right": B, "left": A}, {"scores": LABELS, "values": VALUES}),
        (False, (A, B), (LABELS, VALUES)),
    ]:
        module = net(named)
        plan = ss.compile(module, LOSS if named else ("cross_entropy", "mse"), optim.SGD(0.1), 24)
        losses = [plan.step(x, y) for _ in range(3)]
        parts = ("loss_scores", "loss_values") if named else ("loss_0", "loss_1")
        assert plan.results["loss"] == pytest.approx(sum(plan.results[name] for name in parts), rel=1e-12)
        results.append((losses, ss.fingerprint(module)))
        output = plan.predict(x)
        first = output["scores"] if named else output[0]
        assert first.shape == (24, 4) and len(output) == 2
        assert np.array_equal(first, module.eval()(A, B)["scores" if named else 0])
    assert results[0] == results[1] == results[2] == results[3]


def test_weights_of_losses_scale_gradients() -> None:
    gradients = {}
    for weights in ({"scores": 1.0, "values": 0.0}, {"scores": 0.0, "values": 1.0}, {"scores": 0.5, "values": 2.0}):
        module = net()
        plan = ss.compile(module, LOSS, optim.SGD(0.0), 24, loss_weights=weights)
        plan.step((A, B), {"scores": LABELS, "values": VALUES})
        gradients[tuple(weights.values())] = {
            name: value.copy() for name, value in plan.gradients.items() if "." in name
        }
        wanted = weights["scores"] * plan.results["loss_scores"] + weights["values"] * plan.results["loss_values"]
        assert plan.results["loss"] == pytest.approx(wanted, rel=1e-12)
    assert not gradients[1.0, 0.0].get("values.weight", np.zeros(1)).any()
    for name in ("a.weight", "b.bias"):
        mixed = 0.5 * gradients[1.0, 0.0][name] + 2 * gradients[0.0, 1.0][name]
        np.testing.assert_allclose(gradients[0.5, 2.0][name], mixed, rtol=1e-5, atol=1e-8)


def test_a_single_loss_with_its_weight_is_scaled_exactly() -> None:
    plain, double = net(False), net(False)
    one = ss.compile(plain, ("cross_entropy", None), optim.SGD(0.2), 24)
    two = ss.compile(double, ("cross_entropy", None), optim.SGD(0.1), 24, loss_weights=(2.0, 1.0))
    for _ in range(3):
        assert two.step((A, B), (LABELS,)) == 2 * one.step((A, B), (LABELS,))
    assert ss.fingerprint(plain) == ss.fingerprint(double)


def test_trainer_with_several_heads(tmp_path) -> None:
    def trainer(module):
        return ss.Trainer(
            module,
            LOSS,
            optim.Adam(0.01),
            metrics={"scores": ["accuracy"]},
            loss_weights={"values": 0.5},
            checkpoint=tmp_path / "run.safetensors",
        )

    module = net()
    first = trainer(module)
    x, y = (A, B), {"scores": LABELS, "values": VALUES}
    history = first.fit(x, y, epochs=2, batch_size=10, validation=(x, y), verbose=False)
    for name in ("loss", "loss_scores", "loss_values", "accuracy_scores", "val_accuracy_scores", "val_loss"):
        assert len(history[name]) == 2 and np.isfinite(history[name]).all()
    again = net()
    trainer(again).fit(x, y, epochs=4, batch_size=10, validation=(x, y), verbose=False, resume=True)
    first.fit(x, y, epochs=2, batch_size=10, validation=(x, y), verbose=False)
    assert ss.fingerprint(again) == ss.fingerprint(module)


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (lambda: ss.compile(net(), "mse", batch_size=24).step((A, B), VALUES), ValueError, "2 outputs"),
        (
            lambda: ss.compile(net(), {"score": "mse"}, batch_size=24).step((A, B), {"score": VALUES}),
            ValueError,
            "'score'",
        ),
        (lambda: ss.compile(net(), LOSS, loss_weights={"wrong": 1}), ValueError, "wrong"),
        (lambda: ss.compile(net(), LOSS, loss_weights=[1]), ValueError, "loss_weights"),
        (lambda: ss.compile(net(), LOSS, loss_weights=[1, "2"]), TypeError, "loss_weights"),
        (lambda: ss.compile(net(), LOSS, loss_weights=[1, float("nan")]), ValueError, "loss_weights"),
        (lambda: ss.compile(net(), (None, None)), ValueError, "loss"),
        (
            lambda: ss.compile(net(), LOSS).step((A, B[:5]), {"scores": LABELS, "values": VALUES}),
            ValueError,
            "5 samples",
        ),
        (lambda: ss.compile(net(), LOSS).step((A, B), {"scores": LABELS}), ValueError, "scores"),
        (
            lambda: ss.compile(net(), LOSS).step((A, B), {"scores": LABELS, "values": VALUES[:, :1]}),
            ValueError,
            "values",
        ),
        (lambda: ss.compile(net(), LOSS).step({"left": A}, {"scores": LABELS, "values": VALUES}), TypeError, "right"),
    ],
)
def test_errors(run, error, text) -> None:
    with pytest.raises(error, match=text):
        run()


def test_what_does_not_fit_a_laid_out_plan_is_refused_and_the_plan_goes_on() -> None:
    plan = ss.compile(net(), LOSS, optim.SGD(0.1), 24, input_shape={"left": (5,), "right": (3,)})
    y = {"scores": LABELS, "values": VALUES}
    for x in ((A,), (A, B, B), (B, A), {"left": A, "wrong": B}):
        with pytest.raises(ValueError):
            plan.step(x, y)
    assert np.isfinite(plan.step({"left": A, "right": B}, y))
    assert plan.input_shape == {"left": (5,), "right": (3,)}
