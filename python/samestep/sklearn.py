"""Estimators for scikit-learn: pipelines, grid searches and cross-validation over networks that samestep trains.

MLPClassifier and MLPRegressor take the arguments of scikit-learn's estimators of the same names and have their fitted
attributes. They draw the same random numbers in the same order and follow the same formulas (update rules, penalty on
weights alone, divided by the size of the batch, stopping), so a fit goes the same way as there up to the precision:
parameters and sums over features are float32 here. NetClassifier and NetRegressor do the same for any samestep.nn.Module.

Under MPI every rank makes the same calls with the same arrays; results are equal on all ranks.

Not as in scikit-learn: sparse X is accepted and made dense; a fit by lbfgs ends without a warning where the line search can
get no further within float32; for several outputs lbfgs minimises the sum of squared errors over the outputs, whose
gradient scikit-learn uses together with the mean.
"""

from __future__ import annotations

import inspect
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer, LabelEncoder
from sklearn.utils import check_random_state, column_or_1d, shuffle
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from . import _checkpoint, _compile, _random, callbacks, comm, nn, optim
from .nn import functional as F
from .nn import loss as losses
from .trainer import Trainer

__all__ = ["MLPClassifier", "MLPRegressor", "NetClassifier", "NetRegressor"]

Array = npt.NDArray[Any]
PREDICTED_AT_ONCE = 256  # samples a batch where nothing was trained in this process
ACTIVATIONS = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


# --- what both kinds share


class _Held:
    """What belongs to this process: a plan or a trainer. Copies and pickles keep what training goes on from."""

    def __init__(self) -> None:
        self.runner: Any = None
        self.slots: dict[str, Array] = {}
        self.state: dict[str, Any] = {"step": 0}
        self.batch = 0  # of training; the lanes follow from it
        self.pending = False  # the state of a copy has not been put into a trainer yet
        self.lock = threading.RLock()

    def keep(self) -> None:
        """Takes the optimizer's state out of the runner."""
        plan = getattr(self.runner, "plan", None)
        if self.pending or plan is None or plan._model is None:
            return
        self.slots, self.state = _checkpoint.slots_of(plan), {"step": plan.step_count}
        if isinstance(self.runner, Trainer):
            self.state["epoch"] = self.runner.epoch
            if self.runner.schedule is not None:
                self.state["schedule"] = self.runner.schedule.state_dict()

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            self.keep()
            return {"slots": self.slots, "state": self.state, "batch": self.batch}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        _Held.__init__(self)
        self.slots, self.state, self.batch, self.pending = kept["slots"], kept["state"], kept["batch"], True


def _held(estimator: Any, fresh: bool = False) -> _Held:
    if fresh or not hasattr(estimator, "_held"):
        estimator._held = _Held()
    held: _Held = estimator._held
    return held


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """Initial values from `seed`; the stream of the caller's own networks goes on as if nothing was drawn."""
    before = _random._seed, _random._next
    _random.manual_seed(seed)
    try:
        yield
    finally:
        _random._seed, _random._next = before


def _shared_random(random_state: Any) -> np.random.RandomState:
    """A RandomState that gives the same numbers on all ranks."""
    drawn = check_random_state(random_state)
    return drawn if comm.size() == 1 else comm.broadcast(drawn)


def _dense(X: Any) -> Array:
    return X.toarray() if hasattr(X, "toarray") else X


def _float32(X: Array) -> Array:
    with np.errstate(over="ignore"):  # what does not fit gives parameters that are not finite, which fit reports
        return np.ascontiguousarray(X, dtype=np.float32)


def _number(low: float, high: float = math.inf, kind: Any = Real, ends: str = "[]") -> Callable[[Any], bool]:
    """A check: a number in the interval, with or without its ends."""

    def fits(value: Any) -> bool:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind) or value != value:
            return False
        return (low <= value if ends[0] == "[" else low < value) and (value <= high if ends[1] == "]" else value < high)

    return fits


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


def _flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


_count = _number(1, kind=Integral)
_patience = _number(1, kind=(Integral, float))


def _check(estimator: Any, rules: dict[str, tuple[Callable[[Any], bool], str]]) -> None:
    """Raises ValueError that names the first argument out of its range."""
    for name, (fits, text) in rules.items():
        value = getattr(estimator, name)
        if not fits(value):
            raise ValueError(f"{type(estimator).__name__}: {name} must be {text}, not {value!r}")


def _known_classes(y: Any, classes: Array) -> None:
    seen = unique_labels(y)
    if len(np.setdiff1d(seen, classes)):
        raise ValueError(f"`y` has classes not in `self.classes_`. `self.classes_` has {classes}. 'y' has {seen}.")


def _check_first_classes(estimator: Any, classes: Any) -> bool:
    """True in the first call of partial_fit. Raises ValueError where classes are missing or others than before."""
    if getattr(estimator, "classes_", None) is None:
        if classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        return True
    if classes is not None and not np.array_equal(estimator.classes_, unique_labels(classes)):
        raise ValueError(f"classes={classes!r} is not the same as on last call to partial_fit, {estimator.classes_!r}")
    return False


def _single_column(y: Array) -> Array:
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


# --- multi-layer perceptrons


