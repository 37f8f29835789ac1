"""Ranks, and operations between them on NumPy arrays and other objects.

Without a launcher there is one rank and MPI is never started. All ranks must make the same calls in the same order.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, _libraries

__all__ = ["allgather", "allreduce", "barrier", "broadcast", "rank", "size"]

_world: _core.Comm | None = None
_others: dict[int, _core.Comm] = {}  # of mpi4py communicators, by handle: each is duplicated once


def resolve(comm: Any = None) -> _core.Comm:
    """The world for None; else the ranks of an mpi4py communicator."""
    global _world
    if isinstance(comm, _core.Comm):
        return comm
    if comm is None:
        if _world is None:
            _world = _core.Comm()
            if _core.mpi_initialized():
                os.environ["SAMESTEP_MPI_PID"] = str(os.getpid())  # what this rank starts is no rank
            if _world.size > 1:
                from . import _faults

                _faults.install(_world)
            elif _core.mpi_initialized():
                atexit.register(_core.mpi_finalize)
        return _world
    try:
        from mpi4py import MPI
    except ImportError:
        MPI = None  # type: ignore[assignment]
    if MPI is None or not isinstance(comm, MPI.Comm):
        raise TypeError(f"comm must be an mpi4py communicator, not {type(comm).__name__}")
    address = MPI._addressof(comm)
    handle = ctypes.c_void_p.from_address(address).value or 0
    if handle not in _others:
        _others[handle] = _core.Comm(address)
    return _others[handle]


def alone() -> _core.Comm:
    """A communicator of this rank only, for work that other ranks need not join."""
    if -1 not in _others:
        _others[-1] = _core.Comm(single=True)
    return _others[-1]


def rank(comm: Any = None) -> int:
    """This process's number, from 0; 0 without a launcher."""
    return 0 if comm is None and _world is None and not _mpi_wanted() else resolve(comm).rank


def size(comm: Any = None) -> int:
    """The number of ranks; 1 without a launcher."""
    return 1 if comm is None and _world is None and not _mpi_wanted() else resolve(comm).size


def _mpi_wanted() -> bool:
    return _libraries.under_launcher() or _core.mpi_initialized()


def barrier(comm: Any = None) -> None:
    """Returns when all ranks have called it. Raises ss.RankFailed when one does not come."""
    resolve(comm).barrier()


def allgather(value: Any, comm: Any = None) -> list[Any]:
    """Every rank's value, in rank order, on every rank. Arrays arrive as arrays; other objects are pickled."""
    return [_unpack(data) for data in resolve(comm).allgather(_pack(value))]


def broadcast(value: Any, root: int = 0, comm: Any = None) -> Any:
    """Rank `root`'s value on every rank; what other ranks pass is not looked at."""
    ranks = resolve(comm)
    if not 0 <= root < ranks.size:
        raise ValueError(f"root={root} is not one of the {ranks.size} ranks")
    return _unpack(ranks.broadcast(_pack(value) if ranks.rank == root else None, root))


def _tree(parts: list[Any], join: Callable[[Any, Any], Any]) -> Any:
    """Joins in the tree of the lanes: T(l,h) = T(l,m) + T(m,h), m = l + the largest power of two below h-l."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return join(_tree(parts[:half], join), _tree(parts[half:], join))


def allreduce(value: npt.ArrayLike, op: str = "sum", comm: Any = None) -> Any:
    """The sum, mean, largest or smallest of every rank's array (of one shape and dtype), element by element, with equal
    bits on every rank.

    op: "sum", "mean", "max" or "min". Contributions are joined in rank order by a binary tree. NaN stays NaN. A number
    gives a number. Raises ValueError on every rank when shapes or dtypes differ.
    """
    join = {"sum": np.add, "mean": np.add, "max": np.maximum, "min": np.minimum}.get(op)
    if join is None:
        raise ValueError(f"op must be 'sum', 'mean', 'max' or 'min', not {op!r}")
    array = np.asarray(value)
    parts = [np.asarray(part) for part in allgather(array, comm)]
    for number, part in enumerate(parts):
        if part.shape != parts[0].shape or part.dtype != parts[0].dtype:
            raise ValueError(
                f"allreduce: rank {number} has {part.dtype} of shape {part.shape}, rank 0 has {parts[0].dtype} of shape {parts[0].shape}"
            )
    if array.dtype.kind not in "fiubc":
        raise TypeError(f"allreduce works on numbers, not on dtype {array.dtype}")
    with np.errstate(all="ignore"):
        total = np.array(_tree(parts, join))
        if op == "mean":
            total = total / len(parts)
    if isinstance(value, np.ndarray):
        return total if op == "mean" and array.dtype.kind != "f" else total.astype(array.dtype, copy=False)
    return total.item() if total.ndim == 0 else total


def _pack(value: Any) -> bytes:
    return pickle.dumps(
        np.ascontiguousarray(value).reshape(value.shape) if isinstance(value, np.ndarray) else value, protocol=5
    )


def _unpack(data: bytes) -> Any:
    return pickle.loads(data)


def together(comm: _core.Comm, function: Callable[[], Any]) -> Any:
    """Runs a function that talks to no other rank. When it fails on one rank, every rank raises: none waits for a peer
    that has."""
    error: Exception | None = None
    result = None
    try:
        result = function()
    except Exception as reason:
        error = reason
    if comm.size > 1:
        texts = [
            data.decode() for data in comm.allgather((f"{type(error).__name__}: {error}" if error else "").encode())
        ]
        if error is None and any(texts):
            number = next(i for i, text in enumerate(texts) if text)
            raise _core.CommError(f"rank {number} failed: {texts[number]}")
    if error is not None:
        raise error
    return result
