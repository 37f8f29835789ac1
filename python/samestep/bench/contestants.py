"""Who takes part, how each is started, and the runner's side of the conversation (child.py holds the other)."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .peers.workloads import Workload

SCRIPTS = Path(__file__).resolve().parent / "peers"
Process = tuple[list[str], dict[str, str]]  # a command line, and what is added to its environment


@dataclass(frozen=True)
class Contestant:
    """A script with a variant, and where it takes part."""

    name: str
    library: str  # what it imports
    script: str
    variant: str = ""
    peer: bool = True  # counts for "best peer"
    most_ranks: int = 1
    fits: Callable[[Workload], bool] = lambda workload: True
    quick: bool = True  # part of --quick
    bf16: bool = False  # takes part with --precision bf16


def _convolutional(workload: Workload) -> bool:
    return workload.convolutional


def _sgd_perceptron(workload: Workload) -> bool:
    return len(workload.widths) > 2 and workload.optimizer == "sgd"


CONTESTANTS = {
    item.name: item
    for item in (
        Contestant("samestep", "samestep", "ours.py", peer=False, most_ranks=64, bf16=True),
        Contestant("samestep-run", "samestep", "ours.py", "run", peer=False, most_ranks=64, bf16=True),
        Contestant("torch", "torch", "peer_torch.py", most_ranks=64, bf16=True),
        Contestant(
            "torch-channels-last",
            "torch",
            "peer_torch.py",
            "channels-last",
            most_ranks=64,
            fits=_convolutional,
            bf16=True,
        ),
        Contestant("torch-compile", "torch", "peer_torch.py", "compile", quick=False, bf16=True),
        Contestant("jax", "optax", "peer_jax.py"),
        Contestant("tensorflow", "tensorflow", "peer_tensorflow.py", most_ranks=64),
        Contestant("sklearn", "sklearn", "peer_sklearn.py", fits=_sgd_perceptron),
    )
}


def installed(python: str, libraries: list[str]) -> list[str]:
    """Those of the libraries that this interpreter finds, without importing them."""
    code = "import importlib.util, sys; print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    try:
        return subprocess.run(
            [python, "-c", code, *libraries], capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"samestep bench: {python} does not work: {error}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commands(
    contestant: Contestant, python: str, workload: Workload, ranks: int, threads: int, extra: list[str]
) -> list[Process]:
    """The processes to start: one a rank, or the launcher of all."""
    script = [str(SCRIPTS / contestant.script), "--workload", workload.name, "--threads", str(threads), *extra]
    if contestant.variant:
        script += ["--variant", contestant.variant]
    many = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    if ranks == 1:
        return [([python, *script], many)]
    if contestant.library == "samestep":
        return [([python, "-m", "samestep", "run", "-n", str(ranks), "--threads", str(threads), *script], many)]
    if contestant.library == "torch":
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(ranks)}
        return [
            ([python, *script], {**many, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(ranks)
        ]
    workers = [f"127.0.0.1:{_free_port()}" for _ in range(ranks)]
    config = [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}) for rank in range(ranks)
    ]
    return [([python, *script], {**many, "TF_CONFIG": text}) for text in config]


class Failed(Exception):
    """The contestant has ended, reported an error, or does not answer."""


@dataclass
class Running:
    """A contestant's processes, waiting for commands."""

    contestant: Contestant
    ranks: int
    timeout: float = 300.0  # of the start, and of one command, seconds
    lines: list[str] = field(default_factory=list)  # how it was started
    hello: list[dict[str, Any]] = field(default_factory=list)

    def start(self, started: list[Process], environ: Mapping[str, str]) -> None:
        """Raises Failed. Call end() in any case."""
        self._folder = tempfile.TemporaryDirectory(prefix="samestep-benchmark-")
        path = str(Path(self._folder.name) / "socket")
        self._errors = open(Path(self._folder.name) / "errors", "w+")  # noqa: SIM115 (closed in end)
        self._processes: list[subprocess.Popen[Any]] = []
        self._connections: list[socket.socket] = []
        self._answers: list[Any] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(self.ranks)
        listener.settimeout(0.5)
        with listener:
            for line, extra in started:
                line = [*line, "--connect", path]
                self.lines.append(shlex.join([*(f"{name}={value}" for name, value in extra.items()), *line]))
                self._processes.append(
                    subprocess.Popen(
                        line,
                        env={**environ, **extra},
                        stdin=subprocess.DEVNULL,
                        stdout=self._errors,
                        stderr=self._errors,
                        start_new_session=True,
                    )
                )
            deadline = time.monotonic() + self.timeout
            while len(self._connections) < self.ranks:
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    self._check(deadline)
                    continue
                connection.settimeout(self.timeout)
                self._connections.append(connection)
                self._answers.append(connection.makefile("r"))
        self.hello = self._hear()

    def _check(self, deadline: float) -> None:
        if any(process.poll() not in (None, 0) for process in self._processes):
            raise Failed(self._last_words())
        if time.monotonic() > deadline:
            raise Failed(f"not ready within {self.timeout:.0f} s. {self._last_words()}")

    def _last_words(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-600:] or "it ended without a word"

    def _hear(self) -> list[dict[str, Any]]:
        answers = []
        for stream in self._answers:
            try:
                line = stream.readline()
            except TimeoutError:
                raise Failed(f"no answer within {self.timeout:.0f} s") from None
            except OSError as error:
                raise Failed(str(error)) from None
            if not line:
                time.sleep(0.5)  # its last words are on their way
                raise Failed(self._last_words())
            answers.append(json.loads(line))
        for answer in answers:
            if "error" in answer:
                raise Failed(answer["error"])
        return answers

    def ask(self, **command: Any) -> list[dict[str, Any]]:
        """Gives all ranks a command and returns their answers. Raises Failed."""
        try:
            for connection in self._connections:
                connection.sendall((json.dumps(command) + "\n").encode())
        except OSError as error:
            raise Failed(str(error)) from None
        return self._hear()

    def steps(self, n: int, bursts: int) -> dict[str, Any]:
        """Milliseconds a step in each burst (of the slowest rank), the loss of rank 0, and the peak memory of all ranks together."""
        answers = self.ask(do="steps", n=n, bursts=bursts)
        first = min(range(len(answers)), key=lambda k: self.hello[k]["rank"])
        return {
            "ms": [1e3 * max(burst) / n for burst in zip(*(answer["seconds"] for answer in answers), strict=True)],
            "loss": answers[first]["loss"],
            "peak_mib": sum(answer["peak_mib"] for answer in answers),
        }

    def end(self) -> None:
        """The scripts end by themselves when their sockets close; what is left after ten seconds is killed, ranks included."""
        for stream in [*self._answers, *self._connections]:
            stream.close()
        deadline = time.monotonic() + 10
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                for pid in [*(answer["pid"] for answer in self.hello), process.pid]:
                    with contextlib.suppress(OSError):
                        # A rank may have ended, and its number may be somebody else's by now.
                        if self._folder.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                            os.kill(pid, signal.SIGKILL)
                process.wait()
        self._errors.close()
        self._folder.cleanup()


def interpreter(contestant: Contestant, given: Mapping[str, str]) -> str:
    """The interpreter that runs a contestant: --interpreter NAME=PATH by its name or its library's, else this one."""
    return given.get(contestant.name) or given.get(contestant.library) or sys.executable