class _Perceptron(nn.Module):
    """Linear layers with one activation between them. A tuple of one output, so that its loss can have a weight."""

    def __init__(self, units: list[int], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(left, right) for left, right in pairwise(units)])
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Any) -> Any:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return (last(x),)


class _Runner:
    """A perceptron and its plan. weight: of the core's loss in what is differentiated; value: in what is reported."""

    def __init__(self, units: list[int], activation: str, kind: str, optimizer: Any, batch: int) -> None:
        with _drawn(0):  # the values are put in place by load
            self.net = _Perceptron(units, activation)
        outputs = units[-1]
        loss, self.weight, self.value = {
            "softmax": (nn.CrossEntropyLoss(), 1.0, 1.0),
            "logistic": (nn.BCEWithLogitsLoss(), float(outputs), float(outputs)),
            "identity": (nn.MSELoss(), outputs / 2, 0.5),
            "exp": (nn.PoissonNLLLoss(), float(outputs), float(outputs)),
        }[kind]
        self.units = units
        self.plan = _compile.compile(
            self.net, (loss,), optimizer, batch, input_shape=(units[0],), loss_weights=(self.weight,), gradients=True
        )

    def load(self, coefs: list[Any], intercepts: list[Any]) -> None:
        for layer, coef, intercept in zip(self.net.layers, coefs, intercepts, strict=True):
            layer.weight.data = _float32(np.asarray(coef).T)
            layer.bias.data = _float32(np.asarray(intercept))

    def read(self, dtype: Any) -> tuple[list[Array], list[Array]]:
        """Copies of coefs_ and intercepts_."""
        return (
            [np.array(layer.weight.data.T, dtype=dtype, order="C") for layer in self.net.layers],
            [np.array(layer.bias.data, dtype=dtype) for layer in self.net.layers],
        )

    def squares(self) -> float:
        """Sum of the squares of all weights."""
        flat = (layer.weight.data.ravel() for layer in self.net.layers)
        return float(sum(np.dot(weights, weights) for weights in flat))

    def scores(self, X: Array) -> Array:
        """The last layer's values before its activation."""
        with np.errstate(over="ignore"):
            made: Array = self.plan.predict(_float32(X))[0]
        return made


