"""How a plan shows itself."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from . import _core
from ._summary import html_table, table

PEAK_SECONDS = 0.1  # spent on measuring the machine, once a process


def _count(value: float, unit: str = "") -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".strip()


@lru_cache
def measured_peak(isa: str, threads: int) -> tuple[float, float]:
    """GFLOP/s of fused multiply-adds in registers and GB/s read from memory, measured once a process."""
    return _core.peak(isa, threads, PEAK_SECONDS)


def resident() -> int:
    """Bytes of this process's memory that are in RAM."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _slowest(seconds: list[float]) -> str:
    """Which rank the others wait for, where one does clearly more or slower work than half of them; else nothing."""
    if len(seconds) < 2:
        return ""
    rank, most, median = slowest(seconds)
    if most < 1.2 * median:
        return ""
    return (
        f"rank {rank} works {1e3 * most:.3f} ms a step, {most / median:.1f} times the median of the other ranks "
        f"({1e3 * median:.3f} ms): they wait for it"
    )


def slowest(seconds: list[float]) -> tuple[int, float, float]:
    """The rank that works longest, its seconds, and the median of the others'."""
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    return rank, seconds[rank], statistics.median(seconds[:rank] + seconds[rank + 1 :])


class Explanation:
    """The instructions of a plan as a table: `print` shows it, Jupyter too, and `data` holds the numbers.

    With analyze=True each instruction has its time, its rate in GFLOP/s and the share of the machine's peak that this
    is; `plot()` draws a roofline. `memory` holds bytes: "forecast", what the plan's layout asks for (parameters,
    optimizer state, gradients, activations, scratch, inputs), and with analyze=True "grown", by how much the process's
    resident memory has really grown since the network was compiled. Less than the forecast where a part is never used:
    the second set of inputs without `plan.run`, scratch that a smaller batch does not need.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        plan_bytes: Mapping[str, int],
        model_bytes: Mapping[str, int],
        memory: Mapping[str, int],
        analyze: bool,
    ) -> None:
        self.data = dict(data)
        self.analyze = analyze
        self.bytes = {"model": dict(model_bytes), "plan": dict(plan_bytes)}
        self.memory = dict(memory)

    @property
    def peak(self) -> tuple[float, float]:
        """What this machine reaches on the plan's threads: GFLOP/s of fused multiply-adds in registers, GB/s read from
        memory. Measured at the first use."""
        return measured_peak(self.data["isa"], self.data["threads"])

    def rates(self) -> list[dict[str, Any]]:
        """Of each measured instruction: "index", "seconds" of one call, "gflops" a second, "share" of the peak,
        "intensity" in operations a byte (None where an operator does not count its operations)."""
        found = []
        for item in self.data["instructions"]:
            if not item.get("calls") or item["seconds"] <= 0:
                continue
            seconds = item["seconds"] / item["calls"]
            rate = item["flops"] / seconds / 1e9
            intensity = item["flops"] / item["bytes"] if item["flops"] and item["bytes"] else None
            share = rate / self.peak[0] if item["flops"] else None
            found.append(
                {"index": item["index"], "seconds": seconds, "gflops": rate, "share": share, "intensity": intensity}
            )
        return found

    def _table(self) -> tuple[list[str], list[list[str]], set[int]]:
        head = ["", "pass", "op", "layer", "shape", "kernel", "threads", "flops", "bytes", "offset", "bucket"]
        right = {0, 6, 7, 8, 9, 10}
        if self.analyze:
            head += ["ms", "GFLOP/s", "of peak"]
            right |= {11, 12, 13}
        rates = {item["index"]: item for item in self.rates()} if self.analyze else {}
        rows = []
        for item in self.data["instructions"]:
            row = [
                str(item["index"]),
                str(item["pass"]),
                str(item["op"]) + (" statistic" if item["stage"] == "statistic" else ""),
                str(item["layer"] or "-"),
                _shape(item["shape"]),
                str(item["kernel"]),
                str(item["threads"]),
                _count(item["flops"]),
                _count(item["bytes"], "B"),
                _place(item["offset"]),
                _place(item["bucket"]),
            ]
            if self.analyze and item["index"] not in rates:
                row += ["-", "-", "-"]
            elif self.analyze:
                rate = rates[item["index"]]
                counted = rate["share"] is not None
                row += [
                    f"{1e3 * rate['seconds']:.4f}",
                    f"{rate['gflops']:.1f}" if counted else "-",
                    f"{100 * rate['share']:.1f}%" if counted else "-",
                ]
            rows.append(row)
        return head, rows, right

    def _caption(self) -> str:
        parts = [
            f"{self.data[name]} {name.replace('_', ' ')}"
            for name in ("lanes", "lanes_at_once", "ranks", "threads", "sweeps", "segments")
        ]
        parts += [f"{name} {self.data[name]}" for name in ("isa", "backend", "exchange") if self.data.get(name)]
        memory = [
            f"{kind} {name} {_count(size, 'B')}" for kind, sizes in self.bytes.items() for name, size in sizes.items()
        ]
        total = f"forecast {_count(self.memory['forecast'], 'B')} in all"
        if "grown" in self.memory:
            total += (
                f"; resident memory has grown by {_count(self.memory['grown'], 'B')} since the network was compiled"
            )
        lines = ["; ".join(parts), "memory: " + "; ".join(memory), total]
        if self.analyze:
            lines.append(self._measured())
        return "\n".join(lines)

    def _measured(self) -> str:
        instructions = self.data["instructions"]
        steps = max((item["calls"] for item in instructions), default=0) // max(1, self.data["sweeps"])
        if not steps:
            return "nothing measured yet: take some steps and ask again"
        spent = sum(item["seconds"] for item in instructions) / steps
        work = sum(item["flops"] * item["calls"] for item in instructions) / steps
        finish = self.data["finish_seconds"] / max(1, self.data["finishes"])
        flops, memory = self.peak
        hidden = ""
        if self.data["exchanges"]:
            span, blocked = (
                self.data[name] / self.data["exchanges"] for name in ("exchange_seconds", "blocked_seconds")
            )
            hidden = (
                f"gradients and parameters on their way for {1e3 * span:.3f} ms, of which the rank worked in "
                f"{100 * (1 - blocked / span):.0f}%; "
            )
        slow = _slowest(self.data["rank_seconds"])
        return (slow + "\n" if slow else "") + (
            f"{steps} steps measured: operators {1e3 * spent:.3f} ms a step ({work / spent / 1e9:.1f} GFLOP/s, "
            f"{100 * work / spent / 1e9 / flops:.1f}% of the peak); exchange and optimizer {1e3 * finish:.3f} ms; {hidden}"
            f"peak of {self.data['threads']} threads: {flops:.0f} GFLOP/s, {memory:.0f} GB/s read from memory"
        )

    def plot(self, file: Any = None) -> Any:
        """A roofline: the rate of each measured instruction over its operations a byte, under the bounds of memory and of
        arithmetic, as a matplotlib figure; `file` (a path) also saves it. Needs matplotlib and analyze=True.

        Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (2009). Bytes are those of
        activations, parameters and gradients, each counted once: caches may let points stand above the slope.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("Explanation.plot needs matplotlib: pip install matplotlib") from None
        points = [item for item in self.rates() if item["intensity"]] if self.analyze else []
        if not points:
            raise RuntimeError("nothing measured: call explain(analyze=True), take some steps, and call it again")
        flops, memory = self.peak
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        low = min(0.05, *(item["intensity"] for item in points))
        high = max(100.0, *(item["intensity"] for item in points)) * 2
        axes.plot([low, flops / memory, high], [low * memory, flops, flops], color="0.3", label="peak of this machine")
        kinds: dict[str, list[dict[str, Any]]] = {}
        for item in points:
            entry = self.data["instructions"][item["index"]]
            kinds.setdefault(f"{entry['op']}, {entry['pass']}", []).append(item)
        most = max(item["seconds"] for item in points)
        for place, (name, items) in enumerate(kinds.items()):
            axes.scatter(
                [item["intensity"] for item in items],
                [item["gflops"] for item in items],
                [20 + 180 * item["seconds"] / most for item in items],
                label=name,
                alpha=0.7,
                color=f"C{place % 10}",
                marker="os^Dv"[place // 10 % 5],
            )
        axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s", title="Area: time of a call")
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        if file is not None:
            figure.savefig(file)
        return figure

    def __str__(self) -> str:
        head, rows, right = self._table()
        return table(head, rows, right) + "\n" + self._caption()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows, right = self._table()
        return html_table(head, rows, right, self._caption())


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) if isinstance(shape, (tuple, list)) else str(shape)


def _place(value: Any) -> str:
    return "-" if value is None or value == -1 else str(value)
