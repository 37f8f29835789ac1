"""All-reduce: its time against the size, on one node and between hosts.

    python benchmarks/allreduce.py --torch-python /path/to/python --json FILE --markdown FILE

Contestants, timed in turn while the others sleep:

    samestep     the exchange of a training step: reduce-scatter in the order of the lane tree, then all-gather
    mpi          MPI_Allreduce of the same Open MPI
    gloo         torch.distributed.all_reduce, with the interpreter that --torch-python names

A place is `node`, or `1000` or `100`: hosts in network namespaces of this machine that send and receive as many Mbit/s
(tests/hosts.py; needs the right to make namespaces). With several processes on few processors all contestants suffer
alike. `bound` is what the bytes alone take between hosts: 2 (R - 1) / R * bytes / rate.

samestep sends a rank's blocks of the lane tree. One block is the rule where the number of lanes is a multiple of the
ranks times a power of two; other numbers make up to log2(lanes) of them. --lanes sets the number.

Building csrc/tests/bench_mpi_allreduce.c needs make and a C compiler. Standard output receives the tables, standard
error the progress.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

KIB, MIB = 1 << 10, 1 << 20
SIZES = [KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB]
LARGEST = {"node": 256 * MIB, "1000": 64 * MIB, "100": 16 * MIB}
BUCKET = 1 << 18  # elements: what a training plan collects before it sends
PORT = 29871
ANSWER_SECONDS = 120.0


@dataclasses.dataclass
class Contestant:
    """A running program and one way to ask it."""

    name: str
    child: subprocess.Popen[str]
    line: Callable[[int, int], str]  # of a number of elements and of repetitions

    def time(self, elements: int, repeats: int) -> tuple[float, int]:
        """(seconds of one all-reduce of the slowest rank, blocks). Raises RuntimeError."""
        assert self.child.stdin is not None and self.child.stdout is not None
        try:
            print(self.line(elements, repeats), file=self.child.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError(f"{self.name} has ended") from None
        ready, _, _ = select.select([self.child.stdout], [], [], ANSWER_SECONDS)
        answer = self.child.stdout.readline().split() if ready else []
        if len(answer) != 2:
            raise RuntimeError(f"{self.name}: no answer to {self.line(elements, repeats)!r}")
        return float(answer[0]), int(answer[1])


# --- gloo: this file, run by the interpreter that has torch


def serve_gloo(rank: int, size: int, address: str, interface: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{address}", rank=rank, world_size=size)
    kept: dict[int, torch.Tensor] = {}
    while True:
        order = torch.zeros(2, dtype=torch.int64)
        if rank == 0:
            words = sys.stdin.readline().split()
            if len(words) == 2:
                order = torch.tensor([int(word) for word in words])
        dist.broadcast(order, 0)
        elements, repeats = order.tolist()
        if elements == 0:
            break
        if elements not in kept:
            kept.clear()
            kept[elements] = torch.ones(elements)
        data = kept[elements]
        data.fill_(1)
        dist.all_reduce(data)
        if not bool((data == size).all()):
            raise RuntimeError("gloo: wrong sums")
        data.zero_()  # stays zero: sums of sums would overflow
        dist.barrier()
        began = time.perf_counter()
        for _ in range(repeats):
            dist.all_reduce(data)
        taken = torch.tensor([(time.perf_counter() - began) / repeats], dtype=torch.float64)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        if rank == 0:
            print(f"{taken.item():.9f} 1", flush=True)
    dist.destroy_process_group()


# --- the runner


def build() -> Path:
    where = ROOT / "build" / "c"
    target = where / "release" / "tests" / "bench_mpi_allreduce"
    line = ["make", "-C", str(ROOT / "csrc"), f"PYTHON={sys.executable}", f"BUILD={where}", str(target)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"building the program failed:\n{done.stdout}{done.stderr}")
    return target


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.contextmanager
def field(place: str, ranks: int, args: argparse.Namespace, program: Path) -> Iterator[list[Contestant]]:
    """The contestants of a place, running."""
    import hosts as network
    from samestep import _launch

    with contextlib.ExitStack() as stack:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        children: list[subprocess.Popen[str]] = []
        gloo = [args.torch_python, str(Path(__file__).resolve()), "--serve-gloo"] if args.torch_python else None
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_", "PRTE_"))}
        if place == "node":
            line, env = _launch.command(ranks, [str(program)], threads=1, environ=environ)
            stack.callback(lambda: [end(child) for child in children])  # gloo's other ranks end after its first
            children.append(subprocess.Popen(line, env=env, text=True, start_new_session=True, **pipes))
            address = f"127.0.0.1:{free_port()}"
            for rank in range(ranks if gloo else 0):
                words = [*gloo, str(rank), str(ranks), address, "lo"] if gloo else []
                children.append(subprocess.Popen(words, env=environ, text=True, start_new_session=True, **pipes))
        else:
            where = stack.enter_context(network.Hosts(ranks, rate=1e6 * float(place)))
            stack.callback(lambda: [end(child) for child in children])
            settings = {**environ, **where.mpi_environment()}
            line, env = _launch.command(ranks, [str(program)], threads=1, hosts=where.slots(), environ=settings)
            children.append(where.start(line, env=env, **pipes))
            for rank in range(ranks if gloo else 0):
                words = [*gloo, str(rank), str(ranks), f"{where.addresses[0]}:{PORT}", "eth0"] if gloo else []
                children.append(where.start(words, rank, environ, **pipes))
        found = [
            Contestant(f"samestep, {lanes} lanes", children[0], exchange_line(lanes)) for lanes in args.lanes(ranks)
        ]
        found.append(Contestant("mpi", children[0], lambda elements, repeats: f"mpi {elements} 0 0 {repeats}"))
        if gloo:
            found.append(Contestant("gloo", children[1], lambda elements, repeats: f"{elements} {repeats}"))
        yield found


def exchange_line(lanes: int) -> Callable[[int, int], str]:
    return lambda elements, repeats: f"exchange {elements} {BUCKET} {lanes} {repeats}"


def end(child: subprocess.Popen[str]) -> None:
    from samestep import _launch

    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(OSError):
        print("end", file=child.stdin, flush=True)
        child.stdin.close()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        _launch.kill_job(child)
        child.wait(10)
    child.stdout.close()


def measure(contestants: list[Contestant], size: int, args: argparse.Namespace) -> dict[str, Any]:
    """{"ms": best by contestant, "rounds_ms": all, "blocks": ...}"""
    elements = size // 4
    repeats: dict[str, int] = {}
    item: dict[str, Any] = {"bytes": size, "rounds_ms": {}, "blocks": {}}
    for each in contestants:
        taken, _ = each.time(elements, 1)
        if taken < args.seconds / 4:
            taken, _ = each.time(elements, max(1, math.ceil(args.seconds / 8 / taken)))
        repeats[each.name] = max(1, min(10000, math.ceil(args.seconds / taken)))
    for _ in range(args.rounds):
        for each in contestants:
            taken, blocks = each.time(elements, repeats[each.name])
            item["rounds_ms"].setdefault(each.name, []).append(1e3 * taken)
            item["blocks"][each.name] = blocks
    item["ms"] = {name: min(times) for name, times in item["rounds_ms"].items()}
    return item


def run(place: str, ranks: int, args: argparse.Namespace, program: Path) -> dict[str, Any]:
    from samestep.bench import machine

    result: dict[str, Any] = {"place": place, "ranks": ranks, "load_average": machine.load_average(), "sizes": []}
    sizes = [size for size in SIZES if size <= min(LARGEST[place], args.largest)]
    with field(place, ranks, args, program) as contestants:
        for size in sizes[::3] if args.quick else sizes:
            print(f"{title(place, ranks)}: {size_text(size)}", file=sys.stderr, flush=True)
            item = measure(contestants, size, args)
            if place != "node":
                item["bound_ms"] = 2 * (ranks - 1) / ranks * size * 8 / (float(place) * 1e6) * 1e3
            result["sizes"].append(item)
    return result


# --- tables


def title(place: str, ranks: int) -> str:
    return f"{ranks} ranks on one node" if place == "node" else f"{ranks} hosts at {place} Mbit/s"


def size_text(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Times, and two ratios of the fastest way samestep has here: the best peer's time over it, and it over the bound."""
    from samestep.bench.report import number

    names = list(result["sizes"][0]["ms"])
    blocks = result["sizes"][0]["blocks"]
    many = {name: f" ({blocks[name]} blocks)" if blocks[name] > 1 else "" for name in names}
    limited = "bound_ms" in result["sizes"][0]
    head = ["size", *[f"{name}{many[name]}, ms" for name in names], "best peer / samestep"]
    head += ["bound, ms", "samestep / bound"] if limited else []
    rows = []
    for item in result["sizes"]:
        ours = min(taken for name, taken in item["ms"].items() if name.startswith("samestep"))
        peer = min(taken for name, taken in item["ms"].items() if not name.startswith("samestep"))
        row = [size_text(item["bytes"]), *[number(item["ms"][name]) for name in names], number(peer / ours)]
        rows.append([*row, number(item["bound_ms"]), number(ours / item["bound_ms"])] if limited else row)
    return head, rows


