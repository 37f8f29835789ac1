"""`samestep run -n N script.py`: starts ranks with the mpiexec that belongs to the library, with settings that work
on a laptop and on a node."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import difflib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import _libraries, _processors

# What a launcher hands to its ranks; a launcher below a rank must not believe it is part of that job.
_INHERITED = (
    "SAMESTEP_MPI_PID",
    "OMPI_COMM_WORLD_",
    "OMPI_UNIVERSE_",
    "OMPI_APP_",
    "OMPI_FILE_",
    "OMPI_FIRST_",
    "OMPI_NUM_",
    "PMIX_",
    "PRTE_LAUNCHED",
    "PMI_",
)
_GRACE = 10.0  # seconds between a forwarded signal and a kill


class LaunchError(Exception):
    """The job cannot be started; the text says why."""


def program(argv: Sequence[str]) -> list[str]:
    """The command line of one rank: a Python file, `-m module`, `-c code`, or a program on the path. Raises
    LaunchError."""
    if not argv:
        raise LaunchError("no script given: samestep run -n 4 train.py")
    first = argv[0]
    if first in ("-m", "-c"):
        if len(argv) < 2:
            raise LaunchError(f"{first} needs a {'module' if first == '-m' else 'text'} behind it")
        return [sys.executable, *argv]
    path = Path(first)
    if path.is_dir() and not (path / "__main__.py").exists():
        raise LaunchError(f"{first} is a folder without a __main__.py")
    if path.exists():
        if not os.access(path, os.R_OK):
            raise LaunchError(f"{first} cannot be read")
        runs_itself = path.suffix not in (".py", ".pyw", ".pyc", ".pyz") and path.is_file() and os.access(path, os.X_OK)
        return [str(path.absolute()), *argv[1:]] if runs_itself else [sys.executable, *argv]
    if path.suffix != ".py" and os.sep not in first and shutil.which(first):
        return list(argv)
    folder = path.parent if str(path.parent) else Path()
    near = (
        difflib.get_close_matches(path.name, [entry.name for entry in folder.glob("*.py")], n=1)
        if folder.is_dir()
        else []
    )
    hint = f"; did you mean {folder / near[0]}?" if near else f" (in {Path.cwd()})" if not path.is_absolute() else ""
    raise LaunchError(f"no such script: {first}{hint}")


def command(
    n: int,
    argv: Sequence[str],
    *,
    threads: int | None = None,
    bind: str = "none",
    hosts: str | None = None,
    hostfile: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The mpiexec command line for n ranks and the environment to start it with. Raises LaunchError.

    Without `threads` (and without SAMESTEP_THREADS in the environment) each rank gets an equal share of the
    processors, at least one. `bind` is "none", "core" (each rank bound to as many cores as it has threads) or "numa".
    """
    if n < 1:
        raise LaunchError(f"-n {n}: at least one rank is needed")
    if threads is not None and threads < 1:
        raise LaunchError(f"--threads {threads}: at least one thread is needed")
    if bind not in ("none", "core", "numa"):
        raise LaunchError(f"--bind {bind}: one of none, core, numa")
    try:
        mpiexec = _libraries.mpiexec_path()
    except FileNotFoundError as error:
        raise LaunchError(str(error)) from None
    inherited = os.environ if environ is None else environ
    env = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(_INHERITED) or name.startswith("PMIX_MCA_")
    }
    local = not (hosts or hostfile)
    usable = _processors.usable()
    if threads is None:
        given = env.get("SAMESTEP_THREADS", "")
        threads = int(given) if given.isdecimal() and int(given) > 0 else max(1, usable // n) if local else None
    if threads is not None:
        env["SAMESTEP_THREADS"] = str(threads)
    if os.geteuid() == 0:
        env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"

    line = [str(mpiexec), "-n", str(n)]
    if hosts:
        line += ["--host", hosts]
    if hostfile:
        if not Path(hostfile).is_file():
            raise LaunchError(f"no such host file: {hostfile}")
        line += ["--hostfile", hostfile]
    if bind == "none":
        line += ["--bind-to", "none"]
    elif bind == "numa":
        line += ["--map-by", "numa", "--bind-to", "numa"]
    else:
        each = threads or 1
        if local and n * each > _processors.cores():
            raise LaunchError(
                f"--bind core: {n} ranks of {each} threads need {n * each} cores, and there are {_processors.cores()}; "
                "lower -n or --threads, or leave --bind out"
            )
        line += ["--map-by", f"slot:PE={each}", "--bind-to", "core"]
    # Slots are counted in cores, not in hardware threads.
    if local and bind != "core" and n > min(_processors.cores(), usable):
        line += ["--oversubscribe"]
    # Ranks on this host inherit the environment; those on others get what is named.
    for name in sorted(env):
        if name.startswith("SAMESTEP_"):
            line += ["-x", name]
    return line + program(argv), env


def descendants(pid: int) -> list[int]:
    """Process ids below a process. Ranks are no longer in mpiexec's process group, so a signal to the group misses
    them."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it has ended meanwhile
            below.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _end_with_me() -> Callable[[], None] | None:
    """What lets mpiexec, and with it the ranks, end when this process is killed and can pass on no signal."""
    try:
        control = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    me = os.getpid()

    def ask() -> None:
        control(1, int(signal.SIGTERM))  # 1: PR_SET_PDEATHSIG; it survives exec
        if os.getppid() != me:
            os._exit(1)  # killed meanwhile

    return ask


def kill_job(child: subprocess.Popen[Any]) -> None:
    """Kills mpiexec and every process below it, and waits for mpiexec."""
    if child.poll() is None:
        for pid in [*descendants(child.pid), child.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    child.wait()


def run(
    n: int,
    argv: Sequence[str],
    *,
    threads: int | None = None,
    bind: str = "none",
    hosts: str | None = None,
    hostfile: str | None = None,
) -> int:
    """Starts n ranks of argv, waits, and returns the job's exit code (128 + number for a signal). Raises LaunchError.

    SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 go on to mpiexec, which hands them to the ranks or ends them.
    """
    line, env = command(n, argv, threads=threads, bind=bind, hosts=hosts, hostfile=hostfile)
    forwarded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []
    ending = False

    def forward(number: int, _frame: object) -> None:
        nonlocal ending
        ending = ending or number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if child is None:
            early.append(number)
        elif child.poll() is None:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in forwarded}
    try:
        # A session of its own: Ctrl-C then reaches mpiexec once, from here; twice would make it leave its ranks behind.
        child = subprocess.Popen(line, env=env, start_new_session=True, preexec_fn=_end_with_me())  # noqa: PLW1509
        for number in early:
            child.send_signal(number)
        waited = 0.0
        while True:
            try:
                code = child.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                waited += 0.5 if ending else 0.0
                if waited >= _GRACE:
                    kill_job(child)
    except OSError as error:
        raise LaunchError(f"cannot start {line[0]}: {error}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `samestep run`."""
    parser.add_argument("-n", type=int, required=True, metavar="N", help="number of ranks")
    parser.add_argument(
        "--threads", type=int, metavar="T", help="threads of each rank (default: processors divided by ranks)"
    )
    parser.add_argument(
        "--bind", choices=["none", "core", "numa"], default="none", help="bind ranks to processors (default: none)"
    )
    parser.add_argument("--host", metavar="LIST", help="hosts and their slots, such as a:2,b:2")
    parser.add_argument("--hostfile", metavar="FILE", help="a file with one host a line, such as `a slots=2`")
    parser.add_argument("--show", action="store_true", help="print the command instead of running it")
    parser.add_argument(
        "-m",
        nargs=argparse.REMAINDER,
        dest="module",
        metavar="module ...",
        help="a module and its arguments, as python -m",
    )
    parser.add_argument(
        "-c",
        nargs=argparse.REMAINDER,
        dest="code",
        metavar="code ...",
        help="a program text and its arguments, as python -c",
    )
    parser.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="script ...", help="a Python file or a program, and its arguments"
    )


def main(args: argparse.Namespace) -> int:
    """Runs `samestep run`; 2 when the job cannot be started."""
    if args.module is not None:
        argv = ["-m", *args.module]
    elif args.code is not None:
        argv = ["-c", *args.code]
    else:
        argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    options = {"threads": args.threads, "bind": args.bind, "hosts": args.host, "hostfile": args.hostfile}
    try:
        if args.show:
            import shlex

            print(shlex.join(command(args.n, argv, **options)[0]))
            return 0
        return run(args.n, argv, **options)
    except LaunchError as error:
        print(f"samestep run: {error}", file=sys.stderr)
        return 2
