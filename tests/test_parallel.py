"""`ss.Parallel`: compression of gradients, local training, accumulation."""

from __future__ import annotations

import json

import numpy as np
import pytest

import samestep as ss
from samestep import compress, nn, optim, parallel

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(96, 20)).astype(np.float32), RNG.integers(0, 4, 96)

PRELUDE = """
import json, sys
import numpy as np
import samestep as ss
from samestep import compress, nn, optim, parallel
from sklearn.datasets import load_digits
data = load_digits()
X, Y = (data.data / 16).astype(np.float32), data.target
def network():
    ss.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))
def trained(exchange, steps=40, batch=64, optimizer=None, **options):
    net = network()
    plan = ss.compile(net, optimizer=optimizer or optim.SGD(0.05, momentum=0.9), batch_size=batch, parallel=exchange, **options)
    order = np.random.default_rng(2).permutation(len(X) // batch * batch).reshape(-1, batch)
    for step in range(steps):
        rows = order[step % len(order)]
        plan.step(X[rows], Y[rows])
    plan.synchronize()
    return net, plan
def say(**values):
    if ss.rank() == 0:
        print(json.dumps(values), flush=True)
"""

ALL = ["FP16()", "BF16()", "Int8()", "OneBit()", "TopK(0.1)", "RandomK(0.2)", "PowerSGD(2)"]


def network() -> nn.Module:
    ss.manual_seed(4)
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))


def trained(steps: int = 6, **options) -> tuple[str, ss.Plan]:
    net = network()
    plan = ss.compile(net, optimizer=optim.SGD(0.1, momentum=0.5), batch_size=16, **options)
    for step in range(steps):
        plan.step(X[16 * step : 16 * step + 16], Y[16 * step : 16 * step + 16])
    plan.synchronize()
    return ss.fingerprint(net), plan


