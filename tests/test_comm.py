"""Operations between ranks, alone and on several ranks."""
# ruff: noqa: E501

from __future__ import annotations

import glob

import numpy as np
import pytest

import samestep as ss
from samestep import comm


@pytest.mark.skipif(ss.size() > 1, reason="there are several ranks")
def test_alone():
    assert ss.rank() == 0 and ss.size() == 1
    value = np.arange(3.0)
    assert (ss.allreduce(value) == value).all() and ss.allreduce(2) == 2 and isinstance(ss.allreduce(2), int)
    assert ss.allgather("a") == ["a"] and ss.broadcast({"a": 1}) == {"a": 1}
    ss.barrier()
    with pytest.raises(ValueError, match="op"):
        ss.allreduce(value, "product")
    with pytest.raises(ValueError, match="root"):
        ss.broadcast(1, root=1)
    with pytest.raises(TypeError, match="numbers"):
        ss.allreduce(np.array(["a"]))


def test_no_mpi_without_a_launcher(python_run):
    before = set(glob.glob("/dev/shm/*"))
    done = python_run(
        "import samestep as ss, numpy as np\n"
        "from samestep import nn, optim, _core\n"
        "ss.barrier(); ss.allreduce(np.ones(3)); ss.compile(nn.Linear(2, 2), optimizer=optim.SGD(0.1)).step(np.ones((4, 2)), np.zeros(4, int))\n"
        "print(_core.mpi_initialized())"
    )
    assert done.stdout == "False\n", done.stderr
    assert not {
        name for name in set(glob.glob("/dev/shm/*")) - before if "vader" in name or "ompi" in name or "sm_seg" in name
    }


def test_the_tree():
    """The tree of the lanes: the sums of 1 to 9 parts, as brackets."""
    join = "({}{})".format
    assert comm._tree(["a"], join) == "a"
    assert comm._tree(list("abc"), join) == "((ab)c)"
    assert comm._tree(list("abcdef"), join) == "(((ab)(cd))(ef))"


MANY = """
import sys
import numpy as np
import samestep as ss
rank, size = ss.rank(), ss.size()
assert size == int(sys.argv[1])
values = np.random.default_rng(rank).normal(size=1001).astype(np.float32)
everyone = [np.random.default_rng(r).normal(size=1001).astype(np.float32) for r in range(size)]
def tree(parts):
    if len(parts) == 1:
        return parts[0]
    half = 1
    while half * 2 < len(parts):
        half *= 2
    return tree(parts[:half]) + tree(parts[half:])
total = ss.allreduce(values)
assert total.dtype == np.float32 and total.tobytes() == tree(everyone).tobytes()
assert (ss.allreduce(values, "max") == np.max(everyone, axis=0)).all() and (ss.allreduce(values, "min") == np.min(everyone, axis=0)).all()
assert (ss.allreduce(values, "mean") == tree(everyone) / np.float32(size)).all()
assert ss.allreduce(rank) == sum(range(size)) and ss.allreduce(float(rank), "mean") == (size - 1) / 2
assert np.isnan(ss.allreduce(np.array([np.nan if rank == size - 1 else 1.0]), "max")).all()
gathered = ss.allgather(np.full(rank, rank))
assert [len(part) for part in gathered] == list(range(size)) and all((part == r).all() for r, part in enumerate(gathered))
assert ss.allgather({"rank": rank}) == [{"rank": r} for r in range(size)]
for root in range(size):
    assert ss.broadcast(np.arange(5) + rank, root).tolist() == (np.arange(5) + root).tolist()
big = ss.broadcast(np.arange(3_000_000) if rank == 0 else None)
assert big[-1] == 2_999_999
ss.barrier()
try:
    ss.allreduce(np.zeros(3 if rank else 2))
    assert size == 1
except ValueError as error:
    assert "rank 1" in str(error)
print("fine")
"""


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_between_ranks(mpi_run, ranks):
    assert mpi_run(MANY, n=ranks, args=[str(ranks)]).stdout.count("fine") == ranks


@pytest.mark.mpi
def test_communicators_of_mpi4py(mpi_run):
    pytest.importorskip("mpi4py")
    done = mpi_run(
        """
import numpy as np
from mpi4py import MPI
import samestep as ss
from samestep import nn, optim
world = MPI.COMM_WORLD
half = world.Split(world.rank % 2)
assert ss.size(world) == 4 and ss.size(half) == 2 and ss.rank(half) == world.rank // 2
assert ss.allreduce(world.rank, comm=half) == (2 if world.rank % 2 == 0 else 4)
ss.manual_seed(world.rank % 2)
layer = nn.Linear(3, 2)
plan = ss.compile(layer, optimizer=optim.SGD(0.1), batch_size=16, comm=half)
plan.step(np.ones((16, 3)), np.zeros(16, int))
prints = world.allgather(ss.fingerprint(layer))
assert prints[0] == prints[2] != prints[1] == prints[3]
try:
    ss.size(3)
except TypeError as error:
    assert "mpi4py" in str(error)
    print("fine")
""",
        n=4,
    )
    assert done.stdout.count("fine") == 4
