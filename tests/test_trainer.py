"""ss.Trainer: fit, history, callbacks, checkpoints, interruption, numeric errors."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

import samestep as ss
from samestep import nn, optim, safetensors_io


def data(n: int = 100, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    return x, (x[:, :3]).argmax(1)


def net() -> nn.Sequential:
    ss.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def trainer(module=None, **options) -> ss.Trainer:
    return ss.Trainer(module or net(), "cross_entropy", optim.Adam(0.02), metrics=["accuracy"], **options)


def test_fit_learns_and_tells(capsys):
    x, y = data(400)
    t = trainer()
    history = t.fit(x[:300], y[:300], epochs=12, batch_size=32, validation=(x[300:], y[300:]))
    assert set(history) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"}
    assert history["epoch"] == list(range(1, 13)) and history["loss"][-1] < history["loss"][0]
    assert history["val_accuracy"][-1] > 0.85
    assert t.evaluate(x[300:], y[300:]) == {"loss": history["val_loss"][-1], "accuracy": history["val_accuracy"][-1]}
    assert (t.predict(x[300:]).argmax(1) == y[300:]).mean() == pytest.approx(history["val_accuracy"][-1], abs=1e-9)
    out = capsys.readouterr()
    assert out.out.count("\n") == 12 and "epoch 12/12" in out.out and "val_accuracy" in out.out
    t.fit(x, y, epochs=1, verbose=False)
    assert capsys.readouterr() == ("", "") and t.epoch == 13


def test_fit_is_a_loop_of_steps():
    """The same bits from a loop that a user could write, the last partial batch included."""
    from samestep import _core

    x, y = data(70)
    a, b = net(), net()
    history = trainer(a, seed=4).fit(x, y, epochs=3, batch_size=16, verbose=False)
    plan = ss.compile(b, optimizer=optim.Adam(0.02), batch_size=16, metrics=["accuracy"], seed=4)
    for epoch in range(3):
        order = _core.permutation(70, 4, epoch)
        assert sorted(order) == list(range(70))
        for k in range(0, 70, 16):
            plan.step(x[order[k : k + 16]], y[order[k : k + 16]])
    assert plan.step_count == 15
    assert ss.fingerprint(a) == ss.fingerprint(b)
    assert len(history["loss"]) == 3


def test_shuffle_and_seed():
    x, y = data()
    prints = []
    for options in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        module = net()
        trainer(module, **options).fit(x, y, epochs=2, batch_size=20, verbose=False)
        prints.append(ss.fingerprint(module))
    assert prints[0] == prints[1] != prints[2]


def test_batch_size_may_change_and_state_stays():
    x, y = data()
    t = trainer()
    t.fit(x, y, epochs=1, batch_size=20, verbose=False)
    moments = t.plan.model.get_slot("exp_avg", "0.weight")
    t.fit(x, y, epochs=0, batch_size=50, verbose=False)
    assert t.plan.batch_size == 50 and t.plan.step_count == 5
    assert (t.plan.model.get_slot("exp_avg", "0.weight") == moments).all()
    t.fit(x, y, epochs=1, batch_size=50, verbose=False)
    assert t.epoch == 2


def test_history(tmp_path):
    history = ss.History()
    history.append({"epoch": 1, "loss": 2.0})
    history.append({"epoch": 2, "loss": 1.0, "val_loss": 3.0})
    copied = history.to_dict()
    assert copied["loss"] == [2.0, 1.0] and np.isnan(copied["val_loss"][0])
    copied["loss"].append(0)
    assert history["loss"] == [2.0, 1.0] and dict(history)["epoch"] == [1, 2]
    with pytest.raises(KeyError, match="accuracy"):
        history["accuracy"]
    assert "2 epochs" in repr(history) and "<table>" in history._repr_html_()
    pytest.importorskip("matplotlib")
    history.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "no epochs" in repr(ss.History())


def test_callbacks():
    x, y = data()
    seen = []

    class Watch(ss.Callback):
        def on_fit_begin(self, trainer):
            seen.append("begin")

        def on_epoch_end(self, trainer, epoch, logs):
            seen.append((epoch, sorted(logs)))
            return epoch < 2

        def on_fit_end(self, trainer):
            seen.append("end")

    t = trainer(callbacks=[Watch()])
    t.fit(x, y, epochs=9, batch_size=50, verbose=False)
    assert seen == ["begin", (1, ["accuracy", "loss", "seconds"]), (2, ["accuracy", "loss", "seconds"]), "end"]

    def stop(trainer, epoch, logs):
        raise ss.StopTraining

    assert len(trainer(callbacks=stop).fit(x, y, epochs=9, verbose=False)["loss"]) == 1

    def fail(trainer, epoch, logs):
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        trainer(callbacks=[fail]).fit(x, y, epochs=9, verbose=False)


def test_learning_rate_from_a_callback():
    x, y = data()
    module = net()
    prints = []

    def freeze(t, epoch, logs):
        t.optimizer.lr = 0.0
        prints.append([parameter.numpy() for parameter in module.parameters()])

    trainer(module, callbacks=[freeze]).fit(x, y, epochs=2, batch_size=50, verbose=False)
    assert all((a == b).all() for a, b in zip(*prints, strict=True))


def test_resume_gives_the_same_bits(tmp_path):
    x, y = data()
    whole = net()
    expected = trainer(whole, checkpoint=tmp_path / "whole").fit(x, y, epochs=6, batch_size=16, verbose=False)
    broken = net()
    trainer(broken, checkpoint=tmp_path / "part").fit(x, y, epochs=2, batch_size=16, verbose=False)
    ss.manual_seed(99)
    fresh = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    t = trainer(fresh, checkpoint=tmp_path / "part")
    history = t.fit(x, y, epochs=6, batch_size=16, verbose=False, resume=True)
    assert ss.fingerprint(fresh) == ss.fingerprint(whole) != ss.fingerprint(broken)
    assert history["loss"] == expected["loss"] and history["epoch"] == expected["epoch"]
    assert fresh.state_dict()["1.num_batches_tracked"] == whole.state_dict()["1.num_batches_tracked"] == 42
    assert t.fit(x, y, epochs=6, batch_size=16, verbose=False, resume=True)["epoch"][-1] == 6  # nothing left to do
    assert trainer(checkpoint=tmp_path / "absent").fit(x, y, epochs=1, verbose=False, resume=True)["epoch"] == [1]
    with pytest.raises(ValueError, match="checkpoint"):
        trainer().fit(x, y, resume=True, verbose=False)


def interrupt_after_steps(t: ss.Trainer, steps: int) -> threading.Thread:
    """Ctrl-C once the trainer has taken so many steps: a clock would depend on what else the machine does."""

    def watch() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if t.plan.model.step >= steps:
                    break
            except RuntimeError:  # nothing laid out yet
                pass
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_interruption_saves_and_resumes(tmp_path):
    """Ctrl-C in the middle of an epoch; the resumed run has the bits of an uninterrupted one, its losses too."""
    x, y = data(200_000)
    whole = net()
    expected = trainer(whole).fit(x, y, epochs=2, batch_size=16, verbose=False)
    part = net()
    t = trainer(part, checkpoint=tmp_path / "c")
    began, timer = time.time(), interrupt_after_steps(t, 4000)
    with pytest.raises(KeyboardInterrupt):
        t.fit(x, y, epochs=2, batch_size=16, verbose=False)
    timer.join()
    assert time.time() - began < 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert t.epoch < 2 and np.isfinite(t.predict(x[:5])).all()
    state = json.loads(safetensors_io.read_metadata(tmp_path / "c")["samestep"])
    assert state["note"] == "interrupted" and state["epoch_step"] + state["epoch"] > 0 and state["step"] < 25_000
    fresh = net()
    history = trainer(fresh, checkpoint=tmp_path / "c").fit(x, y, epochs=2, batch_size=16, verbose=False, resume=True)
    assert ss.fingerprint(fresh) == ss.fingerprint(whole)
    assert history["loss"] == expected["loss"] and history["accuracy"] == expected["accuracy"]
    other = trainer(checkpoint=edited(tmp_path / "c", epoch=0, epoch_step=1))
    with pytest.raises(ss.CheckpointError, match="samples"):
        other.fit(x[:100], y[:100], epochs=2, batch_size=16, verbose=False, resume=True)


def edited(path, **changes):
    tensors, metadata = safetensors_io.read(path)
    state = json.loads(metadata["samestep"]) | changes
    safetensors_io.write(path, tensors, {"samestep": json.dumps(state)})
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"order_version": 99}, "order_version=99"),
        ({"lanes": 4}, "lanes=4"),
        ({"seed": 5}, "seed=5"),
        ({"batch_size": 8}, "batch_size=8"),
        ({"optimizer": "SGD"}, "optimizer='SGD'"),
        ({"format": "other"}, "not a checkpoint"),
        ({"step": "many"}, "not a checkpoint"),
        ({"history": 3}, "not a checkpoint"),
        ({"history": {"epoch": [1.0], "loss": []}}, "history"),
        ({"step": -1}, "not a checkpoint"),
        ({"step": 2**70}, "not a checkpoint"),
        ({"epoch": -1}, "not a checkpoint"),
        ({"epoch_step": -1}, "not a checkpoint"),
        ({"epoch_step": 3}, "sums of 0 steps"),
        ({"epoch_step": 1, "epoch_sums": [[1.0]]}, "sums"),
        ({"step": float("inf")}, "not a checkpoint"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, change, text):
    x, y = data()
    path = tmp_path / "c"
    trainer(checkpoint=path).fit(x, y, epochs=1, batch_size=16, verbose=False)
    edited(path, **change)
    t = trainer(checkpoint=path)
    before = ss.fingerprint(t.net)
    with pytest.raises(ss.CheckpointError, match=text):
        t.fit(x, y, epochs=2, batch_size=16, verbose=False, resume=True)
    assert ss.fingerprint(t.net) == before and t.epoch == 0


def test_checkpoint_of_another_network(tmp_path):
    x, y = data()
    path = tmp_path / "c"
    trainer(checkpoint=path).fit(x, y, epochs=1, verbose=False)
    with pytest.raises(ss.CheckpointError):
        trainer(nn.Linear(8, 3), checkpoint=path).fit(x, y, epochs=2, verbose=False, resume=True)
    (tmp_path / "d").write_bytes(b"garbage")
    with pytest.raises(ss.CheckpointError, match="safetensors"):
        trainer(checkpoint=tmp_path / "d").fit(x, y, epochs=2, verbose=False, resume=True)
    nn.Linear(8, 3).save(tmp_path / "e")
    with pytest.raises(ss.CheckpointError, match="not a checkpoint"):
        trainer(checkpoint=tmp_path / "e").fit(x, y, epochs=2, verbose=False, resume=True)


def test_not_finite_loss_is_an_error(tmp_path):
    x, y = data()
    bad = x.copy()
    bad[70] = np.nan
    with pytest.raises(ss.NumericError, match="epoch 1, step 5"):
        ss.Trainer(nn.Linear(8, 3), optimizer=optim.SGD(0.1)).fit(bad, y, batch_size=16, shuffle=False, verbose=False)
    module = net()
    t = trainer(module, checkpoint=tmp_path / "c")
    t.fit(x, y, epochs=2, batch_size=16, verbose=False)
    good = ss.fingerprint(module)
    with pytest.raises(ss.NumericError, match="parameters of epoch 2"):
        t.fit(bad, y, epochs=1, batch_size=16, verbose=False)
    assert ss.fingerprint(module) == good and t.epoch == 2
    with pytest.raises(ss.NumericError, match=r"X holds a NaN .* row 70"):
        ss.Trainer(nn.Linear(8, 3)).fit(bad, y, batch_size=16, verbose=False)
    with pytest.raises(ss.NumericError, match=r"y holds a NaN .* row 3"):
        target = np.where(np.arange(100) == 3, np.nan, 0)[:, None]
        ss.Trainer(nn.Linear(8, 1), "mse").fit(x, target, batch_size=16, shuffle=False, verbose=False)
    with pytest.raises(ss.NumericError, match="learning rate"):
        ss.Trainer(net(), optimizer=optim.SGD(1e30)).fit(x, y, epochs=9, batch_size=16, verbose=False)


def test_a_checkpoint_of_an_older_run_is_not_put_back(tmp_path):
    """A run that fails before it has saved anything does not load what lies in its file from another one."""
    x, y = data()
    trainer(checkpoint=tmp_path / "c").fit(x, y, epochs=1, batch_size=16, verbose=False)
    t = ss.Trainer(net(), optimizer=optim.SGD(0.1), checkpoint=tmp_path / "c")
    with pytest.raises(ss.NumericError) as caught:
        t.fit(np.full_like(x, np.nan), y, batch_size=16, verbose=False)
    assert "again" not in str(caught.value) and t.epoch == 0


def test_what_the_file_system_refuses(tmp_path):
    """The error reaches the caller, the network stays usable, and no part of a file is left."""
    x, y = data()
    t = trainer(checkpoint=tmp_path / "missing" / "c")
    with pytest.raises(OSError, match="missing"):
        t.fit(x, y, epochs=2, batch_size=16, verbose=False)
    assert t.epoch == 1 and np.isfinite(t.evaluate(x, y)["loss"])
    (tmp_path / "folder").mkdir()
    for module in (t.net, nn.Linear(3, 3)):
        with pytest.raises(OSError):
            module.save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_after_fork():
    """The threads of the core do not survive a fork; the child makes its own, and trains to the same bits."""
    import multiprocessing

    x, y = data()
    t = trainer(threads=2)
    t.fit(x, y, epochs=1, batch_size=16, verbose=False)

    def work(pipe):
        t.fit(x, y, epochs=1, batch_size=16, verbose=False)
        pipe.send(ss.fingerprint(t.net))

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(theirs,))
    child.start()
    try:
        assert ours.poll(60), "the child hangs"
        t.fit(x, y, epochs=1, batch_size=16, verbose=False)
        assert ours.recv() == ss.fingerprint(t.net)
    finally:
        child.kill()
        child.join()


def test_copies_of_a_trained_network():
    import copy
    import pickle

    x, y = data()
    t = trainer()
    t.fit(x, y, epochs=1, batch_size=16, verbose=False)
    before = ss.fingerprint(t.net)
    for twin in (copy.deepcopy(t.net), pickle.loads(pickle.dumps(t.net))):
        assert ss.fingerprint(twin) == before
        trainer(module=twin).fit(x, y, epochs=1, batch_size=16, verbose=False)
        assert ss.fingerprint(twin) != before and ss.fingerprint(t.net) == before


def test_two_python_threads():
    """Two networks train at once; two calls into one network are refused, and it stays whole."""
    import threading

    x, y = data()

    def work(t, said):
        try:
            t.fit(x, y, epochs=60, batch_size=16, verbose=False)
            said.append(ss.fingerprint(t.net))
        except RuntimeError as error:
            said.append(str(error))

    def both(first, second):
        said = []
        threads = [threading.Thread(target=work, args=(t, said)) for t in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return said

    said = both(trainer(threads=2), trainer(threads=2))
    assert len(said) == 2 and said[0] == said[1] and len(said[0]) == 64
    plan = ss.compile(nn.Linear(8, 512), optimizer=optim.SGD(0.0), batch_size=64, input_shape=(8,), threads=1)
    errors = []

    def steps():
        try:
            for _ in range(30):
                plan.run(np.repeat(x, 40, axis=0), np.repeat(y, 40), batch_size=64)
        except RuntimeError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=steps) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all("another thread" in error for error in errors)
    assert np.isfinite(plan.step(x[:64], y[:64]))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"epochs": -1}, ValueError, "epochs"),
        ({"epochs": 1.5}, TypeError, "epochs"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"validation": 3}, TypeError, "validation"),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight"),
        ({"batch_size": 2**70}, ValueError, "batch_size"),
        ({"resume": True}, ValueError, "checkpoint"),
        ({"validation": (None, None)}, TypeError, "the X of validation"),
        ({"validation": (np.ones((4, 3)), np.zeros(4, int))}, ValueError, "the X of validation"),
        ({"validation": (np.ones((4, 8)), np.zeros(3, int))}, ValueError, "the y of validation has 3"),
        ({"validation": (np.ones((0, 8)), np.zeros(0, int))}, ValueError, "no samples"),
    ],
)
def test_arguments_are_checked(options, error, text):
    x, y = data()
    with pytest.raises(error, match=text):
        trainer().fit(x, y, verbose=False, **options)
    t = trainer()
    with pytest.raises(error):  # before anything is trained
        t.fit(x, y, verbose=False, **options)
    assert t.epoch == 0 and t.plan.step_count == 0
    with pytest.raises(ValueError, match="precision"):
        ss.Trainer(net(), precision="fp64")
    for wrong in (3, [3], ["epoch"]):
        with pytest.raises(TypeError, match="callbacks"):
            ss.Trainer(net(), callbacks=wrong)
    assert ss.Trainer(net(), callbacks=None, metrics=None).callbacks == []
    called = []
    ss.Trainer(net(), callbacks=iter([lambda *unused: called.append(1)])).fit(x, y, verbose=False)
    assert called == [1]
    with pytest.raises(ValueError, match="threads"):
        ss.Trainer(net(), threads=2**40)


def test_sample_weight_in_fit():
    x, y = data()
    wrong = y.copy()
    wrong[::2] = (wrong[::2] + 1) % 3
    weight = (np.arange(100) % 2).astype(float)
    module = nn.Linear(8, 3)
    t = ss.Trainer(module, optimizer=optim.Adam(0.05), metrics=["accuracy"])
    t.fit(x, wrong, epochs=60, batch_size=25, sample_weight=weight, validation=(x, wrong, weight), verbose=False)
    assert t.history["val_accuracy"][-1] > 0.9 and t.evaluate(x, wrong)["accuracy"] < 0.8


def test_regression():
    x, _ = data(200)
    target = (x @ np.arange(8) / 8)[:, None]
    t = ss.Trainer(nn.Linear(8, 1), "mse", optim.Adam(0.05))
    history = t.fit(x, target, epochs=40, batch_size=20, verbose=False)
    assert history["loss"][-1] < 1e-3


def test_from_another_thread():
    """Signals belong to the main thread; a fit elsewhere works without them."""
    x, y = data()
    result = []
    thread = threading.Thread(target=lambda: result.append(trainer().fit(x, y, epochs=1, verbose=False)))
    thread.start()
    thread.join()
    assert len(result[0]["loss"]) == 1
