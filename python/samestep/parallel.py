"""How ranks work together: `ss.Parallel`, and the ways of exchanging what they learn."""

from __future__ import annotations

from typing import Any

from .compress import Compressor, PowerSGD

__all__ = ["AllReduce", "LocalSGD", "Nesterov", "Parallel", "ParameterServer"]


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

    host_period: so many steps after another the ranks of one host meet among themselves, which costs no message between
    hosts (`period` must be a multiple of it); ranks_per_host: None, the hosts as they are, or so many consecutive ranks
    count as one.

    The bits depend on the number of ranks (and of those of each host). `plan.step` returns the loss of this rank's part.

    Sources: Stich: "Local SGD converges fast and communicates little", 2019; Lin, Stich, Patel, Jaggi: "Don't use large
    mini-batches, use local SGD", 2020.
    """

    def __init__(
        self,
        period: int = 8,
        outer: Nesterov | None = None,
        warmup: int = 0,
        host_period: int | None = None,
        ranks_per_host: int | None = None,
    ) -> None:
        numbers: list[tuple[str, Any, int]] = [("period", period, 1), ("warmup", warmup, 0)]
        numbers += [
            (name, value, 1)
            for name, value in (("host_period", host_period), ("ranks_per_host", ranks_per_host))
            if value is not None
        ]
        for name, value, least in numbers:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"LocalSGD: {name} must be a whole number from {least}, not {value!r}")
        if outer is not None and not isinstance(outer, Nesterov):
            raise TypeError(f"LocalSGD: outer must be None or samestep.parallel.Nesterov, not {outer!r}")
        if host_period is not None and period % host_period:
            raise ValueError(f"LocalSGD: period={period} must be a multiple of host_period={host_period}")
        if ranks_per_host is not None and host_period is None:
            raise ValueError("LocalSGD: ranks_per_host counts only with host_period")
        self.period, self.outer, self.warmup = period, outer, warmup
        self.host_period, self.ranks_per_host = host_period, ranks_per_host

    def __repr__(self) -> str:
        host = "" if self.host_period is None else f", host_period={self.host_period}"
        host += "" if self.ranks_per_host is None else f", ranks_per_host={self.ranks_per_host}"
        return f"LocalSGD(period={self.period}, outer={self.outer!r}, warmup={self.warmup}{host})"


class ParameterServer:
    """The last `servers` ranks hold the parameters and the optimizer's state, cut by size.

    mode: "sync": all ranks work on each batch, the servers sum the gradients, update, and send the parameters back: the
    bits of all-reduce, at any number of ranks and servers. "async": the servers only serve; the others, the workers, push
    gradients of their parts of each batch, and a gradient is applied when it arrives, whatever the parameters have become
    since. "bounded": likewise, but no worker gets more than `staleness` steps ahead of the slowest that has come: nobody
    waits for one that has not come yet, and one that comes late is let catch up. compression: of pushes in the latter two,
    an object of `samestep.compress` other than PowerSGD.

    Without "sync" every push is an update, so an epoch has as many updates as there are workers times as with all-reduce,
    of batches that are so much smaller: divide the learning rate by the number of workers to begin with. No two runs have
    the same bits: the order of updates is that of time. All
    ranks make the same calls; a server works inside `fit` and `plan.step` until the workers have made theirs.
    `plan.servers` tells what came of it. `plan.step` returns the loss of this worker's part, NaN on a server.

    Sources: Dean and others: "Large scale distributed deep networks", 2012; Ho and others: "More effective distributed ML via
    a stale synchronous parallel parameter server", 2013.
    """

    def __init__(
        self, servers: int = 1, mode: str = "sync", staleness: int = 4, compression: Compressor | None = None
    ) -> None:
        for name, value, least in (("servers", servers, 1), ("staleness", staleness, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"ParameterServer: {name} must be a whole number from {least}, not {value!r}")
        if mode not in ("sync", "async", "bounded"):
            raise ValueError(f"ParameterServer: mode must be 'sync', 'async' or 'bounded', not {mode!r}")
        if mode == "sync" and compression is not None:
            raise ValueError(
                "ParameterServer: mode 'sync' sends whole gradients; ss.AllReduce(compression) compresses them"
            )
        if compression is not None and (not isinstance(compression, Compressor) or isinstance(compression, PowerSGD)):
            raise TypeError(
                f"ParameterServer: compression must be an object of samestep.compress other than PowerSGD, not {compression!r}"
            )
        self.servers, self.mode, self.staleness, self.compression = servers, mode, staleness, compression

    def __repr__(self) -> str:
        return (
            f"ParameterServer(servers={self.servers}, mode={self.mode!r}, staleness={self.staleness}, "
            f"compression={self.compression!r})"
        )


class Parallel:
    """How the ranks share the work of a training run.

    exchange: `ss.AllReduce(compression=None)` (the default), `ss.ParameterServer(servers=1)` or
    `ss.LocalSGD(period=8, outer=None)`; accumulate: the batch is worked on in at least so many parts one after another,
    and only their sum is exchanged: memory of activations falls accordingly, and no bit changes. (batch_size remains the
    batch of one update.)
    """

    def __init__(self, *, exchange: AllReduce | LocalSGD | ParameterServer | None = None, accumulate: int = 1) -> None:
        exchange = AllReduce() if exchange is None else exchange
        if not isinstance(exchange, (AllReduce, LocalSGD, ParameterServer)):
            raise TypeError(
                f"Parallel: exchange must be ss.AllReduce(...), ss.ParameterServer(...) or ss.LocalSGD(...), not {exchange!r}"
            )
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise ValueError(f"Parallel: accumulate must be a whole number from 1, not {accumulate!r}")
        self.exchange, self.accumulate = exchange, accumulate

    @property
    def compression(self) -> Compressor | None:
        return self.exchange.compression if isinstance(self.exchange, AllReduce) else None

    @property
    def local(self) -> LocalSGD | None:
        return self.exchange if isinstance(self.exchange, LocalSGD) else None

    @property
    def central(self) -> ParameterServer | None:
        """Parameter servers without rounds."""
        return self.exchange if isinstance(self.exchange, ParameterServer) and self.exchange.mode != "sync" else None

    @property
    def owners(self) -> int:
        """So many of the last ranks update parameters; 0: all."""
        return (
            self.exchange.servers if isinstance(self.exchange, ParameterServer) and self.exchange.mode == "sync" else 0
        )

    def __repr__(self) -> str:
        return f"Parallel(exchange={self.exchange!r}, accumulate={self.accumulate})"


def resolve(parallel: Any) -> Parallel:
    """The argument `parallel` of ss.compile: None, a Parallel, or an exchange alone."""
    if parallel is None or isinstance(parallel, (AllReduce, LocalSGD, ParameterServer)):
        return Parallel(exchange=parallel)
    if not isinstance(parallel, Parallel):
        raise TypeError(f"parallel must be ss.Parallel(...), not {parallel!r}")
    return parallel


def _number(value: Any, argument: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or not 0 <= float(value) < float("inf"):
        raise ValueError(f"{argument} must be a number from 0, not {value!r}")
    return float(value)
