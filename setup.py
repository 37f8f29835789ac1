"""Builds samestep._core: the C core, its variants for each instruction set, and the binding, linked into one
extension module.

Metadata is in pyproject.toml. The compiler's flags are those of csrc/Makefile and not those of the interpreter or of
CFLAGS: -DNDEBUG would switch the assertions off, and -march=native or -ffast-math would change the bits of the
results. CC picks another compiler; SAMESTEP_MPICC and SAMESTEP_BLAS other libraries (tools/find_libraries.py);
SAMESTEP_JOBS the number of files compiled at once; SAMESTEP_DEBUG=1 builds with -O1 -g -DSS_DEBUG.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
sys.path.insert(0, str(ROOT / "tools"))
import find_libraries  # noqa: E402
import generate_tables  # noqa: E402

FLAGS = [
    "-std=gnu11",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-pthread",
]
VARIANTS = {
    "scalar": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    "f64": ["-DSS_F64"],
}
FOLDERS = ("base", "kernels", "ops", "optim", "compress", "graph", "plan", "comm", "train", "binding")
CONFIG = "_build.json"  # beside the extension: where its libraries came from; read by samestep/_libraries.py


def variants_of(source: Path) -> list[str | None]:
    """The variants a file is compiled for; [None] for once. The rule of csrc/Makefile: a file that names things with
    SS_FN is compiled once a variant."""
    folder = source.parent.name
    if folder not in ("kernels", "ops", "optim", "compress") or not re.search(r"\bSS_FN\b", source.read_text()):
        return [None]
    return [variant for variant in VARIANTS if variant != "f64" or folder == "ops"]


def up_to_date(target: Path, record: str) -> bool:
    """True when the object was made by this very command and compiler after the last change of each file it was made
    from."""
    try:
        if (ROOT / target).with_suffix(".command").read_text() != record:
            return False
        text = (ROOT / target).with_suffix(".d").read_text()
        files = text.replace("\\\n", " ").split(":", 1)[1].split("\n", 1)[0].split()
        made = (ROOT / target).stat().st_mtime
        return all((ROOT / file).stat().st_mtime <= made for file in files)
    except (OSError, IndexError):
        return False


def object_folder(build_temp: str) -> Path:
    """Where objects are kept between builds, relative to ROOT: pip's own folders are new each time. An unwritable
    source falls back to one of those."""
    name = f"build/core-{sys.implementation.cache_tag}"
    try:
        (ROOT / name).mkdir(parents=True, exist_ok=True)
        if os.access(ROOT / name, os.W_OK):
            return Path(name)
    except OSError:
        pass
    return Path(build_temp).absolute() / "core"


class BuildCore(build_ext):
    """Compiles every file of csrc in parallel and links them; nothing of distutils' own compiler is used."""

    def build_extension(self, ext: Extension) -> None:
        import numpy

        try:
            mpi, blas = find_libraries.find_mpi(), find_libraries.find_blas()
        except find_libraries.NotFound as error:
            raise CompileError(str(error)) from None
        out = object_folder(self.build_temp)
        self.debug = self.debug or bool(os.environ.get("SAMESTEP_DEBUG"))
        if self.debug:
            out = out / "debug"
        (ROOT / out).mkdir(parents=True, exist_ok=True)
        with open(ROOT / out / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two builds of one folder take turns
            self.build_core(ext, out, mpi, blas, numpy.get_include())

    def build_core(
        self, ext: Extension, out: Path, mpi: find_libraries.Library, blas: find_libraries.Library, numpy_include: str
    ) -> None:
        generate_tables.generate(CSRC, ROOT / out / "generated")
        compiler = shlex.split(os.environ.get("CC", "gcc"))
        version = self.run_tool([*compiler, "-v"], CompileError, quiet=True)
        python = [
            f"-I{path}" for path in dict.fromkeys((sysconfig.get_path("include"), sysconfig.get_path("platinclude")))
        ]
        python.append(f'-DSS_VERSION="{self.distribution.get_version()}"')
        # -isystem: their headers are not ours to warn about.
        extra = {
            "kernels": blas.cflags,
            "comm": mpi.cflags,
            "binding": [*python, "-isystem", numpy_include, *mpi.cflags, *blas.cflags],
        }

        jobs: list[tuple[Path, list[str]]] = []
        sources = [path for folder in FOLDERS for path in sorted((CSRC / folder).glob("*.c"))]
        # Paths are relative to ROOT, so that a copy of the folder finds its objects up to date.
        for source in [path.relative_to(ROOT) for path in sources] + [
            out / "generated" / name for name in ("op_table.c", "optim_table.c", "compressor_table.c")
        ]:
            for variant in variants_of(ROOT / source):
                target = out / source.parent.name / (source.stem + (f".{variant}" if variant else "") + ".o")
                command = compiler + FLAGS + (["-O1", "-g", "-DSS_DEBUG"] if self.debug else []) + ["-Icsrc"]
                command += extra.get(source.parent.name, [])
                if variant:
                    command += [f"-DSS_VARIANT={variant}", *VARIANTS[variant]]
                jobs.append((target, command + ["-MMD", "-c", str(source), "-o", str(target)]))
        self.compile_all(jobs, version)

        library = Path(self.get_ext_fullpath(ext.name)).absolute()
        library.parent.mkdir(parents=True, exist_ok=True)
        link = [*compiler, "-shared", "-pthread", "-o", str(library), *(str(target) for target, _ in jobs)]
        for part in (mpi, blas):
            link += part.libs
            # A wheel's library is found relative to the extension, a system's where it is now.
            link += [f"-Wl,-rpath,{place}" for place in part.wheel_rpath or part.folders]
        self.run_tool(link + ["-lm"], LinkError)
        config = {
            name: {
                "source": part.source,
                "folders": [] if part.source == "wheel" else [str(folder) for folder in part.folders],
            }
            for name, part in (("mpi", mpi), ("blas", blas))
        }
        launcher = find_libraries.find_mpiexec() if mpi.source == "system" else None
        config["mpi"]["mpiexec"] = str(launcher) if launcher else None
        (library.parent / CONFIG).write_text(json.dumps(config, indent=1) + "\n")

    def compile_all(self, jobs: list[tuple[Path, list[str]]], version: str) -> None:
        records = {target: f"{shlex.join(command)}\n{version}" for target, command in jobs}
        jobs = [(target, command) for target, command in jobs if not up_to_date(target, records[target])]
        for target, _ in jobs:
            (ROOT / target).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / target).with_suffix(".command").unlink(missing_ok=True)
        workers = int(os.environ.get("SAMESTEP_JOBS") or len(os.sched_getaffinity(0)))
        # Largest sources first: the longest job must not be the last to start.
        jobs = sorted(jobs, key=lambda job: -(ROOT / job[1][-3]).stat().st_size)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            results = [(target, pool.submit(self.run_tool, command, CompileError)) for target, command in jobs]
            for target, result in results:
                try:
                    result.result()
                except CompileError:
                    pool.shutdown(cancel_futures=True)
                    raise
                (ROOT / target).with_suffix(".command").write_text(records[target])

    def run_tool(self, command: list[str], error: type[Exception], quiet: bool = False) -> str:
        """Runs a command in ROOT and returns what it printed."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        except OSError as reason:
            raise error(
                f"cannot run {command[0]}: {reason}. A C compiler is needed (Debian, Ubuntu: apt install gcc); CC names it"
            ) from None
        if done.stderr and not quiet:
            print(done.stderr, file=sys.stderr, end="")
        if done.returncode:
            raise error(f"{shlex.join(command)}\n{done.stderr}")
        return done.stdout + done.stderr

    def get_outputs(self) -> list[str]:
        return super().get_outputs() + [
            str(Path(self.get_ext_fullpath(ext.name)).parent / CONFIG) for ext in self.extensions
        ]

    def copy_extensions_to_source(self) -> None:  # an editable install
        for ext in self.extensions:  # unlinked and not overwritten: a process that runs the old one keeps it
            (ROOT / "python" / self.get_ext_filename(ext.name)).unlink(missing_ok=True)
        super().copy_extensions_to_source()
        built = Path(self.build_lib) / "samestep" / CONFIG
        self.copy_file(str(built), str(ROOT / "python" / "samestep" / CONFIG), level=self.verbose)


setup(
    ext_modules=[Extension("samestep._core", sources=[], language="c")],
    cmdclass={"build_ext": BuildCore},
)
