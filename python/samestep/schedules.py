"""Learning-rate schedules, with the names, arguments and curves of torch.optim.lr_scheduler.

A schedule is given to the trainer: `Trainer(net, ..., schedule=schedules.CosineAnnealingLR(T_max=20))`. It is a function
of time alone (but for ReduceLROnPlateau, whose state is in the checkpoint), so a resumed run follows the same curve. Time
counts epochs, or steps with `unit="step"`; a length that is left out (`T_max=None`) is that of the whole fit. Every
parameter group starts from its own rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = [
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR", "LambdaLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "Schedule", "SequentialLR", "StepLR", "WarmUp",
]  # fmt: skip


class Schedule:
    """Base of all schedules. A subclass defines `rate`, or `settings` when it changes more than the rate.

    unit: what time counts, "epoch" or "step".
    """

    def __init__(self, unit: str = "epoch") -> None:
        if unit not in ("epoch", "step"):
            raise ValueError(f"{type(self).__name__}: unit must be 'epoch' or 'step', not {unit!r}")
        self.unit = unit
        self.total: int | None = None  # units of the whole fit, once it is known

    def rate(self, base: float, time: int) -> float:
        """The learning rate at a time (from 0), for a group whose own rate is `base`."""
        raise NotImplementedError

    def settings(self, base: Mapping[str, Any], time: int) -> dict[str, Any]:
        """Settings of a group at a time, given those it has of its own."""
        return {"lr": self.rate(float(base["lr"]), time)}

    def prepare(self, total: int) -> None:
        """Learns how many units the whole fit has. Raises ValueError where that does not fit the arguments."""
        self.total = total

    def after_epoch(self, logs: Mapping[str, float]) -> None:
        """Sees what an epoch measured."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The opposite of state_dict."""

    def curve(self, base: float, times: int) -> list[float]:
        """The rates of the times 0 to times - 1, for a look or a plot."""
        if self.total is None:
            self.prepare(times)
        return [float(self.settings({"lr": base}, time)["lr"]) for time in range(times)]

    def _whole(self, argument: str, value: Any, least: int = 1) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{type(self).__name__}: {argument} must be a whole number, not {value!r}")
        if value < least:
            raise ValueError(f"{type(self).__name__}: {argument} must be at least {least}, but is {value}")
        return int(value)

    def _number(self, argument: str, value: Any, least: float = 0.0, most: float = math.inf) -> float:
        if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
            raise TypeError(f"{type(self).__name__}: {argument} must be a number, not {value!r}")
        number = float(value)
        if not least <= number <= most or math.isinf(number):
            raise ValueError(f"{type(self).__name__}: {argument} must lie in [{least:g}, {most:g}], but is {value!r}")
        return number

    def _length(self, given: int | None) -> int:
        length = self.total if given is None else given
        if length is None:
            raise ValueError(f"{type(self).__name__}: the length of the fit is not known here; give it as an argument")
        return max(length, 1)

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "total"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class ConstantLR(Schedule):
    """rate * factor for the first total_iters units, then the rate itself."""

    def __init__(self, factor: float = 1 / 3, total_iters: int = 5, *, unit: str = "epoch") -> None:
        super().__init__(unit)
        self.factor = self._number("factor", factor, 0, 1)
        self.total_iters = self._whole("total_iters", total_iters, 0)

    def rate(self, base: float, time: int) -> float:
        return base * self.factor if time < self.total_iters else base


