"""Optimizers, with PyTorch's names, arguments and formulas; groups of parameters; averages of weights.

They hold settings only; the state (momentum and the like) belongs to the training run (`ss.compile`, `ss.Trainer`), not
to the object. `lr` and the other settings may be assigned during training (`optimizer.lr = 1e-4`) and count from the
next step on; under MPI rank 0's values count.

Optimizers take no list of parameters: all that require a gradient are trained. Groups with settings of their own are
given by `groups`, a list of dicts; "params" says which parameters belong to it, by glob patterns on their names, functions
of (name, parameter), Parameters or modules, alone or in a list; the first group that matches has the parameter, and the
rest follow the optimizer's own settings:

    optim.AdamW(1e-3, weight_decay=0.1, groups=[
        {"params": "*.bias", "weight_decay": 0.0},
        {"params": ["norm.*", lambda name, p: p.ndim < 2], "lr": 3e-4},
    ])

`optimizer.groups[0].lr = 1e-4` changes the first of these groups. What a group does not set, it takes from the optimizer.
`optimizer.lr_factor` (1 at first) multiplies the learning rates of all groups: schedules set it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

__all__ = [
    "ASGD",
    "EMA",
    "LAMB",
    "LARS",
    "SGD",
    "SWA",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "Optimizer",
    "ParameterGroup",
    "RAdam",
    "RMSprop",
    "Shampoo",
]

FLAGS = {"nesterov", "amsgrad", "maximize", "centered", "decoupled_weight_decay", "adapt", "use_muon"}
AT_MOST_ONE = {"alpha of RMSprop", "rho of Adadelta"}


class Optimizer:
    """Base of all optimizers: a name in the core, its settings, and groups of parameters with settings of their own."""

    _core_name = ""
    _settings: tuple[str, ...] = ()
    _rates: tuple[str, ...] = ("lr",)  # what lr_factor multiplies
    _changes: int  # assignments to settings so far, those of the groups included
    groups: list[ParameterGroup]
    """The groups, in the order given."""
    lr_factor: float
    """Multiplies the learning rates of the optimizer and of all groups."""

    def _set_up(self, groups: Iterable[Mapping[str, Any]] | None, **settings: Any) -> None:
        object.__setattr__(self, "_changes", 0)
        object.__setattr__(self, "lr_factor", 1.0)
        object.__setattr__(self, "groups", [])
        for name, value in settings.items():
            setattr(self, name, value)
        if isinstance(groups, (str, Mapping)) or (groups is not None and not isinstance(groups, Iterable)):
            raise TypeError(f"{type(self).__name__}: groups must be a list of dicts, not {groups!r}")
        object.__setattr__(self, "groups", [ParameterGroup(self, group) for group in groups or ()])
        self._consistent(self)
        for group in self.groups:
            self._consistent(group)

    def _consistent(self, settings: Any) -> None:
        """Raises ValueError for settings that do not go together."""

    def hypers(self, group: ParameterGroup | None = None) -> dict[str, float]:
        """The settings under the core's names, of a group or of the parameters without one."""
        values: dict[str, float] = {}
        for name in self._settings:
            value = getattr(group or self, name)
            factor = self.lr_factor if name in self._rates else 1.0
            values |= {key: number * factor for key, number in self._encode(name, value).items()}
        return values

    def all_hypers(self) -> list[dict[str, float]]:
        """hypers() of the parameters without a group, then of each group."""
        return [self.hypers(), *(self.hypers(group) for group in self.groups)]

    def group_settings(self) -> list[dict[str, Any]]:
        """The settings under their public names: of the parameters without a group, then of each group; learning rates
        times lr_factor."""
        return [
            {
                name: getattr(part, name) * self.lr_factor if name in self._rates else getattr(part, name)
                for name in self._settings
            }
            for part in (self, *self.groups)
        ]

    def _encode(self, name: str, value: Any) -> dict[str, float]:
        if name.endswith("betas"):  # "betas", "adamw_betas"
            return {f"{name[:-1]}1": value[0], f"{name[:-1]}2": value[1]}
        return {name: float(value)}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "lr_factor":
            number = _number(f"{type(self).__name__}: lr_factor", value)
            if number < 0:
                raise ValueError(f"{type(self).__name__}: lr_factor must not be negative, but is {value!r}")
            object.__setattr__(self, name, number)
            self._changed()
            return
        if name not in self._settings:
            raise AttributeError(f"{type(self).__name__} has no setting '{name}'; it has {', '.join(self._settings)}")
        object.__setattr__(self, name, self._check(name, value))
        self._changed()

    def _changed(self) -> None:
        object.__setattr__(self, "_changes", self._changes + 1)

    def _check(self, name: str, value: Any) -> Any:
        label = f"{type(self).__name__}: {name}"
        if name in FLAGS:
            if not isinstance(value, (bool, int)) or value not in (0, 1):
                raise TypeError(f"{label} must be True or False, not {value!r}")
            return bool(value)
        if name.endswith("betas"):
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise TypeError(f"{label} must be a pair of numbers, not {value!r}")
            pair = tuple(_number(label, part) for part in value)
            if not all(0 <= part < 1 for part in pair):
                raise ValueError(f"{label} must lie in [0, 1), not {value!r}")
            return pair
        number = _number(label, value)
        if name != "dampening" and number < 0:
            raise ValueError(f"{label} must not be negative, but is {value!r}")
        if f"{name} of {type(self).__name__}" in AT_MOST_ONE and number > 1:
            raise ValueError(f"{label} must be at most 1, but is {value!r}")
        return number

    def _assign(self, parameters: Mapping[str, Any]) -> list[list[str]]:
        """The names of the parameters of each group. Raises ValueError for a description that matches none."""
        names: list[list[str]] = [[] for _ in self.groups]
        used: set[tuple[int, int]] = set()
        for name, item in parameters.items():
            hits = [
                (number, place)
                for number, group in enumerate(self.groups)
                for place, matches in enumerate(group._matchers())
                if matches(name, item)
            ]
            used.update(hits)
            if hits:
                names[hits[0][0]].append(name)
        for number, group in enumerate(self.groups):
            for place, part in enumerate(group._parts):
                if (number, place) not in used:
                    raise ValueError(
                        f"{type(self).__name__}: groups[{number}]: {_show(part)} matches no parameter; "
                        f"there are {', '.join(parameters) or 'none'}"
                    )
        return names

    def __repr__(self) -> str:
        parts = [f"{name}={getattr(self, name)!r}" for name in self._settings if name != "maximize" or self.maximize]
        if self.groups:
            parts.append(f"groups=[{', '.join(map(repr, self.groups))}]")
        if self.lr_factor != 1:
            parts.append(f"lr_factor={self.lr_factor!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        return all(getattr(self, name) == getattr(other, name) for name in (*self._settings, "groups", "lr_factor"))

    def __getattr__(self, name: str) -> Any:  # settings are found before this is asked
        raise AttributeError(f"{type(self).__name__} has no setting '{name}'; it has {', '.join(self._settings)}")


class ParameterGroup:
    """A group of parameters of an optimizer. Its settings are attributes; those it was not given are the optimizer's."""

    def __init__(self, optimizer: Optimizer, description: Mapping[str, Any]) -> None:
        kind = type(optimizer).__name__
        if not isinstance(description, Mapping) or "params" not in description:
            raise TypeError(f"{kind}: a group must be a dict with 'params', not {description!r}")
        params = description["params"]
        single = isinstance(params, str) or not isinstance(params, Iterable) or hasattr(params, "named_parameters")
        parts = [params] if single or hasattr(params, "requires_grad") else list(params)
        for part in parts:
            if not (isinstance(part, str) or callable(part) or hasattr(part, "requires_grad")):
                raise TypeError(
                    f"{kind}: params of a group must be patterns, functions, parameters or modules, not {part!r}"
                )
        object.__setattr__(self, "_optimizer", optimizer)
        object.__setattr__(self, "_parts", parts)
        object.__setattr__(self, "_own", {})
        for name, value in description.items():
            if name != "params":
                setattr(self, name, value)

    _optimizer: Optimizer
    _parts: list[Any]
    _own: dict[str, Any]

    def _matchers(self) -> Iterator[Any]:
        return (_matcher(part) for part in self._parts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._own[name] if name in self._own else getattr(self._optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        optimizer = self._optimizer
        if name not in optimizer._settings:
            raise AttributeError(
                f"{type(optimizer).__name__} has no setting '{name}' for a group; it has {', '.join(optimizer._settings)}"
            )
        self._own[name] = optimizer._check(name, value)
        optimizer._changed()

    def __repr__(self) -> str:
        params = ", ".join(map(_show, self._parts))
        own = "".join(f", '{name}': {value!r}" for name, value in self._own.items())
        return f"{{'params': {params if len(self._parts) == 1 else '[' + params + ']'}{own}}}"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterGroup) and (self._parts, self._own) == (other._parts, other._own)


def _matcher(part: Any) -> Any:
    if isinstance(part, str):
        return lambda name, item: fnmatchcase(name, part)
    if hasattr(part, "named_parameters"):
        inside = {id(item) for item in part.parameters()}
        return lambda name, item: id(item) in inside
    if hasattr(part, "requires_grad"):
        return lambda name, item: item is part
    return lambda name, item: bool(part(name, item))


def _show(part: Any) -> str:
    """A part of a group's params, alike on all ranks."""
    if isinstance(part, str):
        return repr(part)
    if hasattr(part, "named_parameters"):
        return f"<{type(part).__name__}>"
    if hasattr(part, "requires_grad"):
        return f"<Parameter of shape {part.shape}>"
    return f"<function {getattr(part, '__qualname__', type(part).__name__)}>"


def _number(label: str, value: Any) -> float:
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{label} must be a number, not {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{label} must be finite, but is {value!r}")
    return number


def _count(label: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{label} must be a whole number, not {value!r}")
    if not 1 <= value < 2**53:
        raise ValueError(f"{label} must be at least 1, but is {value}")
    return value


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD.

    Parameters: lr: step size; momentum: factor of the kept average of gradients (0 keeps none); dampening: the new
    gradient enters the average times 1 - dampening; weight_decay: L2 penalty; nesterov: step along gradient + momentum
    * average (needs momentum > 0 and dampening 0); maximize: climb; groups: see samestep.optim.
    """

    _core_name = "sgd"
    _settings = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")

    def __init__(
        self,
        lr: float = 1e-2,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov, maximize=maximize
        )  # fmt: skip

    def _consistent(self, settings: Any) -> None:
        if settings.nesterov and (settings.momentum == 0 or settings.dampening != 0):
            raise ValueError("SGD: nesterov needs momentum > 0 and dampening = 0")


class Adam(Optimizer):
    """Adam, as torch.optim.Adam: weight_decay is an L2 penalty that is added to the gradient.

    Parameters: lr: step size; betas: decays of the means of gradients and of squared gradients; eps: added to the root;
    amsgrad: divide by the largest second moment so far; maximize: climb; groups: see samestep.optim. Source: Kingma, Ba:
    "Adam: a method for stochastic optimization", 2015.
    """

    _core_name = "adam"
    _settings = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")
    _decay = 0.0

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        decay = self._decay if weight_decay is None else weight_decay
        self._set_up(groups, lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, weight_decay=decay, maximize=maximize)


class AdamW(Adam):
    """Adam with decoupled weight decay, as torch.optim.AdamW: every step first takes lr * weight_decay * parameter off
    the parameter (default 0.01).

    Source: Loshchilov, Hutter: "Decoupled weight decay regularization", 2019.
    """

    _core_name = "adamw"
    _decay = 1e-2


class NAdam(Optimizer):
    """Adam with Nesterov momentum, as torch.optim.NAdam.

    Parameters: lr, betas, eps, weight_decay, maximize, groups: as in Adam; momentum_decay: how fast the momentum
    approaches betas[0]; decoupled_weight_decay: weight decay as in AdamW. Source: Dozat: "Incorporating Nesterov momentum
    into Adam", 2016.
    """

    _core_name = "nadam"
    _settings = ("lr", "betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay", "maximize")

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay, maximize=maximize,
        )  # fmt: skip


class RAdam(Optimizer):
    """Rectified Adam, as torch.optim.RAdam.

    Parameters: as in NAdam, without momentum_decay. Source: Liu and others: "On the variance of the adaptive learning
    rate and beyond", 2020.
    """

    _core_name = "radam"
    _settings = ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize")

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )  # fmt: skip


class Adamax(Optimizer):
    """Adam with the infinity norm, as torch.optim.Adamax.

    Parameters: as in Adam, without amsgrad. Source: Kingma, Ba: "Adam: a method for stochastic optimization", 2015,
    section 7.1.
    """

    _core_name = "adamax"
    _settings = ("lr", "betas", "eps", "weight_decay", "maximize")

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)


class RMSprop(Optimizer):
    """RMSprop, as torch.optim.RMSprop.

    Parameters: lr: step size; alpha: decay of the mean of squared gradients; eps: added to the root; weight_decay: L2
    penalty; momentum: factor of the kept step; centered: divide by the root of the variance; maximize: climb; groups: see
    samestep.optim. Source: Tieleman, Hinton: lecture 6.5 of "Neural networks for machine learning", 2012.
    """

    _core_name = "rmsprop"
    _settings = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize")

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered, maximize=maximize
        )  # fmt: skip


class Adagrad(Optimizer):
    """Adagrad, as torch.optim.Adagrad.

    Parameters: lr: step size; lr_decay: step t is lr / (1 + (t - 1) * lr_decay); weight_decay: L2 penalty;
    initial_accumulator_value: what the sums of squares start from; eps: added to the root; maximize: climb; groups: see
    samestep.optim. Source: Duchi, Hazan, Singer: "Adaptive subgradient methods for online learning and stochastic
    optimization", 2011.
    """

    _core_name = "adagrad"
    _settings = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps", "maximize")

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, initial_accumulator_value=initial_accumulator_value,
            eps=eps, maximize=maximize,
        )  # fmt: skip


class Adadelta(Optimizer):
    """Adadelta, as torch.optim.Adadelta.

    Parameters: lr: factor of the step; rho: decay of both means of squares; eps: added under both roots; weight_decay: L2
    penalty; maximize: climb; groups: see samestep.optim. Source: Zeiler: "ADADELTA: an adaptive learning rate method",
    2012.
    """

    _core_name = "adadelta"
    _settings = ("lr", "rho", "eps", "weight_decay", "maximize")

    def __init__(
        self,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(groups, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize)


class ASGD(Optimizer):
    """Averaged stochastic gradient descent, as torch.optim.ASGD; the average is the state "ax".

    Parameters: lr: first step size; lambd: decay of parameters and step size; alpha: power of the decay of the step size;
    t0: step from which on parameters are averaged; weight_decay: L2 penalty; maximize: climb; groups: see samestep.optim.
    Source: Polyak, Juditsky: "Acceleration of stochastic approximation by averaging", 1992.
    """

    _core_name = "asgd"
    _settings = ("lr", "lambd", "alpha", "t0", "weight_decay", "maximize")

    def __init__(
        self,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(groups, lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, maximize=maximize)


class Lion(Optimizer):
    """Lion: every parameter moves by lr along the sign of a mean of gradients.

    Parameters: lr: step size; betas: share of the mean in the direction, decay of the mean; weight_decay: decoupled, as in
    AdamW; maximize: climb; groups: see samestep.optim. Source: Chen and others: "Symbolic discovery of optimization
    algorithms", 2023.
    """

    _core_name = "lion"
    _settings = ("lr", "betas", "weight_decay", "maximize")

    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(groups, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)


class LAMB(Optimizer):
    """LAMB, for large batches: Adam whose step of each parameter array is in proportion to the array's norm.

    Parameters: lr, betas, eps, weight_decay (in the direction of the step), maximize, groups: as in AdamW; adapt: False
    leaves the ratio of norms out, which is often done for biases and normalisation layers:
    groups=[{"params": lambda name, p: p.ndim < 2, "weight_decay": 0.0, "adapt": False}]. With several ranks every rank
    receives the whole gradient and updates all parameters. Source: You and others: "Large batch optimization for deep
    learning: training BERT in 76 minutes", 2020.
    """

    _core_name = "lamb"
    _settings = ("lr", "betas", "eps", "weight_decay", "adapt", "maximize")

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: bool = True,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, adapt=adapt, maximize=maximize)


class LARS(Optimizer):
    """LARS, for large batches: gradient descent whose step of each parameter array is in proportion to the array's norm.

    Parameters: lr: step size of the network; momentum, dampening, weight_decay, nesterov, maximize, groups: as in SGD;
    trust_coefficient: how far a step moves an array, in its norm; eps: added to the norm of the gradient; adapt: False
    leaves the ratio of norms out, which is often done for biases and normalisation layers (see LAMB). Source: You, Gitman,
    Ginsburg: "Large batch training of convolutional networks", 2017.
    """

    _core_name = "lars"
    _settings = (
        "lr", "momentum", "dampening", "weight_decay", "nesterov", "trust_coefficient", "eps", "adapt", "maximize",
    )  # fmt: skip

    def __init__(
        self,
        lr: float = 1.0,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        adapt: bool = True,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            trust_coefficient=trust_coefficient, eps=eps, adapt=adapt, maximize=maximize,
        )  # fmt: skip

    def _consistent(self, settings: Any) -> None:
        if settings.nesterov and (settings.momentum == 0 or settings.dampening != 0):
            raise ValueError("LARS: nesterov needs momentum > 0 and dampening = 0")


class Muon(Optimizer):
    """Muon, as torch.optim.Muon, for parameters of two or more axes (seen as matrices: first axis, the rest); biases,
    normalisation and whatever a group takes out with use_muon=False (embeddings, output layers) follow AdamW.

    Parameters: lr, weight_decay, momentum, nesterov: of matrices; ns_coefficients, eps, ns_steps: of the Newton-Schulz
    iteration; adjust_lr_fn: None or "original": lr * sqrt(max(1, rows / columns)), "match_rms_adamw": 0.2 * lr *
    sqrt(max(rows, columns)); adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay: of AdamW; maximize: climb; groups: see
    samestep.optim. The iteration is computed in float32, where torch rounds to bfloat16. Source: Jordan and others: "Muon:
    an optimizer for hidden layers in neural networks", 2024.
    """

    _core_name = "muon"
    _settings = (
        "lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn", "use_muon", "adamw_lr",
        "adamw_betas", "adamw_eps", "adamw_weight_decay", "maximize",
    )  # fmt: skip
    _rates = ("lr", "adamw_lr")

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        use_muon: bool = True,
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-10,
        adamw_weight_decay: float = 0.0,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, ns_coefficients=ns_coefficients, eps=eps,
            ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn, use_muon=use_muon, adamw_lr=adamw_lr, adamw_betas=adamw_betas,
            adamw_eps=adamw_eps, adamw_weight_decay=adamw_weight_decay, maximize=maximize,
        )  # fmt: skip

    def _check(self, name: str, value: Any) -> Any:
        label = f"Muon: {name}"
        if name == "ns_coefficients":
            if not isinstance(value, (tuple, list)) or len(value) != 3:
                raise TypeError(f"{label} must be three numbers, not {value!r}")
            return tuple(_number(label, part) for part in value)
        if name == "ns_steps":
            if _count(label, value) > 99:
                raise ValueError(f"{label} must be at most 99, but is {value}")
            return value
        if name == "adjust_lr_fn":
            if value not in (None, "original", "match_rms_adamw"):
                raise ValueError(f"{label} must be None, 'original' or 'match_rms_adamw', not {value!r}")
            return value
        if name == "momentum" and _number(label, value) > 1:
            raise ValueError(f"{label} must be at most 1, but is {value!r}")
        return super()._check(name, value)

    def _encode(self, name: str, value: Any) -> dict[str, float]:
        if name == "ns_coefficients":
            return dict(zip(("ns_a", "ns_b", "ns_c"), value, strict=True))
        if name == "adjust_lr_fn":
            return {"match_rms_adamw": float(value == "match_rms_adamw")}
        return super()._encode(name, value)


class Shampoo(Optimizer):
    """Shampoo: the gradient of a matrix is multiplied from both sides by inverse fourth roots of sums of its squares.

    Parameters: lr: step size; momentum: factor of the kept step; weight_decay: L2 penalty; epsilon: what the diagonals of
    the sums start from; update_freq: steps between two computations of the roots, which take a time that grows with the
    cube of the extents; max_extent: of a longer side only the diagonal is kept (at most 8192); maximize: climb; groups:
    see samestep.optim. Parameters of one axis step as in Adagrad. Source: Gupta, Koren, Singer: "Shampoo: preconditioned
    stochastic tensor optimization", 2018.
    """

    _core_name = "shampoo"
    _settings = ("lr", "momentum", "weight_decay", "epsilon", "update_freq", "max_extent", "maximize")

    def __init__(
        self,
        lr: float = 1e-1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        epsilon: float = 1e-4,
        update_freq: int = 10,
        max_extent: int = 1024,
        *,
        maximize: bool = False,
        groups: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        self._set_up(
            groups, lr=lr, momentum=momentum, weight_decay=weight_decay, epsilon=epsilon, update_freq=update_freq,
            max_extent=max_extent, maximize=maximize,
        )  # fmt: skip

    def _check(self, name: str, value: Any) -> Any:
        label = f"Shampoo: {name}"
        if name in ("update_freq", "max_extent"):
            if _count(label, value) > (8192 if name == "max_extent" else 10**9):
                raise ValueError(f"{label} is too large: {value}")
            return value
        if name == "epsilon" and not _number(label, value) > 0:
            raise ValueError(f"{label} must be positive, but is {value!r}")
        return super()._check(name, value)


class Lookahead(Optimizer):
    """Lookahead around another optimizer: every k steps the slow weights go alpha of the way to the fast ones, and the fast
    ones return to them. The slow weights are the state "slow".

    Settings, groups and lr_factor are those of the optimizer inside. Source: Zhang, Lucas, Hinton, Ba: "Lookahead
    optimizer: k steps forward, 1 step back", 2019.
    """

    optimizer: Optimizer
    k: int
    alpha: float

    def __init__(self, optimizer: Any, k: int = 5, alpha: float = 0.5) -> None:
        inner = resolve(optimizer)
        if isinstance(inner, Lookahead):
            raise TypeError("Lookahead: the optimizer inside is itself a Lookahead")
        number = _number("Lookahead: alpha", alpha)
        if not 0 <= number <= 1:
            raise ValueError(f"Lookahead: alpha must lie in [0, 1], but is {alpha!r}")
        for name, value in (("optimizer", inner), ("k", _count("Lookahead: k", k)), ("alpha", number)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __getattribute__(self, name: str) -> Any:
        if name in ("_core_name", "_settings", "_rates"):
            return getattr(self.optimizer, name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("optimizer", "k", "alpha"):
            raise AttributeError(f"Lookahead: {name} cannot be changed")
        setattr(self.optimizer, name, value)

    def hypers(self, group: ParameterGroup | None = None) -> dict[str, float]:
        """The settings of the optimizer inside."""
        return self.optimizer.hypers(group)

    def __repr__(self) -> str:
        return f"Lookahead({self.optimizer!r}, k={self.k}, alpha={self.alpha!r})"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lookahead) and (self.optimizer, self.k, self.alpha) == (
            other.optimizer,
            other.k,
            other.alpha,
        )


class EMA:
    """An exponential moving average of the weights, the state "ema": after every step
    average = decay * average + (1 - decay) * weights; the first step copies them.

    Parameters: decay; warmup: the decay of step t is min(decay, (1 + t) / (10 + t)). Source: Polyak, Juditsky:
    "Acceleration of stochastic approximation by averaging", 1992; Tarvainen, Valpola: "Mean teachers are better role
    models", 2017.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = False) -> None:
        self.decay, self.warmup = _number("EMA: decay", decay), bool(warmup)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"EMA: decay must lie in [0, 1], but is {decay!r}")

    def _core(self) -> tuple[str, float, int]:
        return "ema", self.decay, int(self.warmup)

    def __repr__(self) -> str:
        return f"EMA(decay={self.decay!r}, warmup={self.warmup})"


class SWA:
    """Stochastic weight averaging: the plain mean of the weights after step `start` (counted from 1) and every `every`
    steps from there on, the state "swa_mean".

    Statistics of batch normalisation belong to the weights that made them: measure them anew for the mean. Source:
    Izmailov and others: "Averaging weights leads to wider optima and better generalization", 2018.
    """

    def __init__(self, start: int, every: int = 1) -> None:
        self.start, self.every = _count("SWA: start", start), _count("SWA: every", every)

    def _core(self) -> tuple[str, float, int]:
        return "swa", float(self.start), self.every

    def __repr__(self) -> str:
        return f"SWA(start={self.start}, every={self.every})"


def _known() -> dict[str, type[Optimizer]]:
    return {
        kind._core_name: kind
        for kind in globals().values()
        if isinstance(kind, type)
        and issubclass(kind, Optimizer)
        and isinstance(kind._core_name, str)
        and kind._core_name
    }


def resolve(optimizer: Any) -> Optimizer:
    """An optimizer given as object, class or name ("sgd", "adam", "adamw", ...)."""
    known = _known()
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


def resolve_average(average: Any) -> EMA | SWA | None:
    """An average given as object, or None."""
    if average is not None and not isinstance(average, (EMA, SWA)):
        raise TypeError(f"average must be samestep.optim.EMA, samestep.optim.SWA or None, not {average!r}")
    return average
