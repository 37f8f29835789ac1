"""Fixtures that all tests share. Tests run against the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from samestep import _launch, _libraries

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that start ranks are left out when the test run is itself a rank (make check-mpi-3)."""
    if _libraries.under_launcher():
        for item in items:
            if item.get_closest_marker("mpi"):
                item.add_marker(pytest.mark.skip(reason="the test run is itself a rank"))


def run_job(
    line: Sequence[str], env: Mapping[str, str], timeout: float, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end. After `timeout` seconds it and all processes below it are killed, by their ids, and
    the test fails with what was printed."""
    with subprocess.Popen(
        line,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _launch.kill_job(child)
            out, err = child.communicate()
            pytest.fail(f"no end within {timeout} s: {' '.join(line)}\n{out}\n{err}")
        except BaseException:
            _launch.kill_job(child)
            raise
    return subprocess.CompletedProcess(list(line), child.returncode, out, err)


MpiRun = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mpi_run(tmp_path: Path) -> MpiRun:
    """mpi_run(script, n=2, args=(), threads=1, env=None, timeout=60, check=True) runs a Python file, or the text of
    one, on n ranks under mpiexec.

    Returns the finished process (returncode, stdout, stderr). With check, another exit code than 0 fails the test and
    shows what was printed.
    """

    def run(
        script: str | Path,
        n: int = 2,
        args: Sequence[str] = (),
        threads: int = 1,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        if isinstance(script, str) and ("\n" in script or not script.endswith(".py")):
            path = tmp_path / "script.py"
            path.write_text(script)
        else:
            path = Path(script)
        line, environment = _launch.command(
            n, [str(path), *args], threads=threads, environ={**os.environ, **(env or {})}
        )
        done = run_job(line, environment, timeout, cwd=tmp_path)
        if check and done.returncode != 0:
            pytest.fail(f"exit code {done.returncode} of {n} ranks\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture
def python_run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """python_run(text, *args, env=None, timeout=60) runs a program text in a new interpreter, outside any launcher."""

    def run(
        text: str, *args: str, env: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        return run_job([sys.executable, "-c", text, *args], {**os.environ, **(env or {})}, timeout, cwd=tmp_path)

    return run
