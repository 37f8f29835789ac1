"""How a plan shows itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._summary import html_table, table


def _count(value: float, unit: str = "") -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".strip()


class Explanation:
    """The instructions of a plan as a table: `print` shows it, Jupyter too, and `data` holds the numbers."""

    def __init__(
        self, data: Mapping[str, Any], plan_bytes: Mapping[str, int], model_bytes: Mapping[str, int], analyze: bool
    ) -> None:
        self.data = dict(data)
        self.analyze = analyze
        self.bytes = {"model": dict(model_bytes), "plan": dict(plan_bytes)}

    def _table(self) -> tuple[list[str], list[list[str]], set[int]]:
        head = ["", "pass", "op", "layer", "shape", "kernel", "threads", "flops", "bytes", "offset", "bucket"]
        right = {0, 6, 7, 8, 9, 10}
        if self.analyze:
            head += ["ms", "GFLOP/s"]
            right |= {11, 12}
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
            if self.analyze:
                calls = item.get("calls") or 0
                each = item.get("seconds", 0.0) / calls if calls else 0.0
                row += [f"{1e3 * each:.4f}" if calls else "-", f"{item['flops'] / each / 1e9:.1f}" if each > 0 else "-"]
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
        lines = ["; ".join(parts), "memory: " + "; ".join(memory)]
        note = self.data.get("note")
        return "\n".join([*lines, note] if note else lines)

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