class _Rate:
    """The learning rate of a fit, under the name that scikit-learn gives to its optimizer."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = float(learning_rate)


class _BaseMLP(BaseEstimator):
    def __init__(
        self, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter,
        loss, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping,
        validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun,
    ):  # fmt: skip
        self.hidden_layer_sizes, self.activation, self.solver, self.alpha = (
            hidden_layer_sizes,
            activation,
            solver,
            alpha,
        )
        self.batch_size, self.learning_rate, self.learning_rate_init = batch_size, learning_rate, learning_rate_init
        self.power_t, self.max_iter, self.loss, self.shuffle = power_t, max_iter, loss, shuffle
        self.random_state, self.tol, self.verbose, self.warm_start = random_state, tol, verbose, warm_start
        self.momentum, self.nesterovs_momentum, self.early_stopping = momentum, nesterovs_momentum, early_stopping
        self.validation_fraction, self.beta_1, self.beta_2, self.epsilon = validation_fraction, beta_1, beta_2, epsilon
        self.n_iter_no_change, self.max_fun = n_iter_no_change, max_fun

    _losses: tuple[str, ...] = ()

    def _check_arguments(self) -> list[int]:
        """Checks all arguments; the sizes of the hidden layers."""
        rules: dict[str, tuple[Callable[[Any], bool], str]] = {
            "activation": (_one_of(*ACTIVATIONS), f"one of {', '.join(ACTIVATIONS)}"),
            "solver": (_one_of("lbfgs", "sgd", "adam"), "'lbfgs', 'sgd' or 'adam'"),
            "alpha": (_number(0), "a number of at least 0"),
            "batch_size": (lambda size: size == "auto" or _count(size), "'auto' or a whole number of at least 1"),
            "learning_rate": (_one_of("constant", "invscaling", "adaptive"), "'constant', 'invscaling' or 'adaptive'"),
            "learning_rate_init": (_number(0, ends="(]"), "a number above 0"),
            "power_t": (_number(0), "a number of at least 0"),
            "max_iter": (_count, "a whole number of at least 1"),
            "shuffle": (_flag, "True or False"),
            "tol": (_number(0), "a number of at least 0"),
            "warm_start": (_flag, "True or False"),
            "momentum": (_number(0, 1), "a number from 0 to 1"),
            "nesterovs_momentum": (_flag, "True or False"),
            "early_stopping": (_flag, "True or False"),
            "validation_fraction": (_number(0, 1, ends="[)"), "a number from 0 to 1, less than 1"),
            "beta_1": (_number(0, 1, ends="[)"), "a number from 0 to 1, less than 1"),
            "beta_2": (_number(0, 1, ends="[)"), "a number from 0 to 1, less than 1"),
            "epsilon": (_number(0, ends="(]"), "a number above 0"),
            "n_iter_no_change": (_patience, "a whole number of at least 1, or infinity"),
            "max_fun": (_count, "a whole number of at least 1"),
            "loss": (_one_of(*self._losses), " or ".join(map(repr, self._losses))),
        }
        _check(self, rules)
        sizes = self.hidden_layer_sizes
        hidden = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if any(isinstance(size, bool) or not isinstance(size, Integral) for size in hidden):
            raise ValueError(f"{type(self).__name__}: hidden_layer_sizes must hold whole numbers, not {sizes!r}")
        if any(size <= 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        return [int(size) for size in hidden]

    def _optimizer_of_core(self) -> Any:
        groups = [{"params": "*.weight"}]  # alpha is on weights alone
        if self.solver == "adam":
            betas = (float(self.beta_1), float(self.beta_2))
            return optim.Adam(float(self.learning_rate_init), betas, float(self.epsilon), groups=groups)
        if self.solver == "lbfgs":
            return optim.SGD(0.0)  # a step gives loss and gradients, and moves nothing
        nesterov = bool(self.nesterovs_momentum) and self.momentum > 0
        return optim.SGD(
            float(self.learning_rate_init), momentum=float(self.momentum), nesterov=nesterov, groups=groups
        )

    def _runner(self, batch: int | None, coefs: list[Any], intercepts: list[Any]) -> _Runner:
        """The network with these values. batch: of training; None: whatever there is will do. An older runner gives its
        place up with the optimizer's state."""
        held = _held(self)
        units = [len(coefs[0]), *(len(part) for part in intercepts)]
        if batch is not None:
            held.batch = max(batch, held.batch)
        size, runner = held.batch or PREDICTED_AT_ONCE, held.runner
        if runner is None or runner.units != units or runner.plan.batch_size != size:
            held.keep()
            runner = held.runner = _Runner(
                units, self.activation, self.out_activation_, self._optimizer_of_core(), size
            )
            if held.slots:
                _checkpoint.put_slots(runner.plan, held.slots, held.state["step"])
            held.pending = False
        runner.load(coefs, intercepts)
        return runner

    # --- fit

    def _initial(self, units: list[int], dtype: Any) -> None:
        """Values and counters of a new fit. Values are drawn as in scikit-learn: uniform, layer by layer (Glorot)."""
        self.n_iter_, self.t_, self.n_layers_ = 0, 0, len(units)
        self.out_activation_ = self._output_activation()
        self.coefs_, self.intercepts_ = [], []
        for left, right in pairwise(units):
            bound = math.sqrt((2.0 if self.activation == "logistic" else 6.0) / (left + right))
            self.coefs_.append(self._random_state.uniform(-bound, bound, (left, right)).astype(dtype, copy=False))
            self.intercepts_.append(self._random_state.uniform(-bound, bound, right).astype(dtype, copy=False))
        if self.solver != "lbfgs":
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.best_loss_: Any = None if self.early_stopping else math.inf
            self.validation_scores_: list[float] | None = [] if self.early_stopping else None
            self.best_validation_score_: Any = -math.inf if self.early_stopping else None

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        hidden = self._check_arguments()
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._validate(X, y, incremental, first)
        X = _dense(X)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        self.n_outputs_ = y.shape[1]
        self._random_state = _shared_random(self.random_state)
        if first:
            self._initial([X.shape[1], *hidden, self.n_outputs_], X.dtype)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        with _held(self).lock:
            if self.solver == "lbfgs":
                self._fit_lbfgs(X, y, weight)
            else:
                self._fit_stochastic(X, y, weight, incremental)
        if not all(np.isfinite(values).all() for values in [*self.coefs_, *self.intercepts_]):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _targets(self, y: Array) -> Array:
        """The targets as the core's loss reads them."""
        return np.ascontiguousarray(y.argmax(axis=1)) if self.out_activation_ == "softmax" else _float32(y)

    def _constants(self, y: Array) -> Array | None:
        """What scikit-learn's loss of a sample has besides the core's."""
        if self.out_activation_ != "exp":
            return None
        y = np.asarray(y, np.float64)
        terms: Array = (y * np.log(np.where(y > 0, y, 1.0)) - y).sum(axis=1)
        return terms

    def _fit_lbfgs(self, X: Array, y: Array, weight: Array | None) -> None:
        from scipy.optimize import minimize

        count, dtype = len(X), self.coefs_[0].dtype
        _held(self, fresh=True)
        runner = self._runner(count, self.coefs_, self.intercepts_)
        X, target = _float32(X), self._targets(y)
        total = count if weight is None else float(weight.sum())
        constants = self._constants(y)
        constant = 0.0 if constants is None else float(np.average(constants, weights=weight))
        shapes = [part.shape for part in [*self.coefs_, *self.intercepts_]]
        ends = np.cumsum([math.prod(shape) for shape in shapes])

        def unpacked(values: Array) -> list[Array]:
            parts = np.split(values, ends[:-1])
            return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

        def loss_and_gradient(values: Array) -> tuple[float, Array]:
            parts = unpacked(values)
            coefs, intercepts = parts[: len(parts) // 2], parts[len(parts) // 2 :]
            runner.load(coefs, intercepts)
            runner.plan.step(X, target, weight)
            found = float(runner.plan.results["loss"]) + constant  # what is differentiated
            found += 0.5 * self.alpha * sum(float(np.dot(part.ravel(), part.ravel())) for part in coefs) / total
            gradients = runner.plan.gradients
            made = [gradients[f"layers.{k}.weight"].T + self.alpha / total * part for k, part in enumerate(coefs)]
            made += [gradients[f"layers.{k}.bias"] for k in range(len(intercepts))]
            return found, np.concatenate([np.asarray(part, np.float64).ravel() for part in made])

        start = np.concatenate([np.asarray(part, np.float64).ravel() for part in [*self.coefs_, *self.intercepts_]])
        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        result = minimize(loss_and_gradient, start, method="L-BFGS-B", jac=True, options=options)
        self.n_iter_ = min(int(result.nit), self.max_iter)
        if result.status == 1:
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s): {result.message}. Increase max_iter or "
                "max_fun, or scale the data.",
                ConvergenceWarning,
            )
        parts = unpacked(result.x)
        half = len(parts) // 2
        self.coefs_ = [np.array(part, dtype=dtype) for part in parts[:half]]
        self.intercepts_ = [np.array(part, dtype=dtype) for part in parts[half:]]
        loss_and_gradient(result.x)
        penalty = 0.5 * self.alpha * sum(float(np.dot(part.ravel(), part.ravel())) for part in parts[:half]) / total
        self.loss_ = runner.value * float(runner.plan.results["loss_0"]) + constant + penalty
        if self.verbose:
            print(f"lbfgs: {self.n_iter_} iterations, {result.nfev} evaluations, loss {self.loss_:.8f}")
        _held(self, fresh=True)  # a plan for all samples at once is large

    def _split(self, X: Array, y: Array, weight: Array | None) -> list[Any]:
        """X, y, weight for training, then for validation."""
        if not self.early_stopping:
            return [X, y, weight, None, None, None]
        given = [X, y] if weight is None else [X, y, weight]
        parts = train_test_split(
            *given,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if is_classifier(self) and self.n_outputs_ == 1 else None,
        )
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        measured = self._labels(parts[3]) if is_classifier(self) else parts[3]
        weights = [None, None] if weight is None else parts[4:]
        return [parts[0], parts[2], weights[0], parts[1], measured, weights[1]]

    def _fit_stochastic(self, X: Array, y: Array, weight: Array | None, incremental: bool) -> None:
        dtype = self.coefs_[0].dtype
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = _Rate(self.learning_rate_init)
            _held(self, fresh=True)
        X, y, weight, X_val, y_val, weight_val = self._split(X, y, weight)
        count = len(X)
        batch = min(200, count) if self.batch_size == "auto" else int(self.batch_size)
        if batch > count:
            warnings.warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        batch = min(batch, count)
        runner = self._runner(batch, self.coefs_, self.intercepts_)
        epoch = _Epochs(self, runner, _float32(X), self._targets(y), weight, self._constants(y), batch)
        order = np.arange(count)
        best = self.coefs_, self.intercepts_
        self.n_iter_ = 0
        try:
            for _ in range(self.max_iter):
                if self.shuffle:
                    order = shuffle(order, random_state=self._random_state)
                self.loss_ = epoch.train(order if self.shuffle else None)
                self.n_iter_ += 1
                self.t_ += count
                self.loss_curve_.append(self.loss_)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if self._improved(runner, X_val, y_val, weight_val):
                    best = runner.read(dtype)
                if self.solver == "sgd" and self.learning_rate == "invscaling":
                    epoch.set_rate(float(self.learning_rate_init) / (self.t_ + 1) ** self.power_t)
                if self._no_improvement_count > self.n_iter_no_change:
                    if self._stops():
                        break
                    epoch.set_rate(self._optimizer.learning_rate / 5)
                    self._no_improvement_count = 0
                if incremental:
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                        "hasn't converged yet.",
                        ConvergenceWarning,
                    )
        except KeyboardInterrupt:
            if runner.plan.comm.size > 1:
                raise
            warnings.warn("Training interrupted by user.")
        self.coefs_, self.intercepts_ = best if self.early_stopping else runner.read(dtype)

    def _improved(self, runner: _Runner, X: Any, y: Any, weight: Any) -> bool:
        """Counts epochs without improvement. True when the validation score is better than ever."""
        if not self.early_stopping:
            self._no_improvement_count = (
                self._no_improvement_count + 1 if self.loss_ > self.best_loss_ - self.tol else 0
            )
            if self.loss_ < self.best_loss_:
                self.best_loss_ = self.loss_
            return False
        scores = self._activated(runner.scores(X))
        if np.isfinite(scores).all():
            measure = accuracy_score if is_classifier(self) else r2_score
            score = float(measure(y, self._answers(scores), sample_weight=weight))
        else:
            score = math.nan
        assert self.validation_scores_ is not None
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        worse = score < self.best_validation_score_ + self.tol
        self._no_improvement_count = self._no_improvement_count + 1 if worse else 0
        if self.best_validation_score_ is None or score > self.best_validation_score_:
            self.best_validation_score_ = score
            return True
        return False

    def _stops(self) -> bool:
        """After too many epochs without improvement; False: the learning rate shall fall."""
        what = "Validation score" if self.early_stopping else "Training loss"
        text = f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        if self.solver == "sgd" and self.learning_rate == "adaptive" and self._optimizer.learning_rate > 1e-6:
            if self.verbose:
                print(f"{text} Setting learning rate to {self._optimizer.learning_rate / 5:f}")
            return False
        if self.verbose:
            print(f"{text} Stopping.")
        return True

    # --- predict

    def _activated(self, scores: Array) -> Array:
        """What the last activation makes of the last layer's values, in the dtype of the parameters."""
        scores = scores.astype(self.coefs_[0].dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.out_activation_ == "softmax":
                powers = np.exp(scores - scores.max(axis=1, keepdims=True))
                return powers / powers.sum(axis=1, keepdims=True)
            if self.out_activation_ == "logistic":
                falling = np.exp(-np.abs(scores))
                return np.where(scores >= 0, 1, falling) / (1 + falling)
            return np.exp(scores) if self.out_activation_ == "exp" else scores

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        X = _dense(validate_data(self, X, accept_sparse=["csr", "csc"], reset=False))
        held = _held(self)
        with held.lock:
            return self._activated(self._runner(None, self.coefs_, self.intercepts_).scores(X))

    def predict(self, X: Any) -> Array:
        """Classes, or target values, of (samples, features)."""
        return self._answers(self._outputs(X))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Trains on X (samples, features) and y (samples) or (samples, outputs); sample_weight: (samples)."""
        return self._fit(X, y, sample_weight, False)

    def _is_stochastic(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for the solvers 'sgd' and 'adam'")
        return True

    def _more(self, X: Any, y: Any, sample_weight: Any) -> Any:
        return self._fit(X, y, sample_weight, True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # what the two kinds differ in

    def _validate(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, Array]:
        raise NotImplementedError

    def _output_activation(self) -> str:
        raise NotImplementedError

    def _answers(self, outputs: Array) -> Array:
        raise NotImplementedError

    def _labels(self, y: Array) -> Array:
        raise NotImplementedError


class _Epochs:
    """Trains epoch by epoch and sums up the loss as scikit-learn does: the mean over the batches, each with the penalty of
    the weights before its step."""

    def __init__(
        self, owner: Any, runner: _Runner, X: Array, y: Array, weight: Array | None, constants: Array | None, batch: int
    ) -> None:
        self.owner, self.runner, self.X, self.y, self.weight = owner, runner, X, y, weight
        self.constants, self.batch = constants, batch
        self.starts = np.arange(0, len(X), batch)
        self.sizes = np.diff(np.append(self.starts, len(X)))

    def train(self, order: Array | None) -> float:
        """One epoch; its loss."""
        owner, plan, count = self.owner, self.runner.plan, len(self.starts)
        if order is not None:  # a batch is a set: sums do not depend on the order in which it was drawn
            order = order[np.lexsort((order, np.arange(len(order)) // self.batch))]
        ordered = None if self.weight is None else self.weight if order is None else self.weight[order]
        totals = np.asarray(self.sizes, float) if ordered is None else np.add.reduceat(ordered, self.starts)
        decays = np.divide(owner.alpha, totals, out=np.zeros(count), where=totals > 0)
        settings = [self._settings(plan.step_count + k + 1, decay) for k, decay in enumerate(decays)]
        at_once = 1 if owner.alpha > 0 else count  # the penalty needs a look at the weights before each step
        found = np.empty(count)
        for first in range(0, count, at_once):
            penalty = self.runner.squares() * decays[first] / 2 if owner.alpha > 0 else 0.0
            pairs = plan.run(
                self.X, self.y, order, batch_size=self.batch, first=first, steps=at_once, sample_weight=self.weight,
                settings=settings[first : first + at_once],
            )  # fmt: skip
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                found[first : first + at_once] = self.runner.value * pairs[:, 0, 0] / pairs[:, 0, 1] + penalty
        if self.constants is not None:
            terms = self.constants if order is None else self.constants[order]
            terms = terms if ordered is None else terms * ordered
            found += np.add.reduceat(terms, self.starts) / totals
        return float((found * self.sizes).sum() / len(self.X))

    def _settings(self, step: int, decay: float) -> list[dict[str, float]]:
        """Of biases, then of weights. Adam: scikit-learn adds epsilon to the root of the second moment before, the core
        after its correction for the start."""
        owner = self.owner
        both = {"lr": owner._optimizer.learning_rate}
        if owner.solver == "adam":
            both["eps"] = owner.epsilon / math.sqrt(1 - owner.beta_2**step)
        return [{**both, "weight_decay": 0.0}, {**both, "weight_decay": float(decay)}]

    def set_rate(self, rate: float) -> None:
        """A new learning rate. scikit-learn keeps the velocity, a step; the core the average of gradients, velocity /
        rate."""
        before, plan = self.owner._optimizer.learning_rate, self.runner.plan
        self.owner._optimizer.learning_rate = rate
        if rate != before and plan.model.slots():
            slots = {name: value * np.float32(before / rate) for name, value in _checkpoint.slots_of(plan).items()}
            _checkpoint.put_slots(plan, slots, plan.step_count)


class MLPClassifier(ClassifierMixin, _BaseMLP):
    """Multi-layer perceptron for classes, two or more, or for several labels at once, with the arguments and attributes of
    sklearn.neural_network.MLPClassifier.

    Parameters: hidden_layer_sizes: of the hidden layers; activation: "identity", "logistic", "tanh" or "relu"; solver:
    "adam", "sgd" or "lbfgs" (scipy.optimize on all samples at once); alpha: L2 penalty on weights, divided by the sum of
    the batch's sample weights; batch_size: "auto" is min(200, samples); learning_rate: of sgd: "constant", "invscaling"
    (learning_rate_init / (samples seen + 1)^power_t) or "adaptive" (a fifth, each time the loss stands still);
    max_iter: epochs, of lbfgs iterations; tol, n_iter_no_change: stop when the loss, or with early_stopping the score on
    validation_fraction of the samples, has not got better by tol for so many epochs; warm_start: fit goes on from the
    last one.

    Attributes: classes_, coefs_ [(inputs, units)], intercepts_, loss_, loss_curve_, best_loss_, validation_scores_,
    best_validation_score_, n_iter_, t_ (samples seen), n_layers_, n_outputs_, out_activation_, n_features_in_,
    feature_names_in_. Values that are put into coefs_ and intercepts_ count from then on.
    """

    _losses = ("log_loss",)

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
    ):
        super().__init__(
            hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter,
            "log_loss", shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping,
            validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun,
        )  # fmt: skip

    def _validate(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=(np.float64, np.float32), reset=first
        )
        check_classification_targets(y)
        y = _single_column(y)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        elif self.warm_start:
            classes = unique_labels(y)
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        else:
            _known_classes(y, self.classes_)
        return X, self._label_binarizer.transform(y).astype(bool)

    def _output_activation(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _labels(self, y: Array) -> Array:
        labels: Array = self._label_binarizer.inverse_transform(y)
        return labels

    def _answers(self, outputs: Array) -> Array:
        return self._labels(outputs.ravel() if self.n_outputs_ == 1 else outputs)

    def predict_proba(self, X: Any) -> Array:
        """(samples, classes): the probability of each class; of each label, where there are several at once."""
        outputs = self._outputs(X)
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of predict_proba."""
        with np.errstate(divide="ignore"):
            logs: Array = np.log(self.predict_proba(X))
        return logs

    @available_if(lambda self: self._is_stochastic())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """One epoch more on the given samples. classes: all there will be, in the first call."""
        if _check_first_classes(self, classes):
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if several else classes)
            self.classes_ = self._label_binarizer.classes_
        return self._more(X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _BaseMLP):
    """Multi-layer perceptron for one or several numbers, with the arguments and attributes of
    sklearn.neural_network.MLPRegressor.

    loss: "squared_error", or "poisson" (targets not negative; the network gives the logarithm of the prediction). For
    everything else see MLPClassifier.
    """

    _losses = ("squared_error", "poisson")

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
    ):
        super().__init__(
            hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter,
            loss, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping,
            validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun,
        )  # fmt: skip

    def _validate(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=True, dtype=(np.float64, np.float32),
            reset=first,
        )  # fmt: skip
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError("loss='poisson' needs targets that are not negative")
        return X, _single_column(y)

    def _output_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _answers(self, outputs: Array) -> Array:
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    @available_if(lambda self: self._is_stochastic())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """One epoch more on the given samples."""
        return self._more(X, y, sample_weight)


