"""How many processors this process may use: what the launcher divides among ranks and what `doctor` reports."""

from __future__ import annotations

import math
import os
from pathlib import Path


def allowed() -> list[int]:
    """The logical processors in this process's affinity mask."""
    return sorted(os.sched_getaffinity(0))


def cores(processors: list[int] | None = None, sysfs: Path = Path("/sys/devices/system/cpu")) -> int:
    """Physical cores behind the logical processors (default: the allowed ones). Open MPI counts slots in cores."""
    numbers = allowed() if processors is None else processors
    groups = set()
    for number in numbers:
        try:
            groups.add((sysfs / f"cpu{number}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            groups.add(str(number))
    return max(1, len(groups))


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Processors' worth of time that the control group grants (cgroup v2, then v1), the least over its ancestors;
    None when unlimited."""
    limits = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        folder = top / path.lstrip("/")
        # Inside a container the path may be that of the host, and only the top exists.
        for place in [folder, *folder.parents]:
            limit = _limit_v1(place) if controllers else _limit_v2(place)
            if limit is not None:
                limits.append(limit)
            if place == top:
                break
    return min(limits) if limits else None


def _limit_v2(folder: Path) -> float | None:
    try:
        granted, period = (folder / "cpu.max").read_text().split()
        return None if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError):
        return None


def _limit_v1(folder: Path) -> float | None:
    try:
        granted = int((folder / "cpu.cfs_quota_us").read_text())
        return None if granted <= 0 else granted / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def usable() -> int:
    """Threads that can run at once: the affinity mask, and no more than the quota (rounded up)."""
    limit = quota()
    count = len(allowed())
    return count if limit is None else max(1, min(count, math.ceil(limit)))
