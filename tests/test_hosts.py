"""Ranks on several hosts: the bits of one process, over slow, lossy and distant links, and how a job ends when a host
cannot be reached or a rank dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import hosts as network
from conftest import ROOT, run_job
from samestep import _launch

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(bool(network.available()), reason=f"no hosts can be made: {network.available()}"),
]
needs_relay = pytest.mark.skipif(
    bool(network.available(relay=True)), reason=f"no relay: {network.available(relay=True)}"
)

TRAIN = """
import json, os, signal, sys, threading, time
import numpy as np
import samestep as ss
from samestep import nn, optim

def network(name):
    if "mlp" in name:
        return nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 5))
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 36, 5))

def train(name, epochs, event=lambda epoch: None):
    rng = np.random.default_rng(0)
    shape = (20,) if "mlp" in name else (3, 12, 12)
    x, y = rng.normal(size=(150, *shape)).astype(np.float32), rng.integers(0, 5, 150)
    ss.manual_seed(1)
    net = network(name)
    trainer = ss.Trainer(net, optimizer=optim.Adam(0.01), callbacks=[lambda t, epoch, logs: event(epoch)],
                         clip_norm=0.5 if "clipped" in name else None)
    trainer.fit(x, y, epochs=epochs, batch_size=64, verbose=False)
    return net
"""
FINGERPRINT = f"{TRAIN}\nprint(sys.argv[1], ss.fingerprint(train(sys.argv[1], int(sys.argv[2]))), flush=True)\n"
# Every rank leaves its process id and a sign that it is training, then what ended it.
UNTIL_FAILURE = f"""{TRAIN}
me = ss.rank()
with open(f"pid{{me}}", "w") as file:
    file.write(str(os.getpid()))
def event(epoch):
    if epoch == 2:
        open(f"trains{{me}}", "w").close()
try:
    train("mlp", 1_000_000, event)
except BaseException as error:
    with open(f"ended{{me}}.part", "w") as file:
        json.dump({{"kind": type(error).__name__, "text": str(error), "time": time.time()}}, file)
    os.rename(f"ended{{me}}.part", f"ended{{me}}")
    raise
"""
TIMEOUT = 2.0  # seconds, of a rank's wait for another
LEEWAY = 8.0  # on a busy machine


class Job:
    """A job that runs on the hosts until something fails."""

    def __init__(self, where: network.Hosts, ranks: int, folder: Path) -> None:
        self.where, self.ranks, self.folder = where, ranks, folder
        line, env = command(where, folder, UNTIL_FAILURE, ranks, 1, [], {"SAMESTEP_TIMEOUT": f"{TIMEOUT:g}"})
        self._errors = folder / "stderr"
        with self._errors.open("w") as errors:
            self.process = where.start(line, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors)
        self.wait_for(lambda: all((folder / f"trains{rank}").exists() for rank in range(ranks)), 30, "no training")

    @property
    def stderr(self) -> str:
        return self._errors.read_text()

    def wait_for(self, condition: Callable[[], bool], seconds: float, problem: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"{problem}: {self.ended()}, running: {self.where.processes()}\n{self.stderr}")
            time.sleep(0.02)

    def ended(self) -> dict[int, dict[str, Any]]:
        """What ended each rank that has ended by an exception."""
        found = {rank: self.folder / f"ended{rank}" for rank in range(self.ranks)}
        return {rank: json.loads(path.read_text()) for rank, path in found.items() if path.exists()}

    def signal(self, rank: int, number: int) -> None:
        inner = int((self.folder / f"pid{rank}").read_text())
        (pid,) = (pid for pid in self.where.processes() if network._inner_pid(pid) == inner)
        os.kill(pid, number)

    def expect_end(self, seconds: float) -> None:
        """The launcher has ended with a failure, and nothing is left on any host."""
        self.wait_for(lambda: self.process.poll() is not None, seconds, "the launcher goes on")
        assert self.process.returncode != 0, self.stderr
        self.wait_for(lambda: not self.where.processes(), seconds, "something is left")


def command(
    where: network.Hosts,
    folder: Path,
    script: str,
    ranks: int,
    per_host: int,
    args: Sequence[str],
    env: dict[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    path = folder / "script.py"
    path.write_text(script)
    environ = {**os.environ, **where.mpi_environment(), **(env or {})}
    return _launch.command(ranks, [str(path), *args], threads=1, hosts=where.slots(per_host), environ=environ)


def check_fingerprint(
    where: network.Hosts, folder: Path, name: str, expected: str, epochs: int, per_host: int = 1, timeout: float = 60
) -> None:
    ranks = where.count * per_host
    line, env = command(where, folder, FINGERPRINT, ranks, per_host, [name, str(epochs)])
    try:
        done = where.run(line, env=env, cwd=folder, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"no end within {timeout} s\n{late.output!s}\n{late.stderr!s}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [expected] * ranks, done.stdout + done.stderr
    assert where.idle(5), where.processes()


EPOCHS = 4


@pytest.fixture(scope="module", params=["mlp", "clipped-mlp", "cnn"])
def expected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A network and what one process, outside any launcher, prints after training it."""
    folder = tmp_path_factory.mktemp("alone")
    line = [sys.executable, "-c", FINGERPRINT, request.param, str(EPOCHS)]
    done = run_job(line, {**os.environ, "SAMESTEP_THREADS": "1"}, 60, cwd=folder)
    assert done.returncode == 0, done.stderr
    return request.param, done.stdout.strip()