def answers(done) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("text", ALL)
def test_nothing_is_compressed_on_one_rank(text):
    plain, _ = trained()
    other, plan = trained(parallel=ss.Parallel(exchange=ss.AllReduce(eval(f"compress.{text}"))))
    assert other == plain
    assert plan.compression is None


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: compress.TopK(0), ValueError, "TopK: ratio"),
        (lambda: compress.RandomK(1.5), ValueError, "RandomK: ratio"),
        (lambda: compress.PowerSGD(0), ValueError, "PowerSGD: rank"),
        (lambda: compress.Int8(least=0), ValueError, "Int8: least"),
        (lambda: compress.Int8(exclude=[3]), TypeError, "Int8: exclude"),
        (lambda: ss.AllReduce("int8"), TypeError, "samestep.compress"),
        (lambda: ss.LocalSGD(0), ValueError, "LocalSGD: period"),
        (lambda: ss.LocalSGD(2, outer=0.7), TypeError, "LocalSGD: outer"),
        (lambda: ss.LocalSGD(8, host_period=0), ValueError, "LocalSGD: host_period"),
        (lambda: ss.LocalSGD(8, host_period=3), ValueError, "period=8 must be a multiple of host_period=3"),
        (lambda: ss.LocalSGD(8, ranks_per_host=2), ValueError, "counts only with host_period"),
        (lambda: parallel.Nesterov(momentum=1.0), ValueError, "Nesterov: momentum"),
        (lambda: ss.ParameterServer(0), ValueError, "ParameterServer: servers"),
        (lambda: ss.ParameterServer(mode="fast"), ValueError, "ParameterServer: mode"),
        (lambda: ss.ParameterServer(compression=compress.Int8()), ValueError, "mode 'sync' sends whole gradients"),
        (lambda: ss.ParameterServer(1, "async", compression=compress.PowerSGD()), TypeError, "other than PowerSGD"),
        (lambda: ss.Parallel(exchange="mean"), TypeError, "Parallel: exchange"),
        (lambda: ss.Parallel(accumulate=0), ValueError, "Parallel: accumulate"),
        (lambda: ss.compile(network(), parallel=3), TypeError, "parallel must be"),
        (lambda: ss.compile(network(), lanes_at_once=2, parallel=ss.Parallel(accumulate=2)), ValueError, "not both"),
        (
            lambda: trained(parallel=ss.AllReduce(compress.Int8(exclude="head.*"))),
            ValueError,
            "no parameter has a name like 'head",
        ),
    ],
)
def test_wrong_arguments_are_named(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_which_parameters_are_compressed():
    sizes = {"0.weight": 2000, "0.bias": 40, "head.weight": 5000}
    assert compress.Int8().names(sizes) == ["0.weight", "head.weight"]
    assert compress.Int8(exclude="head.*", least=10).names(sizes) == ["0.weight", "0.bias"]


def test_accumulation_changes_no_bit_and_needs_less_memory():
    plain, whole = trained()
    for parts in (2, 4, 8):
        accumulated, plan = trained(parallel=ss.Parallel(accumulate=parts))
        assert accumulated == plain
        assert (
            plan._sessions[plan._last][0].bytes()["activations"]
            < whole._sessions[whole._last][0].bytes()["activations"]
        )


def test_outer_optimizer_follows_its_formula():
    """On one rank, with a meeting after each step: the inner step is the outer optimizer's gradient."""
    net = network()
    plan = ss.compile(
        net, optimizer=optim.SGD(0.1), batch_size=16, parallel=ss.LocalSGD(1, outer=parallel.Nesterov(0.7, 0.9))
    )
    other = network()
    inner = ss.compile(other, optimizer=optim.SGD(0.1), batch_size=16)
    start = {name: value.copy() for name, value in other.state_dict().items()}
    velocity = {name: np.zeros_like(value) for name, value in start.items()}
    for step in range(5):
        rows = slice(16 * step, 16 * step + 16)
        plan.step(X[rows], Y[rows])
        inner.step(X[rows], Y[rows])
        for name, value in other.state_dict().items():
            delta = start[name] - value
            velocity[name] = np.float32(0.9) * velocity[name] + delta
            start[name] = start[name] - np.float32(0.7) * (delta + np.float32(0.9) * velocity[name])
        other.load_state_dict(start)
        for name, value in net.state_dict().items():
            np.testing.assert_allclose(value, start[name], atol=2e-6, err_msg=name)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_compressed_training_learns_and_agrees(mpi_run, ranks):
    """Every compressor: equal parameters on all ranks, the same bits on any number of threads and either instruction set,
    fewer bytes, an error that is reported, and training that gets somewhere."""
    script = (
        PRELUDE
        + f"""
for text in {ALL!r}:
    net, plan = trained(ss.AllReduce(eval("compress." + text)), steps=80)
    prints = ss.allgather(ss.fingerprint(net))
    assert f"{{plan.compression['bytes']}} bytes a step" in str(plan.explain())
    say(text=text, same=len(set(prints)) == 1, print=prints[0], loss=plan.evaluate(X, Y)["loss"], **plan.compression)
"""
    )
    runs = [
        answers(mpi_run(script, n=ranks, threads=threads, env={"SAMESTEP_ISA": isa}, timeout=120))
        for threads, isa in ((1, ""), (2, ""), (1, "avx2"))
    ]
    assert [run["text"] for run in runs[0]] == ALL
    for answer, threaded, other in zip(*runs, strict=True):
        name = answer["text"]
        assert answer["same"], name
        assert answer["print"] == threaded["print"] == other["print"], name
        assert answer["loss"] < (1.8 if "OneBit" in name else 0.6), (name, answer["loss"])
        assert answer["ratio"] > {"FP16()": 1.8, "BF16()": 1.8, "Int8()": 3}.get(name, 1.9), name
        assert 0 < answer["error"] < (1.5 if "Power" in name else 1), name  # PowerSGD shares out the error of the sum


@pytest.mark.mpi
def test_compression_without_loss_is_the_plain_exchange(mpi_run):
    """All elements of two ranks, sent with their places, add up to the bits of the plain sum."""
    script = (
        PRELUDE
        + """
say(prints=[ss.fingerprint(trained(way)[0]) for way in (None, ss.AllReduce(compress.TopK(1.0, least=1)),
                                                        ss.AllReduce(compress.RandomK(1.0, least=1)))])
"""
    )
    prints = answers(mpi_run(script, n=2))[0]["prints"]
    assert len(set(prints)) == 1


@pytest.mark.mpi
def test_nothing_is_lost_with_feedback(mpi_run):
    """What has been sent and what is still owed add up to the gradients: with SGD of rate 1 the parameters' way is known."""
    script = (
        PRELUDE
        + """
ways = [None, ss.AllReduce(compress.TopK(0.05)), ss.AllReduce(compress.Int8()), ss.AllReduce(compress.OneBit())]
net = nn.Linear(64, 40)
ss.manual_seed(0)
start = np.zeros((40, 64), np.float32)  # differences of small numbers keep their digits
far = 1e-5
moved = []
for way in ways:
    net.weight.data = start
    net.bias.data = np.zeros(40, np.float32)
    plan = ss.compile(net, "mse", optim.SGD(far), batch_size=32, parallel=way)
    targets = np.random.default_rng(1).normal(size=(32, 40)).astype(np.float32)
    for _ in range(5):
        plan.step(X[:32], targets)
    total = (start - net.weight.numpy()) / far
    kept = np.zeros_like(total)
    for kind in ("residual", "owed"):
        try:
            kept += np.sum(ss.allgather(plan.model.get_kept(kind, "weight")), axis=0)
        except KeyError:
            pass
    moved.append(total + kept)
say(worst=[float(np.abs(other - moved[0]).max() / np.abs(moved[0]).max()) for other in moved[1:]])
"""
    )
    assert max(answers(mpi_run(script, n=2))[0]["worst"]) < 1e-3


@pytest.mark.mpi
def test_local_training_with_a_meeting_each_step_is_averaged_sgd(mpi_run):
    script = (
        PRELUDE
        + """
def plain():
    ss.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
network = plain
a, _ = trained(None, optimizer=optim.SGD(0.1), batch=60)
b, _ = trained(ss.LocalSGD(1), optimizer=optim.SGD(0.1), batch=60)
c, plan = trained(ss.LocalSGD(8), optimizer=optim.SGD(0.1), batch=60)
far = lambda p, q: max(float(np.abs(v - q.state_dict()[k]).max()) for k, v in p.state_dict().items())
say(near=far(a, b), away=far(a, c), same=len(set(ss.allgather(ss.fingerprint(c)))) == 1, loss=plan.evaluate(X, Y)["loss"])
"""
    )
    for ranks in (2, 3):
        found = answers(mpi_run(script, n=ranks))[0]
        assert found["near"] < 2e-5
        assert found["away"] > found["near"]
        assert found["same"]
        assert found["loss"] < 2.1


@pytest.mark.mpi
@pytest.mark.parametrize(
    "way", ["ss.LocalSGD(5)", "ss.LocalSGD(6, outer=parallel.Nesterov(), warmup=3)", "ss.AllReduce(compress.Int8())"]
)
def test_goes_on_from_a_checkpoint(mpi_run, tmp_path, way):
    """The same bits as without the break at the same number of ranks; at another number it goes on too. 1797 samples in
    batches of 64: the last batch of an epoch has 5."""
    script = (
        PRELUDE
        + f"""
def fit(epochs, file, resume=False):
    net = network()
    trainer = ss.Trainer(net, optimizer=optim.Adam(2e-3), parallel={way}, checkpoint=file, metrics="accuracy")
    history = trainer.fit(X, Y, epochs, 64, verbose=False, resume=resume)
    return ss.fingerprint(net), history.to_dict()["accuracy"][-1]
if len(sys.argv) > 1:
    say(resumed=fit(5, sys.argv[1], True))
else:
    whole = fit(4, None)
    fit(2, "half")
    say(whole=whole, half=fit(4, "half", True))
"""
    )
    found = answers(mpi_run(script, n=2, timeout=120))[0]
    assert found["whole"] == found["half"]
    assert found["whole"][1] > 0.9
    other = answers(mpi_run(script, n=3, args=[str(tmp_path / "half")], timeout=120))[0]
    assert other["resumed"][1] >= found["whole"][1] - 0.02


@pytest.mark.mpi
def test_one_worker_and_its_servers_are_plain_training(mpi_run):
    """With a single worker nothing is stale: the same bits as one process, however the parameters are cut."""
    script = (
        PRELUDE
        + """
net, plan = trained(None if ss.size() == 1 else ss.ParameterServer(ss.size() - 1, 'async'), optimizer=optim.Adam(1e-2))
say(print=ss.fingerprint(net), report=plan.servers)
"""
    )
    plain, *others = [answers(mpi_run(script, n=ranks))[0] for ranks in (1, 2, 3)]
    for ranks, other in enumerate(others, 2):
        assert other["print"] == plain["print"]
        assert [item["serves"] for item in other["report"]] == [False] + [True] * (ranks - 1)
        assert all(item["pushes"] == 40 and item["most_behind"] == 0 for item in other["report"])


@pytest.mark.mpi
@pytest.mark.parametrize(
    "way",
    [
        "ss.ParameterServer(1, 'async')",
        "ss.ParameterServer(2, 'bounded', staleness=1)",
        "ss.ParameterServer(1, 'async', compression=compress.Int8())",
        "ss.ParameterServer(1, 'bounded', compression=compress.TopK(0.1))",
    ],
)
def test_parameter_servers_train_and_resume(mpi_run, way):
    script = (
        PRELUDE
        + f"""
def network():  # without batch norm, whose running statistics lag behind
    ss.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))
def fit(epochs, resume):
    net = network()
    trainer = ss.Trainer(net, optimizer=optim.SGD(0.02, momentum=0.9), parallel={way}, checkpoint="central", metrics="accuracy")
    history = trainer.fit(X, Y, epochs, 64, verbose=False, resume=resume).to_dict()
    prints = ss.allgather(ss.fingerprint(net))
    found = trainer.evaluate(X, Y)
    report = trainer.plan.servers
    say(losses=history["loss"], same=len(set(prints)) == 1, report=report, **found)
fit(3, False)
fit(6, True)
"""
    )
    first, second = answers(mpi_run(script, n=4, timeout=120))
    assert first["same"]
    assert second["same"]
    assert len(second["losses"]) == 6
    assert second["losses"][:3] == first["losses"]
    assert second["losses"][-1] < 0.5
    assert second["accuracy"] > 0.8
    servers = [item for item in second["report"] if item["serves"]]
    workers = [item for item in second["report"] if not item["serves"]]
    assert all(item["pushes"] == sum(worker["pushes"] for worker in workers) for item in servers)
    assert any(item["most_behind"] > 0 for item in servers)
    if "Int8" in way or "TopK" in way:
        assert workers[0]["bytes"] < 0.5 * 4 * (64 * 96 + 96 * 64 + 64 * 10)


@pytest.mark.mpi
def test_nobody_gets_further_ahead_than_the_bound(mpi_run):
    """A worker that is slow holds the other one back in mode "bounded", and does not in mode "async"."""
    script = (
        PRELUDE
        + """
import time
for mode in ("bounded", "async"):
    net = network()
    plan = ss.compile(net, optimizer=optim.SGD(0.01), batch_size=64, parallel=ss.ParameterServer(1, mode, staleness=2))
    plan.step(X[:64], Y[:64])
    ss.barrier()
    times = []
    for step in range(30):
        if ss.rank() == 0:
            time.sleep(0.02)
        plan.step(X[:64], Y[:64])
        times.append(time.time())
    everyone = ss.allgather(times)
    first = everyone[0][5]
    say(mode=mode, ahead=sum(time < first for time in everyone[1]) - 6, waits=plan.servers[-1]["waits"], pushes=plan.servers[-1]["pushes"])
"""
    )
    bounded, free = answers(mpi_run(script, n=3))
    assert bounded["pushes"] == free["pushes"] == 62
    assert free["waits"] == 0
    assert bounded["waits"] > 0
    assert bounded["ahead"] <= 3 < free["ahead"]


@pytest.mark.mpi
@pytest.mark.parametrize(
    "way",
    [
        "ss.ParameterServer(1, 'async')",
        "ss.AllReduce(compress.Int8())",
        "ss.AllReduce(compress.TopK())",
        "ss.LocalSGD(4)",
    ],
)
def test_a_rank_that_vanishes_is_noticed(mpi_run, way):
    script = (
        PRELUDE
        + f"""
import os, signal
net = network()
plan = ss.compile(net, batch_size=64, parallel={way})
plan.evaluate(X, Y)
for step in range(10_000):
    if ss.rank() == 1 and step == 20:
        os.kill(os.getpid(), signal.SIGSTOP)
    plan.step(X[:64], Y[:64])
"""
    )
    done = mpi_run(script, n=3, check=False, timeout=60, env={"SAMESTEP_TIMEOUT": "3"})
    assert done.returncode != 0
    assert "RankFailed" in done.stderr
    assert "1 did not answer" in done.stderr or "1, 2 did not answer" in done.stderr, done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_servers_in_step_have_the_bits_of_all_reduce(mpi_run, ranks):
    script = (
        PRELUDE
        + """
for servers in range(1, ss.size() + 1):
    net, plan = trained(ss.ParameterServer(servers), optimizer=optim.Adam(1e-2))
    norm, _ = trained(ss.ParameterServer(servers), clip_norm=0.5)
    say(prints=[ss.fingerprint(net), ss.fingerprint(norm)], same=len(set(ss.allgather(ss.fingerprint(net)))))
"""
    )
    alone = answers(mpi_run(script, n=1))[0]
    found = answers(mpi_run(script, n=ranks))
    assert len(found) == ranks
    assert all(item == alone for item in found)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("trained(ss.ParameterServer(2, 'async'))", "2 ranks cannot all be servers"),
        ("trained(ss.ParameterServer(1, 'async'), clip_norm=1.0)", "clip_norm and ParameterServer"),
        ("trained(ss.LocalSGD(2), average=optim.EMA(0.9))", "average and LocalSGD"),
        ("trained(ss.ParameterServer(1, 'async'), optimizer=optim.Muon(0.01))", "optimizer 'muon' needs them whole"),
    ],
)
def test_ways_that_cannot_be(mpi_run, call, text):
    done = mpi_run(PRELUDE + call, n=2, check=False)
    assert done.returncode != 0
    assert text in done.stderr


