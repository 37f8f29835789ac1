"""samestep run: the command it builds, and ranks it starts."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samestep import __main__ as command_line
from samestep import _launch, _libraries, _processors

MARKS = [mark for _, mark, count, _ in _libraries._LAUNCHERS for mark in (mark, count)]
REPORT = """
import os, sys
os.write(1, ("rank %s of %s threads %s cpus %d args %s\\n" % (os.environ["OMPI_COMM_WORLD_RANK"], os.environ["OMPI_COMM_WORLD_SIZE"],
    os.environ["SAMESTEP_THREADS"], len(os.sched_getaffinity(0)), sys.argv[1:])).encode())
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(REPORT)
    return path


@pytest.fixture
def alone(monkeypatch):
    """An environment without a launcher."""
    for name in MARKS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def flags(line: list[str]) -> str:
    return shlex.join(line[1:])


# ---- which launcher started this process ----


def test_no_launcher(alone):
    assert _libraries.launcher() is None
    assert not _libraries.under_launcher()
    assert _libraries.launcher_size() == 1
    assert _libraries.launcher_problem() is None


@pytest.mark.parametrize(
    ("environ", "size", "usable"),
    [
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, 4, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1, True),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "8"}, 8, True),
        ({"PMIX_RANK": "0"}, None, True),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 2, False),
        ({"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "3"}, 3, False),
        ({"SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "2"}, 5, False),
    ],
)
def test_launchers(alone, environ, size, usable):
    for name, value in environ.items():
        alone.setenv(name, value)
    assert _libraries.under_launcher()
    assert _libraries.launcher_size() == size
    problem = _libraries.launcher_problem()
    assert (problem is None) == usable
    if problem:
        assert f"{size} processes" in problem and "samestep run" in problem


@pytest.mark.parametrize(
    "environ",
    [{"PMI_RANK": "0", "PMI_SIZE": "1"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, {"SLURM_STEP_NUM_TASKS": "1"}],
)
def test_lone_processes_of_other_launchers(alone, environ):
    """A batch script below Slurm is one process, although SLURM_PROCID is set."""
    for name, value in environ.items():
        alone.setenv(name, value)
    assert not _libraries.under_launcher()


def test_mpiexec_is_the_library_s(alone):
    path = _libraries.mpiexec_path()
    assert path.name == "mpiexec" and os.access(path, os.X_OK)


# ---- the command line ----


def test_threads_are_shared_out(alone, script):
    alone.delenv("SAMESTEP_THREADS", raising=False)
    alone.setattr(_processors, "usable", lambda: 8)
    alone.setattr(_processors, "cores", lambda: 8)
    for n, threads in ((1, "8"), (2, "4"), (3, "2"), (8, "1"), (9, "1")):
        line, env = _launch.command(n, [str(script)])
        assert env["SAMESTEP_THREADS"] == threads
        assert ("--oversubscribe" in line) == (n > 8)
        assert "--bind-to none" in flags(line) and "-x SAMESTEP_THREADS" in flags(line)
        assert line[-2:] == [sys.executable, str(script)]


def test_threads_given(alone, script):
    alone.setenv("SAMESTEP_THREADS", "3")
    assert _launch.command(2, [str(script)])[1]["SAMESTEP_THREADS"] == "3"
    assert _launch.command(2, [str(script)], threads=5)[1]["SAMESTEP_THREADS"] == "5"


def test_hosts_decide_their_own_threads(alone, script, tmp_path):
    alone.delenv("SAMESTEP_THREADS", raising=False)
    line, env = _launch.command(4, [str(script)], hosts="a:2,b:2")
    assert "--host a:2,b:2" in flags(line) and "SAMESTEP_THREADS" not in env and "--oversubscribe" not in line
    with pytest.raises(_launch.LaunchError, match="no such host file"):
        _launch.command(4, [str(script)], hostfile=str(tmp_path / "none"))


def test_bind_core(alone, script):
    alone.setattr(_processors, "usable", lambda: 4)
    alone.setattr(_processors, "cores", lambda: 4)
    assert "--map-by slot:PE=2 --bind-to core" in flags(_launch.command(2, [str(script)], threads=2, bind="core")[0])
    with pytest.raises(_launch.LaunchError, match="need 6 cores, and there are 4"):
        _launch.command(3, [str(script)], threads=2, bind="core")


def test_root_may(alone, script):
    alone.setattr(os, "geteuid", lambda: 0)
    env = _launch.command(1, [str(script)])[1]
    assert env["OMPI_ALLOW_RUN_AS_ROOT"] == env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    alone.setattr(os, "geteuid", lambda: 1000)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OMPI_")}
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in _launch.command(1, [str(script)], environ=environ)[1]


def test_a_rank_may_start_a_job_of_its_own(script):
    environ = {
        **os.environ,
        "OMPI_COMM_WORLD_SIZE": "9",
        "PMIX_RANK": "3",
        "OMPI_MCA_btl": "self,sm",
        "PMIX_MCA_gds": "hash",
    }
    env = _launch.command(1, [str(script)], environ=environ)[1]
    assert "OMPI_COMM_WORLD_SIZE" not in env and "PMIX_RANK" not in env
    assert env["OMPI_MCA_btl"] == "self,sm" and env["PMIX_MCA_gds"] == "hash"


def test_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "train.py").write_text("")
    assert _launch.program(["-m", "pytest", "-x"]) == [sys.executable, "-m", "pytest", "-x"]
    assert _launch.program(["train.py", "--lr", "1"]) == [sys.executable, "train.py", "--lr", "1"]
    assert _launch.program(["./tool", "a"]) == [str(tmp_path / "tool"), "a"]
    assert _launch.program(["sh", "-c", "true"]) == ["sh", "-c", "true"]
    for argv, text in (
        ([], "no script given"),
        (["trian.py"], "did you mean train.py"),
        (["xyz.py"], "no such script: xyz.py"),
        (["-m"], "needs a module"),
    ):
        with pytest.raises(_launch.LaunchError, match=text):
            _launch.program(argv)


def test_command_line(script, capfd):
    assert command_line.main(["run", "--show", "-n", "2", str(script), "-n", "7"]) == 0
    assert capfd.readouterr().out.strip().endswith(f"{script} -n 7")
    assert command_line.main(["run", "--show", "-n", "2", "-m", "pytest", "-x"]) == 0
    assert capfd.readouterr().out.strip().endswith("-m pytest -x")
    assert command_line.main(["run", "-n", "0", str(script)]) == 2
    assert command_line.main(["run", "-n", "2", str(script) + "x"]) == 2
    assert "no such script" in capfd.readouterr().err
    assert command_line.main([]) == 2
    assert "doctor" in capfd.readouterr().out
    with pytest.raises(SystemExit) as end:
        command_line.main(["--version"])
    assert end.value.code == 0 and capfd.readouterr().out.startswith("samestep ")


# ---- processors ----


def test_quota(tmp_path):
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert _processors.quota(tmp_path, membership) is None
    (group / "cpu.max").write_text("max 100000\n")
    assert _processors.quota(tmp_path, membership) is None
    (group / "cpu.max").write_text("350000 100000\n")
    assert _processors.quota(tmp_path, membership) == 3.5
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")  # an ancestor's limit holds as well
    assert _processors.quota(tmp_path, membership) == 1.5
    assert _processors.quota(tmp_path, tmp_path / "none") is None


def test_quota_of_the_first_version(tmp_path):
    group = tmp_path / "cpu,cpuacct" / "box"
    group.mkdir(parents=True)
    membership = tmp_path / "cgroup"
    membership.write_text("9:memory:/box\n4:cpu,cpuacct:/box\n")
    (group / "cpu.cfs_quota_us").write_text("-1")
    (group / "cpu.cfs_period_us").write_text("100000")
    assert _processors.quota(tmp_path, membership) is None
    (group / "cpu.cfs_quota_us").write_text("200000")
    assert _processors.quota(tmp_path, membership) == 2


def test_cores_count_siblings_once(tmp_path):
    for number, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert _processors.cores([0, 1, 2, 3], tmp_path) == 2
    assert _processors.cores([0, 2], tmp_path) == 1
    assert _processors.cores([7, 8], tmp_path) == 2  # without topology, each is a core


# ---- ranks ----


def samestep_run(*args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    from conftest import run_job

    return run_job([sys.executable, "-m", "samestep", "run", *args], os.environ, timeout)


@pytest.mark.mpi
def test_ranks_start(script):
    done = samestep_run("-n", "3", "--threads", "1", str(script), "--lr", "0.1")
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    cpus = len(os.sched_getaffinity(0))
    assert lines == [f"rank {rank} of 3 threads 1 cpus {cpus} args ['--lr', '0.1']" for rank in range(3)]
    assert done.stderr == ""


@pytest.mark.mpi
def test_exit_code_is_the_rank_s(tmp_path):
    path = tmp_path / "fails.py"
    path.write_text("import os, sys\nsys.exit(7 if os.environ['OMPI_COMM_WORLD_RANK'] == '1' else 0)\n")
    assert samestep_run("-n", "2", str(path)).returncode == 7


@pytest.mark.mpi
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_end_the_job(tmp_path, number):
    """The ranks are gone when `samestep run` is, even a rank that ignores the signal, even if it is killed."""
    path = tmp_path / "sleeps.py"
    path.write_text(
        "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(os.path.join(sys.argv[1], 'pid' + os.environ['OMPI_COMM_WORLD_RANK']), 'w').write(str(os.getpid()))\ntime.sleep(120)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "samestep", "run", "-n", "2", str(path), str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        files = [tmp_path / "pid0", tmp_path / "pid1"]
        end = time.monotonic() + 30
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < end and child.poll() is None, "the ranks did not start"
            time.sleep(0.05)
        pids = [int(file.read_text()) for file in files]
        child.send_signal(number)
        code = child.wait(timeout=40)
        assert code != 0
        end = time.monotonic() + (20 if number == signal.SIGKILL else 5)
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < end, "a rank is left"
            time.sleep(0.05)
    finally:
        _launch.kill_job(child)
        for file in (tmp_path / "pid0", tmp_path / "pid1"):
            if file.exists() and Path(f"/proc/{file.read_text()}").exists():
                os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.mark.mpi
def test_a_job_that_hangs_is_killed_whole(tmp_path):
    """What the fixtures rely on: kill_job leaves no rank behind."""
    path = tmp_path / "hangs.py"
    path.write_text("import time\nprint('up', flush=True)\ntime.sleep(120)\n")
    line, env = _launch.command(2, [str(path)])
    child = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    assert [child.stdout.readline().strip() for _ in range(2)] == ["up", "up"]
    pids = _launch.descendants(child.pid)
    assert len(pids) >= 2
    _launch.kill_job(child)
    child.stdout.close()
    end = time.monotonic() + 5
    while any(
        Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" for pid in pids
    ):
        assert time.monotonic() < end, "a rank is left"
        time.sleep(0.05)