# --- any network


def _default_net(features: int, outputs: int) -> nn.Module:
    """The network of NetClassifier() and NetRegressor()."""
    return nn.Sequential(nn.Linear(features, 100), nn.ReLU(), nn.Linear(100, outputs))


class _BaseNet(BaseEstimator):
    def __init__(
        self, net, loss, optimizer, epochs, batch_size, lr, shuffle, early_stopping, validation_fraction, n_iter_no_change,
        tol, callbacks, schedule, threads, precision, warm_start, random_state, verbose,
    ):  # fmt: skip
        self.net, self.loss, self.optimizer, self.epochs, self.batch_size, self.lr = (
            net, loss, optimizer, epochs, batch_size, lr,
        )  # fmt: skip
        self.shuffle, self.early_stopping, self.validation_fraction = shuffle, early_stopping, validation_fraction
        self.n_iter_no_change, self.tol, self.callbacks, self.schedule = n_iter_no_change, tol, callbacks, schedule
        self.threads, self.precision, self.warm_start = threads, precision, warm_start
        self.random_state, self.verbose = random_state, verbose

    def _check_arguments(self) -> None:
        rules: dict[str, tuple[Callable[[Any], bool], str]] = {
            "epochs": (_number(0, kind=Integral), "a whole number of at least 0"),
            "batch_size": (_count, "a whole number of at least 1"),
            "lr": (lambda lr: lr is None or _number(0)(lr), "None or a number of at least 0"),
            "shuffle": (_flag, "True or False"),
            "early_stopping": (_flag, "True or False"),
            "validation_fraction": (_number(0, 1, ends="()"), "a number between 0 and 1"),
            "n_iter_no_change": (_count, "a whole number of at least 1"),
            "tol": (_number(0), "a number of at least 0"),
            "warm_start": (_flag, "True or False"),
        }
        _check(self, rules)

    def _made(self, features: Any, outputs: int) -> nn.Module:
        """The network of a new fit: a copy of `net`, or what the factory makes."""
        factory = _default_net if self.net is None else self.net
        if isinstance(factory, nn.Module):
            return deepcopy(factory)
        if not callable(factory):
            raise TypeError(f"net must be a samestep.nn.Module or a function that makes one, not {factory!r}")
        with _drawn(self._seed):
            wanted = [
                item
                for item in inspect.signature(factory).parameters.values()
                if item.default is item.empty and item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
            ]
            net = factory(*(features, outputs)[: len(wanted)])
            if isinstance(net, nn.Module):
                net.state_dict()  # values are drawn now, from this seed
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must make a samestep.nn.Module, but made {net!r}")
        return net

    def _trainer(self, more: Any = ()) -> Trainer:
        optimizer = deepcopy(optim.resolve(self.optimizer))
        if self.lr is not None:
            optimizer.lr = float(self.lr)
        own = [] if self.callbacks is None else deepcopy(self.callbacks)
        return Trainer(
            self.net_, deepcopy(self._resolved()), optimizer, seed=self._seed, threads=self.threads,
            precision=self.precision, schedule=deepcopy(self.schedule),
            callbacks=[*(own if isinstance(own, (list, tuple)) else [own]), *more],
        )  # fmt: skip

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        self._check_arguments()
        first = not hasattr(self, "net_") or (not self.warm_start and not incremental)
        X, y = self._validate(X, y, incremental, first)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        held = _held(self, fresh=first)
        with held.lock:
            if first:
                drawn = _shared_random(self.random_state)
                self._seed = int(drawn.randint(2**31 - 1))
                self.net_ = self._made(X.shape[1] if X.ndim == 2 else X.shape[1:], self._outputs_wanted(y))
                self.history_: dict[str, list[float]] = {}
                self.loss_curve_: list[float] = []
                self.n_iter_ = 0
            y = self._targets(X, y)
            stopping = self.early_stopping and not incremental
            validation = None
            if stopping:
                given = [X, y] if weight is None else [X, y, weight]
                labels = is_classifier(self) and y.ndim == 1
                parts = train_test_split(
                    *given, test_size=self.validation_fraction, random_state=self._seed % 2**32, stratify=y if labels else None
                )  # fmt: skip
                X, y, validation = parts[0], parts[2], tuple(parts[1::2])
                weight = None if weight is None else parts[4]
            size = min(self.batch_size, len(X))
            if held.pending:
                held.runner = None
            if held.runner is None:
                more = []
                if stopping:
                    more = [callbacks.EarlyStopping("val_loss", self.n_iter_no_change, self.tol, restore_best=True)]
                held.runner = self._trainer(more)
            trainer: Trainer = held.runner
            if held.pending:  # a copy goes on where the other one stood
                trainer.plan.batch_size = size
                trainer.plan.run(X, y, batch_size=size, steps=0, sample_weight=weight)
                _checkpoint.put_slots(trainer.plan, held.slots, held.state["step"])
                trainer.epoch = held.state.get("epoch", 0)
                if trainer.schedule is not None and "schedule" in held.state:
                    trainer.schedule.load_state_dict(held.state["schedule"])
                held.pending = False
            before = len(trainer.history["loss"]) if "loss" in trainer.history else 0
            trainer.fit(
                X, y, 1 if incremental else self.epochs, size, validation=validation,
                sample_weight=weight, shuffle=bool(self.shuffle), verbose=bool(self.verbose),
            )  # fmt: skip
            for name, values in trainer.history.to_dict().items():
                self.history_.setdefault(name, []).extend(values[before:])
            self.loss_curve_ = list(self.history_.get("loss", []))
            self.n_iter_ = len(self.loss_curve_)
        return self

    def _scores(self, X: Any) -> Array:
        """The network's outputs."""
        check_is_fitted(self)
        X = validate_data(self, X, allow_nd=True, reset=False)
        held = _held(self)
        with held.lock:
            if held.runner is None:
                held.runner = self._trainer()
            found = held.runner.predict(X, min(self.batch_size, max(1, len(X))))
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{type(self).__name__} needs a network with one output")
        return found

    def _compared(self, X: Array, y: Array) -> Array:
        """Float targets in the shape of the network's output."""
        shape = np.shape(self.net_(X[:1]))[1:]
        if math.prod(shape) * len(y) != y.size:
            raise ValueError(f"the network gives (samples, {', '.join(map(str, shape))}), y has the shape {y.shape}")
        return _float32(y).reshape(len(y), *shape)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Trains for `epochs` epochs on X (samples, ...) and y; sample_weight: (samples)."""
        return self._fit(X, y, sample_weight, False)

    def _resolved(self) -> losses.Loss:
        raise NotImplementedError

    def _validate(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Array, Array]:
        raise NotImplementedError

    def _outputs_wanted(self, y: Array) -> int:
        raise NotImplementedError

    def _targets(self, X: Array, y: Array) -> Array:
        raise NotImplementedError


class NetClassifier(ClassifierMixin, _BaseNet):
    """A classifier from any network.

        NetClassifier(lambda features, classes: nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, classes)))

    Parameters: net: a samestep.nn.Module, whose copy is trained from its values on, or a function that makes one, of (features,
    outputs), of (features) or of nothing; features is a number, or for X of more axes the shape of a sample; default: one
    hidden layer of 100 units. loss: default "cross_entropy", for several labels at once "bce_with_logits"; optimizer, lr (of the
    optimizer, where given), schedule, callbacks, threads, precision: see samestep.Trainer; epochs, batch_size, shuffle: of
    fit; early_stopping: stop when the loss on validation_fraction of the samples has not got better by tol for n_iter_no_change
    epochs, and go back to the best; warm_start: fit goes on from the last one; random_state: of initial values that a function
    draws, shuffles, dropout and the split.

    Attributes: net_ (the trained network), classes_, history_ (name -> a number an epoch), loss_curve_, n_iter_ (epochs),
    n_features_in_, feature_names_in_.
    """

    def __init__(
        self,
        net=None,
        loss=None,
        optimizer="adam",
        *,
        epochs=20,
        batch_size=64,
        lr=None,
        shuffle=True,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        callbacks=None,
        schedule=None,
        threads=None,
        precision="fp32",
        warm_start=False,
        random_state=None,
        verbose=False,
    ):
        super().__init__(
            net, loss, optimizer, epochs, batch_size, lr, shuffle, early_stopping, validation_fraction, n_iter_no_change, tol,
            callbacks, schedule, threads, precision, warm_start, random_state, verbose,
        )  # fmt: skip

    def _resolved(self) -> losses.Loss:
        default = "bce_with_logits" if self._several else "cross_entropy"
        return losses.resolve(default if self.loss is None else self.loss)

    def _validate(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Array, Array]:
        X, y = validate_data(self, X, y, multi_output=True, allow_nd=True, reset=first)
        check_classification_targets(y)
        y = _single_column(y)
        if first and not incremental:
            self._set_classes(y, y)
        elif not self._several:
            _known_classes(y, self.classes_)
        return X, y if self._several else self._encoder.transform(y)

    def _set_classes(self, y: Any, classes: Any) -> None:
        self._several = type_of_target(y).startswith("multilabel")
        if self._several:
            self.classes_ = np.arange(np.shape(y)[1])
        else:
            self._encoder = LabelEncoder().fit(classes)
            self.classes_ = self._encoder.classes_

    def _binary(self) -> bool:
        return isinstance(self._resolved(), (losses.BCELoss, losses.BCEWithLogitsLoss))

    def _outputs_wanted(self, y: Array) -> int:
        return 1 if self._binary() and not self._several and len(self.classes_) <= 2 else len(self.classes_)

    def _targets(self, X: Array, y: Array) -> Array:
        if not self._binary():
            return y
        if not self._several and len(self.classes_) > 2:
            y = np.eye(len(self.classes_))[y]
        return self._compared(X, y)

    def predict_proba(self, X: Any) -> Array:
        """(samples, classes): the probability of each class; of each label, where there are several at once."""
        scores, loss = self._scores(X), self._resolved()
        if self._binary():
            made = scores if isinstance(loss, losses.BCELoss) else np.asarray(F.sigmoid(scores))
            made = made.reshape(len(scores), -1)
            if self._several or len(self.classes_) > 2:
                return made
            both = np.hstack([1 - made, made])
            return both[:, : len(self.classes_)]
        if isinstance(loss, losses.NLLLoss):
            return np.exp(scores)
        return np.asarray(F.softmax(scores, 1)) if len(scores) else scores

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of predict_proba."""
        with np.errstate(divide="ignore"):
            logs: Array = np.log(self.predict_proba(X))
        return logs

    def predict(self, X: Any) -> Array:
        """The class of each sample, or 0 and 1 for each label."""
        made = self.predict_proba(X)
        answer: Array = (made > 0.5).astype(int) if self._several else self.classes_[made.argmax(axis=1)]
        return answer

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """One epoch more on the given samples. classes: all there will be, in the first call."""
        if _check_first_classes(self, classes):
            self._set_classes(y, classes)
        return self._fit(X, y, sample_weight, True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.non_deterministic = self.random_state is None
        return tags


class NetRegressor(RegressorMixin, _BaseNet):
    """A regressor from any network; loss: default "mse". For everything else see NetClassifier."""

    def __init__(
        self,
        net=None,
        loss=None,
        optimizer="adam",
        *,
        epochs=20,
        batch_size=64,
        lr=None,
        shuffle=True,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        callbacks=None,
        schedule=None,
        threads=None,
        precision="fp32",
        warm_start=False,
        random_state=None,
        verbose=False,
    ):
        super().__init__(
            net, loss, optimizer, epochs, batch_size, lr, shuffle, early_stopping, validation_fraction, n_iter_no_change, tol,
            callbacks, schedule, threads, precision, warm_start, random_state, verbose,
        )  # fmt: skip

    def _resolved(self) -> losses.Loss:
        return losses.resolve("mse" if self.loss is None else self.loss)

    def _validate(self, X: Any, y: Any, incremental: bool, first: bool) -> tuple[Array, Array]:
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, allow_nd=True, reset=first)
        return X, _single_column(y)

    def _outputs_wanted(self, y: Array) -> int:
        self._flat = y.ndim == 1
        return 1 if y.ndim == 1 else y.shape[1]

    def _targets(self, X: Array, y: Array) -> Array:
        return self._compared(X, y)

    def predict(self, X: Any) -> Array:
        """The predicted numbers: (samples), or (samples, outputs)."""
        found = self._scores(X)
        return found.reshape(len(found)) if self._flat else found

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """One epoch more on the given samples."""
        return self._fit(X, y, sample_weight, True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.random_state is None
        return tags
