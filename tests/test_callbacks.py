"""Callbacks of the trainer."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import callbacks, nn, optim

X, Y = oracle.grid((60, 5)), oracle.labels(60, 3)


def net():
    ss.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def run(callback, values, **options):
    """Feeds a monitor by hand: one epoch for each value."""
    trainer = ss.Trainer(net(), optimizer=optim.SGD(0.1))
    callback.on_fit_begin(trainer)
    for epoch, value in enumerate(values, 1):
        trainer.epoch = epoch
        if callback.on_epoch_end(trainer, epoch, {"val_loss": value, "accuracy": value}) is False:
            break
    callback.on_fit_end(trainer)
    return epoch


def test_early_stopping_counts_epochs_without_a_better_value() -> None:
    assert run(callbacks.EarlyStopping(patience=2), [5, 4, 4.5, 3, 3.5, 3.2, 1]) == 6
    assert run(callbacks.EarlyStopping(patience=2, min_delta=0.6), [5, 4, 3.5, 3.41, 1]) == 4
    assert run(callbacks.EarlyStopping("accuracy", patience=1), [1, 2, 3, 2.5, 9]) == 4
    assert run(callbacks.EarlyStopping("accuracy", patience=1, mode="min"), [1, 2, 3]) == 2


def test_early_stopping_in_fit_restores_the_best_network() -> None:
    class Spoil(callbacks.Callback):
        """After the second epoch the network is ruined, so that epoch 2 stays the best."""

        def on_epoch_begin(self, trainer, epoch):
            if epoch == 3:
                trainer.net[0].weight.data = 50 * trainer.net[0].weight.data
                trainer.net[2].bias.data = np.array([90.0, 0, 0])

        def on_epoch_end(self, trainer, epoch, logs):
            prints.append(ss.fingerprint(trainer.net))

    prints = []
    stop = callbacks.EarlyStopping(patience=2, restore_best=True)
    trainer = ss.Trainer(net(), optimizer=optim.SGD(1e-3), callbacks=[Spoil(), stop])
    trainer.fit(X, Y, epochs=20, validation=(X, Y), verbose=False)
    assert stop.best_epoch == 2 and stop.stopped_epoch == 4 == trainer.epoch
    assert ss.fingerprint(trainer.net) == prints[1] != prints[3]


def test_early_stopping_goes_on_after_resume(tmp_path) -> None:
    def trainer(stop):
        return ss.Trainer(net(), optimizer=optim.SGD(0.0), callbacks=[stop], checkpoint=tmp_path / "run.safetensors")

    trainer(callbacks.EarlyStopping("loss", patience=3)).fit(X, Y, epochs=2, batch_size=60, verbose=False)
    resumed = trainer(callbacks.EarlyStopping("loss", patience=3))
    resumed.fit(X, Y, epochs=9, batch_size=60, verbose=False, resume=True)
    assert resumed.epoch == 4  # nothing ever gets better: epochs 2, 3, 4


def test_model_checkpoint_keeps_the_best(tmp_path) -> None:
    keep = callbacks.ModelCheckpoint(tmp_path / "best-{epoch}.safetensors", monitor="loss")
    trainer = ss.Trainer(net(), optimizer=optim.SGD(0.1), callbacks=keep)
    trainer.fit(X, Y, epochs=3, verbose=False)
    other = net()
    other.load(keep.saved)
    assert keep.saved.endswith(f"best-{keep.best_epoch}.safetensors")
    assert keep.best == min(trainer.history["loss"])
    always = callbacks.ModelCheckpoint(tmp_path / "all-{epoch}-{loss:.3f}.safetensors", "loss", save_best_only=False)
    ss.Trainer(net(), optimizer=optim.SGD(0.1), callbacks=always).fit(X, Y, epochs=3, verbose=False)
    assert len(list(tmp_path.glob("all-*"))) == 3
    with pytest.raises(ValueError, match="filled in"):
        callbacks.ModelCheckpoint(tmp_path / "{nothing}", "loss").on_epoch_end(trainer, 1, {"loss": 0.5})


def test_csv_logger(tmp_path) -> None:
    path = tmp_path / "log.csv"
    trainer = ss.Trainer(net(), optimizer=optim.SGD(0.1), metrics="accuracy", callbacks=callbacks.CSVLogger(path))
    trainer.fit(X, Y, epochs=3, verbose=False)
    rows = list(csv.DictReader(path.open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["loss"]) for row in rows] == trainer.history["loss"]
    assert {"accuracy", "seconds"} <= set(rows[0])
    trainer.callbacks = [callbacks.CSVLogger(path, append=True)]
    trainer.fit(X, Y, epochs=1, verbose=False)
    assert len(list(csv.DictReader(path.open()))) == 4


def test_functions_and_the_order_of_events() -> None:
    seen = []
    events = callbacks.LambdaCallback(
        on_fit_begin=lambda trainer: seen.append("fit"),
        on_epoch_begin=lambda trainer, epoch: seen.append(f"begin {epoch}"),
        on_epoch_end=lambda trainer, epoch, logs: seen.append(f"end {epoch}"),
        on_fit_end=lambda trainer: seen.append("done"),
    )
    ss.Trainer(net(), callbacks=[events, lambda trainer, epoch, logs: epoch < 2]).fit(X, Y, epochs=5, verbose=False)
    assert seen == ["fit", "begin 1", "end 1", "begin 2", "end 2", "done"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: callbacks.EarlyStopping(mode="up"), ValueError, "mode"),
        (lambda: callbacks.EarlyStopping(patience=-1), ValueError, "patience"),
        (lambda: callbacks.LambdaCallback(on_epoch_end=3), TypeError, "on_epoch_end"),
        (
            lambda: ss.Trainer(net(), callbacks=callbacks.EarlyStopping()).fit(X, Y, verbose=False),
            ValueError,
            "val_loss",
        ),
    ],
)
def test_arguments_are_checked(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()
