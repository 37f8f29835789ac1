"""Hosts on one machine, for tests and measurements of what crosses a network.

A host is a set of namespaces of its own: network, host name, shared memory, System V objects. All of them lie inside
one more set that holds the switch between them, so the machine's own interfaces and names are never touched. That
outer set has a process namespace of its own: when its first process ends, the kernel ends everything that was ever
started inside and takes the interfaces down, whatever state a failed test left. The first process ends when its
standard input closes, so this also happens when the test run itself is killed.

    host eth0 --- veth --- port p0 of the switch            (rate: a token bucket at both ends)
    host eth0 --- relay --- port p0 of the switch           (with delay or loss)

The relay is a process between two TAP devices: it holds frames back and drops them at random, because not every
kernel has the queueing discipline netem.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

NETWORK = "10.77.0"  # inside the namespaces alone
NEEDED = ("ip", "tc", "unshare", "nsenter", "mount")
_TUN = "/dev/net/tun"
_SETUP_SECONDS = 20.0

# The launch agent: takes the place of ssh. What it starts has an environment of its own, as behind ssh; only what
# finds libraries and picks their code for this processor is kept.
_AGENT = """#!/bin/sh
folder='{folder}'
host=$1
shift
read -r pid < "$folder/$host.pid" || exit 255
exec nsenter -t "$pid" -n -u -m -i env -i HOME="$HOME" PATH="$PATH" TMPDIR="$folder/$host" \\
    ${{LD_LIBRARY_PATH:+LD_LIBRARY_PATH="$LD_LIBRARY_PATH"}} \\
    ${{OPENBLAS_CORETYPE:+OPENBLAS_CORETYPE="$OPENBLAS_CORETYPE"}} sh -c "$*"