class StepLR(Schedule):
    """rate * gamma ** (time // step_size)."""

    def __init__(self, step_size: int, gamma: float = 0.1, *, unit: str = "epoch") -> None:
        super().__init__(unit)
        self.step_size, self.gamma = self._whole("step_size", step_size), self._number("gamma", gamma)

    def rate(self, base: float, time: int) -> float:
        return base * self.gamma ** (time // self.step_size)


class MultiStepLR(Schedule):
    """rate * gamma ** (number of milestones at or before the time)."""

    def __init__(self, milestones: Sequence[int], gamma: float = 0.1, *, unit: str = "epoch") -> None:
        super().__init__(unit)
        self.milestones = sorted(self._whole("milestones", item, 0) for item in milestones)
        self.gamma = self._number("gamma", gamma)

    def rate(self, base: float, time: int) -> float:
        return base * self.gamma ** sum(milestone <= time for milestone in self.milestones)


class ExponentialLR(Schedule):
    """rate * gamma ** time."""

    def __init__(self, gamma: float, *, unit: str = "epoch") -> None:
        super().__init__(unit)
        self.gamma = self._number("gamma", gamma)

    def rate(self, base: float, time: int) -> float:
        return base * self.gamma**time


class LambdaLR(Schedule):
    """rate * lr_lambda(time)."""

    def __init__(self, lr_lambda: Callable[[int], float], *, unit: str = "epoch") -> None:
        super().__init__(unit)
        if not callable(lr_lambda):
            raise TypeError(f"LambdaLR: lr_lambda must be a function of the time, not {lr_lambda!r}")
        self.lr_lambda = lr_lambda

    def rate(self, base: float, time: int) -> float:
        return base * float(self.lr_lambda(time))


class LinearLR(Schedule):
    """From rate * start_factor in a straight line to rate * end_factor over total_iters units."""

    def __init__(
        self,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int | None = 5,
        *,
        unit: str = "epoch",
    ) -> None:
        super().__init__(unit)
        self.start_factor = self._number("start_factor", start_factor, 0, 1)
        self.end_factor = self._number("end_factor", end_factor, 0, 1)
        self.total_iters = None if total_iters is None else self._whole("total_iters", total_iters)

    def rate(self, base: float, time: int) -> float:
        length = self._length(self.total_iters)
        part = min(time, length) / length
        return base * (self.start_factor + (self.end_factor - self.start_factor) * part)


class PolynomialLR(Schedule):
    """rate * (1 - time / total_iters) ** power, then 0."""

    def __init__(self, total_iters: int | None = None, power: float = 1.0, *, unit: str = "epoch") -> None:
        super().__init__(unit)
        self.total_iters = None if total_iters is None else self._whole("total_iters", total_iters)
        self.power = self._number("power", power)

    def rate(self, base: float, time: int) -> float:
        length = self._length(self.total_iters)
        return base * (1 - min(time, length) / length) ** self.power


class CosineAnnealingLR(Schedule):
    """From the rate to eta_min along half a cosine of T_max units (and back, should the fit go on).

    Source: Loshchilov, Hutter: "SGDR: stochastic gradient descent with warm restarts", 2017, without the restarts.
    """

    def __init__(self, T_max: int | None = None, eta_min: float = 0.0, *, unit: str = "epoch") -> None:
        super().__init__(unit)
        self.T_max = None if T_max is None else self._whole("T_max", T_max)
        self.eta_min = self._number("eta_min", eta_min)

    def rate(self, base: float, time: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * time / self._length(self.T_max))) / 2


class CosineAnnealingWarmRestarts(Schedule):
    """Half cosines of T_0, T_0 * T_mult, T_0 * T_mult^2, ... units, each from the rate to eta_min.

    Source: Loshchilov, Hutter: "SGDR: stochastic gradient descent with warm restarts", 2017.
    """

    def __init__(self, T_0: int, T_mult: int = 1, eta_min: float = 0.0, *, unit: str = "epoch") -> None:
        super().__init__(unit)
        self.T_0, self.T_mult = self._whole("T_0", T_0), self._whole("T_mult", T_mult)
        self.eta_min = self._number("eta_min", eta_min)

    def rate(self, base: float, time: int) -> float:
        length = self.T_0
        if self.T_mult == 1:
            time %= length
        while time >= length:
            time -= length
            length *= self.T_mult
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * time / length)) / 2