@pytest.mark.mpi
def test_explain_tells_how_much_of_the_exchange_is_hidden(mpi_run):
    script = (
        PRELUDE
        + """
net, plan = trained(None, steps=3)
plan.explain(analyze=True)
for _ in range(5):
    plan.step(X[:64], Y[:64])
found = plan.explain(analyze=True)
say(text=str(found), exchanges=found.data["exchanges"], span=found.data["exchange_seconds"], blocked=found.data["blocked_seconds"])
"""
    )
    found = answers(mpi_run(script, n=2))[0]
    assert found["exchanges"] == 5
    assert 0 < found["blocked"] <= found["span"]
    assert "of which the rank worked in" in found["text"]


@pytest.mark.mpi
def test_a_batch_without_samples_for_a_rank_is_refused(mpi_run):
    done = mpi_run(PRELUDE + "trained(ss.LocalSGD(2), batch=1)", n=2, check=False)
    assert done.returncode != 0
    assert "has no sample for some of the 2 ranks" in done.stderr


@pytest.mark.mpi
def test_ranks_that_differ_are_told(mpi_run):
    done = mpi_run(PRELUDE + "trained(ss.AllReduce(compress.TopK(0.1 * (1 + ss.rank()))))", n=2, check=False)
    assert done.returncode != 0
    assert "parallel" in done.stderr


