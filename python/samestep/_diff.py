"""`samestep diff a b`: the first place where two runs, recorded with SAMESTEP_TRACE=file, differ.

A recording is the file and, under several ranks, file.1, file.2, ...; together they hold one line for each step,
instruction and lane, whatever the number of ranks and threads.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEADER = "# samestep trace"


class Line(NamedTuple):
    """One result of one instruction on one lane; lane -1: not cut by lanes."""

    step: int
    instruction: int
    passing: str
    op: str
    layer: str
    lane: int
    hash: str

    def place(self) -> str:
        lane = f"lane {self.lane}" if self.lane >= 0 else "all lanes"
        return f"step {self.step}, {self.op} in layer '{self.layer}', {self.passing}, {lane}"


class Recording:
    """The lines of all ranks by (step, index, lane, pass, op, layer); what was written twice stays in its order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.order_version = ""
        self.lines: dict[tuple[int, int, int, str, str, str], list[str]] = {}
        if not path.is_file():
            raise ValueError(f"there is no recording {path}")
        for file in parts(path):
            for line in self._read(file):
                key = (line.step, line.instruction, line.lane, line.passing, line.op, line.layer)
                self.lines.setdefault(key, []).append(line.hash)
        if not self.lines:
            raise ValueError(f"{path} holds no lines")

    def _read(self, file: Path) -> Iterator[Line]:
        with open(file, encoding="utf-8", errors="replace") as text:
            first = text.readline()
            if not first.startswith(HEADER):
                raise ValueError(f"{file} is not a recording: its first line must begin with '{HEADER}'")
            found = re.search(r"order version (\d+)", first)
            self.order_version = found.group(1) if found else ""
            for number, row in enumerate(text, 2):
                fields = row.rstrip("\n").split("\t")
                if row.startswith("#"):
                    continue
                try:
                    step, index, passing, op, layer, lane, digest = fields
                    yield Line(int(step), int(index), passing, op, layer, int(lane), digest)
                except ValueError:
                    if row.endswith("\n"):
                        raise ValueError(f"{file}, line {number}: not a line of a recording") from None
                    return  # the run was killed while it wrote


def parts(path: Path) -> list[Path]:
    """The recording's files: `path`, and path.1, path.2, ... of the other ranks."""
    files = [path]
    while (following := path.with_name(f"{path.name}.{len(files)}")).is_file():
        files.append(following)
    return files


def compare(a: Recording, b: Recording) -> str:
    """The first difference in words; empty when there is none."""
    if a.order_version != b.order_version:
        return f"the order of sums has version {a.order_version} in {a.path} and {b.order_version} in {b.path}: bits may differ everywhere"
    for key in sorted({*a.lines, *b.lines}):
        ours, theirs = a.lines.get(key, []), b.lines.get(key, [])
        line = Line(key[0], key[1], key[3], key[4], key[5], key[2], "")
        if ours == theirs:
            continue
        for first, second in zip(ours, theirs, strict=False):
            if first != second:
                return f"first difference: {line.place()}\n  {a.path}: {first}\n  {b.path}: {second}"
        short, whole = (a, b) if len(ours) < len(theirs) else (b, a)
        last = max(key[0] for key in short.lines)
        if key[0] > last:
            return f"equal up to step {last}, where {short.path} ends; {whole.path} goes on to step {max(key[0] for key in whole.lines)}"
        return f"first difference: {line.place()}\n  {short.path}: missing\n  {whole.path}: {(theirs if short is a else ours)[-1]}"
    return ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `samestep diff`."""
    parser.add_argument("a", type=Path, help="a recording made with SAMESTEP_TRACE=FILE")
    parser.add_argument("b", type=Path, help="another recording")


def main(args: argparse.Namespace) -> int:
    """0: equal; 1: different; 2: not to be compared."""
    try:
        a, b = Recording(args.a), Recording(args.b)
    except (OSError, ValueError) as error:
        print(f"samestep diff: {error}", file=sys.stderr)
        return 2
    difference = compare(a, b)
    if difference:
        print(difference)
        return 1
    steps = {key[0] for key in a.lines}
    print(f"equal: {sum(map(len, a.lines.values()))} hashes over {len(steps)} step{'s' if len(steps) > 1 else ''}")
    return 0
