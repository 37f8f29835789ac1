"""Times training steps of samestep and of the installed peers, in turn, on one machine."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from . import history, machine, report
from .contestants import CONTESTANTS, Contestant, Failed, Running, commands, installed, interpreter
from .peers.workloads import WORKLOADS, Workload

EPILOG = """\
examples:
  samestep bench --quick
  samestep bench --ranks 1 2 --json figures.json --markdown figures.md --plot figures.png
  samestep bench --workloads mlp cnn --contestants samestep torch jax --rounds 9
  samestep bench --precision bf16 --workloads mlpbig gpt
  samestep bench --interpreter tensorflow=/path/to/other/venv/bin/python
  samestep bench --record

Each contestant trains the same network on the same data and takes its turns while the others sleep. A ratio above 1 means
that samestep is faster than the best of its peers; "of peak" is the share of the multiply-adds that this machine could do.
Ctrl-C ends all contestants and shows what has been measured so far.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.set_defaults(parser=parser)
    add = parser.add_argument
    workloads, everyone = ", ".join(WORKLOADS), ", ".join(CONTESTANTS)
    add("--workloads", nargs="+", choices=WORKLOADS, metavar="NAME", help=f"what to train: {workloads} (default: all)")
    help = f"who takes part: {everyone} (default: all that are installed)"
    add("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME", help=help)
    help = "ranks that share the processors; several numbers: one after another (default: 1)"
    add("--ranks", nargs="+", type=int, default=[1], metavar="N", help=help)
    help = "processors to use, divided among the ranks' threads (default: 2, or all where there are fewer)"
    add("--processors", type=int, metavar="P", help=help)
    help = "of the arithmetic (default: fp32; bf16: contestants that have it)"
    add("--precision", choices=["fp32", "bf16"], default="fp32", help=help)
    add("--rounds", type=int, metavar="R", help="each round times every contestant once (default: 5; quick: 2)")
    add("--seconds", type=float, metavar="S", help="of one contestant's turn (default: 1; quick: 0.05)")
    add("--bursts", type=int, default=5, metavar="B", help="timed parts of a turn (default: 5)")
    help = "logreg alone unless told otherwise, short turns, no torch-compile: to see that all works"
    add("--quick", action="store_true", help=help)
    help = "run a contestant, or all of a library, with another Python (repeatable)"
    add("--interpreter", action="append", default=[], metavar="NAME=PYTHON", help=help)
    add("--json", type=Path, metavar="FILE", help="write all raw times, commands and facts of the machine")
    add("--markdown", type=Path, metavar="FILE", help="write the tables as markdown")
    add("--plot", type=Path, metavar="FILE", help="draw each contestant's time beside samestep's (needs matplotlib)")
    help = (
        "add figures, machine and commit to the records in FOLDER (default: benchmarks/results); compare with the last"
    )
    add("--record", type=Path, nargs="?", const=Path("benchmarks/results"), metavar="FOLDER", help=help)


def settle(args: argparse.Namespace) -> None:
    """Fills in defaults and checks what argparse cannot. Ends the program with a message on what does not fit."""
    error = args.parser.error
    args.workloads = args.workloads or (["logreg"] if args.quick else list(WORKLOADS))
    args.processors = args.processors or min(2, len(os.sched_getaffinity(0)))
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.seconds = args.seconds or (0.05 if args.quick else 1.0)
    args.interpreter = dict(text.partition("=")[::2] for text in args.interpreter)
    for name in args.interpreter:
        if name not in CONTESTANTS and name not in {item.library for item in CONTESTANTS.values()}:
            error(f"--interpreter {name}: no such contestant")
    for ranks in args.ranks:
        if ranks < 1 or args.processors < ranks or args.processors % ranks:
            error(f"--ranks {ranks}: {args.processors} processors cannot be divided among them evenly")
    if min(args.rounds, args.bursts) < 1 or args.seconds <= 0:
        error("--rounds, --bursts and --seconds must be positive")
    for name in ("json", "markdown", "plot"):  # better now than after the measurements
        path = getattr(args, name)
        if path is not None and not path.resolve().parent.is_dir():
            error(f"--{name} {path}: there is no such folder")
    if args.record is not None and args.record.exists() and not args.record.is_dir():
        error(f"--record {args.record}: not a folder")
    if args.plot is not None:
        try:
            report.check_plot(args.plot)
        except (ImportError, ValueError) as problem:
            error(f"--plot {args.plot}: {problem}")


def chosen(args: argparse.Namespace) -> list[Contestant]:
    """Those who were asked for, or all; without those whose library is not installed."""
    found = []
    for name, contestant in CONTESTANTS.items():
        wanted = name in args.contestants if args.contestants else contestant.quick or not args.quick
        if not wanted:
            continue
        if installed(interpreter(contestant, args.interpreter), [contestant.library]):
            found.append(contestant)
        else:
            say(f"{name}: {contestant.library} is not installed; left out")
    say(f"taking part: {', '.join(item.name for item in found) or 'nobody'}")
    return found


def say(text: str) -> None:
    """Progress, beside the report on standard output."""
    print(text, file=sys.stderr, flush=True)


