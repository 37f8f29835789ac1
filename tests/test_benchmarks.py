"""The benchmark runner: it finishes, its files have their fields, and its arithmetic is right. Nothing here looks at how
fast anything is."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, run_job
from samestep.__main__ import main
from samestep.bench import contestants as who
from samestep.bench import history, report
from samestep.bench.peers.workloads import WORKLOADS


def run(*args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return run_job([sys.executable, "-m", "samestep", "bench", *args], os.environ, timeout)


def contestants(*peers: str) -> list[str]:
    have = [name for name in peers if importlib.util.find_spec({"jax": "optax"}.get(name, name))]
    return ["--contestants", "samestep", "samestep-run", *have]


def check_entry(entry: dict[str, Any], rounds: int, bursts: int) -> None:
    assert entry["gflop"] > 0 and entry["at_peak_ms"] > 0 and entry["fraction_of_peak"] > 0
    for when in ("peak_before", "peak_after"):
        assert entry[when]["isa"] in ("scalar", "avx2", "avx512")
        assert all(value > 0 for value in entry[when]["gflops"].values()) and len(entry[when]["load_average"]) == 3
        assert all(value > 0 for value in entry[when]["gbytes"].values())
    assert {"step_us", "run_us", "operators_us"} == set(entry["overhead"])
    assert 0.1 < entry["memory"]["forecast_mib"] < 10 and -1 < entry["memory"]["grown_mib"] < 50  # of logreg
    for name, item in entry["contestants"].items():
        assert item["error"] is None, (name, item["error"])
        assert [len(burst) for burst in item["rounds_ms"]] == [bursts] * rounds
        every = [value for burst in item["rounds_ms"] for value in burst]
        assert item["best_ms"] == min(every) > 0 and item["peak_mib"] > 1
        assert item["learns"] and item["loss_last"] < item["loss_first"]
        assert any(name.partition("-")[0].replace("samestep", "ours") in line for line in item["command"])


def test_quick_run_on_logreg(tmp_path: Path) -> None:
    args = [
        "--quick",
        "--processors",
        "1",
        *contestants("torch"),
        "--json",
        str(tmp_path / "f.json"),
        "--markdown",
        str(tmp_path / "f.md"),
    ]
    done = run(*args)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "f.json").read_text())
    assert result["format"] == 2 and "--quick" in result["command"] and result["finished"] >= result["started"]
    assert {"cpu", "processors", "governor", "load_average", "memory_gib", "system", "python"} <= set(result["machine"])
    assert "samestep" in result["versions"]
    (section,) = result["sections"]
    assert (section["ranks"], section["threads"]) == (1, 1)
    (entry,) = section["workloads"]
    assert entry["name"] == "logreg"
    check_entry(entry, rounds=2, bursts=5)
    if "torch" in entry["contestants"]:
        assert entry["best_peer"] == "torch"
        assert entry["ratio"] == pytest.approx(
            entry["contestants"]["torch"]["best_ms"] / entry["contestants"]["samestep"]["best_ms"]
        )
        assert len(entry["ratio_rounds"]) == 2
    row = next(line for line in done.stdout.splitlines() if line.startswith("logreg"))
    assert re.search(r"\d", row) and len(row.split()) > 6
    assert (
        "Peak resident memory" in done.stdout
        and "grown / forecast" in done.stdout
        and "call from Python" in done.stdout
    )
    markdown = (tmp_path / "f.md").read_text()
    assert "| logreg |" in markdown and "### Milliseconds a step" in markdown


@pytest.mark.mpi
def test_two_ranks(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    done = run(
        "--quick", "--ranks", "2", "--contestants", "samestep", "samestep-run", "--json", str(tmp_path / "f.json")
    )
    assert done.returncode == 0, done.stderr
    (section,) = json.loads((tmp_path / "f.json").read_text())["sections"]
    assert (section["ranks"], section["threads"]) == (2, 1)
    check_entry(section["workloads"][0], rounds=2, bursts=5)


def test_a_contestant_that_fails_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import child\ndef build(setting):\n    raise RuntimeError('no such luck')\nchild.serve(build)\n")
    monkeypatch.setenv("PYTHONPATH", str(who.SCRIPTS))
    for name, script in (("broken", str(broken)), ("silent", str(tmp_path / "missing.py"))):
        monkeypatch.setitem(who.CONTESTANTS, name, who.Contestant(name, "numpy", script))
    out = tmp_path / "f.json"
    args = [
        "bench",
        "--quick",
        "--processors",
        "1",
        "--rounds",
        "1",
        "--contestants",
        "samestep",
        "broken",
        "silent",
        "--json",
        str(out),
    ]
    assert main(args) == 0
    entry = json.loads(out.read_text())["sections"][0]["workloads"][0]
    assert entry["contestants"]["broken"]["error"] == "RuntimeError: no such luck"
    assert "missing.py" in entry["contestants"]["silent"]["error"]
    assert entry["contestants"]["samestep"]["error"] is None and entry["best_peer"] is None


def test_missing_libraries_are_left_out() -> None:
    assert who.installed(sys.executable, ["numpy", "no_such_library"]) == ["numpy"]


@pytest.mark.parametrize(
    ("name", "gflop"),
    [
        ("logreg", 0.001),
        ("mlp", 0.154),
        ("mlpbig", 14.6),
        ("cnn", 1.6),
        ("resnet", 31.3),
        ("gpt", 10.6),
        ("gpt384", 138),
        ("lstm", 10.6),
    ],
)
def test_operations_of_a_step(name: str, gflop: float) -> None:
    assert WORKLOADS[name].gflop == pytest.approx(gflop, rel=0.01)


def test_figures() -> None:
    entry = {
        "gflop": 0.5,
        "peak_before": {"gflops": {"1": 60.0, "2": 100.0}},
        "peak_after": {"gflops": {"1": 60.0, "2": 125.0}},
        "contestants": {
            "samestep": {"rounds_ms": [[5.0, 8.0], [6.0, 7.0]]},
            "samestep-run": {"rounds_ms": [[1.0], [1.0]]},
            "a": {"rounds_ms": [[10.0, 11.0], [18.0, 20.0]]},
            "b": {"rounds_ms": [[9.0, 30.0], [40.0, 50.0]]},
            "c": {"rounds_ms": []},
        },
    }
    report.summarize(entry, {"a", "b", "c"}, 2)
    assert entry["best_peer"] == "b" and entry["ratio"] == 9 / 5 and entry["ratio_rounds"] == [9 / 5, 40 / 6]
    assert entry["at_peak_ms"] == 4.0 and entry["fraction_of_peak"] == 0.8
    assert entry["contestants"]["samestep"]["median_ms"] == 6.5 and "best_ms" not in entry["contestants"]["c"]
    assert report.geometric_mean([1.0, 4.0]) == pytest.approx(2.0) and report.geometric_mean([]) is None
    assert [report.number(value) for value in (0.01234, 1.2345, 12.345, 1234.5, 0, None)] == [
        "0.0123",
        "1.23",
        "12.3",
        "1234",
        "0",
        "-",
    ]


@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the source folder")
@pytest.mark.parametrize(
    ("isa", "flags"),
    [("avx512", ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]), ("avx2", ["-mavx2", "-mfma"])],
)
def test_the_peak_is_measured_in_registers(tmp_path: Path, isa: str, flags: list[str]) -> None:
    """Chains that live in memory would halve the peak, and flatter every fraction of it."""
    assembly = tmp_path / "peak.s"
    source = ROOT / "csrc" / "kernels" / "peak.c"
    command = ["gcc", "-std=gnu11", "-O3", "-ffp-contract=off", *flags, f"-DSS_VARIANT={isa}", "-I", str(ROOT / "csrc")]
    subprocess.run([*command, "-S", str(source), "-o", str(assembly)], check=True)
    body = assembly.read_text().partition(f"\npeak_burst_{isa}:")[2].partition(".cfi_endproc")[0]
    products = [line for line in body.splitlines() if "vfmadd" in line]
    assert len(products) == 12
    assert not [line for line in products if "(" in line]


def result_of(best: float, started: str = "2026-01-01T00:00:00+00:00", **machine: Any) -> dict[str, Any]:
    """What a run of one workload leaves."""
    entry = {
        "name": "logreg",
        "gflop": 0.001,
        "peak_gflops": 100.0,
        "ratio": 2.0,
        "contestants": {
            "samestep": {"best_ms": best, "rounds_ms": [[best]], "error": None},
            "torch": {"best_ms": 2 * best, "rounds_ms": [[2 * best]], "error": None},
            "jax": {"rounds_ms": [], "error": "no such luck"},
        },
    }
    section = {
        "ranks": 1,
        "threads": 2,
        "processors": 2,
        "contestants": ["samestep", "torch", "jax"],
        "workloads": [entry],
    }
    return {
        "format": 2,
        "started": started,
        "commit": "abc",
        "settings": {"precision": "fp32"},
        "machine": {"cpu": "one", **machine},
        "versions": {},
        "sections": [section],
    }


def test_records(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "records"
    path, lines = history.record(result_of(1.0), folder)
    assert path.parent == folder and lines == []
    kept = json.loads(path.read_text())
    assert kept["commit"] == "abc" and kept["sections"][0]["workloads"][0]["contestants"]["samestep"] == {
        "best_ms": 1.0,
        "error": None,
    }
    same, lines = history.record(result_of(2.0), folder)  # of the same second
    assert same != path and len(lines) == 1 and "2.000 of the time of 2026" in lines[0]
    assert history.record(result_of(1.0, cpu="another"), folder)[1] == []
    (folder / "broken.json").write_text("{")
    _, lines = history.record(result_of(3.0, "2026-02-01T00:00:00+00:00"), folder)
    assert "1.500 of the time" in lines[0], "the last record counts"
    assert len(history.load(folder)) == 4


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = report.plot(result_of(1.0), tmp_path / "f.png")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [2.0] and (tmp_path / "f.png").stat().st_size > 5000


INSTRUCTIONS = ROOT / "benchmarks" / "instructions.py"


@pytest.mark.slow
def test_no_more_instructions_than_recorded() -> None:
    """A workload of the guard against regressions that times would hide; the others: python benchmarks/instructions.py."""
    if not INSTRUCTIONS.exists() or shutil.which("valgrind") is None or shutil.which("gcc") is None:
        pytest.skip("needs the source folder, valgrind and gcc")
    known = json.loads((INSTRUCTIONS.parent / "results" / "instructions.json").read_text())
    version = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    if known["compiler"] != version:
        pytest.skip(f"recorded with gcc {known['compiler']}; this is {version}")
    assert {"logreg", "mlp", "cnn", "residual", "text"} <= set(known)
    done = run_job([sys.executable, str(INSTRUCTIONS), "--workloads", "residual"], os.environ, 300.0)
    assert done.returncode == 0, done.stdout + done.stderr


SCALING = ROOT / "benchmarks" / "scaling.py"


def scaling() -> Any:
    """The script as a module."""
    if not SCALING.exists():
        pytest.skip("needs the source folder")
    spec = importlib.util.spec_from_file_location("scaling", SCALING)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_scaling_has_the_odd_sizes() -> None:
    series = scaling().SERIES
    values = {
        kind: {value for name in series if name.startswith(kind) for value in series[name][2]}
        for kind in ("mlp", "conv")
    }
    assert {1, 63, 65, 97, 1000} <= values["mlp"] and {7, 13, 31, 63, 97} <= values["conv"]
    extents = {extent for _, extent, _ in series.values()}
    assert extents == {"batch", "width", "depth", "length", "inputs"}
    for base, extent, points in series.values():
        assert list(points) == sorted(set(points)) and hasattr(base, extent)
        assert base.kind != "gpt" or extent != "width" or all(value % base.heads == 0 for value in points)


@pytest.mark.parametrize("kind", ["MLP", "CONV", "GPT", "LSTM"])
def test_scaling_trains_the_same_network_in_both(kind: str) -> None:
    """Parameters of equal names and shapes, and a first loss that chance alone tells apart."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional as torch_functional

    from samestep import nn
    from samestep.nn import functional

    module = scaling()
    point = getattr(module, kind)
    ours = {name: tuple(value.shape) for name, value in module.network(nn, functional, point).state_dict().items()}
    theirs = module.network(torch.nn, torch_functional, point).state_dict()
    assert ours == {name: tuple(value.shape) for name, value in theirs.items()}
    for steps in (module.build_samestep(point, 1), module.build_torch(point, 1)):
        for step in steps:
            first = step()
            assert 0.5 < first / math.log(module.VOCABULARY if point.text else module.CLASSES) < 2
            assert step() < first


