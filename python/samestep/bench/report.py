"""From measured times to figures and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

MAIN = "samestep"


def summarize(entry: dict[str, Any], peers: set[str], count: int) -> None:
    """Adds best and median of each contestant, the best peer, ratios and the fraction of the peak to a workload's entry.

    count: number of processors that the peak counts.
    """
    for contestant in entry["contestants"].values():
        if contestant["rounds_ms"]:
            every = [value for burst in contestant["rounds_ms"] for value in burst]
            contestant["best_ms"], contestant["median_ms"] = min(every), median(every)
    times = {name: item for name, item in entry["contestants"].items() if "best_ms" in item}
    entry["peak_gflops"] = max(entry[when]["gflops"][str(count)] for when in ("peak_before", "peak_after"))
    entry["at_peak_ms"] = entry["gflop"] / entry["peak_gflops"] * 1e3
    present = [name for name in times if name in peers]
    entry["best_peer"] = min(present, key=lambda name: times[name]["best_ms"]) if present else None
    if MAIN not in times:
        return
    ours = times[MAIN]
    entry["fraction_of_peak"] = entry["at_peak_ms"] / ours["best_ms"]
    if entry["best_peer"]:
        theirs = times[entry["best_peer"]]
        entry["ratio"] = theirs["best_ms"] / ours["best_ms"]
        entry["ratio_rounds"] = [min(b) / min(a) for a, b in zip(ours["rounds_ms"], theirs["rounds_ms"], strict=True)]


def geometric_mean(values: list[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _cell(contestant: Mapping[str, Any] | None) -> str:
    if contestant is None:
        return "-"
    if "best_ms" not in contestant:
        return "failed"
    return number(contestant["best_ms"]) + ("" if contestant["learns"] else " !")


def tables(section: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, head, rows) of a section: times, and memory."""
    entries = section["workloads"]
    present = {name for entry in entries for name in entry["contestants"]}
    names = [name for name in section["contestants"] if name in present]
    peak = str(section["processors"])
    head = ["workload", "GFLOP", "at peak", *names, "ratio", "of rounds", "of peak", "GFLOP/s peak", "load"]
    times, memory, inside, forecast = [], [], [], []
    for entry in entries:
        rounds, fraction = entry.get("ratio_rounds"), entry.get("fraction_of_peak")
        before, after = (entry[when]["gflops"][peak] for when in ("peak_before", "peak_after"))
        row = [entry["name"], number(entry["gflop"]), number(entry["at_peak_ms"])]
        row += [_cell(entry["contestants"].get(name)) for name in names]
        row += [number(entry.get("ratio")), f"{min(rounds):.2f}-{max(rounds):.2f}" if rounds else "-"]
        row += ["-" if fraction is None else f"{100 * fraction:.1f}%", f"{before:.0f}, {after:.0f}"]
        times.append([*row, number(entry["peak_before"]["load_average"][0])])
        memory.append(
            [entry["name"], *(number((entry["contestants"].get(name) or {}).get("peak_mib")) for name in names)]
        )
        if found := entry.get("memory"):
            planned, grown = found["forecast_mib"], found["grown_mib"]
            forecast.append([entry["name"], number(planned), number(grown), f"{grown / planned:.3f}"])
        if overhead := entry.get("overhead"):
            step, run, operators = (overhead[name] for name in ("step_us", "run_us", "operators_us"))
            inside.append(
                [entry["name"], *(number(value) for value in (step, run, operators, step - run, run - operators))]
            )
    who = f"{section['ranks']} rank{'s' * (section['ranks'] > 1)} of {section['threads']} thread{'s' * (section['threads'] > 1)}"
    shown = [
        (f"Milliseconds a step, best burst; {who}", head, times),
        (f"Peak resident memory, MiB; {who}", ["workload", *names], memory),
    ]
    if forecast:
        title = f"samestep's memory of a rank since compile, MiB; {who}"
        shown.append((title, ["workload", "forecast", "grown by", "grown / forecast"], forecast))
    if inside:
        shown.append(
            (
                f"samestep's own step, microseconds; {who}",
                ["workload", "plan.step", "plan.run", "in operators", "call from Python", "rest of the step"],
                inside,
            )
        )
    return shown


