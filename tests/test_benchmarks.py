"""The benchmark runner: it finishes, its files have their fields, and its arithmetic is right. Nothing here looks at how
fast anything is."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, run_job

HERE = ROOT / "benchmarks"
pytestmark = [
    pytest.mark.skipif(not (HERE / "run.py").exists(), reason="needs the source folder"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the peak is measured by a C program"),
]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """module(name): a file of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(HERE))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(HERE)):
            del sys.modules[name]


def run(*args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return run_job([sys.executable, str(HERE / "run.py"), *args], os.environ, timeout)


def contestants(*peers: str) -> list[str]:
    have = [name for name in peers if importlib.util.find_spec({"jax": "optax"}.get(name, name))]
    return ["--contestants", "samestep", "samestep-run", *have]


def check_entry(entry: dict[str, Any], rounds: int, bursts: int) -> None:
    assert entry["gflop"] > 0 and entry["at_peak_ms"] > 0 and entry["fraction_of_peak"] > 0
    for when in ("peak_before", "peak_after"):
        assert entry[when]["isa"] in ("scalar", "avx2", "avx512")
        assert all(value > 0 for value in entry[when]["gflops"].values()) and len(entry[when]["load_average"]) == 3
    assert {"step_us", "run_us", "operators_us"} == set(entry["overhead"])
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
    assert result["format"] == 1 and "--quick" in result["command"] and result["finished"] >= result["started"]
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
    assert "Peak resident memory" in done.stdout and "call from Python" in done.stdout
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
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import child\ndef build(setting):\n    raise RuntimeError('no such luck')\nchild.serve(build)\n")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    runner, who = module("run"), module("contestants")
    for name, script in (("broken", str(broken)), ("silent", str(tmp_path / "missing.py"))):
        monkeypatch.setitem(who.CONTESTANTS, name, who.Contestant(name, "numpy", script))
    out = tmp_path / "f.json"
    args = [
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
    assert runner.main(args) == 0
    entry = json.loads(out.read_text())["sections"][0]["workloads"][0]
    assert entry["contestants"]["broken"]["error"] == "RuntimeError: no such luck"
    assert "missing.py" in entry["contestants"]["silent"]["error"]
    assert entry["contestants"]["samestep"]["error"] is None and entry["best_peer"] is None


def test_missing_libraries_are_left_out(module: Any) -> None:
    who = module("contestants")
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
def test_operations_of_a_step(module: Any, name: str, gflop: float) -> None:
    assert module("workloads").WORKLOADS[name].gflop == pytest.approx(gflop, rel=0.01)


def test_figures(module: Any) -> None:
    report = module("report")
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


def test_the_peak_is_measured_in_registers(tmp_path: Path) -> None:
    """Chains that live in memory would halve the peak, and flatter every fraction of it."""
    assembly = tmp_path / "peak.s"
    subprocess.run(["gcc", "-O2", "-S", str(HERE / "peak.c"), "-o", str(assembly)], check=True)
    for function in ("burst_avx512", "burst_avx2"):
        body = assembly.read_text().partition(f"\n{function}:")[2].partition(".cfi_endproc")[0]
        products = [line for line in body.splitlines() if "vfmadd" in line]
        assert len(products) == 12, function
        assert not [line for line in products if "(" in line], function


@pytest.mark.parametrize(
    "args", [["--ranks", "3"], ["--workloads", "nothing"], ["--rounds", "-1"], ["--interpreter", "nobody=python"]]
)
def test_wrong_arguments(args: list[str]) -> None:
    done = run(*args)
    assert done.returncode == 2 and args[0].lstrip("-") in done.stderr
