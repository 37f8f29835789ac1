"""What the documentation shows works as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, MpiRun


def block(page: str, language: str) -> str:
    """The first block of code in a language."""
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found, f"{page} shows no {language}"
    return found.group(1)


@pytest.mark.mpi
def test_the_readme_s_first_example(mpi_run: MpiRun) -> None:
    """It learns, and the same script under mpiexec ends with the same fingerprint on every rank."""
    pytest.importorskip("sklearn")
    script = block("README.md", "python")
    prints = set()
    for ranks in (1, 3):
        lines = mpi_run(script, n=ranks, timeout=120).stdout.split("\n")
        here = [line for line in lines if re.fullmatch("[0-9a-f]{64}", line)]
        assert len(here) == ranks
        prints |= set(here)
        accuracy = [float(value) for value in re.findall(r"'accuracy': ([0-9.]+)", "\n".join(lines))]
        assert len(accuracy) == ranks and min(accuracy) > 0.85
    assert len(prints) == 1


@pytest.mark.slow
def test_the_layer_of_the_worked_example(tmp_path: Path) -> None:
    """The operator of docs/architecture.md passes the generic operator test without a change to any other C file."""
    if not (shutil.which("make") and shutil.which("gcc")):
        pytest.skip("needs make and gcc")
    for folder in ("csrc", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("build", "__pycache__"))
    (tmp_path / "csrc" / "ops" / "op_squareplus.c").write_text(block("docs/architecture.md", "c"))
    done = subprocess.run(
        [
            "make",
            f"-j{os.cpu_count()}",
            "-C",
            "csrc",
            f"PYTHON={sys.executable}",
            "check",
            "TESTS=test_ops_generic",
            "OPS=squareplus",
            "VERBOSE=1",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=900,
        env={**os.environ, "BUILD": str(tmp_path / "built")},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (program,) = tmp_path.glob("**/tests/test_ops_generic")  # `make check` shows no more than failures
    out = subprocess.run([str(program)], capture_output=True, text=True, cwd=tmp_path / "csrc", timeout=300).stdout
    assert re.search(r"^squareplus +[1-9][0-9]* cases", out, re.MULTILINE), out[-3000:]


def test_pages_of_layers_are_current() -> None:
    """docs/layers is generated from the operators' own docs."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
