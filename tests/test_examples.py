"""The examples run with small settings and print results that say they learnt."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from conftest import ROOT, run_job

pytest.importorskip("sklearn")


def run(name: str, *arguments: str, folder: Path) -> str:
    line = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = run_job(line, {**os.environ, "MPLBACKEND": "Agg"}, 120, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^fingerprint [0-9a-f]{64}$", done.stdout, re.MULTILINE), done.stdout
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern + r" (-?[0-9.]+)", text)
    assert found, text
    return float(found.group(1))


def test_digits(tmp_path: Path) -> None:
    assert number("test accuracy", run("digits.py", folder=tmp_path)) > 0.95


def test_mlp_and_logistic(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = run("mlp_and_logistic.py", "--epochs", "15", "--plot", "plot.png", folder=tmp_path)
    assert number("logistic regression: accuracy", out) > 0.9
    assert number("perceptron: accuracy", out) > 0.94
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_character_model(model: str, tmp_path: Path) -> None:
    out = run(
        "character_model.py", "--model", model, "--epochs", "4", "--width", "32", "--sums", "1500", "--sample", "30",
        folder=tmp_path,
    )  # fmt: skip
    # Digits of a sum's two numbers cannot be known, signs and answers can.
    assert number("after", out) < 0.75 * number("uniform guess", out)
    assert re.search(r"^sample '[-0-9+=;]{30}'$", out, re.MULTILINE), out


def test_character_model_reads_a_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("ab ba é " * 60, encoding="utf-8")
    out = run(
        "character_model.py", "--text", "text.txt", "--epochs", "8", "--length", "8", "--sample", "16", folder=tmp_path
    )
    assert number("after", out) < 0.5 * number("uniform guess", out)
    (tmp_path / "text.txt").write_text("too short")
    line = [sys.executable, str(ROOT / "examples" / "character_model.py"), "--text", "text.txt"]
    done = run_job(line, os.environ, 60, cwd=tmp_path)
    assert done.returncode == 2 and "9 characters" in done.stderr


def test_autoencoder(tmp_path: Path) -> None:
    out = run("autoencoder.py", "--epochs", "30", folder=tmp_path)
    assert number("of the autoencoder", out) < number("principal components", out) < number("mean image", out)


def test_tabular(tmp_path: Path) -> None:
    out = run("tabular.py", "--data", "generated", "--epochs", "40", folder=tmp_path)
    assert number("network: R2", out) > number("linear model: R2", out) + 0.05
    assert number("network: R2", run("tabular.py", "--epochs", "30", folder=tmp_path)) > 0.25


@pytest.mark.mpi
def test_ways_to_exchange(mpi_run) -> None:
    """Every way learns on three ranks, those in step with the bits of one process."""
    out = mpi_run(ROOT / "examples" / "ways_to_exchange.py", n=3, timeout=120).stdout
    rows = re.findall(r"^(\S.*?) +([0-9.]+)  ([0-9.]+) +([0-9.]+)  (yes|no)$", out, re.MULTILINE)
    assert len(rows) == 11, out
    accuracy = {name: float(value) for name, _, _, value, _ in rows}
    assert min(accuracy.values()) > 0.85, out
    assert accuracy["all-reduce"] > 0.95, out
    assert {name for name, *_, same in rows if same == "yes"} == {"all-reduce", "servers in step"}, out
    alone = run("ways_to_exchange.py", "--ways", "all-reduce", folder=ROOT)
    assert re.findall("fingerprint .*", out) == re.findall("fingerprint .*", alone)


def test_cifar10_speedrun(tmp_path: Path) -> None:
    """Interrupted after an epoch and started again, it ends with the same bits as without the break."""
    out = run("cifar10_speedrun.py", "--quick", "--results", "whole", folder=tmp_path)
    assert number("test accuracy", out) > 0.3
    record = json.loads((tmp_path / "whole" / "seed-1.json").read_text())
    assert record["flops"] > 0 and record["steps"] == 9 and record["epochs"] == 3
    assert record["fingerprint"] in out and 0 < record["accuracy_of_one_view"] <= 1

    script = str(ROOT / "examples" / "cifar10_speedrun.py")
    command = [sys.executable, script, "--quick", "--results", "broken", "--epochs", "3"]
    stop = "import signal, samestep as ss; fit = ss.Trainer._end_epoch\n" \
        "def end(self, run, logs):\n" \
        "    answer = fit(self, run, logs)\n" \
        "    if self.epoch == 1: signal.raise_signal(signal.SIGINT)\n" \
        "    return answer\n" \
        "ss.Trainer._end_epoch = end\n" \
        f"import runpy, sys; sys.argv = {command[1:]!r}; runpy.run_path({script!r}, run_name='__main__')"  # fmt: skip
    done = run_job([sys.executable, "-c", stop], os.environ, 120, cwd=tmp_path)
    assert done.returncode == 1 and "goes on from" in done.stderr, done.stdout + done.stderr
    assert not (tmp_path / "broken" / "seed-1.json").exists()
    done = run_job(command, os.environ, 120, cwd=tmp_path)
    assert done.returncode == 0 and "epoch 1/3" not in done.stdout, done.stdout + done.stderr
    assert json.loads((tmp_path / "broken" / "seed-1.json").read_text())["fingerprint"] == record["fingerprint"]
    assert "is there already" in run_job(command, os.environ, 60, cwd=tmp_path).stdout
    shown = run_job([*command, "--report"], os.environ, 60, cwd=tmp_path)
    assert "mean accuracy" in shown.stdout and "of 1 seeds" in shown.stdout
    missing = run_job([sys.executable, script, "--data", "nowhere.zip"], os.environ, 60, cwd=tmp_path)
    assert missing.returncode == 1 and "no data at nowhere.zip" in missing.stderr
