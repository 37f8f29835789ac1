"""Several ranks: how they end, what they compare, and that they agree."""
# ruff: noqa: E501

from __future__ import annotations

import os
import time

import pytest

from samestep import _libraries

pytestmark = pytest.mark.mpi

TRAIN = """
import os, signal, sys, threading, time
import numpy as np
import samestep as ss
from samestep import nn, optim
rng = np.random.default_rng(0)
x, y = rng.normal(size=(512, 8)).astype(np.float32), rng.integers(0, 3, 512)
ss.manual_seed(1)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
LAST = ss.size() - 1
def main(event, **options):
    options.setdefault("optimizer", optim.SGD(0.1))
    trainer = ss.Trainer(net, callbacks=[lambda t, epoch, logs: event(epoch)], **options)
    return trainer.fit(x, y, epochs=100_000, batch_size=64, verbose=False)
"""

ENDINGS = {
    "an exception": ("def event(epoch):\n    if epoch == 3 and ss.rank() == LAST: raise ZeroDivisionError('on purpose')\nmain(event)", "ZeroDivisionError: on purpose"),
    "an exception outside": ("import threading\nif ss.rank() == LAST: raise KeyError('on purpose')\nmain(lambda epoch: None)", "KeyError: 'on purpose'"),
    "sys.exit(3)": ("def event(epoch):\n    if epoch == 3 and ss.rank() == LAST: sys.exit(3)\nmain(event)", "SystemExit: 3"),
    "sys.exit()": ("def event(epoch):\n    if epoch == 3 and ss.rank() == LAST: sys.exit()\nmain(event)\nprint()", "SystemExit"),
    "sys.exit(text)": ("if ss.rank() == LAST: sys.exit('no data')\nmain(lambda epoch: None)", "no data"),
    "raise SystemExit": ("def event(epoch):\n    if epoch == 3 and ss.rank() == LAST: raise SystemExit\nmain(event)\nprint()", "SystemExit"),
    "exit in argparse": ("import argparse\nss.size()\nif ss.rank() == LAST: argparse.ArgumentParser().parse_args(['--no'])\nmain(lambda epoch: None)", "unrecognized"),
    "a signal": ("def event(epoch):\n    if epoch == 3 and ss.rank() == LAST: os.kill(os.getpid(), signal.SIGINT)\nmain(event)", "KeyboardInterrupt"),
    "a signal in a step": ("if ss.rank() == LAST: threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\nmain(lambda epoch: None)", "KeyboardInterrupt"),
    "an error in a thread": ("if ss.rank() == LAST: threading.Thread(target=lambda: 1 / 0).start()\nmain(lambda epoch: None)", "ZeroDivisionError"),
}  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", ENDINGS)
def test_one_rank_ends_all(mpi_run, name, ranks, tmp_path):
    script, text = ENDINGS[name]
    stamp = f"import time\nprint('began', time.time(), flush=True)\n{TRAIN}\nprint('ready', time.time(), flush=True)\n"
    done = mpi_run(stamp + script, n=ranks, check=False, timeout=60)
    ended = time.time()
    ready = max(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ready"))
    assert done.returncode != 0, done.stderr
    assert text in done.stderr, done.stderr
    if name != "exit in argparse":
        assert f"[rank {ranks - 1}]" in done.stderr
    assert ended - ready < 5


@pytest.mark.parametrize("where", ["between epochs", "in a step"])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_a_rank_that_vanishes(mpi_run, name, where, tmp_path):
    """Killed: the launcher ends the job. Stopped: the others raise RankFailed, which names it, and the job ends."""
    signal_it = f"os.kill(os.getpid(), signal.{name})"
    event = (
        f"def event(epoch):\n    if epoch == 3 and ss.rank() == 1: {signal_it}\n"
        if where == "between epochs"
        else f"if ss.rank() == 1: threading.Timer(0.5, lambda: {signal_it}).start()\nevent = lambda epoch: None\n"
    )
    script = (
        f"{TRAIN}\nopen(f'pid{{ss.rank()}}', 'w').write(str(os.getpid()))\n{event}ss.barrier()\nbegan = time.time()\n"
    )
    script += (
        "try:\n    main(event)\n"
        "except ss.RankFailed as error:\n    print('waited', time.time() - began, flush=True)\n    raise\n"
    )
    done = mpi_run(script, n=3, check=False, timeout=60, env={"SAMESTEP_TIMEOUT": "3"})
    assert done.returncode != 0
    if name == "SIGSTOP":
        assert "RankFailed" in done.stderr and "rank 1 did not answer" in done.stderr, done.stderr
        waits = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("waited")]
        assert waits and max(waits) < 10
    end = time.time() + 5
    while any(os.path.exists(f"/proc/{(tmp_path / f'pid{rank}').read_text()}") for rank in range(3)):
        assert time.time() < end, "a rank is left"
        time.sleep(0.05)


