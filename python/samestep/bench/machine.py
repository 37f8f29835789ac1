"""Facts about the machine, its measured peak, and which processors to use."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _core

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
    first: list[int] = []
    second: list[int] = []
    cores = set()
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
    """The machine's own fused-multiply-add peak and the rate at which memory is read."""

    def __init__(self, seconds: float, processors: int) -> None:
        self.seconds, self.processors = seconds, processors
        self.isa: str = _core.build_info()["isa"]

    def __call__(self) -> dict[str, Any]:
        """{"isa": name, "gflops": {"1": one thread, "N": all processors together}, "gbytes": the same}"""
        found = {str(count): _core.peak("", count, self.seconds) for count in sorted({1, self.processors})}
        return {
            "isa": self.isa,
            "gflops": {count: peak[0] for count, peak in found.items()},
            "gbytes": {count: peak[1] for count, peak in found.items()},
            "load_average": load_average(),
        }
