"""Schedules: whole curves against torch.optim.lr_scheduler, and what the trainer makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import nn, optim, schedules

X, Y = oracle.grid((40, 5)), oracle.labels(40, 3)
TIMES = 47

CURVES = [
    ("ConstantLR", {"factor": 0.25, "total_iters": 7}),
    ("StepLR", {"step_size": 6, "gamma": 0.3}),
    ("MultiStepLR", {"milestones": [3, 9, 9, 30], "gamma": 0.5}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 13}),
    ("PolynomialLR", {"total_iters": 20, "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 46, "eta_min": 0.003}),
    ("CosineAnnealingWarmRestarts", {"T_0": 7}),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2, "eta_min": 0.01}),
    ("OneCycleLR", {"max_lr": 0.9, "total_steps": TIMES}),
    ("OneCycleLR", {"max_lr": 0.9, "total_steps": TIMES, "anneal_strategy": "linear", "pct_start": 0.4}),
    (
        "OneCycleLR",
        {"max_lr": 0.9, "total_steps": TIMES, "three_phase": True, "div_factor": 10, "final_div_factor": 50},
    ),
    ("LambdaLR", {"lr_lambda": lambda time: 1 / (1 + time)}),
]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "options"), CURVES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CURVES)]
)
def test_whole_curves_against_torch(name, options) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
    rule = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)
    theirs = getattr(torch.optim.lr_scheduler, name)(rule, **options)
    ours = getattr(schedules, name)(**options)
    curve = ours.curve(0.4, TIMES)
    for time in range(TIMES):
        assert curve[time] == pytest.approx(rule.param_groups[0]["lr"], rel=1e-9, abs=1e-12), time
        if name == "OneCycleLR":
            found = ours.settings({"lr": 0.4, "momentum": 0.9}, time)
            assert found["momentum"] == pytest.approx(rule.param_groups[0]["momentum"], rel=1e-9)
            assert ours.settings({"lr": 0.4, "betas": (0.9, 0.99)}, time)["betas"] == (found["momentum"], 0.99)
        rule.step()
        if time < TIMES - 1:
            theirs.step()


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compositions_against_torch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
    rule = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    of = torch.optim.lr_scheduler
    parts = [of.ConstantLR(rule, 0.5, 4), of.ExponentialLR(rule, 0.9), of.StepLR(rule, 3)]
    theirs = of.SequentialLR(rule, parts, [6, 20])
    ours = schedules.SequentialLR(
        [schedules.ConstantLR(0.5, 4), schedules.ExponentialLR(0.9), schedules.StepLR(3)], [6, 20]
    ).curve(0.4, TIMES)
    for time in range(TIMES):
        assert ours[time] == pytest.approx(rule.param_groups[0]["lr"], rel=1e-9), time
        rule.step()
        theirs.step()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 0, "factor": 0.5, "cooldown": 3, "min_lr": 0.05},
        {"patience": 1, "mode": "max", "threshold": 0.1, "threshold_mode": "abs"},
    ],
)
def test_plateau_against_torch(options) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
    rule = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(rule, **options)
    ours = schedules.ReduceLROnPlateau("val_loss", **options)
    for time in range(TIMES):
        assert ours.rate(0.4, time) == pytest.approx(rule.param_groups[0]["lr"], rel=1e-9), time
        value = 1 + math.sin(time * 0.7) * math.exp(-time / 20)
        theirs.step(value)
        ours.after_epoch({"val_loss": value})
        if time == 20:  # a resumed run goes on from what the checkpoint keeps
            state = ours.state_dict()
            ours = schedules.ReduceLROnPlateau("val_loss", **options)
            ours.load_state_dict(state)


def test_warm_up_of_any_schedule() -> None:
    plain = schedules.WarmUp(5).curve(1.0, 8)
    assert plain == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])
    then = schedules.WarmUp(5, schedules.CosineAnnealingLR(unit="step")).curve(2.0, 25)
    assert then[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert then[5:] == pytest.approx([1 + math.cos(math.pi * k / 20) for k in range(20)])
    steps = schedules.WarmUp(3, schedules.StepLR(1, 0.5))  # the warm-up in steps, the steps in epochs
    steps.prepare(12, 4)
    assert [steps.rate(1.0, time) for time in range(12)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0.5, 0.5] + 4 * [0.25]
    )


def net():
    ss.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def test_the_trainer_follows_the_schedule_step_by_step() -> None:
    module = net()
    schedule = schedules.OneCycleLR(0.5)
    trainer = ss.Trainer(module, optimizer=optim.SGD(0.1, momentum=0.9), schedule=schedule)
    history = trainer.fit(X, Y, epochs=3, batch_size=16, shuffle=False, verbose=False)
    by_hand = net()
    rule = optim.SGD(0.1, momentum=0.9)
    plan = ss.compile(by_hand, optimizer=rule, batch_size=16)
    for time in range(9):
        found = schedule.settings({"lr": 0.1, "momentum": 0.9}, time)
        rule.lr, rule.momentum = found["lr"], found["momentum"]
        part = slice(time % 3 * 16, time % 3 * 16 + 16)
        plan.step(X[part], Y[part])
    assert ss.fingerprint(by_hand) == ss.fingerprint(module)
    assert history["lr"] == pytest.approx([schedule.rate(0, time) for time in (2, 5, 8)])


def test_epochs_and_resume(tmp_path) -> None:
    def run(epochs, resume, module):
        trainer = ss.Trainer(
            module,
            optimizer=optim.Adam(0.01),
            schedule=schedules.ReduceLROnPlateau("loss", patience=0, threshold=0.9, factor=0.5),
            checkpoint=tmp_path / "run.safetensors",
        )
        trainer.fit(X, Y, epochs=epochs, batch_size=16, verbose=False, resume=resume)
        return trainer

    whole = net()
    history = run(6, False, whole).history
    assert history["lr"][0] == 0.01 and history["lr"][-1] < 0.005
    (tmp_path / "run.safetensors").unlink()
    run(3, True, net())
    again = net()
    assert run(6, True, again).history["lr"] == history["lr"]
    assert ss.fingerprint(again) == ss.fingerprint(whole)


def test_a_function_of_the_epoch() -> None:
    history = ss.Trainer(net(), schedule=lambda epoch: 0.5**epoch, optimizer=optim.SGD(0.2)).fit(
        X, Y, epochs=3, verbose=False
    )
    assert history["lr"] == [0.2, 0.1, 0.05]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: schedules.StepLR(0), ValueError, "step_size"),
        (lambda: schedules.StepLR(1.5), TypeError, "step_size"),
        (lambda: schedules.StepLR(1, unit="day"), ValueError, "unit"),
        (lambda: schedules.ExponentialLR("fast"), TypeError, "gamma"),
        (lambda: schedules.ExponentialLR(-1), ValueError, "gamma"),
        (lambda: schedules.CosineAnnealingLR().rate(1, 1), ValueError, "length"),
        (lambda: schedules.SequentialLR([schedules.StepLR(1)], [3]), ValueError, "milestones"),
        (lambda: schedules.SequentialLR([3], []), TypeError, "schedules"),
        (lambda: schedules.OneCycleLR(1, anneal_strategy="wild"), ValueError, "anneal_strategy"),
        (lambda: schedules.ReduceLROnPlateau(factor=1.0), ValueError, "factor"),
        (lambda: schedules.ReduceLROnPlateau("gain").after_epoch({"loss": 1}), ValueError, "gain"),
        (lambda: schedules.WarmUp(3, then=4), TypeError, "then"),
        (lambda: ss.Trainer(net(), schedule=3), TypeError, "schedule"),
    ],
)
def test_arguments_are_checked(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()


def test_rates_do_not_stay_in_the_model() -> None:
    module = net()
    trainer = ss.Trainer(module, optimizer=optim.SGD(0.1), schedule=lambda epoch: 0.0)
    trainer.fit(X, Y, verbose=False)
    before = ss.fingerprint(module)
    trainer.plan.step(X, Y)
    assert ss.fingerprint(module) != before and trainer.plan.model.hyper("lr") == 0.1
    assert np.isfinite(trainer.plan.results["loss"])