class OneCycleLR(Schedule):
    """Up from max_lr / div_factor to max_lr and down to max_lr / div_factor / final_div_factor, once over total_steps
    steps (default: the whole fit). The momentum (SGD) or first beta (Adam) goes the other way with cycle_momentum. The
    optimizer's own rate is not used.

    Source: Smith, Topin: "Super-convergence: very fast training of neural networks using large learning rates", 2019.
    """

    def __init__(
        self,
        max_lr: float,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        *,
        unit: str = "step",
    ) -> None:
        super().__init__(unit)
        self.max_lr = self._number("max_lr", max_lr)
        self.total_steps = None if total_steps is None else self._whole("total_steps", total_steps, 2)
        self.pct_start = self._number("pct_start", pct_start, 0, 1)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', not {anneal_strategy!r}")
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, bool(cycle_momentum)
        self.base_momentum = self._number("base_momentum", base_momentum, 0, 1)
        self.max_momentum = self._number("max_momentum", max_momentum, 0, 1)
        self.div_factor = self._number("div_factor", div_factor)
        self.final_div_factor = self._number("final_div_factor", final_div_factor)
        self.three_phase = bool(three_phase)

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * part
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))

    def _value(self, time: int, first: float, top: float, last: float) -> float:
        """first -> top -> last, or with three phases first -> top -> first -> last."""
        steps = self._length(self.total_steps)
        up = self.pct_start * steps - 1
        ends = [(up, first, top), (steps - 1, top, last)]
        if self.three_phase:
            ends = [(up, first, top), (2 * self.pct_start * steps - 2, top, first), (steps - 1, first, last)]
        begin = 0.0
        for number, (end, low, high) in enumerate(ends):
            if time <= end or number == len(ends) - 1:
                return self._between(low, high, min(1.0, (time - begin) / (end - begin)) if end != begin else 1.0)
            begin = end
        raise AssertionError

    def rate(self, base: float, time: int) -> float:
        first = self.max_lr / self.div_factor
        return self._value(time, first, self.max_lr, first / self.final_div_factor)

    def settings(self, base: Mapping[str, Any], time: int) -> dict[str, Any]:
        found: dict[str, Any] = {"lr": self.rate(0.0, time)}
        if not self.cycle_momentum:
            return found
        momentum = self._value(time, self.max_momentum, self.base_momentum, self.max_momentum)
        if "betas" in base:
            found["betas"] = (momentum, *base["betas"][1:])
        elif base.get("momentum"):
            found["momentum"] = momentum
        return found


