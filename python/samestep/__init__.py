"""samestep: neural-network training on CPUs that takes the same step, bit for bit, on any number of threads and ranks.

    import samestep as ss
    from samestep import nn, optim

    net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    trainer = ss.Trainer(net, loss="cross_entropy", optimizer=optim.AdamW(1e-3), metrics=["accuracy"])
    trainer.fit(X, y, epochs=5, batch_size=64)

The same script runs under `mpiexec -n 4 python train.py`.
"""

from ._libraries import preload as _preload

_preload()  # before the extension, which needs these libraries

from . import augment, callbacks, comm, compress, metrics, nn, optim, parallel, schedules  # noqa: E402
from ._compile import Plan, compile  # noqa: E402
from ._core import CheckpointError, CommError, NumericError, RankFailed, build_info  # noqa: E402
from ._fingerprint import fingerprint  # noqa: E402
from ._random import manual_seed  # noqa: E402
from ._rate_range import RateRange, rate_range_test  # noqa: E402
from .callbacks import Callback, StopTraining  # noqa: E402
from .comm import allgather, allreduce, barrier, broadcast, rank, size  # noqa: E402
from .function import Function  # noqa: E402
from .history import History  # noqa: E402
from .nn.functional import cat, chunk, split, stack  # noqa: E402
from .parallel import AllReduce, LocalSGD, Parallel, ParameterServer  # noqa: E402
from .trainer import Trainer  # noqa: E402

__version__: str = build_info()["version"]

__all__ = [
    "AllReduce", "Callback", "CheckpointError", "CommError", "Function", "History", "LocalSGD", "NumericError", "Parallel",
    "ParameterServer", "Plan", "RankFailed", "RateRange", "StopTraining", "Trainer", "allgather", "allreduce", "augment", "barrier",
    "broadcast", "build_info", "callbacks", "cat", "chunk", "comm", "compile", "compress", "fingerprint", "manual_seed", "metrics", "nn",
    "optim", "parallel", "rank", "rate_range_test", "schedules", "size", "split", "stack",
]  # fmt: skip
