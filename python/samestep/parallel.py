"""How ranks work together: `ss.Parallel`, and the ways of exchanging what they learn."""

from __future__ import annotations

from typing import Any

from .compress import Compressor

__all__ = ["AllReduce", "LocalSGD", "Nesterov", "Parallel"]


class AllReduce:
    """Gradients are summed over all ranks in every step, and every rank makes the same update.

    compression: None, and training has the same bits at any number of ranks; or an object of `samestep.compress`.
    """

    def __init__(self, compression: Compressor | None = None) -> None:
        if compression is not None and not isinstance(compression, Compressor):
            raise TypeError(f"AllReduce: compression must be an object of samestep.compress, not {compression!r}")
        self.compression = compression

    def __repr__(self) -> str:
        return f"AllReduce({'' if self.compression is None else f'compression={self.compression!r}'})"


class Nesterov:
    """The outer optimizer of LocalSGD: what the ranks have moved since they last met, on average, is taken as a gradient.

        delta = start - mean(parameters)
        velocity = momentum * velocity + delta
        parameters = start - lr * (delta + momentum * velocity)

    Source: Douillard and others: "DiLoCo: distributed low-communication training of language models", 2023, whose values
    are the defaults.
    """

    def __init__(self, lr: float = 0.7, momentum: float = 0.9) -> None:
        self.lr, self.momentum = _number(lr, "Nesterov: lr"), _number(momentum, "Nesterov: momentum")
        if self.momentum >= 1:
            raise ValueError(f"Nesterov: momentum must be below 1, but is {momentum!r}")

    def __repr__(self) -> str:
        return f"Nesterov(lr={self.lr:g}, momentum={self.momentum:g})"


class LocalSGD:
    """Each rank trains by itself on its part of every batch; every `period` steps the ranks meet and average their
    parameters. The optimizer's state stays with each rank.

    period: steps between two meetings; outer: None, the plain mean, or `ss.parallel.Nesterov(...)`; warmup: so many steps
    at the beginning the ranks meet after each (post-local SGD). They also meet before parameters are measured or saved:
    at the end of an epoch of `Trainer.fit`, in `plan.evaluate`, `plan.predict` and by `plan.synchronize()`.

    The bits depend on the number of ranks. `plan.step` returns the loss of this rank's part.

    Sources: Stich: "Local SGD converges fast and communicates little", 2019; Lin, Stich, Patel, Jaggi: "Don't use large
    mini-batches, use local SGD", 2020.
    """

    def __init__(self, period: int = 8, outer: Nesterov | None = None, warmup: int = 0) -> None:
        for name, value, least in (("period", period, 1), ("warmup", warmup, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"LocalSGD: {name} must be a whole number from {least}, not {value!r}")
        if outer is not None and not isinstance(outer, Nesterov):
            raise TypeError(f"LocalSGD: outer must be None or samestep.parallel.Nesterov, not {outer!r}")
        self.period, self.outer, self.warmup = period, outer, warmup

    def __repr__(self) -> str:
        return f"LocalSGD(period={self.period}, outer={self.outer!r}, warmup={self.warmup})"


class Parallel:
    """How the ranks share the work of a training run.

    exchange: `ss.AllReduce(compression=None)` (the default) or `ss.LocalSGD(period=8, outer=None)`; accumulate: the batch
    is worked on in at least so many parts one after another, and only their sum is exchanged: memory of activations
    falls accordingly, and no bit changes. (batch_size remains the batch of one update.)
    """

    def __init__(self, *, exchange: AllReduce | LocalSGD | None = None, accumulate: int = 1) -> None:
        exchange = AllReduce() if exchange is None else exchange
        if not isinstance(exchange, (AllReduce, LocalSGD)):
            raise TypeError(f"Parallel: exchange must be ss.AllReduce(...) or ss.LocalSGD(...), not {exchange!r}")
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise ValueError(f"Parallel: accumulate must be a whole number from 1, not {accumulate!r}")
        self.exchange, self.accumulate = exchange, accumulate

    @property
    def compression(self) -> Compressor | None:
        return self.exchange.compression if isinstance(self.exchange, AllReduce) else None

    @property
    def local(self) -> LocalSGD | None:
        return self.exchange if isinstance(self.exchange, LocalSGD) else None

    def __repr__(self) -> str:
        return f"Parallel(exchange={self.exchange!r}, accumulate={self.accumulate})"


def resolve(parallel: Any) -> Parallel:
    """The argument `parallel` of ss.compile: None, a Parallel, or an exchange alone."""
    if parallel is None or isinstance(parallel, (AllReduce, LocalSGD)):
        return Parallel(exchange=parallel)
    if not isinstance(parallel, Parallel):
        raise TypeError(f"parallel must be ss.Parallel(...), not {parallel!r}")
    return parallel


def _number(value: Any, argument: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or not 0 <= float(value) < float("inf"):
        raise ValueError(f"{argument} must be a number from 0, not {value!r}")
    return float(value)