class SequentialLR(Schedule):
    """Several schedules one after another: schedules[k] from milestones[k - 1] on, each counting its own time from 0."""

    def __init__(self, schedules: Sequence[Schedule], milestones: Sequence[int], *, unit: str | None = None) -> None:
        listed = list(schedules)
        if not listed or not all(isinstance(item, Schedule) for item in listed):
            raise TypeError("SequentialLR: schedules must be schedules of samestep.schedules")
        super().__init__(unit or listed[0].unit)
        if any(item.unit != self.unit for item in listed):
            raise ValueError(f"SequentialLR: all schedules must count the same unit, here '{self.unit}'")
        if len(milestones) != len(listed) - 1 or sorted(milestones) != list(milestones):
            raise ValueError(f"SequentialLR: {len(listed)} schedules need {len(listed) - 1} rising milestones")
        self.schedules, self.milestones = listed, [self._whole("milestones", item, 0) for item in milestones]

    def prepare(self, total: int) -> None:
        super().prepare(total)
        bounds = [0, *self.milestones, max(total, *self.milestones, 0)]
        for number, item in enumerate(self.schedules):
            item.prepare(max(1, bounds[number + 1] - bounds[number]))

    def settings(self, base: Mapping[str, Any], time: int) -> dict[str, Any]:
        place = sum(milestone <= time for milestone in self.milestones)
        return self.schedules[place].settings(base, time - (self.milestones[place - 1] if place else 0))

    def rate(self, base: float, time: int) -> float:
        return float(self.settings({"lr": base}, time)["lr"])

    def after_epoch(self, logs: Mapping[str, float]) -> None:
        for item in self.schedules:
            item.after_epoch(logs)

    def state_dict(self) -> dict[str, Any]:
        return {str(number): item.state_dict() for number, item in enumerate(self.schedules)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for number, item in enumerate(self.schedules):
            item.load_state_dict(state[str(number)])


class WarmUp(Schedule):
    """A straight line from rate * start_factor to what the schedule `then` begins with, over `length` units (default
    unit: steps); then that schedule, or the rate itself.

    `then` may count epochs while the warm-up counts steps: its time runs on from the start of the fit.
    """

    def __init__(
        self, length: int, then: Schedule | None = None, start_factor: float = 0.0, *, unit: str = "step"
    ) -> None:
        super().__init__(unit)
        self.length = self._whole("length", length)
        if then is not None and not isinstance(then, Schedule):
            raise TypeError(f"WarmUp: then must be a schedule, not {then!r}")
        if then is not None and then.unit == "step" and unit == "epoch":
            raise ValueError("WarmUp: a warm-up in epochs cannot come before a schedule in steps")
        self.then, self.start_factor = then, self._number("start_factor", start_factor, 0, 1)
        self._steps_of_epoch = 1

    def prepare(self, total: int, steps_of_epoch: int = 1) -> None:
        super().prepare(total)
        self._steps_of_epoch = max(1, steps_of_epoch)
        if self.then is not None:
            whole = total - self.length if self.then.unit == self.unit else total // self._steps_of_epoch
            self.then.prepare(max(1, whole))

    def settings(self, base: Mapping[str, Any], time: int) -> dict[str, Any]:
        later = 0
        if self.then is not None and time >= self.length:
            same = self.then.unit == self.unit
            later = time - self.length if same else time // self._steps_of_epoch
        found = {"lr": float(base["lr"])} if self.then is None else self.then.settings(base, later)
        if time < self.length:
            found["lr"] *= self.start_factor + (1 - self.start_factor) * (time + 1) / self.length
        return found

    def rate(self, base: float, time: int) -> float:
        return float(self.settings({"lr": base}, time)["lr"])

    def after_epoch(self, logs: Mapping[str, float]) -> None:
        if self.then is not None:
            self.then.after_epoch(logs)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.then is None else self.then.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.then is not None:
            self.then.load_state_dict(state)


class ReduceLROnPlateau(Schedule):
    """rate * factor each time `monitor` has not got better for more than `patience` epochs.

    Parameters: monitor: a name in the logs of an epoch; mode: "min" or "max"; threshold: what counts as better, as a part
    of the best value (threshold_mode "rel") or as a number ("abs"); cooldown: epochs after a reduction in which nothing is
    counted; min_lr: the least rate; eps: smaller changes are left
    out.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__("epoch")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode must be 'min' or 'max', not {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', not {threshold_mode!r}")
        if not 0 < self._number("factor", factor) < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must lie between 0 and 1, but is {factor!r}")
        self.monitor, self.mode, self.factor = str(monitor), mode, float(factor)
        self.patience, self.cooldown = self._whole("patience", patience, 0), self._whole("cooldown", cooldown, 0)
        self.threshold, self.threshold_mode = self._number("threshold", threshold), threshold_mode
        self.min_lr, self.eps = self._number("min_lr", min_lr), self._number("eps", eps)
        self._best = math.inf if mode == "min" else -math.inf
        self._bad, self._cooling, self._reductions = 0, 0, 0

    def rate(self, base: float, time: int) -> float:
        rate = base
        for _ in range(self._reductions):
            lower = max(rate * self.factor, self.min_lr)
            rate = lower if rate - lower > self.eps else rate
        return rate

    def _better(self, value: float) -> bool:
        if self.threshold_mode == "abs":
            bound = self._best - self.threshold if self.mode == "min" else self._best + self.threshold
        else:
            bound = self._best * (1 - self.threshold if self.mode == "min" else 1 + self.threshold)
        return value < bound if self.mode == "min" else value > bound

    def after_epoch(self, logs: Mapping[str, float]) -> None:
        if self.monitor not in logs:
            raise ValueError(
                f"ReduceLROnPlateau: '{self.monitor}' is not measured; there is {', '.join(logs)}"
                + (" (fit needs validation=...)" if self.monitor.startswith("val_") else "")
            )
        value = float(logs[self.monitor])
        if self._better(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad > self.patience:
            self._reductions += 1
            self._cooling, self._bad = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "bad": self._bad, "cooling": self._cooling, "reductions": self._reductions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._bad = float(state["best"]), int(state["bad"])
        self._cooling, self._reductions = int(state["cooling"]), int(state["reductions"])


def resolve(schedule: Any) -> Schedule | None:
    """A schedule, a function of the epoch that gives a factor, or None."""
    if schedule is None or isinstance(schedule, Schedule):
        return schedule
    if callable(schedule) and not isinstance(schedule, type):
        return LambdaLR(schedule)
    raise TypeError(f"schedule must be an object of samestep.schedules or a function of the epoch, not {schedule!r}")
