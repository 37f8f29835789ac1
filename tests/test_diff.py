"""`samestep diff` and the recordings of SAMESTEP_TRACE; `samestep demo`."""

from __future__ import annotations

import sys

import pytest

from conftest import run_job
from samestep.__main__ import main

HEAD = "# samestep trace, order version 1: step index pass op layer lane hash\n"
LINES = [
    (step, index, "forward" if index < 2 else "backward", "linear", "0", lane)
    for step in range(3)
    for index in range(3)
    for lane in range(4)
]


def write(path, lines=LINES, head=HEAD, hashes=None):
    path.write_text(
        head
        + "".join(
            "\t".join(map(str, line)) + f"\t{(hashes or {}).get(line, hash(line) & 0xFFFF):016x}\n" for line in lines
        )
    )
    return str(path)


def test_equal_in_another_order_over_other_ranks(tmp_path, capsys):
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", [line for line in LINES if line[5] < 2][::-1])
    write(tmp_path / "b.1", [line for line in LINES if line[5] == 2])
    write(tmp_path / "b.2", [line for line in LINES if line[5] == 3])
    assert main(["diff", a, b]) == 0
    assert "equal: 36 hashes over 3 steps" in capsys.readouterr().out


def test_the_first_difference_is_named(tmp_path, capsys):
    changed = {LINES[30]: 1, LINES[17]: 2, LINES[18]: 3}
    assert main(["diff", write(tmp_path / "a"), write(tmp_path / "b", hashes=changed)]) == 1
    out = capsys.readouterr().out
    assert (
        "step 1, linear in layer '0', forward, lane 1" in out
        and f"{2:016x}" in out
        and f"{hash(LINES[17]) & 0xFFFF:016x}" in out
    )
    assert out.count("\n") == 3


def test_missing_lanes_and_shorter_runs(tmp_path, capsys):
    a = write(tmp_path / "a")
    assert main(["diff", a, write(tmp_path / "b", [line for line in LINES if line[5] != 3])]) == 1
    assert "lane 3" in capsys.readouterr().out
    assert main(["diff", write(tmp_path / "c", [line for line in LINES if line[0] < 2]), a]) == 1
    out = capsys.readouterr().out
    assert "equal up to step 1, where" in out and "c ends" in out


@pytest.mark.parametrize("text", ["", "hello\n", HEAD, HEAD + "1\t2\n"])
def test_what_is_no_recording(tmp_path, capsys, text):
    (tmp_path / "a").write_text(text)
    assert main(["diff", str(tmp_path / "a"), write(tmp_path / "b")]) == 2
    assert str(tmp_path / "a") in capsys.readouterr().err
    assert main(["diff", str(tmp_path / "absent"), str(tmp_path / "b")]) == 2


def test_a_run_that_was_killed_while_it_wrote(tmp_path):
    a = write(tmp_path / "a")
    with open(a, "a") as file:
        file.write("3\t0\tforw")
    assert main(["diff", a, write(tmp_path / "b")]) == 0


RECORD = """
import sys
import numpy as np
import samestep as ss
from samestep import nn, optim
x, y = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32), np.arange(64) % 3
net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
plan = ss.compile(net, optimizer=optim.SGD(0.1), batch_size=32)
for k in range(4):
    if k == 2 and len(sys.argv) > 1:
        net[2].bias[1] += 1e-3
    plan.step(x[k * 16 : k * 16 + 16], y[k * 16 : k * 16 + 16])
"""


@pytest.mark.mpi
def test_recordings(mpi_run, tmp_path, capsys):
    files = [str(tmp_path / name) for name in "abc"]
    mpi_run(RECORD, n=1, threads=2, env={"SAMESTEP_TRACE": files[0]})
    mpi_run(RECORD, n=3, env={"SAMESTEP_TRACE": files[1]})
    mpi_run(RECORD, n=2, env={"SAMESTEP_TRACE": files[2]}, args=["changed"])
    assert main(["diff", files[0], files[1]]) == 0, capsys.readouterr().out
    capsys.readouterr()
    assert main(["diff", files[0], files[2]]) == 1
    out = capsys.readouterr().out
    assert "linear in layer '2', forward" in out


@pytest.mark.mpi
def test_demo(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    import os

    done = run_job([sys.executable, "-m", "samestep", "demo", "--plot", "c.png"], os.environ, 120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every bit of every parameter is equal." in done.stdout and "2 ranks" in done.stdout
    accuracy = [
        float(line.split()[3])
        for line in done.stdout.splitlines()
        if "accuracy" in line and "rank" in line and "epoch" not in line
    ]
    assert len(accuracy) == 2 and min(accuracy) >= 0.98
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_demo_without_a_launcher(monkeypatch, capsys):
    """One process does all, and says why."""
    pytest.importorskip("sklearn")
    from samestep import __main__, _libraries

    def missing():
        raise FileNotFoundError("no mpiexec here")

    monkeypatch.setattr(_libraries, "mpiexec_path", missing)
    assert __main__.main(["demo", "--epochs", "12"]) == 0
    said = capsys.readouterr()
    assert "could not start 2 ranks" in said.out + said.err and "no mpiexec here" in said.out + said.err
    assert "1 rank " in said.out


@pytest.mark.mpi
def test_demo_whose_ranks_fail(tmp_path):
    """What began on several ranks and broke is a failure, not a reason to go on with one."""
    pytest.importorskip("sklearn")
    import os

    done = run_job([sys.executable, "-m", "samestep", "demo", "--ranks", "9"], os.environ, 120, cwd=tmp_path)
    assert done.returncode == 1 and "9 ranks cannot share 8 lanes" in done.stderr
    assert "did not finish" in done.stderr and "Training in one process" not in done.stdout


def test_demo_without_curves(tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    from samestep import __main__

    arguments = ["demo", "--ranks", "1", "--epochs", "1", "--plot", str(tmp_path / "missing" / "c.png")]
    assert __main__.main(arguments) == 1
    assert "no curves" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--ranks", "0"], ["--ranks", "-1"], ["--epochs", "0"]])
def test_demo_s_arguments(capsys, arguments):
    from samestep import __main__

    assert __main__.main(["demo", *arguments]) == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.mpi
def test_example(mpi_run):
    pytest.importorskip("sklearn")
    from conftest import ROOT

    script = ROOT / "examples" / "digits.py"
    plain = run_job([sys.executable, str(script)], __import__("os").environ, 90)
    many = mpi_run(script, n=3, timeout=90)
    prints = [
        [line for line in out.splitlines() if line.startswith("fingerprint")] for out in (plain.stdout, many.stdout)
    ]
    assert prints[0] == prints[1] and len(prints[0]) == 1, plain.stderr + many.stderr
