"""Optimizers, with PyTorch's names, arguments and formulas.

They hold settings only; the state (momentum and the like) belongs to the training run (`ss.compile`, `ss.Trainer`), not
to the object. `lr` and the other settings may be assigned during training (`optimizer.lr = 1e-4`) and count from the
next step on; under MPI rank 0's values count.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]


class Optimizer:
    """Base of all optimizers: a name in the core and its settings."""

    _core_name = ""
    _settings: tuple[str, ...] = ()

    def hypers(self) -> dict[str, float]:
        """The settings under the core's names."""
        values: dict[str, float] = {}
        for name in self._settings:
            value = getattr(self, name)
            if name == "betas":
                values["beta1"], values["beta2"] = value
            else:
                values[name] = float(value)
        return values

    def group_settings(self) -> list[dict[str, Any]]:
        """The settings of each parameter group under their public names."""
        return [{name: getattr(self, name) for name in self._settings}]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._settings:
            raise AttributeError(f"{type(self).__name__} has no setting '{name}'; it has {', '.join(self._settings)}")
        object.__setattr__(self, name, self._check(name, value))

    def _check(self, name: str, value: Any) -> Any:
        label = f"{type(self).__name__}: {name}"
        if name in ("nesterov", "amsgrad"):
            if not isinstance(value, (bool, int)) or value not in (0, 1):
                raise TypeError(f"{label} must be True or False, not {value!r}")
            return bool(value)
        if name == "betas":
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise TypeError(f"{label} must be a pair of numbers, not {value!r}")
            pair = tuple(_number(label, part) for part in value)
            if not all(0 <= part < 1 for part in pair):
                raise ValueError(f"{label} must lie in [0, 1), not {value!r}")
            return pair
        number = _number(label, value)
        if name != "dampening" and number < 0:
            raise ValueError(f"{label} must not be negative, but is {value!r}")
        return number

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._settings)})"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(getattr(self, name) == getattr(other, name) for name in self._settings)


def _number(label: str, value: Any) -> float:
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{label} must be a number, not {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{label} must be finite, but is {value!r}")
    return number


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD.

    Parameters: lr: step size; momentum: factor of the kept average of gradients (0 keeps none); dampening: the new
    gradient enters the average times 1 - dampening; weight_decay: L2 penalty; nesterov: step along gradient + momentum
    * average (needs momentum > 0 and dampening 0).
    """

    _core_name = "sgd"
    _settings = ("lr", "momentum", "dampening", "weight_decay", "nesterov")

    def __init__(
        self,
        lr: float = 1e-2,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.lr, self.momentum, self.dampening, self.weight_decay, self.nesterov = (
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
        )
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("SGD: nesterov needs momentum > 0 and dampening = 0")


class Adam(Optimizer):
    """Adam, as torch.optim.Adam: weight_decay is an L2 penalty that is added to the gradient.

    Parameters: lr: step size; betas: decays of the means of gradients and of squared gradients; eps: added to the root;
    amsgrad: divide by the largest second moment so far. Source: Kingma, Ba: "Adam: a method for stochastic
    optimization", 2015.
    """

    _core_name = "adam"
    _settings = ("lr", "betas", "eps", "weight_decay", "amsgrad")
    _decay = 0.0

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | None = None,
        amsgrad: bool = False,
    ) -> None:
        self.lr, self.betas, self.eps, self.amsgrad = lr, betas, eps, amsgrad
        self.weight_decay = self._decay if weight_decay is None else weight_decay


class AdamW(Adam):
    """Adam with decoupled weight decay, as torch.optim.AdamW: every step first takes lr * weight_decay * parameter off
    the parameter (default 0.01).

    Source: Loshchilov, Hutter: "Decoupled weight decay regularization", 2019.
    """

    _core_name = "adamw"
    _decay = 1e-2


def resolve(optimizer: Any) -> Optimizer:
    """An optimizer given as object, class or name ("sgd", "adam", "adamw")."""
    known = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
    if isinstance(optimizer, str):
        if optimizer.lower() not in known:
            raise ValueError(
                f"optimizer '{optimizer}' is not known; use one of {', '.join(known)} or an object from samestep.optim"
            )
        return known[optimizer.lower()]()
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer) and optimizer is not Optimizer:
        return optimizer()
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must come from samestep.optim, not {type(optimizer).__name__}")
    return optimizer