def whole_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--places", nargs="+", choices=LARGEST, default=list(LARGEST), help="default: all that this machine allows")
    add("--ranks", nargs="+", type=int, default=[2, 3, 4], metavar="R", help="default: 2 3 4")
    help = "numbers of lanes to show samestep with (default: 64; with ranks that are no power of two also a multiple)"
    add("--lanes", nargs="+", type=int, metavar="V", help=help)
    add("--torch-python", metavar="PYTHON", help="interpreter with torch (default: this one, where it has torch)")
    add("--rounds", type=int, default=5, metavar="N", help="each round times every contestant once (default: 5)")
    add("--seconds", type=float, default=0.1, metavar="S", help="of one turn, at least one all-reduce (default: 0.1)")
    add("--largest", type=int, default=LARGEST["node"], metavar="BYTES", help="leave out larger sizes")
    add("--quick", action="store_true", help="every third size")
    add("--json", type=Path, metavar="FILE", help="write all figures and facts of the machine")
    add("--markdown", type=Path, metavar="FILE", help="write the tables as markdown")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.seconds <= 0 or min(args.ranks) < 2 or args.largest < KIB:
        parser.error("--rounds and --seconds must be positive, --ranks at least 2, --largest at least 1024")
    given = args.lanes

    def lanes(ranks: int) -> list[int]:
        """The default of a large batch, and where that makes several blocks, the same order of size without."""
        if given:
            return list(given)
        whole = ranks << max(0, int(math.log2(64 / ranks)))
        return [64] if whole == 64 else [64, whole]

    args.lanes = lanes
    if args.torch_python is None:
        import importlib.util

        args.torch_python = sys.executable if importlib.util.find_spec("torch") else None
    return args