def test_training_in_a_thread(mpi_run):
    done = mpi_run(
        f"{TRAIN}\ndef work():\n    ss.Trainer(net).fit(x, y, batch_size=64, verbose=False)\n"
        "    print('print', ss.fingerprint(net), flush=True)\n"
        "thread = threading.Thread(target=work, daemon=True)\nthread.start()\nthread.join()",
        n=2,
    )
    prints = [line for line in done.stdout.splitlines() if line.startswith("print")]
    assert len(prints) == 2 and len(set(prints)) == 1 and done.stderr == ""


@pytest.mark.parametrize(
    "end", ["", "sys.exit()", "sys.exit(0)", "raise SystemExit", "import time\ntime.sleep(4 * ss.rank())\nsys.exit(0)"]
)
def test_a_normal_end(mpi_run, end):
    done = mpi_run(f"{TRAIN}\nss.barrier()\nprint('done')\n{end}", n=2)
    assert done.stdout.count("done") == 2 and done.stderr == ""


def test_a_slow_rank_is_no_fault(mpi_run):
    done = mpi_run(f"{TRAIN}\nss.barrier()\nif ss.rank() == 0:\n    time.sleep(5)\n    print('slept')\n", n=2)
    assert "slept" in done.stdout


def test_without_communication(mpi_run):
    assert mpi_run("import samestep as ss\nprint('fine')", n=2).stdout.count("fine") == 2


@pytest.mark.parametrize(
    "imports", ["from mpi4py import MPI\nimport samestep as ss", "import samestep as ss\nfrom mpi4py import MPI"]
)
def test_mpi4py_in_the_same_process(mpi_run, imports):
    pytest.importorskip("mpi4py")
    done = mpi_run(
        f"{imports}\nimport numpy as np\n"
        "total = MPI.COMM_WORLD.allreduce(1)\nassert ss.allreduce(1) == total == 2 and ss.rank() == MPI.COMM_WORLD.rank\n"
        "from samestep import nn, optim\n"
        "ss.compile(nn.Linear(2, 2), optimizer=optim.SGD(0.1)).step(np.ones((16, 2)), np.zeros(16, int))\n"
        "MPI.COMM_WORLD.Barrier()\nprint('fine')",
        n=2,
    )
    assert done.stdout.count("fine") == 2 and done.stderr == ""


def test_mpi4py_without_a_launcher(python_run):
    pytest.importorskip("mpi4py")
    done = python_run(
        "from mpi4py import MPI\nimport samestep as ss\nassert ss.size() == 1\nss.barrier()\nprint('fine')"
    )
    assert done.stdout == "fine\n", done.stderr