LINKS: dict[str, dict[str, float]] = {
    "fast": {},
    "100 Mbit": {"rate": 100e6},
    "loss of 1 %": {"loss": 0.01, "seed": 1},
    "delay of 4 ms": {"delay": 0.001},  # there and back
    "all of them": {"rate": 100e6, "loss": 0.01, "delay": 0.001},
}


@pytest.mark.parametrize(
    ("count", "per_host", "link"),
    [
        (2, 1, "fast"),
        (4, 1, "fast"),
        (2, 2, "fast"),
        (2, 3, "100 Mbit"),
        (3, 2, "fast"),
        (2, 1, "100 Mbit"),
        (4, 1, "100 Mbit"),
        pytest.param(2, 1, "loss of 1 %", marks=needs_relay),
        pytest.param(3, 1, "delay of 4 ms", marks=needs_relay),
        pytest.param(4, 1, "all of them", marks=needs_relay),
    ],
)
def test_bits_of_one_process(expected: tuple[str, str], count: int, per_host: int, link: str, tmp_path: Path) -> None:
    with network.Hosts(count, **LINKS[link]) as where:  # type: ignore[arg-type]
        check_fingerprint(where, tmp_path, expected[0], expected[1], EPOCHS, per_host)


def test_ranks_of_a_host_read_each_others_memory(tmp_path: Path) -> None:
    """Two ranks on each of two hosts: shared memory inside a host, messages of the group between them."""
    script = f"""{TRAIN}
net = network("mlp")
plan = ss.compile(net, optimizer=optim.Adam(0.01), batch_size=64)
rng = np.random.default_rng(0)
plan.step(rng.normal(size=(64, 20)).astype(np.float32), rng.integers(0, 5, 64))
print(plan.explain(), flush=True)
"""
    with network.Hosts(2) as where:
        line, env = command(where, tmp_path, script, 4, 2, [])
        done = where.run(line, env=env, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from shared memory inside a host and by messages between hosts" in done.stdout, done.stdout


@pytest.fixture
def three() -> Iterator[network.Hosts]:
    # The launcher's daemons end when the kernel gives their connections up: after 4 s here.
    with network.Hosts(3, retries=4) as where:
        yield where


def test_a_host_that_is_cut_off(three: network.Hosts, tmp_path: Path) -> None:
    """No frame passes between hosts 0, 1 and host 2 any more, and no interface goes down."""
    job = Job(three, 3, tmp_path)
    cut = time.time()
    three.cut(2)
    job.wait_for(lambda: len(job.ended()) == 3, TIMEOUT + LEEWAY, "a rank goes on")
    job.expect_end(3 * LEEWAY)
    ended = job.ended()
    assert set(ended) == {0, 1, 2}, (ended, job.stderr)
    for rank, end in ended.items():
        assert end["kind"] == "RankFailed", (rank, end)
        assert end["time"] - cut < TIMEOUT + LEEWAY / 2
    assert "rank 2 did not answer" in ended[0]["text"]
    assert any(name in ended[2]["text"] for name in ("rank 0", "rank 1", "ranks 0, 1", "ranks 1, 0"))
    assert "RankFailed" in job.stderr


def test_a_link_that_comes_back(expected: tuple[str, str], tmp_path: Path) -> None:
    """An interruption shorter than the timeout costs time and nothing else."""
    name, print_of_one = expected
    pause = f"""{TRAIN}
def event(epoch):
    if epoch == 1:
        open(f"pauses{{ss.rank()}}", "w").close()
        time.sleep(0.5)
print(sys.argv[1], ss.fingerprint(train(sys.argv[1], int(sys.argv[2]), event)), flush=True)
"""
    with network.Hosts(2) as where:
        line, env = command(where, tmp_path, pause, 2, 1, [name, str(EPOCHS)])
        child = where.start(line, env=env, cwd=tmp_path, stdout=subprocess.PIPE)
        end = time.monotonic() + 30
        while not (tmp_path / "pauses1").exists() and time.monotonic() < end:
            time.sleep(0.01)
        where.cut(1)
        time.sleep(1.5)
        assert child.poll() is None
        where.mend()
        try:
            out, _ = child.communicate(timeout=30)
        finally:
            where.kill()
        assert out.splitlines() == [print_of_one] * 2


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_killed(three: network.Hosts, tmp_path: Path, rank: int) -> None:
    """Its peers see their connections close. Open MPI ends such a peer at once, without an exception in Python, and says
    which host was lost."""
    job = Job(three, 3, tmp_path)
    job.signal(rank, signal.SIGKILL)
    job.expect_end(TIMEOUT + LEEWAY)
    ended = job.ended()
    assert rank not in ended and {end["kind"] for end in ended.values()} <= {"RankFailed", "CommError"}, ended
    told = "unexpectedly disconnected" in job.stderr and f"host{rank}" in job.stderr
    assert told or ended or "signal 9" in job.stderr or "Socket closed" in job.stderr, job.stderr


def test_a_rank_that_is_stopped(three: network.Hosts, tmp_path: Path) -> None:
    job = Job(three, 3, tmp_path)
    job.signal(1, signal.SIGSTOP)
    job.expect_end(TIMEOUT + LEEWAY)
    ended = job.ended()
    assert ended and 1 not in ended
    assert {end["kind"] for end in ended.values()} == {"RankFailed"}
    assert any("rank 1 did not answer" in end["text"] for end in ended.values()), ended
    assert "rank 1 did not answer" in job.stderr


@pytest.mark.slow
def test_the_benchmark_of_all_reduce(tmp_path: Path) -> None:
    """It builds its program, measures on the node and between hosts, and writes what it says."""
    if not (shutil.which("make") and shutil.which("gcc")):
        pytest.skip("needs make and gcc")
    line = [sys.executable, str(ROOT / "benchmarks" / "allreduce.py"), "--places", "node", "1000", "--ranks", "3"]
    line += ["--rounds", "1", "--seconds", "0.01", "--largest", "4096", "--json", str(tmp_path / "json")]
    done = run_job([*line, "--markdown", str(tmp_path / "markdown")], os.environ, 180)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "json").read_text())
    assert [(table["place"], table["ranks"]) for table in result["tables"]] == [("node", 3), ("1000", 3)]
    for table in result["tables"]:
        assert [item["bytes"] for item in table["sizes"]] == [1024, 4096]
        for item in table["sizes"]:
            assert {"samestep, 64 lanes", "samestep, 48 lanes", "mpi"} <= set(item["ms"])
            assert min(item["ms"].values()) > 0 and item["blocks"]["samestep, 48 lanes"] == 1
    assert result["tables"][1]["sizes"][0]["bound_ms"] == pytest.approx(4 / 3 * 1024 * 8 / 1e9 * 1e3)
    assert (tmp_path / "markdown").read_text().count("| 4 KiB |") == 2


def test_the_hosts_themselves(tmp_path: Path) -> None:
    """They see one another and nothing else; what is left on them ends with them."""
    before = os.listdir("/sys/class/net")
    with network.Hosts(2) as where:
        done = where.run(["sh", "-c", "hostname; ls /dev/shm"], 1, timeout=10)
        assert done.stdout == "host1\n" and where.processes() == {}, done
        with pytest.raises(subprocess.TimeoutExpired):
            where.run(["sleep", "60"], timeout=0.2)
        assert where.idle(5)
        left = where.start(["sh", "-c", "(setsid sleep 60 &) ; sleep 60"])
        while len(where.processes()) < 3:
            time.sleep(0.02)
        pids = list(where.processes())
    left.wait(5)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert os.listdir("/sys/class/net") == before