def compare(
    workload: Workload, ranks: int, field: list[Contestant], args: argparse.Namespace, peak: machine.Peak
) -> dict[str, Any]:
    """All contestants on one workload, in turn."""
    threads = args.processors // ranks
    entry: dict[str, Any] = {name: getattr(workload, name) for name in ("name", "network", "batch", "gflop")}
    entry["contestants"] = {}
    running: dict[str, Running] = {}
    turns: dict[str, int] = {}
    ours = ("SAMESTEP_", "OMP_", "OMPI_", "PMIX_", "TF_CONFIG")  # settings that would change what is compared
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    try:
        for contestant in field:
            if (
                ranks > contestant.most_ranks
                or not contestant.fits(workload)
                or (args.precision == "bf16" and not contestant.bf16)
            ):
                continue
            record: dict[str, Any] = {"rounds_ms": [], "error": None, "learns": True}
            entry["contestants"][contestant.name] = record
            child = running[contestant.name] = Running(contestant, ranks)
            say(f"{workload.name}: starting {contestant.name}")
            started = commands(
                contestant,
                interpreter(contestant, args.interpreter),
                workload,
                ranks,
                threads,
                ["--precision", args.precision],
            )
            try:
                child.start(started, environ)
                trial = min(child.steps(1, 3)["ms"]) / 1e3
                turns[contestant.name] = max(1, math.ceil(args.seconds / args.bursts / trial))
                hello = child.hello[0]
                record |= {"version": hello["version"], "loss_first": hello["loss"]}
                record["steps_of_a_burst"] = turns[contestant.name]
            except Failed as error:
                record["error"] = str(error)
                say(f"  failed: {error}")
            record["command"] = child.lines
        entry["peak_before"] = peak()
        for number in range(args.rounds):
            for name, child in running.items():
                record = entry["contestants"][name]
                if record["error"]:
                    continue
                try:
                    turn = child.steps(turns[name], args.bursts)
                except Failed as error:
                    record |= {"error": str(error), "rounds_ms": []}
                    continue
                record["rounds_ms"].append(turn["ms"])
                record |= {"loss_last": turn["loss"], "peak_mib": turn["peak_mib"]}
                # A contestant that stopped learning would be measured at something else than training.
                record["learns"] = math.isfinite(turn["loss"]) and turn["loss"] < record["loss_first"]
            say(f"{workload.name}: round {number + 1} of {args.rounds}")
        entry["peak_after"] = peak()
        if report.MAIN in running and not entry["contestants"][report.MAIN]["error"]:
            for extra in ("memory", "overhead"):  # the first measures nothing that the second adds
                try:
                    entry[extra] = running[report.MAIN].ask(do=extra)[0][extra]
                except Failed as error:
                    entry["contestants"][report.MAIN]["error"] = f"{extra}: {error}"
                    break
    finally:
        for child in running.values():
            child.end()
    report.summarize(entry, {item.name for item in field if item.peer}, args.processors)
    return entry


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def measure(
    ranks: int, field: list[Contestant], args: argparse.Namespace, peak: machine.Peak, result: dict[str, Any]
) -> None:
    """Adds a section for one number of ranks to the result, and keeps the JSON file up to date: a long run that is cut
    short has left what it measured."""
    section: dict[str, Any] = {"ranks": ranks, "threads": args.processors // ranks, "processors": args.processors}
    section |= {"contestants": [item.name for item in field], "workloads": []}
    result["sections"].append(section)
    for number, name in enumerate(args.workloads, 1):
        say(f"{name}: workload {number} of {len(args.workloads)}, {ranks} rank{'s' * (ranks > 1)}")
        entry = compare(WORKLOADS[name], ranks, field, args, peak)
        section["workloads"].append(entry)
        ratios = [item["ratio"] for item in section["workloads"] if "ratio" in item]
        section["geometric_mean_ratio"] = report.geometric_mean(ratios)
        for who, item in entry["contestants"].items():
            if "version" in item:
                result["versions"].setdefault(CONTESTANTS[who].library.replace("optax", "jax"), item["version"])
        result["finished"] = now()
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")


def main(args: argparse.Namespace) -> int:
    """Runs the command; 1 when samestep itself failed, 130 when interrupted."""
    settle(args)
    try:
        cpus = machine.processors(args.processors)
    except ValueError as error:
        args.parser.error(str(error))
    result: dict[str, Any] = {
        "format": 2,
        "started": now(),
        "command": shlex.join(["samestep", *sys.argv[1:]]),
        "settings": {name: getattr(args, name) for name in ("rounds", "seconds", "bursts", "precision")}
        | {"cpus": cpus},
        "machine": machine.facts(),
        "commit": history.commit(),
        "versions": {},
        "sections": [],
    }
    field = chosen(args)
    if not field:
        args.parser.error("none of the contestants is installed")
    interrupted = False
    with machine.bound(cpus):
        peak = machine.Peak(0.1 if args.quick else 0.5, args.processors)
        try:
            for ranks in args.ranks:
                measure(ranks, field, args, peak, result)
        except KeyboardInterrupt:
            interrupted = True
            say("interrupted: these are the workloads that were finished")
    print(report.text(result), end="")
    if args.markdown:
        args.markdown.write_text(report.text(result, markdown=True))
    if args.plot:
        report.plot(result, args.plot)
    entries = [entry for section in result["sections"] for entry in section["workloads"]]
    if args.record and entries:
        path, lines = history.record(result, args.record)
        print("\n".join([f"recorded in {path}", *lines]))
    if interrupted:
        return 130
    return 1 if any(entry["contestants"].get(report.MAIN, {}).get("error") for entry in entries) else 0
