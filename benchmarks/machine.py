"""Facts about the machine, its measured peak, and which processors to use."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SYSTEM = Path("/sys/devices/system/cpu")


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def processors(count: int) -> list[int]:
    """`count` of the processors that this process may use, one of each core first. Raises ValueError where there are fewer."""
    allowed = sorted(os.sched_getaffinity(0))
    if count > len(allowed):
        raise ValueError(f"--processors {count}: this process may use {len(allowed)}")
    first, second, cores = [], [], set()
    for number in allowed:
        core = _read(_SYSTEM / f"cpu{number}" / "topology" / "thread_siblings_list") or str(number)
        (second if core in cores else first).append(number)
        cores.add(core)
    return (first + second)[:count]


@contextlib.contextmanager
def bound(cpus: list[int]) -> Iterator[None]:
    """This process and all it starts stay on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def facts() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    info = [line.partition(":") for line in (_read(Path("/proc/cpuinfo")) or "").splitlines()]
    models = [value.strip() for name, _, value in info if name.strip() == "model name"]
    flags = next((value.split() for name, _, value in info if name.strip() == "flags"), [])
    memory = next(
        (line.split()[1] for line in (_read(Path("/proc/meminfo")) or "").splitlines() if line.startswith("MemTotal")),
        "0",
    )
    return {
        "cpu": models[0] if models else platform.processor(),
        "processors": os.cpu_count(),
        "processors_allowed": len(os.sched_getaffinity(0)),
        "virtual": "hypervisor" in flags,
        "governor": _read(_SYSTEM / "cpu0" / "cpufreq" / "scaling_governor"),
        "boost": _read(_SYSTEM / "cpufreq" / "boost"),
        "memory_gib": round(int(memory) / 2**20, 1),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "compiler": _first_line(["gcc", "--version"]),
        "load_average": load_average(),
    }


def _first_line(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.partition("\n")[0]
    except OSError:
        return None


class Peak:
    """The machine's own fused-multiply-add peak, by a C program that is compiled into `folder`."""

    def __init__(self, folder: Path, seconds: float, processors: int) -> None:
        self.seconds, self.processors, self.program = seconds, processors, folder / "peak"
        source = Path(__file__).with_name("peak.c")
        self.compile = [os.environ.get("CC", "gcc"), "-O2", "-pthread", str(source), "-o", str(self.program)]
        try:
            done = subprocess.run(self.compile, capture_output=True, text=True)
        except OSError as error:
            raise SystemExit(f"run.py: a C compiler is needed to measure the machine's peak: {error}") from None
        if done.returncode:
            raise SystemExit(f"run.py: peak.c does not compile:\n{done.stderr}")

    def __call__(self) -> dict[str, Any]:
        """{"isa": name, "gflops": {"1": one thread, "N": all processors together}}"""
        counts = sorted({1, self.processors})
        command = [str(self.program), str(self.seconds), *map(str, counts)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {**json.loads(done.stdout), "load_average": load_average()}