def test_shared_memory_and_messages_have_the_same_bits(mpi_run):
    script = PRELUDE + (
        "net, plan = trained(ss.Parallel(), steps=20)\n"
        "clipped, _ = trained(ss.Parallel(), steps=20, clip_norm=0.5)\n"
        "say(bits=[ss.fingerprint(net), ss.fingerprint(clipped)], text=str(plan.explain()))\n"
    )
    told = {}
    for ranks in (1, 2, 3, 4):
        for shared in ("0", "1"):
            out = mpi_run(script, n=ranks, env={"SAMESTEP_SHARED_MEMORY": shared}).stdout
            told[ranks, shared] = json.loads(out.splitlines()[-1])
    assert len({tuple(answer["bits"]) for answer in told.values()}) == 1
    for (ranks, shared), answer in told.items():
        if ranks > 1:
            assert ("from shared memory" if shared == "1" else "by messages") in answer["text"]


def test_ranks_of_a_host_meet_more_often(mpi_run):
    """Hosts of two ranks (and of one, the last): equal inside a host after its meeting, everywhere after that of all."""
    script = (
        PRELUDE
        + """
net = network()
way = ss.LocalSGD(4, host_period=2, ranks_per_host=2, outer=parallel.Nesterov(1.0, 0.0))
plan = ss.compile(net, optimizer=optim.SGD(0.05), batch_size=60, parallel=way)
seen = []
for step in range(8):
    plan.step(X[60 * step : 60 * step + 60], Y[60 * step : 60 * step + 60])
    seen.append(ss.comm.allgather(net[0].weight.data[:2, :5].copy().reshape(1, -1)))
say(seen=[[row.ravel().tolist() for row in rows] for rows in seen], text=str(plan.explain()))
"""
    )
    told = json.loads(mpi_run(script, n=5).stdout.splitlines()[-1])
    assert "5 ranks meet every 4 steps, those of a host every 2" in told["text"]
    for step, rows in enumerate(told["seen"], 1):
        first, second, third = rows[0] == rows[1], rows[2] == rows[3], rows[0] == rows[2] == rows[4]
        assert (first, second) == ((True, True) if step % 2 == 0 else (False, False)), step
        assert third == (step % 4 == 0), step


def test_a_meeting_of_one_host_is_one_of_all(mpi_run):
    script = (
        PRELUDE
        + """
a, _ = trained(ss.LocalSGD(1), optimizer=optim.SGD(0.1), batch=60, steps=8)
b, _ = trained(ss.LocalSGD(8, host_period=1, ranks_per_host=3), optimizer=optim.SGD(0.1), batch=60, steps=8)
c, _ = trained(ss.LocalSGD(8, host_period=1), optimizer=optim.SGD(0.1), batch=60, steps=8)
d, _ = trained(ss.LocalSGD(8), optimizer=optim.SGD(0.1), batch=60, steps=8)
say(bits=[ss.fingerprint(net) for net in (a, b, c, d)])
"""
    )
    bits = json.loads(mpi_run(script, n=3).stdout.splitlines()[-1])["bits"]
    assert bits[0] == bits[1] == bits[2] != bits[3]