def test_scaling_reports_what_is_slower(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    module = scaling()
    points = [
        {"series": "mlp-batch", "extent": "batch", "value": value, "ratio": ratio, "rounds": [ratio, 2 * ratio]}
        | {"ms": {"samestep": 1.0, "torch": ratio}}
        for value, ratio in ((1, 0.9), (2, 1.5), (3, 0.5))
    ]
    points.append({"series": "mlp-batch", "extent": "batch", "value": 4, "error": "no such luck"})
    result = {"points": points}
    assert [item["value"] for item in module.below(result)] == [3, 1]
    _, rows = module.table(result)
    assert [row[-1] for row in rows] == ["below 1", "", "below 1", "failed"]
    module.plot(result, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_scaling_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "f.json"
    args = ["--quick", "--series", "mlp-width", "--rounds", "2", "--seconds", "0.01", "--threads", "1"]
    if not SCALING.exists():
        pytest.skip("needs the source folder")
    done = run_job([sys.executable, str(SCALING), *args, "--json", str(out)], os.environ, 120.0)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [item["value"] for item in result["points"]] == [7, 31]
    for item in result["points"]:
        assert set(item["ms"]) == {"samestep", "torch"} and min(item["ms"].values()) > 0 and len(item["rounds"]) == 2
        assert item["ratio"] == pytest.approx(item["ms"]["torch"] / item["ms"]["samestep"])
    assert "2 points" in done.stdout


@pytest.mark.mpi
def test_ctrl_c_shows_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "f.json"
    args = [
        "--quick",
        "--processors",
        "1",
        "--workloads",
        "logreg",
        "mlp",
        "--contestants",
        "samestep",
        "--rounds",
        "100000",
    ]
    command = [sys.executable, "-m", "samestep", "bench", *args, "--json", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        try:
            for line in job.stderr:
                if "round 3 of" in line:
                    break
            job.send_signal(signal.SIGINT)
            text, _ = job.communicate(timeout=60)
        finally:
            job.kill()
    assert job.returncode == 130 and "Machine:" in text


@pytest.mark.parametrize(
    "args",
    [
        ["--ranks", "3"],
        ["--workloads", "nothing"],
        ["--rounds", "-1"],
        ["--interpreter", "nobody=python"],
        ["--json", "/no/such/folder/f.json"],
        ["--plot", "figures.nothing"],
        ["--record", __file__],
        ["--processors", "100000"],
    ],
)
def test_wrong_arguments(args: list[str]) -> None:
    done = run(*args)
    assert done.returncode == 2 and args[0].lstrip("-") in done.stderr