DIFFERENCES = {
    "values": ("net[0].weight[0, 0] = ss.rank()", "", "parameters '0.weight': values"),
    "seed of values": ("ss.manual_seed(ss.rank()); net = nn.Sequential(nn.Linear(8, 3))", "", "parameters '0.weight': values"),
    "shape": ("net = nn.Sequential(nn.Linear(8, 16 + ss.rank()), nn.Linear(16 + ss.rank(), 3))", "", "parameters '0.weight': shape"),
    "layers": ("net = nn.Sequential(nn.Linear(8, 3), nn.Tanh() if ss.rank() else nn.ReLU())", "", "network: operation 1 is tanh"),
    "option of a layer": ("net = nn.Sequential(nn.Dropout(0.1 + 0.1 * ss.rank()), nn.Linear(8, 3))", "", "dropout in layer '0'"),
    "fixed": ("net[0].requires_grad_(ss.rank() == 0)", "", "requires_grad"),
    "lr": ("", "optimizer=optim.SGD(0.1 * (1 + ss.rank()))", "optimizer is"),
    "optimizer": ("", "optimizer=optim.Adam() if ss.rank() else optim.SGD(0.1)", "optimizer is"),
    "seed": ("", "seed=ss.rank()", "seed is 1, on rank 0 0"),
    "lanes": ("", "lanes=8 * (1 + ss.rank())", "lanes is 16, on rank 0 8"),
    "loss": ("", "loss=nn.CrossEntropyLoss(label_smoothing=0.1 * ss.rank())", "loss is"),
    "metrics": ("", "metrics=['accuracy'] * ss.rank()", "metrics is"),
    "data": ("x = x[: 512 - ss.rank()]; y = y[: len(x)]", "", "X is"),
    "version": ("from samestep import _compile\n"
                "class Old:\n    def __getattr__(self, name): return getattr(old, name)\n    def build_info(self): return {**old.build_info(), 'order_version': ss.rank()}\n"
                "old, _compile._core = _compile._core, Old()", "", "version of the order of sums"),
    "not the second rank's part": ("net = nn.Sequential(nn.Linear(8 + ss.rank(), 3))", "", "layer '0'"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_refused_on_every_rank(mpi_run, name):
    before, options, text = DIFFERENCES[name]
    done = mpi_run(
        f"{TRAIN}\n{before}\nfingerprint = ss.fingerprint(net)\ntry:\n    main(lambda epoch: sys.exit('trained'), {options})\n"
        "except (ValueError, ss.CommError) as error:\n    print('refused:', error)\nassert ss.fingerprint(net) == fingerprint\nss.barrier()",
        n=2,
    )
    refusals = [line for line in done.stdout.splitlines() if line.startswith("refused:")]
    assert len(refusals) == 2, done.stdout + done.stderr
    assert all(text in line for line in refusals), refusals


def test_more_ranks_than_lanes(mpi_run):
    done = mpi_run(
        f"{TRAIN}\ntry:\n    main(lambda epoch: None, lanes=2)\nexcept ValueError as error:\n    print('refused:', error)",
        n=3,
    )
    assert done.stdout.count("3 ranks cannot share 2 lanes: set lanes=4") == 3


def test_errors_of_one_rank_reach_all(mpi_run):
    """A bad label, a bad shape, a bad dtype on one rank: both raise, and the plan goes on."""
    done = mpi_run(
        f"""{TRAIN}
plan = ss.compile(net, optimizer=optim.SGD(0.1), batch_size=64)
xb, yb = x[:64], y[:64]
plan.step(xb, yb)
for number in range(4):
    bad_y = yb + 5 if number == 0 else yb.astype(float) if number == 1 else yb
    bad_x = xb[:, :7] if number == 2 else xb.astype(object) if number == 3 else xb
    last = ss.rank() == LAST
    try:
        plan.step(bad_x if last else xb, bad_y if last else yb)
    except Exception as error:
        print("raised", number, type(error).__name__)
    plan.step(xb, yb)
assert len(set(ss.allgather(ss.fingerprint(net)))) == 1
""",
        n=2,
        timeout=90,
    )
    for number in range(4):
        assert done.stdout.count(f"raised {number}") == 2, done.stdout + done.stderr


def test_every_rank_gives_its_own_rows(mpi_run):
    """Global arrays and local=True give the same bits, and gradients are whole where asked for."""
    done = mpi_run(
        f"""{TRAIN}
import copy
other = copy.deepcopy(net)
plan = ss.compile(net, optimizer=optim.SGD(0.1), batch_size=64, gradients=True)
local = ss.compile(other, optimizer=optim.SGD(0.1), batch_size=64)
for k in range(3):
    xb, yb = x[k * 60 : k * 60 + 60], y[k * 60 : k * 60 + 60]
    begin, end = local.rows(60)
    assert plan.step(xb, yb) == local.step(xb[begin:end], yb[begin:end], local=True, batch=60)
assert ss.fingerprint(net) == ss.fingerprint(other)
assert sum(end - begin for begin, end in ss.allgather(local.rows(60))) == 60
gradient = plan.gradients["0.weight"]
assert np.abs(gradient).max() > 0 and len(set(part.tobytes() for part in ss.allgather(gradient))) == 1
try:
    local.gradients["0.weight"]
except ValueError as error:
    assert "gradients=True" in str(error)
    print("fine")
scores = plan.predict(x[:100])
assert scores.shape == (100, 3) and len(set(part.tobytes() for part in ss.allgather(scores))) == 1
assert np.allclose(scores, net.eval()(x[:100]), atol=1e-5)
if ss.rank() == LAST:
    net(x[:5])  # one rank alone
""",
        n=3,
    )
    assert done.stdout.count("fine") == 3


CHECKPOINT = """
import sys
import numpy as np
import samestep as ss
from samestep import nn, optim
rng = np.random.default_rng(0)
x, y = rng.normal(size=(150, 8)).astype(np.float32), rng.integers(0, 3, 150)
ss.manual_seed(1)
net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
trainer = ss.Trainer(net, optimizer=optim.Adam(0.01), metrics=["accuracy"], checkpoint=sys.argv[2])
trainer.fit(x, y, epochs=int(sys.argv[1]), batch_size=32, verbose=ss.rank() == 0, resume=True)
if ss.rank() == 0:
    print(ss.fingerprint(net), trainer.evaluate(x, y) if ss.size() == 1 else "")
"""


def test_resume_at_other_rank_counts(mpi_run, tmp_path):
    def run(ranks: int, epochs: int, file: str) -> str:
        return mpi_run(CHECKPOINT, n=ranks, args=[str(epochs), str(tmp_path / file)]).stdout.splitlines()[-1].split()[0]

    whole = run(1, 6, "whole")
    assert run(3, 2, "part") != whole
    assert run(2, 3, "part") != whole
    assert run(1, 4, "part") != whole
    assert run(4, 6, "part") == whole


def test_rank_0_alone_draws_and_saves(mpi_run, tmp_path):
    done = mpi_run(
        f"""{TRAIN}
from samestep import _core
drawn = []
fill = _core.fill_uniform
_core.fill_uniform = lambda *args: drawn.append(1) or fill(*args)
plan = ss.compile(net, optimizer=optim.SGD(0.1), batch_size=64, input_shape=(8,))
assert bool(drawn) == (ss.rank() == 0), drawn
assert len(set(ss.allgather(ss.fingerprint(net)))) == 1
os.chdir(sys.argv[1]); os.makedirs(str(ss.rank())); os.chdir(str(ss.rank()))
net.save("net.safetensors")
print(ss.rank(), os.listdir("."))
""",
        n=3,
        args=[str(tmp_path)],
    )
    assert sorted(done.stdout.splitlines()) == ["0 ['net.safetensors']", "1 []", "2 []"]


@pytest.mark.parametrize(
    "variables", [{"PMI_SIZE": "2", "PMI_RANK": "0"}, {"MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "1"}]
)
def test_a_launcher_of_another_mpi_is_refused(python_run, variables):
    if _libraries.under_launcher():
        pytest.skip("under a launcher")
    done = python_run(
        "import samestep as ss, numpy as np\nfrom samestep import nn\nss.compile(nn.Linear(2, 2)).step(np.ones((8, 2)), np.zeros(8, int))",
        env=variables,
    )
    assert done.returncode != 0 and "another MPI" in done.stderr and "samestep run" in done.stderr


def test_a_launcher_that_does_not_fit_the_library(mpi_run):
    """The launcher says three ranks, MPI sees two."""
    done = mpi_run(
        "import os\nos.environ['OMPI_COMM_WORLD_SIZE'] = '3'\nimport samestep as ss\nss.size()", n=2, check=False
    )
    assert done.returncode != 0 and "3 ranks" in done.stderr


def test_threads_of_a_rank(mpi_run):
    env = {key: value for key, value in os.environ.items() if key != "SAMESTEP_THREADS"}
    done = mpi_run(
        "import samestep as ss\nfrom samestep import nn\nprint(ss.compile(nn.Linear(2, 2)).threads)",
        n=2,
        threads=3,
        env=env,
    )
    assert done.stdout.split() == ["3", "3"]


@pytest.mark.mpi
def test_a_program_that_a_rank_starts_is_no_rank(mpi_run):
    """It inherits the launcher's variables, but the place they name is its parent's."""
    done = mpi_run(
        "import samestep as ss, subprocess, sys\n"
        "ss.barrier()\n"
        "code = 'import samestep as ss; ss.barrier(); print(ss.rank(), ss.size())'\n"
        "out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=30).stdout\n"
        "assert out == '0 1\\n', out\n"
        "assert ss.allreduce(1) == 2\n"
    )
    assert done.returncode == 0


# what the last rank does, what the others do, and how both are named
DIFFERENT = {
    "a step and a broadcast": ("ss.comm.broadcast(x)", "trainer.fit(x, y, epochs=1, batch_size=64, verbose=False)", "a broadcast from rank 0", "calls a"),
    "a barrier and an all-gather": ("ss.comm.barrier()", "ss.comm.allgather(x)", "a barrier", "an all-gather"),
    "two roots": ("ss.comm.broadcast(x, root=1)", "ss.comm.broadcast(x)", "a broadcast from rank 1", "a broadcast from rank 0"),
    "training and evaluation": ("plan.evaluate(x, y)", "plan.step(x, y)", "a step without training", "a training step"),
    "one call ahead": ("ss.comm.barrier(); plan.step(x, y)", "plan.step(x, y)", "a barrier", "a training step"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_ranks_that_do_different_things_are_named(mpi_run, name):
    last, others, one, other = DIFFERENT[name]
    script = (
        TRAIN.split("LAST =")[0]
        + "trainer = ss.Trainer(net, optimizer=optim.SGD(0.1))\n"
        + "plan = ss.compile(net, optimizer=optim.SGD(0.1), batch_size=512)\n"
        + "plan.step(x, y)\nplan.evaluate(x, y)\nbegan = time.time()\ntry:\n"
        + f"    if ss.rank() == ss.size() - 1: {last}\n    else: {others}\n"
        + "except Exception as error:\n    print(f'rank {ss.rank()} {time.time() - began:.1f} s: {error}', flush=True)\n"
        + "    ss.comm.barrier()\n"
    )
    done = mpi_run(script, n=3, timeout=60)
    lines = [line for line in done.stdout.splitlines() if "the ranks do different things" in line]
    assert len(lines) == 3, done.stdout + done.stderr
    for line in lines:
        assert f"rank 2 calls {one}" in line and other in line, line
        assert float(line.split()[2]) < 10, line


SLOW = """
import time, warnings
import numpy as np
import samestep as ss
from samestep import callbacks, nn, optim
class Held(ss.Function):
    def forward(self, x):
        time.sleep(SECONDS if ss.rank() == 1 else 0.0)
        return x
    def backward(self, grad, x):
        return grad
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 3)
    def forward(self, x):
        return self.two(Held()(self.one(x)))
rng = np.random.default_rng(0)
x, y = rng.normal(size=(96, 8)).astype(np.float32), rng.integers(0, 3, 96)
watch = callbacks.SlowRank(3)
trainer = ss.Trainer(Net(), optimizer=optim.SGD(0.1), lanes=3, callbacks=[watch])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    trainer.fit(x, y, epochs=3, batch_size=24, verbose=False)
trainer.plan.explain(analyze=True)
trainer.fit(x, y, epochs=1, batch_size=24, verbose=False)
told = [str(w.message) for w in caught if "times the median" in str(w.message)]
named = [line for line in str(trainer.plan.explain(analyze=True)).splitlines() if "they wait for it" in line]
print(ss.rank(), watch.rank, len(trainer.plan.rank_seconds), len(told), told + named, flush=True)
"""


@pytest.mark.parametrize("seconds", [0.05, 0.0])
def test_a_slow_rank_is_named(mpi_run, seconds):
    """A function of the host holds rank 1 up. Every rank knows, rank 0 warns once, and the explanation says it."""
    script = SLOW.replace("SECONDS", str(seconds))
    if not seconds:
        script = script.replace("SlowRank(3)", "SlowRank(1e6)")
    lines = sorted(line for line in mpi_run(script, n=3).stdout.splitlines() if line[:1].isdigit())
    assert len(lines) == 3
    for rank, line in enumerate(lines):
        if seconds:
            assert line.startswith(f"{rank} 1 3 {int(rank == 0)} ") and "rank 1 works" in line, line
        else:
            assert line.startswith(f"{rank} None 3 0 "), line