"""


def _namespaces() -> list[str]:
    """Arguments of unshare for the outer set."""
    line = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    return line if os.geteuid() == 0 else [*line, "--user", "--map-root-user"]


def available(relay: bool = False) -> str | None:
    """Why hosts cannot be made here (with `relay`: with delay or loss), or None."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} on the path"
    try:
        done = subprocess.run(
            [*_namespaces(), "ip", "link", "add", "one", "type", "veth", "peer", "name", "two"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SETUP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "unshare does not answer"
    if done.returncode != 0:
        return f"namespaces are not allowed: {done.stderr.strip()}"
    if relay and not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} cannot be opened"
    return None


class HostsError(Exception):
    """The hosts could not be made or reached."""


class Hosts:
    """`count` hosts behind one switch; a context manager.

    rate: bits per second that each host can send, and as many that it can receive; None: no limit.
    delay: seconds that a frame takes from one host's interface to the switch, so a quarter of the added round trip.
    loss: the share of frames that vanish between two hosts. Which ones follows from `seed`.
    retries: how often a host sends a segment again that nobody acknowledges, before it gives the connection up; the
    time between two tries doubles from 0.2 seconds. None: as the kernel has it, which is 15 times, for a quarter of
    an hour.
    """

    def __init__(
        self,
        count: int,
        *,
        rate: float | None = None,
        delay: float = 0.0,
        loss: float = 0.0,
        seed: int = 0,
        retries: int | None = None,
    ) -> None:
        self.count = count
        self.names = [f"host{k}" for k in range(count)]
        self.addresses = [f"{NETWORK}.{k + 1}" for k in range(count)]
        self._folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        self._pids: list[int] = []  # of the processes that hold the hosts' namespaces
        self._own: set[int] = set()  # of all that is not a job
        self._outer: subprocess.Popen[str] | None = None
        settings = {"folder": str(self._folder), "rate": rate, "delay": delay, "loss": loss, "seed": seed}
        settings["retries"] = retries
        try:
            self._create(settings)
        except BaseException:
            self.close()
            raise

    def _create(self, settings: dict[str, Any]) -> None:
        # An address for each name: the launcher meets both.
        agent = _AGENT.format(folder=self._folder)
        self.agent.write_text(agent)
        self.agent.chmod(0o755)
        for name in self.names:
            (self._folder / name).mkdir()
        settings |= {"names": self.names, "addresses": self.addresses}
        line = [*_namespaces(), sys.executable, str(Path(__file__).resolve()), json.dumps(settings)]
        self._outer = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._outer.stdout is not None and self._outer.stderr is not None
        ready, _, _ = select.select([self._outer.stdout], [], [], _SETUP_SECONDS)
        answer = self._outer.stdout.readline() if ready else ""
        if not answer:
            self._outer.kill()
            raise HostsError(f"the hosts were not made: {self._outer.stderr.read().strip() or 'no answer'}")
        inside: dict[str, Any] = json.loads(answer)
        (self._first,) = _children(self._outer.pid)
        here = {_inner_pid(pid): pid for pid in _children(self._first)}
        self._pids = [here[pid] for pid in inside["hosts"]]
        self._own = {self._first, *here.values()}
        self._space = os.readlink(f"/proc/{self._first}/ns/pid")

    @property
    def agent(self) -> Path:
        """The program to give a launcher in the place of ssh; it works inside the hosts."""
        return self._folder / "agent"

    # --- programs

    def start(
        self,
        argv: Sequence[str],
        host: int = 0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        **popen: Any,
    ) -> subprocess.Popen[str]:
        """Starts a program on a host. `env` is its whole environment but for TMPDIR (default: this process's)."""
        environ = {**(os.environ if env is None else env), "TMPDIR": str(self._folder / self.names[host])}
        line = [*_enter(self._pids[host], "-n", "-u", "-m", "-i", "-p"), "sh", "-c", 'cd "$0" && exec "$@"']
        line += [str(cwd or Path.cwd()), *argv]
        popen.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(line, env=environ, text=True, start_new_session=True, **popen)

    def run(
        self,
        argv: Sequence[str],
        host: int = 0,
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end. After `timeout` seconds everything that runs on any host is killed and
        subprocess.TimeoutExpired raised, with what was printed."""
        pipe = subprocess.PIPE
        with self.start(argv, host, env, cwd, stdout=pipe, stderr=pipe) as child:
            try:
                out, err = child.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                out, err = child.communicate()
                raise subprocess.TimeoutExpired(list(argv), timeout, out, err) from None
            except BaseException:
                self.kill()
                raise
        return subprocess.CompletedProcess(list(argv), child.returncode, out, err)

    def mpi_environment(self, shared_memory: bool = True) -> dict[str, str]:
        """Settings that lead Open MPI's launcher and its ranks over the hosts' network and nothing else."""
        return {
            "PRTE_MCA_plm_ssh_agent": str(self.agent),
            "PRTE_MCA_prte_if_include": f"{NETWORK}.0/24",
            "OMPI_MCA_btl_tcp_if_include": f"{NETWORK}.0/24",
            "OMPI_MCA_pml": "ob1",
            "OMPI_MCA_btl": "self,sm,tcp" if shared_memory else "self,tcp",
        }

    def slots(self, ranks_per_host: int = 1, hosts: int | None = None) -> str:
        """The launcher's argument --host."""
        return ",".join(f"{name}:{ranks_per_host}" for name in self.names[:hosts])

    def processes(self) -> dict[int, str]:
        """What runs on the hosts: process id, as this process sees it, and command line. What has ended but was not
        waited for is left out."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) in self._own:
                continue
            with contextlib.suppress(OSError):  # it has ended, or belongs to another user
                if os.readlink(entry / "ns" / "pid") == self._space:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(entry.name)] = line.strip()
        return found

    def idle(self, timeout: float) -> bool:
        """Waits until nothing runs on the hosts any more; False when something still does after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.processes():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def kill(self) -> None:
        """Kills what runs on the hosts, by process id."""
        end = time.monotonic() + 5
        while (running := self.processes()) and time.monotonic() < end:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    # --- the network

    def cut(self, *hosts: int) -> None:
        """Puts hosts behind a switch of their own: frames between them and the others vanish, and no interface goes
        down, so nobody is told."""
        self._plug(hosts, "apart")

    def mend(self) -> None:
        """Puts all hosts behind one switch again."""
        self._plug(range(self.count), "switch")

    def _plug(self, hosts: Sequence[int], switch: str) -> None:
        for host in hosts:
            line = [*_enter(self._first, "-n"), "ip", "link", "set", f"p{host}", "master", switch]
            subprocess.run(line, check=True, timeout=10)

    # --- the end

    def close(self) -> None:
        """Ends everything on the hosts, and the hosts."""
        if self._outer is not None:
            assert self._outer.stdin and self._outer.stdout and self._outer.stderr
            self._outer.stdin.close()
            try:
                self._outer.wait(5)
            except subprocess.TimeoutExpired:
                self._outer.kill()  # unshare --kill-child ends the first process, and with it all others
                self._outer.wait(5)
            self._outer.stdout.close()
            self._outer.stderr.close()
            self._outer = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _enter(pid: int, *which: str) -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", "-t", str(pid), *user, *which]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _inner_pid(pid: int) -> int:
    """The number of a process in its own process namespace."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise HostsError("this kernel does not tell process ids of other namespaces")


# --- inside: what the first process does, and its children that hold the hosts' namespaces

_CLONE = {"mount": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "net": 0x40000000}
_IFF_TAP, _IFF_NO_PI, _TUNSETIFF = 0x0002, 0x1000, 0x400454CA


def _system(name: str, *args: Any) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _call(*line: str) -> None:
    subprocess.run(line, check=True, stdin=subprocess.DEVNULL)


def _hold(name: str, ready: int, table: Path, retries: int | None) -> None:
    """Makes a host's namespaces and holds them. Never returns."""
    _system("unshare", _CLONE["mount"] | _CLONE["uts"] | _CLONE["ipc"] | _CLONE["net"])
    socket.sethostname(name)
    _call("mount", "-t", "tmpfs", "-o", "mode=1777", name, "/dev/shm")
    _call("mount", "--bind", str(table), "/etc/hosts")
    if retries is not None:
        Path("/proc/sys/net/ipv4/tcp_retries2").write_text(f"{retries}\n")  # of this network namespace
    os.write(ready, b"x")
    os.close(ready)
    while True:
        signal.pause()


@contextlib.contextmanager
def _network_of(pid: int) -> Iterator[None]:
    with open("/proc/self/ns/net") as own, open(f"/proc/{pid}/ns/net") as other:
        _system("setns", other.fileno(), _CLONE["net"])
        try:
            yield
        finally:
            _system("setns", own.fileno(), _CLONE["net"])


def _tap(name: str) -> int:
    device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return device


def _relay(pairs: list[tuple[int, int]], delay: float, loss: float, seed: int) -> None:
    """Carries frames both ways between the devices of each pair. Never returns.

    A frame between two hosts passes two pairs. Loss is drawn once, on the way to the switch.
    """
    draw = random.Random(seed).random
    other = dict(pairs) | {b: a for a, b in pairs}
    up = {a for a, _ in pairs}
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    poll = select.poll()
    for device in other:
        poll.register(device, select.POLLIN)
    while True:
        pause = None if not waiting else max(0.0, 1e3 * (waiting[0][0] - time.monotonic()))
        if pause is not None and pause < 1.0:
            pause = 0.0  # poll counts in milliseconds; the last one is spent looking
        for device, _ in poll.poll(pause):
            for _ in range(64):
                try:
                    frame = os.read(device, 65536)
                except BlockingIOError:
                    break
                if device in up and loss > 0 and draw() < loss:
                    continue
                number += 1
                heapq.heappush(waiting, (time.monotonic() + delay, number, other[device], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, device, frame = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # a full queue drops frames, as a switch does
                os.write(device, frame)


def _fork(work: Any, *args: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(*args)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    return child


def _limit(device: str, rate: float, pid: int | None = None) -> None:
    """A token bucket: a millisecond's worth at once, and 50 ms may queue."""
    burst = max(16384, int(rate / 8 * 1e-3))
    enter = ["nsenter", "-t", str(pid), "-n"] if pid else []
    bucket = ["tbf", "rate", f"{int(rate)}bit", "burst", str(burst), "latency", "50ms"]
    _call(*enter, "tc", "qdisc", "add", "dev", device, "root", *bucket)


def _inside(settings: dict[str, Any]) -> None:
    folder, names, addresses = Path(settings["folder"]), settings["names"], settings["addresses"]
    table = folder / "table"
    pairs_of_names = zip(addresses, names, strict=True)
    table.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for address, name in pairs_of_names))
    _call("ip", "link", "set", "lo", "up")
    for switch in ("switch", "apart"):
        _call("ip", "link", "add", switch, "type", "bridge", "mcast_snooping", "0")
        _call("ip", "link", "set", switch, "up")
    pids = []
    for name in names:
        ready, tell = os.pipe()
        pids.append(_fork(_hold, name, tell, table, settings["retries"]))
        os.close(tell)
        if os.read(ready, 1) != b"x":
            raise HostsError(f"{name} was not made")
        os.close(ready)
        (folder / f"{name}.pid").write_text(f"{pids[-1]}\n")
    devices = []
    for k, pid in enumerate(pids):
        if settings["delay"] or settings["loss"]:
            with _network_of(pid):
                outer = _tap("eth0")
            devices.append((outer, _tap(f"p{k}")))
        else:
            _call("ip", "link", "add", f"p{k}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _call("ip", "link", "set", f"p{k}", "master", "switch", "up")
        enter = ("nsenter", "-t", str(pid), "-n")
        _call(*enter, "ip", "link", "set", "lo", "up")
        _call(*enter, "ip", "address", "add", f"{addresses[k]}/24", "dev", "eth0")
        _call(*enter, "ip", "link", "set", "eth0", "up")
        if settings["rate"]:
            _limit("eth0", settings["rate"], pid)
            _limit(f"p{k}", settings["rate"])
    if devices:
        _fork(_relay, devices, settings["delay"], settings["loss"], settings["seed"])
        for pair in devices:
            for device in pair:
                os.close(device)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the first process must wait for orphans, or they stay as zombies
    print(json.dumps({"hosts": pids}), flush=True)
    sys.stdin.read()  # until the other end closes, which the end of the test run does too


if __name__ == "__main__":
    _inside(json.loads(sys.argv[1]))