def main() -> int:
    if sys.argv[1:2] == ["--serve-gloo"]:
        serve_gloo(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
        return 0
    args = parse()
    import hosts as network
    from samestep import _core
    from samestep.bench import history, machine, report

    reason = network.available()
    places = [place for place in args.places if place == "node" or reason is None]
    if len(places) < len(args.places):
        print(f"without hosts: {reason}", file=sys.stderr)
    if args.torch_python is None:
        print("without gloo: this interpreter has no torch, and --torch-python names none", file=sys.stderr)
    program = build()
    result: dict[str, Any] = {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": history.commit(),
        "settings": {"rounds": args.rounds, "seconds": args.seconds, "bucket_elements": BUCKET},
        "machine": machine.facts(),
        "mpi": _core.build_info().get("mpi_version"),
        "tables": [],
    }
    lines = []
    failed = False
    for place in places:
        for ranks in args.ranks:
            try:
                result["tables"].append(run(place, ranks, args, program))
            except RuntimeError as problem:
                failed = True
                print(f"{title(place, ranks)}: {problem}", file=sys.stderr)
                continue
            head, rows = table(result["tables"][-1])
            print(f"\n{title(place, ranks)}\n{report.plain_table(head, rows)}", flush=True)
            lines += [f"**{title(place, ranks)}**", "", report.markdown_table(head, rows), ""]
            if args.json:
                args.json.write_text(json.dumps(result, indent=1) + "\n")
            if args.markdown:
                args.markdown.write_text("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
