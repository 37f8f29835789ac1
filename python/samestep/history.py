"""What a training run has measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any


class History(Mapping[str, list[float]]):
    """One list of numbers for each quantity, one number an epoch: `history["loss"]`, `"accuracy"`, `"val_loss"`,
    `"seconds"`, ...

    `epoch` holds the numbers of the epochs, from 1. Losses and metrics are means over the samples of the epoch as they
    stood at each step; those that begin with `val_` were measured at its end.
    """

    def __init__(self, columns: Mapping[str, list[float]] | None = None) -> None:
        self._columns: dict[str, list[float]] = {name: list(values) for name, values in (columns or {}).items()}

    def append(self, logs: Mapping[str, float]) -> None:
        """Adds an epoch. A quantity that was not measured before gets NaN for the epochs before."""
        length = self._epochs()
        for name in {**self._columns, **logs}:
            self._columns.setdefault(name, [float("nan")] * length).append(logs.get(name, float("nan")))

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._columns:
            raise KeyError(f"no '{name}' in the history; it has {', '.join(self._columns) or 'nothing yet'}")
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __len__(self) -> int:
        """Number of quantities, as in any mapping; `len(history["loss"])` is the number of epochs."""
        return len(self._columns)

    def _epochs(self) -> int:
        return max((len(values) for values in self._columns.values()), default=0)

    def to_dict(self) -> dict[str, list[float]]:
        """A plain copy: `{"loss": [...], ...}`, ready for json or pandas.DataFrame."""
        return {name: list(values) for name, values in self._columns.items()}

    def plot(self, file: Any = None) -> Any:
        """Curves of losses and of metrics over the epochs, as a matplotlib figure; `file` (a path) also saves it. Needs
        matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("History.plot needs matplotlib: pip install matplotlib") from None
        groups: dict[str, list[str]] = {}
        for name in self:
            if name not in ("epoch", "seconds"):
                groups.setdefault(name.removeprefix("val_"), []).append(name)
        epochs = self._columns.get("epoch", list(range(1, self._epochs() + 1)))
        figure = Figure(figsize=(5.0 * max(1, len(groups)), 3.5), layout="constrained")
        panels = figure.subplots(1, max(1, len(groups)), squeeze=False)[0]
        for panel, (title, names) in zip(panels, groups.items(), strict=False):
            for name in names:
                label = "validation" if name.startswith("val_") else "training"
                panel.plot(epochs, self[name], marker="o" if self._epochs() < 30 else None, markersize=3, label=label)
            panel.set(title=title, xlabel="epoch")
            panel.grid(alpha=0.3)
            panel.legend()
        if file is not None:
            figure.savefig(file, dpi=150)
        return figure

    def _rows(self) -> list[list[str]]:
        return [[_short(self._columns[name][i]) for name in self] for i in range(self._epochs())]

    def __repr__(self) -> str:
        if not self:
            return "History(no epochs)"
        last = ", ".join(
            f"{name}={values}" for name, values in zip(self, self._rows()[-1], strict=True) if name != "epoch"
        )
        return f"History({self._epochs()} epoch{'s' if self._epochs() > 1 else ''}; last: {last})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self)
        body = "".join("<tr>" + "".join(f"<td>{value}</td>" for value in row) + "</tr>" for row in self._rows())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _short(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"
