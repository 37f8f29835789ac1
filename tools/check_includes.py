"""Fails on an include that goes against the folder order of docs/architecture.md.

    python tools/check_includes.py [csrc]

Folders depend one way; mpi.h is seen by comm/comm_mpi* alone, OpenBLAS (cblas.h, lapacke.h, kernels/blas.h) by
kernels/ alone, Python.h and NumPy by binding/ alone; a .c file is never included.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# What each folder may include besides itself.
BASE = {"base"}
MATH = BASE | {"kernels"}
ALLOWED: dict[str, set[str]] = {
    "base": set(),
    "kernels": BASE,
    "ops": MATH,
    "optim": MATH,
    "compress": MATH,
    "graph": MATH | {"ops", "optim"},
    "plan": MATH | {"ops", "optim", "graph"},
    "comm": BASE,
    "train": MATH | {"ops", "optim", "compress", "graph", "plan", "comm"},
    "binding": MATH | {"ops", "optim", "compress", "graph", "plan", "comm", "train", "include"},
    "include": MATH | {"ops", "optim", "compress", "graph", "plan", "comm", "train"},
    "generated": MATH | {"ops", "optim", "compress"},
}
# (header, who may include it, as a pattern on the path from csrc, what to say)
SPECIAL = (
    (
        re.compile(r"(^|/)mpi(-ext)?\.h$"),
        re.compile(r"(comm/comm_mpi|tests/(test|bench)_mpi_)[^/]*\.[ch]$"),
        "only comm/comm_mpi*.[ch] include mpi.h",
    ),
    (
        re.compile(r"(cblas|f77blas|lapacke?|openblas_config)\.h$|^kernels/blas\.h$"),
        re.compile(r"kernels/|tests/test_kernels_"),
        "only kernels/ sees OpenBLAS",
    ),
    (
        re.compile(r"^(Python|structmember|pythread)\.h$|^numpy/"),
        re.compile(r"binding/"),
        "only binding/ sees Python.h and NumPy",
    ),
)
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def problems(root: Path) -> list[str]:
    """One line for each include that is not allowed, as file:line: reason."""
    found = []
    for path in sorted(root.rglob("*.[ch]")):
        name = path.relative_to(root).as_posix()
        folder = name.split("/")[0] if "/" in name else ""
        text = path.read_text()
        for match in INCLUDE.finditer(text):
            quote, header = match[1], match[2]
            place = f"{name}:{text.count(chr(10), 0, match.start(2)) + 1}"
            special = next((rule for rule in SPECIAL if rule[0].search(header)), None)
            if special and not special[1].match(name):
                found.append(f"{place}: {header}: {special[2]}")
            if header.endswith(".c"):
                found.append(f"{place}: {header}: a .c file is compiled, not included")
            if quote == "<" or (special and special[1].match(name)):
                continue
            target = header.split("/")[0] if "/" in header else ""
            if not target and folder == "tests":
                continue
            if not (root / header).is_file():
                found.append(f"{place}: {header}: no such file; includes are written from csrc/ on")
            elif folder == "tests":
                continue
            elif folder not in ALLOWED:
                found.append(f"{name}: the folder {folder or '.'} is not in tools/check_includes.py")
                break
            elif target != folder and target not in ALLOWED[folder]:
                may = ", ".join(sorted(ALLOWED[folder])) or "nothing else"
                found.append(f"{place}: {header}: {folder}/ may include {may}")
    return found


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "csrc"
    found = problems(root)
    for line in found:
        print(line)
    files = sum(1 for _ in root.rglob("*.[ch]"))
    if not files:
        print(f"{root}: no C files, so nothing was checked")
        return 1
    print(f"{files} files, {len(found)} includes against the order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
