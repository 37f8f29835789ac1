"""Records of benchmark runs: one JSON file a run, small enough to be kept with the source."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_KEPT = ("version", "best_ms", "median_ms", "peak_mib", "error", "learns", "steps_of_a_burst")
_FIGURES = ("name", "gflop", "ratio", "best_peer", "fraction_of_peak", "peak_gflops", "overhead", "memory")


def commit() -> str | None:
    """The commit of the source folder this package runs from, with a + where files have changed; None outside one."""
    folder = Path(__file__).resolve().parent
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True)
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + "+" * bool(changes.stdout.strip())


def digest(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a record keeps of a result: figures, machine, versions, settings; not every burst."""
    kept = {name: result[name] for name in ("format", "started", "commit", "settings", "machine", "versions")}
    sections = []
    for section in result["sections"]:
        entries = []
        for entry in section["workloads"]:
            item = {name: entry[name] for name in _FIGURES if name in entry}
            item["contestants"] = {
                who: {name: record[name] for name in _KEPT if name in record}
                for who, record in entry["contestants"].items()
            }
            entries.append(item)
        sections.append({name: section[name] for name in ("ranks", "threads", "processors")} | {"workloads": entries})
    return kept | {"sections": sections}


def _figures(record: Mapping[str, Any]) -> dict[tuple[int, int, str], tuple[float, float]]:
    """samestep's best milliseconds and the peak beside them, GFLOP/s, by (ranks, threads, workload)."""
    return {
        (section["ranks"], section["threads"], entry["name"]): (
            entry["contestants"]["samestep"]["best_ms"],
            entry["peak_gflops"],
        )
        for section in record["sections"]
        for entry in section["workloads"]
        if "best_ms" in entry["contestants"].get("samestep", {})
    }


def load(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder, the oldest first; files that are none are passed over."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and {"started", "sections", "machine", "settings"} <= set(record):
            found.append(record)
    return sorted(found, key=lambda record: str(record["started"]))


def compare(record: Mapping[str, Any], earlier: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each workload that an earlier record of the same processor and precision has: the time now over the
    time then, and the peaks, which tell whether the machine was the same."""
    last: dict[tuple[int, int, str], tuple[Mapping[str, Any], float, float]] = {}
    for item in earlier:  # the oldest first: later ones take their places
        if (
            item["machine"]["cpu"] == record["machine"]["cpu"]
            and item["settings"]["precision"] == record["settings"]["precision"]
        ):
            last |= {key: (item, *figures) for key, figures in _figures(item).items()}
    lines = []
    for key, (value, peak) in _figures(record).items():
        if key not in last:
            continue
        ranks, threads, name = key
        item, before, peak_before = last[key]
        lines.append(
            f"{name}, {ranks} x {threads}: {value / before:.3f} of the time of {item['started']} "
            f"({item.get('commit') or 'no commit'}); peak {peak:.0f} against {peak_before:.0f} GFLOP/s"
        )
    return lines


def record(result: Mapping[str, Any], folder: Path) -> tuple[Path, list[str]]:
    """Writes the record into the folder, which is made where it is missing. Returns its path and the comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = digest(result)
    lines = compare(kept, load(folder))
    stamp = re.sub(r"[^0-9T]", "", str(result["started"]).partition("+")[0])
    path, number = folder / f"{stamp}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{stamp}_{number}.json"  # sorts behind the first
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return path, lines