def notes(section: Mapping[str, Any]) -> list[str]:
    """What the tables do not say."""
    lines = []
    mean = section.get("geometric_mean_ratio")
    if mean is not None:
        lines.append(f"Geometric mean of the ratios: {mean:.2f}.")
    for entry in section["workloads"]:
        for name, item in entry["contestants"].items():
            if item["error"]:
                lines.append(f"{name} failed on {entry['name']}: {item['error']}")
            elif not item["learns"]:
                lines.append(
                    f"! {name} on {entry['name']}: the loss did not fall ({item['loss_first']:.4g} to {item['loss_last']:.4g})."
                )
    return lines


def plain_table(head: list[str], rows: list[list[str]]) -> str:
    """For a terminal: the first column to the left, the others to the right."""
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """For a page."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows]]
    return "\n".join(lines)


def text(result: Mapping[str, Any], markdown: bool = False) -> str:
    """The whole report."""
    facts, parts = result["machine"], []
    kind = "virtual processors" if facts["virtual"] else "processors"
    machine = f"{facts['cpu']}, {facts['processors']} {kind}, governor {facts['governor'] or 'not readable'}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    load = ", ".join(map(str, facts["load_average"]))
    lines = [
        f"Machine: {machine}; load average at the start {load}.",
        f"Versions: {versions}; Python {facts['python']}.",
        f"Started: {result['started']}.",
        f"Command: {result['command']}",
    ]
    parts.append("\n".join(f"- {line}" if markdown else line for line in lines))
    for section in result["sections"]:
        for title, columns, rows in tables(section):
            parts.append(
                f"### {title}\n\n{markdown_table(columns, rows)}"
                if markdown
                else f"{title}\n\n{plain_table(columns, rows)}"
            )
        parts.append("\n".join(f"- {line}" for line in notes(section)))
    return "\n\n".join(part for part in parts if part) + "\n"


def check_plot(file: Any) -> None:
    """Raises ImportError without matplotlib, ValueError for a kind of file that it cannot write."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ImportError("needs matplotlib: pip install matplotlib") from None
    known = FigureCanvasAgg.get_supported_filetypes()
    if file.suffix.lstrip(".").lower() not in known:
        raise ValueError(f"the name must end in one of {', '.join(sorted(known))}")


def plot(result: Mapping[str, Any], file: Any) -> Any:
    """Bars of each contestant's best time over samestep's, a panel for each number of ranks; saved to `file`."""
    from matplotlib.figure import Figure

    sections = [section for section in result["sections"] if section["workloads"]]
    figure = Figure(figsize=(9, 3.6 * max(1, len(sections))), layout="constrained")
    for place, section in enumerate(sections, 1):
        axes = figure.add_subplot(len(sections), 1, place)
        names = [name for name in section["contestants"] if name not in (MAIN, f"{MAIN}-run")]
        entries = [entry for entry in section["workloads"] if "best_ms" in entry["contestants"].get(MAIN, {})]
        width = 0.8 / max(1, len(names))
        for k, name in enumerate(names):
            bars = [
                (at, entry["contestants"][name]["best_ms"] / entry["contestants"][MAIN]["best_ms"])
                for at, entry in enumerate(entries)
                if "best_ms" in entry["contestants"].get(name, {})
            ]
            if bars:
                left, height = zip(*bars, strict=True)
                drawn = axes.bar([at - 0.4 + (k + 0.5) * width for at in left], height, width, label=name)
                axes.bar_label(drawn, [number(value) for value in height], fontsize=7)
        axes.axhline(1.0, color="0.3", linewidth=1, label=MAIN)
        axes.set_xticks(range(len(entries)), [entry["name"] for entry in entries])
        axes.set(
            yscale="log",
            ylabel="time / samestep's time",
            title=f"{section['ranks']} rank(s) of {section['threads']} thread(s), {result['settings']['precision']}",
        )
        axes.legend(fontsize="small", ncols=3)
        axes.margins(y=0.15)
    figure.savefig(file)
    return figure
