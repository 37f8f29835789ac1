"""Every environment variable that the code reads is documented, and every documented one is read."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path
    for folder, suffixes in (
        ("csrc", {".c", ".h"}),
        ("python", {".py"}),
        ("tools", {".py"}),
        ("tests", {".py"}),
        ("benchmarks", {".py"}),
        ("examples", {".py"}),
    )
    for path in (ROOT / folder).rglob("*")
    if path.suffix in suffixes and "generated" not in path.parts
] + [ROOT / "setup.py"]
# getenv("NAME"), environ["NAME"], environ.get("NAME"), environment("NAME"), or a name kept in a constant.
READ = re.compile(r"""["'](SAMESTEP_[A-Z][A-Z_0-9]*)["']""")


def test_documented() -> None:
    read = {name for path in SOURCES for name in READ.findall(path.read_text())}
    documented = set(re.findall(r"`(SAMESTEP_[A-Z_0-9]+)`", (ROOT / "docs" / "environment.md").read_text()))
    assert read, "the pattern finds nothing: it must be wrong"
    assert read == documented, (
        f"undocumented: {sorted(read - documented)}; documented but not read: {sorted(documented - read)}"
    )
