"""The interface of the extension, `_core.pyi`, says what the extension is: names, parameters, defaults."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import samestep
from samestep import _core


def test_the_interface_fits_the_extension(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "samestep._core", "--concise"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_signatures_are_those_that_are_parsed() -> None:
    """help() shows what the C code accepts: a call with every keyword that a signature names gets past the parser."""
    graph = _core.Graph()
    objects = [graph, _core.Comm(single=True)]
    for owner in (*objects, _core):
        for name in dir(owner):
            function = getattr(owner, name)
            if name.startswith(("_", "mpi_")) or not callable(function) or isinstance(function, type):
                continue
            named = [p.name for p in inspect.signature(function).parameters.values() if p.kind != p.POSITIONAL_ONLY]
            if named:
                with pytest.raises((TypeError, ValueError)) as caught:
                    function(**dict.fromkeys(named, object()))
                assert "keyword" not in str(caught.value) and "missing" not in str(caught.value), caught.value
            with pytest.raises(TypeError):
                function(no_such_argument=1)
    for kind in (_core.Comm, _core.Model, _core.Plan):
        named = list(inspect.signature(kind).parameters)
        with pytest.raises((TypeError, ValueError)) as caught:
            kind(**dict.fromkeys(named, object()))
        assert "keyword" not in str(caught.value) and "missing" not in str(caught.value), caught.value


def test_everything_public_is_documented() -> None:
    assert (Path(samestep.__file__).parent / "py.typed").exists()
    modules = [samestep.nn, samestep.optim, samestep.nn.functional, samestep.nn.init, samestep.comm]
    missing = [
        f"{module.__name__}.{name}"
        for module in [samestep, *modules]
        for name in getattr(module, "__all__", [name for name in dir(module) if not name.startswith("_")])
        if (inspect.isclass(value := getattr(module, name)) or inspect.isfunction(value))
        and value.__module__.startswith("samestep")
        and not value.__doc__
    ]
    assert not missing, missing
