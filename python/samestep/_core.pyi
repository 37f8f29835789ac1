"""The C core. Everything numeric happens here; the Python around it gives names, defaults, docs and iteration."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

class CommError(RuntimeError):
    """Ranks cannot work together: one has failed, or the transport has."""

class RankFailed(CommError):
    """A rank did not answer within SAMESTEP_TIMEOUT seconds."""

class CheckpointError(RuntimeError):
    """A file of parameters or of a training run is damaged or does not fit."""

class NumericError(ArithmeticError):
    """The loss is no longer finite."""

ORDER_VERSION: int

def build_info() -> dict[str, Any]:
    """version, order_version, isa, isas_available, cpu, mpi_version, blas, debug."""

def operators() -> list[dict[str, Any]]:
    """One dict an operator: name, doc, flags, attrs = [(name, kind, default, least, most, doc)]."""

def optimizers() -> list[dict[str, Any]]:
    """One dict an optimizer: name, doc, hypers = [(name, default, least, most, doc)]."""

def fill_uniform(out: npt.NDArray[np.float32], seed: int, stream: int, low: float, high: float, /) -> None: ...
def fill_normal(out: npt.NDArray[np.float32], seed: int, stream: int, mean: float, std: float, /) -> None: ...
def permutation(count: int, seed: int, epoch: int, /) -> npt.NDArray[np.int64]:
    """The order of samples of an epoch: a function of (seed, epoch, count) alone."""

def default_lanes(batch: int, /) -> int: ...
def cpu_count() -> int: ...
def peak(isa: str, threads: int, seconds: float, /) -> tuple[float, float]:
    """Measures this machine: GFLOP/s of fused multiply-adds in registers and GB/s read from memory, all threads
    together. isa: "scalar", "avx2", "avx512", or "" for the best."""

def alloc_count() -> int:
    """Allocations the core has made so far (for tests)."""

def alloc_fail_after(n: int, /) -> None:
    """The n-th allocation from now and all after it fail; 0 switches this off (for tests)."""

@final
class Comm:
    """A set of ranks. `Comm()` is the world: MPI under a launcher, else one rank. Refuses a launcher of another MPI (ValueError).
    `Comm(handle)` takes the address of an MPI_Comm (mpi4py's `MPI._addressof(comm)`); `Comm(single=True)` is this rank alone."""

    rank: int
    size: int
    name: str
    timeout: float
    def __new__(cls, handle: int | None = None, *, single: bool = False) -> Comm: ...
    def barrier(self) -> None: ...
    def broadcast(self, data: bytes | None, root: int = 0) -> bytes: ...
    def allgather(self, data: bytes, /) -> list[bytes]: ...

def mpi_abort(code: int, /) -> None:
    """Ends all ranks of the job when MPI runs; returns otherwise."""

def mpi_initialized() -> bool: ...
def mpi_finalize() -> None:
    """Ends MPI in good order, if this library started it."""

@final
class Graph:
    """A traced network: values and the nodes that make them. The batch axis is never part of a shape."""

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
        """A batched value that the caller feeds ("float32" or "int32"), in order of creation."""
    def parameter(self, name: str, shape: Sequence[int], trainable: bool = True) -> int: ...
    def buffer(self, name: str, shape: Sequence[int]) -> int: ...
    def node(
        self, op: str, inputs: Sequence[int | None], attrs: Mapping[str, float] | None = None, layer: str = ""
    ) -> int | tuple[int, ...]:
        """Adds a node and returns its output value, or a tuple of several. Shape errors raise ValueError and name the
        layer."""
    def shape(self, value: int, /) -> tuple[int, ...]: ...
    def batched(self, value: int, /) -> bool: ...
    def dtype(self, value: int, /) -> str: ...
    def output(self, value: int, /) -> None:
        """Marks a value that Plan.forward returns."""
    def result(self, value: int, name: str, weight: float = 1.0) -> None:
        """Marks a loss or metric node's value as a result of a step, in order. The sum of the losses, each times its
        `weight`, is differentiated; a loss of weight 0 is measured only."""
    def nodes(self) -> list[dict[str, Any]]:
        """number, op, layer, inputs, output (the first), outputs (how many), attrs."""

@final
class Model:
    """The arena of parameters, buffers, gradients and optimizer state of a network."""

    step: int
    """Updates made so far."""
    seed: int
    def __new__(
        cls,
        graph: Graph,
        comm: Comm,
        *,
        optimizer: str | None = None,
        hypers: Mapping[str, float] | None = None,
        threads: int = 1,
        pin: bool = False,
        backend: str = "native",
        isa: str | None = None,
        seed: int = 0,
        groups: list[tuple[list[str], Mapping[str, float]]] | None = None,
        clip_norm: float = 0.0,
        clip_value: float = 0.0,
        lookahead: tuple[int, float] | None = None,
        average: tuple[str, float, int] | None = None,
        bf16: bool = False,
        compression: tuple[str, dict[str, float], bool, list[str]] | None = None,
        owners: int = 0,
    ) -> Model:
        """groups: names of parameters and their settings, groups 1, 2, ...; clip_*: 0 is off, infinity measures only;
        lookahead: (k, alpha); average: ("ema", decay, warmup) or ("swa", start, every); compression: (compressor, its
        settings, error feedback, names of the parameters it is for); owners: so many of the last ranks update parameters (0: all)."""
    threads: int
    backend: str
    isa: str
    comm: Comm
    def names(self) -> list[str]:
        """Parameters and buffers, in order of creation."""
    def get(self, name: str, /) -> npt.NDArray[np.float32]:
        """A read-only view of the arena."""
    def set(self, name: str, value: npt.ArrayLike, /) -> None: ...
    def broadcast(self) -> None:
        """Rank 0's parameters, buffers, state and step reach every rank (collective)."""
    def fingerprint(self) -> str:
        """SHA-256 over names, shapes, bits of parameters and buffers, and the order's version."""
    gradient_norm: float
    """Norm of all gradients together in the last update with clip_norm, before clipping."""
    def hyper(self, name: str, group: int = 0, /) -> float: ...
    def set_hyper(self, name: str, value: float, group: int = 0, /) -> None:
        """Takes effect at the next step; rank 0's values count."""
    def set_clip(self, norm: float, value: float, /) -> None:
        """Changes the clipping of gradients; 0 switches it off. A norm needs a model that was made with one."""
    def swap_average(self) -> None:
        """Exchanges the parameters and their averages; call the plan's gather_slots() first under MPI. Until they are
        exchanged back the model does not train."""
    def slots(self) -> list[str]: ...
    def get_slot(self, slot: str, name: str, /) -> npt.NDArray[np.float32]:
        """A copy of an optimizer state of one parameter. Call the plan's gather_slots() first under MPI."""
    def set_slot(self, slot: str, name: str, value: npt.ArrayLike, /) -> None: ...
    def central(
        self,
        comm: Comm,
        servers: int,
        staleness: int,
        compression: tuple[str, dict[str, float], bool, list[str]] | None = None,
        /,
    ) -> None:
        """The last `servers` ranks of comm hold the parameters of this model; staleness below 0: no bound."""
    def central_begin(self) -> None:
        """Rank 0's parameters, running statistics and step reach every rank (collective)."""
    def serve(self, pushes: int, /) -> None:
        """Answers workers until so many pushes have been applied; below 0: until all have left."""
    def leave(self) -> None:
        """A worker has no more pushes in this run."""
    def central_gather(self, slots: bool, /) -> None:
        """The servers' parameters, and with `slots` their optimizer state, reach every rank (collective)."""
    def central_report(self) -> dict[str, Any]:
        """serves, pushes, bytes of a push, most_behind, mean_behind, waits."""
    def meetings(self, comm: Comm, outer: tuple[float, float] | None = None, host_ranks: int = 0, /) -> None:
        """Sets up the meetings of local training; outer: (lr, momentum) of an outer optimizer; host_ranks: so many
        consecutive ranks are a host, 0: as they are."""
    def meet_host(self) -> None:
        """The ranks of a host average their parameters."""
    def begin_meetings(self) -> None:
        """Rank 0's parameters, running statistics and step reach every rank (collective)."""
    def meet(self) -> None:
        """The ranks average their parameters and running statistics, or take a step of the outer optimizer (collective)."""
    def gather_velocity(self) -> None:
        """Every rank gets the whole velocity of the outer optimizer (collective)."""
    def velocity(self, name: str, value: npt.ArrayLike = ..., /) -> Any:
        """The outer optimizer's velocity of one parameter: a copy, or with a value sets it."""
    def compression(self) -> dict[str, Any] | None:
        """name, bytes: that a rank sends in a step; plain_bytes: without compression; error: |left out| / |packed| of the
        last step on this rank. None without compression or on one rank."""
    def get_kept(self, kind: str, name: str, /) -> npt.NDArray[np.float32]:
        """What this rank's compression keeps of a parameter; kind: "residual", "owed" or "compressor". KeyError: nothing."""
    def set_kept(self, kind: str, name: str, value: npt.ArrayLike, /) -> None: ...
    def bytes(self) -> dict[str, int]: ...

@final
class Plan:
    """Memory, lanes and the order of work for one graph and a largest batch."""

    batch: int
    lanes: int
    lanes_at_once: int
    training: bool
    model: Model
    results: list[str]
    """Names of losses and metrics."""
    result_lengths: list[int]
    """How many pairs (sum, denominator) each of them has."""
    def __new__(
        cls,
        model: Model,
        graph: Graph,
        *,
        batch: int,
        training: bool,
        lanes: int | None = None,
        lanes_at_once: int | None = None,
        gradients: bool = False,
        results: bool = True,
        functions: Sequence[Any] | None = None,
    ) -> Plan:
        """training: forward, backward and update; otherwise forward alone, in inference mode. results=False leaves
        losses and metrics out. functions: what nodes of the operator "function" call.
        gradients: every rank keeps the whole gradient for `gradient()` (one more all-gather a
        step under several ranks)."""
    def rows(self, batch: int, /) -> tuple[int, int]:
        """The rows of a global batch that this rank works on: [begin, end)."""
    def push(self) -> None:
        """Sends the gradient of the last step(update=False) to the parameter servers and receives the parameters."""
    def step(
        self, arrays: Sequence[Any], *, local: bool = False, batch: int | None = None, update: bool = True
    ) -> npt.NDArray[np.float64]:
        """One batch: (pairs, 2) of sums and denominators, in the order of results, result_lengths pairs each; the value
        of a result is their quotient. The GIL is released.
        local: the arrays hold this rank's rows alone and `batch` gives the size of the global batch."""
    def run(
        self,
        arrays: Sequence[Any],
        order: npt.NDArray[np.int64] | None,
        *,
        batch: int,
        first: int = 0,
        steps: int,
        hypers: dict[str, npt.NDArray[np.float64]] | None = None,
        mix: tuple[str, float, int, tuple[str, ...]] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Steps `first` to `first + steps` over arrays in memory, batches cut from `order` (or from the rows as they
        lie): (steps, pairs, 2). A loader thread gathers the next batch while the current one trains. Signals are
        checked between steps. hypers: settings of the optimizer by name, (steps, groups), that change from step to step. mix: ("mixup" or
        "cutmix", alpha, epoch, what happens to each array: "keep", "input", "target", "one_hot")."""
    def forward(
        self, arrays: Sequence[Any], *, local: bool = False, batch: int | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """The outputs of this rank's rows of the batch, one array an output."""
    def gradient(self, name: str, /) -> npt.NDArray[np.float32]:
        """A read-only view of the last step's gradient. Needs gradients=True, or a single rank."""
    def gather_slots(self) -> None:
        """Each rank updates its share of the parameters and holds that share of the optimizer's state; this completes
        it everywhere (collective)."""
    def explain(self) -> dict[str, Any]:
        """Keys: instructions (list of dicts: index, pass, op, stage, layer, shape, kernel, threads, flops and bytes of a
        sweep, offset, bucket, segment, seconds, calls), memory (dict of bytes), buckets (list), lanes, ranks, threads,
        lanes_at_once, sweeps, segments."""
    def profile(self, on: bool, /) -> None:
        """Measures each instruction from now on; explain() then carries seconds and calls."""
    def bytes(self) -> dict[str, int]: ...
