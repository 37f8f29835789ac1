"""Lists the operators, optimizers and compressors and writes the tables that the core looks them up in.

    python tools/generate_tables.py [--source csrc] [--out csrc/generated] [--ops NAME ...] [--optims NAME ...]

csrc/ops/op_NAME.c defines ss_op_NAME_<variant>, csrc/optim/opt_NAME.c defines ss_optim_NAME_<variant>,
csrc/compress/comp_NAME.c defines ss_compressor_NAME_<variant>. Files are written only when their text changes, so a
build that finds nothing new compiles nothing. --ops and --optims restrict the tables: someone who works on one operator
can build and test it while another file of the folder does not compile.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ISAS = ("scalar", "avx2", "avx512")  # in the order of ss_isa
NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


def names(folder: Path, prefix: str) -> list[str]:
    """Names NAME of the files <prefix>NAME.c, in the order of strcmp."""
    found = sorted(path.stem[len(prefix) :] for path in folder.glob(prefix + "*.c"))
    for name in found:
        if not NAME.match(name):
            raise SystemExit(f"{folder / (prefix + name)}.c: a name may hold lower-case letters, digits and _ only")
    return found


def rows(symbol: str, entries: list[str], variant: str) -> str:
    return "".join(f"        &{symbol}_{name}_{variant},\n" for name in entries)


def table(kind: str, header: str, entries: list[str], with_f64: bool) -> str:
    """The C text of one table. `kind` is the struct's name and the prefix of its symbols and functions."""
    variants = ISAS + (("f64",) if with_f64 else ())
    out = [
        "/* Written by tools/generate_tables.py; edits are lost. */\n",
        "#include <stddef.h>\n#include <string.h>\n" if entries else "#include <stddef.h>\n",
        f'#include "{header}"\n\n',
    ]
    for name in entries:
        out.append(f"extern const {kind} " + ", ".join(f"{kind}_{name}_{variant}" for variant in variants) + ";\n")
    out.append(f"\nconst int {kind}_count = {len(entries)};\n\n")
    if not entries:
        # A table without rows would be an array of size zero, which C does not have.
        out.append(
            f"const {kind} *{kind}_at(ss_isa isa, int index) {{\n    (void)isa;\n    (void)index;\n    return NULL;\n}}\n\n"
        )
        if with_f64:
            out.append(f"const {kind} *{kind}_f64(int index) {{\n    (void)index;\n    return NULL;\n}}\n\n")
        out.append(f"int {kind}_find(const char *name) {{\n    (void)name;\n    return -1;\n}}\n")
        return "".join(out)
    count = len(entries)
    out.append(f"static const {kind} *const table[SS_ISA_COUNT][{count}] = {{\n")
    for isa in ISAS:
        out.append(f"    [SS_ISA_{isa.upper()}] = {{\n{rows(kind, entries, isa)}    }},\n")
    out.append("};\n\n")
    out.append(
        f"const {kind} *{kind}_at(ss_isa isa, int index) {{\n"
        f"    if ((int)isa < 0 || isa >= SS_ISA_COUNT || index < 0 || index >= {count}) return NULL;\n"
        "    return table[isa][index];\n}\n\n"
    )
    if with_f64:
        out.append(f"static const {kind} *const table_f64[{count}] = {{\n{rows(kind, entries, 'f64')}}};\n\n")
        out.append(
            f"const {kind} *{kind}_f64(int index) {{ return index < 0 || index >= {count} ? NULL : table_f64[index]; }}\n\n"
        )
    out.append(
        f"int {kind}_find(const char *name) {{\n"
        f"    for (int i = 0; name != NULL && i < {count}; i++) {{\n"
        "        if (strcmp(table[SS_ISA_SCALAR][i]->name, name) == 0) return i;\n"
        "    }\n    return -1;\n}\n"
    )
    return "".join(out)


def write_if_changed(path: Path, text: str) -> bool:
    """Replaces the file in one step, so that a build running beside this one never reads half a table."""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    return True


def generate(source: Path, out: Path, ops: list[str] | None = None, optims: list[str] | None = None) -> list[Path]:
    """Writes the tables and returns their paths."""
    tables = (
        ("ss_op", "ops/op.h", "op_", source / "ops", ops, out / "op_table.c", True),
        ("ss_optim", "optim/optim.h", "opt_", source / "optim", optims, out / "optim_table.c", False),
        (
            "ss_compressor",
            "compress/compress.h",
            "comp_",
            source / "compress",
            None,
            out / "compressor_table.c",
            False,
        ),
    )
    paths = []
    for kind, header, prefix, folder, only, path, with_f64 in tables:
        entries = names(folder, prefix)
        if only is not None:
            missing = sorted(set(only) - set(entries))
            if missing:
                raise SystemExit(f"{folder}: no {prefix}{missing[0]}.c")
            entries = [name for name in entries if name in only]
        write_if_changed(path, table(kind, header, entries, with_f64))
        paths.append(path)
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=ROOT / "csrc")
    parser.add_argument("--out", type=Path, help="default: SOURCE/generated")
    parser.add_argument("--ops", nargs="*", help="only these operators")
    parser.add_argument("--optims", nargs="*", help="only these optimizers")
    args = parser.parse_args()
    generate(args.source, args.out or args.source / "generated", args.ops, args.optims)
    return 0


if __name__ == "__main__":
    sys.exit(main())
