"""A contestant's side of the conversation with `samestep bench`.

A contestant's script calls `serve(build)`. It connects to the runner's socket, builds its network, takes three steps to
warm up, and then does what it is told, one line of JSON each way:

    -> {"do": "steps", "n": 20, "bursts": 5}     <- {"seconds": [5 numbers], "loss": of the last step, "peak_mib": ...}
    -> {"do": "NAME"}                            <- {"NAME": what that extra measurement returned}
    end of file                                     the script ends

Between commands it sleeps in the socket, so that contestants can take turns while all of them stay loaded. Every rank
of a contestant has a socket of its own: a rank that waited in its communication library might poll, and take a
processor from whoever is being measured.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from workloads import WORKLOADS, Workload

Steps = Callable[[int], float]  # takes n steps to their end, and returns the loss of the last
WARM_UP = 3


class Setting:
    """What a script was asked to build."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.workload: Workload = WORKLOADS[args.workload]
        self.threads: int = args.threads  # of this rank
        self.variant: str = args.variant
        self.precision: str = args.precision


def memory(what: str) -> float:
    """Resident memory of this process, MiB: "VmRSS" now, "VmHWM" at its peak (getrusage's would include the parent's before
    exec)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024


def serve(build: Callable[[Setting], tuple[str, Steps, dict[str, Callable[[], Any]]]], rank: int = 0) -> None:
    """Builds and obeys. `build(setting)` returns the library's version, the function that takes steps, and extra
    measurements by name."""
    parser = argparse.ArgumentParser(description="A contestant of samestep bench, which starts it.")
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--variant", default="")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--connect", required=True, help="path of the runner's socket")
    args = parser.parse_args()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(args.connect)
        lines = connection.makefile("r")

        def answer(message: dict[str, Any]) -> None:
            connection.sendall((json.dumps(message) + "\n").encode())

        try:
            version, steps, extras = build(Setting(args))
            first = steps(1)
            steps(WARM_UP - 1)
            answer(
                {"rank": rank, "version": version, "loss": first, "python": sys.version.split()[0], "pid": os.getpid()}
            )
            for line in lines:
                command = json.loads(line)
                if command["do"] != "steps":
                    answer({command["do"]: extras[command["do"]]() if command["do"] in extras else None})
                    continue
                seconds = []
                for _ in range(command["bursts"]):
                    started = time.perf_counter()
                    loss = steps(command["n"])
                    seconds.append(time.perf_counter() - started)
                answer({"seconds": seconds, "loss": loss, "peak_mib": memory("VmHWM")})
        except (BrokenPipeError, ConnectionResetError):
            pass  # the runner has gone
        except Exception as error:
            answer({"rank": rank, "error": f"{type(error).__name__}: {error}".strip()[:2000]})
            traceback.print_exc()
            sys.exit(1)
