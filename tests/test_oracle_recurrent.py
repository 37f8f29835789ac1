"""Recurrent networks and CTC against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from oracle_cases import Cases
from samestep import nn, optim
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")

TOLERANCE = 3e-6
cases = Cases({"rnn": TOLERANCE, "gru": TOLERANCE, "lstm": TOLERANCE}, elsewhere=["ctc_loss"])
KINDS = {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}
PRECISIONS = (torch.float32, torch.float64)


class First(nn.Module):
    """A recurrent layer's output and last states as one array, (samples, steps + states, features)."""

    def __init__(self, name: str, *arguments: Any, states: bool = False, **options: Any) -> None:
        super().__init__()
        self.layer = getattr(nn, name)(*arguments, **options)
        self.states = states

    def forward(self, x: Any, *hx: Any) -> Any:
        output, last = self.layer(x, None if not hx else hx[0] if len(hx) == 1 else hx)
        if not self.states:
            return output
        parts = last if isinstance(last, tuple) else (last,)
        return F.cat([output.flatten(1), *(part.flatten(1) for part in parts)], 1)


class TorchFirst(torch.nn.Module):
    def __init__(self, name: str, *arguments: Any, states: bool = False, **options: Any) -> None:
        super().__init__()
        self.layer = getattr(torch.nn, name)(*arguments, batch_first=True, **options)
        self.states = states

    def forward(self, x: Any, *hx: Any) -> Any:
        turned = [state.transpose(0, 1).contiguous() for state in hx]
        output, last = self.layer(x, None if not hx else turned[0] if len(hx) == 1 else tuple(turned))
        if not self.states:
            return output
        parts = last if isinstance(last, tuple) else (last,)
        return torch.cat([output.flatten(1), *(part.transpose(0, 1).flatten(1) for part in parts)], 1)


def add(name: str, label: str, shapes: Any, *arguments: Any, **options: Any) -> None:
    cases.case(
        KINDS[name],
        f"{name} {label}",
        shapes,
        lambda: First(name, *arguments, **options),
        lambda: TorchFirst(name, *arguments, **options),
        0.5,
    )


for kind in KINDS:
    pairs = 2 if kind == "LSTM" else 1
    add(kind, "of one layer", (5, 7, 3), 3, 4)
    add(kind, "of one step", (4, 1, 3), 3, 4, states=True)
    add(kind, "without bias", (4, 6, 3), 3, 5, bias=False, states=True)
    add(kind, "wide", (19, 9, 20), 20, 33, states=True)
    add(kind, "of three layers", (4, 6, 3), 3, 5, 3, states=True)
    add(kind, "in both directions", (4, 6, 3), 3, 5, bidirectional=True, states=True)
    add(kind, "of two layers in both directions", (4, 6, 3), 3, 5, 2, bidirectional=True, states=True)
    add(kind, "from states", ((4, 6, 3), *[(4, 1, 5)] * pairs), 3, 5, states=True)
    add(
        kind,
        "of two layers in both directions from states",
        ((4, 6, 3), *[(4, 4, 5)] * pairs),
        3, 5, 2, bidirectional=True, states=True,
    )  # fmt: skip
add("RNN", "with relu", (4, 6, 3), 3, 5, 2, nonlinearity="relu", bidirectional=True, states=True)


class Cell(nn.Module):
    def __init__(self, name: str, library: Any, **options: Any) -> None:
        super().__init__()
        self.cell = getattr(library, name)(3, 5, **options)

    def forward(self, x: Any, *hx: Any) -> Any:
        made = self.cell(x, None if not hx else hx[0] if len(hx) == 1 else hx)
        return F.cat(list(made), 1) if isinstance(made, tuple) else made


class TorchCell(torch.nn.Module):
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.cell = getattr(torch.nn, name)(3, 5, **options)

    def forward(self, x: Any, *hx: Any) -> Any:
        made = self.cell(x, None if not hx else hx[0] if len(hx) == 1 else hx)
        return torch.cat(list(made), 1) if isinstance(made, tuple) else made


def add_cell(name: str, states: int, **options: Any) -> None:
    cases.case(
        KINDS[name.removesuffix("Cell")],
        f"{name}({options}) with {states} states",
        ((6, 3), *[(6, 5)] * states),
        lambda: Cell(name, nn, **options),
        lambda: TorchCell(name, **options),
    )


for name, states in (("RNNCell", 1), ("GRUCell", 1), ("LSTMCell", 2)):
    add_cell(name, states)
    add_cell(name, 0)
    add_cell(name, states, bias=False)
add_cell("RNNCell", 1, nonlinearity="relu")

test_operator = cases.test()


# ---- samples of different lengths ----

LENGTHS = np.array([6, 1, 4, 6, 3, 5, 2, 6])


class Packed(nn.Module):
    """Samples are unit vectors, so that the gradient of `input` is that of x."""

    def __init__(self, kind: str, x: np.ndarray, hx: list[np.ndarray], options: dict[str, Any]) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(3, 5, **options)
        for number, array in enumerate([x, *hx]):
            self.register_parameter(f"input{number}", nn.Parameter(array.reshape(len(array), -1).T))
        self.shapes = [array.shape[1:] for array in (x, *hx)]

    def forward(self, unit: Any, lengths: Any) -> Any:
        x, *hx = (
            F.linear(unit, self._parameters[f"input{number}"]).reshape(unit.shape[0], *shape)
            for number, shape in enumerate(self.shapes)
        )
        output, last = self.layer(x, (hx[0] if len(hx) == 1 else tuple(hx)) if hx else None, lengths)
        parts = last if isinstance(last, tuple) else (last,)
        return F.cat([output.flatten(1), *(part.flatten(1) for part in parts)], 1)


@pytest.mark.oracle
@pytest.mark.parametrize("states", [False, True], ids=["zeros", "states"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "both ways twice"])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_packed_sequences(kind: str, options: dict[str, Any], states: bool) -> None:
    places = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    count = (2 if kind == "LSTM" else 1) * states
    x = oracle.grid((8, 6, 3)) / 2
    hx = [oracle.grid((8, places, 5), 1000 * (k + 1)) / 2 for k in range(count)]
    ss.manual_seed(3)
    net = Packed(kind, x, hx, options)
    unit = np.eye(8, dtype=np.float32)
    width = 6 * 5 * (2 if options.get("bidirectional") else 1) + places * 5 * (2 if kind == "LSTM" else 1)
    target = oracle.grid((8, width), 5000)
    plan = ss.compile(net, nn.MSELoss("sum"), optim.SGD(0.0), 8, threads=2)
    loss = plan.step((unit, LENGTHS), target)
    predicted = plan.predict((unit, LENGTHS))
    for dtype in PRECISIONS:
        twin = getattr(torch.nn, kind)(3, 5, batch_first=True, **options).to(dtype)
        twin.load_state_dict({name: torch.as_tensor(value) for name, value in net.layer.state_dict().items()})
        inputs = [torch.tensor(array, dtype=dtype, requires_grad=True) for array in (x, *hx)]
        first = [state.transpose(0, 1).contiguous() for state in inputs[1:]]
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            inputs[0], torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
        )
        output, last = twin(packed, (first[0] if count == 1 else tuple(first)) if count else None)
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=6)
        parts = last if isinstance(last, tuple) else (last,)
        joined = torch.cat([output.flatten(1), *(part.transpose(0, 1).flatten(1) for part in parts)], 1)
        wanted = ((joined - torch.tensor(target, dtype=dtype)) ** 2).sum()
        wanted.backward()
        errors = {"loss": abs(loss / float(wanted.detach()) - 1), "output": oracle.distance(predicted, joined.detach())}
        for number, item in enumerate(inputs):
            ours = plan.gradients[f"input{number}"].T.reshape(item.shape)
            errors[f"input{number}"] = oracle.distance(ours, item.grad)
        for name, parameter in twin.named_parameters():
            errors[name] = oracle.distance(plan.gradients[f"layer.{name}"], parameter.grad)
        assert max(errors.values()) <= TOLERANCE, (dtype, errors)
    assert not plan.gradients["input0"].T.reshape(8, 6, 3)[1, 1:].any()  # past the length


def test_arrays_at_once_take_lengths_and_states() -> None:
    ss.manual_seed(1)
    layer, x = nn.LSTM(3, 4), oracle.grid((3, 5, 3))
    output, (h, c) = layer(x, lengths=np.array([5, 2, 3]))
    assert output.shape == (3, 5, 4) and h.shape == c.shape == (3, 1, 4)
    assert not output[1, 2:].any() and np.array_equal(h[1, 0], output[1, 1])
    head, state = layer(x[:, :2])
    tail, (end, _) = layer(x[:, 2:], state)
    whole, (wanted, _) = layer(x)
    assert np.array_equal(np.concatenate([head, tail], 1), whole) and np.array_equal(end, wanted)


def test_dropout_acts_between_layers_in_training() -> None:
    ss.manual_seed(1)
    layer, x = nn.GRU(3, 4, 2, dropout=0.5), oracle.grid((3, 5, 3))
    calm = layer.eval()(x)[0]
    assert np.array_equal(calm, layer(x)[0]) and not np.array_equal(calm, layer.train()(x)[0])


def test_same_bits_on_any_number_of_threads_and_lanes_at_once() -> None:
    x, y = oracle.grid((24, 7, 3)), oracle.labels(24, 4)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.gru = nn.RNN(3, 6), nn.GRU(6, 5, bidirectional=True)
            self.lstm, self.head = nn.LSTM(10, 8, 2), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            x, _ = self.rnn(x)
            x, _ = self.gru(x)
            _, (h, _) = self.lstm(x)
            return self.head(h[:, -1])

    for precision in ("fp32", "bf16"):
        found = set()
        for threads, at_once in ((1, None), (2, None), (3, 1), (2, 2)):
            ss.manual_seed(2)
            net = Net()
            plan = ss.compile(
                net, "cross_entropy", optim.SGD(0.1), 24, threads=threads, lanes_at_once=at_once, precision=precision
            )
            losses = tuple(plan.step(x, y) for _ in range(3))
            assert losses[2] < losses[0]
            found.add((losses, ss.fingerprint(net)))
        assert len(found) == 1


def test_openblas_agrees_with_native() -> None:
    x, y = oracle.grid((12, 7, 3)), oracle.grid((12, 7, 5), 100)
    found = []
    for backend in ("native", "openblas"):
        ss.manual_seed(2)
        net = First("LSTM", 3, 5)
        plan = ss.compile(net, "mse", optim.SGD(0.1), 12, backend=backend, threads=2)
        plan.step(x, y)
        found.append({name: np.array(value) for name, value in plan.gradients.items()})
    for name, value in found[0].items():
        assert oracle.distance(found[1][name], value) < TOLERANCE


def test_parameters_have_torchs_names_shapes_and_range() -> None:
    for kind in KINDS:
        ours = getattr(nn, kind)(3, 5, 2, bidirectional=True)
        theirs = getattr(torch.nn, kind)(3, 5, 2, bidirectional=True)
        assert [(n, tuple(p.shape)) for n, p in ours.named_parameters()] == [
            (n, tuple(p.shape)) for n, p in theirs.named_parameters()
        ]
        values = np.concatenate([p.numpy().ravel() for p in ours.parameters()])
        assert 0.4 < np.abs(values).max() <= 5**-0.5
        assert ours.hidden_size == 5 and "num_layers=2" in repr(ours)
        cell, other = getattr(nn, kind + "Cell")(3, 5, bias=False), getattr(torch.nn, kind + "Cell")(3, 5, bias=False)
        assert list(cell.state_dict()) == list(other.state_dict()) and cell.bias_ih is None


def test_errors() -> None:
    for call, text in [
        (lambda: nn.LSTM(3, 4, batch_first=False), "batch_first must be True"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "proj_size"),
        (lambda: nn.GRU(3, 0), "hidden_size"),
        (lambda: nn.GRU(3, 4, dropout=2.0), r"GRU: p must lie in \[0, 1\]"),
        (lambda: nn.RNN(3, 4, nonlinearity="gelu"), "nonlinearity"),
        (lambda: nn.RNNCell(3, 4, nonlinearity="gelu"), "nonlinearity"),
        (lambda: nn.GRU(3, 4)(np.zeros((2, 5, 4), np.float32)), "GRU takes inputs of shape"),
        (lambda: nn.GRU(3, 4)(np.zeros((2, 3), np.float32)), "GRU takes inputs of shape"),
        (lambda: nn.GRU(3, 4)(np.zeros((2, 5, 3), np.float32), np.zeros((2, 2, 4), np.float32)), "initial states"),
        (lambda: nn.LSTM(3, 4)(np.zeros((2, 5, 3), np.float32), np.zeros((2, 1, 4), np.float32)), "a pair"),
        (lambda: nn.GRUCell(3, 4)(np.zeros((2, 4), np.float32)), "GRUCell takes inputs"),
        (lambda: nn.GRUCell(3, 4)(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)), "states have the shape"),
        (lambda: nn.LSTMCell(3, 4)(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)), "a pair"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match="whole numbers"):
        nn.GRU(3, 4)(np.zeros((2, 5, 3), np.float32), lengths=np.array([1.5, 2.0], np.float32))


# ---- CTC ----


def ctc_data(blank: int = 0) -> tuple[np.ndarray, ...]:
    """Logits (9, 12, 6), labels with repeats, lengths; every target fits into its input."""
    labels = oracle.whole_numbers(36, 5, 77).reshape(9, 4)
    labels += labels >= blank
    labels[2] = labels[2, 0]
    return (
        oracle.grid((9, 12, 6)),
        labels,
        np.array([12, 11, 12, 9, 10, 12, 8, 12, 1]),
        np.array([4, 3, 4, 2, 1, 0, 4, 4, 0]),
    )


def torch_ctc(logits: np.ndarray, targets: Any, dtype: Any, **options: Any) -> tuple[float, np.ndarray]:
    x = torch.tensor(logits, dtype=dtype, requires_grad=True)
    log_probs = torch.nn.functional.log_softmax(x, -1).transpose(0, 1)
    loss = torch.nn.CTCLoss(**options)(log_probs, *(torch.tensor(target) for target in targets))
    loss.backward()
    return float(loss.detach()), x.grad.numpy()


@pytest.mark.oracle
@pytest.mark.parametrize("blank", [0, 3, 5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ctc(reduction: str, blank: int) -> None:
    logits, *targets = ctc_data(blank)
    loss = nn.CTCLoss(blank, reduction)
    found = oracle.probe(nn.LogSoftmax(-1), [logits], loss, tuple(targets))
    assert "ctc_loss" in found["operators"]
    log_probs = torch.nn.functional.log_softmax(torch.tensor(logits), -1).numpy()
    for dtype in PRECISIONS:
        wanted, gradient = torch_ctc(logits, targets, dtype, blank=blank, reduction=reduction)
        assert found["loss"] == pytest.approx(wanted, rel=2e-6)
        assert loss(log_probs, *targets) == pytest.approx(wanted, rel=2e-6)
        assert oracle.distance(found["input0"], gradient) < TOLERANCE


def test_ctc_zero_infinity_leaves_out_what_does_not_fit() -> None:
    logits, labels, inputs, counts = ctc_data()
    inputs[[0, 3]] = 2, 1
    log_softmax = nn.LogSoftmax(-1)
    for reduction in ("mean", "sum"):
        found = oracle.probe(log_softmax, [logits], nn.CTCLoss(0, reduction, True), (labels, inputs, counts))
        wanted, gradient = torch_ctc(
            logits, (labels, inputs, counts), torch.float64, reduction=reduction, zero_infinity=True
        )
        assert found["loss"] == pytest.approx(wanted, rel=2e-6)
        assert oracle.distance(found["input0"], gradient) < TOLERANCE
        assert not found["input0"][0].any()
    log_probs = torch.nn.functional.log_softmax(torch.tensor(logits), -1).numpy()
    assert nn.CTCLoss()(log_probs, labels, inputs, counts) == float("inf")


def test_ctc_sample_weights() -> None:
    logits, *targets = ctc_data()
    weights = (oracle.whole_numbers(9, 4, 5) / 2).astype(np.float32)
    log_softmax = nn.LogSoftmax(-1)
    found = oracle.probe(log_softmax, [logits], nn.CTCLoss(), tuple(targets), weights=weights)
    one = [torch_ctc(logits[k : k + 1], [t[k : k + 1] for t in targets], torch.float64)[0] for k in range(9)]
    assert found["loss"] == pytest.approx(np.dot(weights, one) / weights.sum(), rel=2e-6)


def test_ctc_trains_a_recurrent_network() -> None:
    x, labels, inputs, counts = ctc_data()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 16, bidirectional=True), nn.Linear(32, 6)

        def forward(self, x: Any) -> Any:
            return F.log_softmax(self.head(self.lstm(x)[0]), -1)

    ss.manual_seed(0)
    trainer = ss.Trainer(Net(), nn.CTCLoss(), optim.Adam(0.02))
    history = trainer.fit(x, (labels, inputs, counts), epochs=30, batch_size=9, verbose=False)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert trainer.evaluate(x, (labels, inputs, counts))["loss"] < 0.5 * history["loss"][0]


def test_ctc_errors() -> None:
    logits, labels, inputs, counts = ctc_data()
    loss, bad = nn.CTCLoss(), labels.copy()
    bad[0, 1] = 0
    for change, text in [
        ((bad, inputs, counts), "label 1 of sample 0"),
        ((labels, inputs + 10, counts), "length of the input of sample 0"),
        ((labels, inputs, counts + 1), "length of the target of sample 0"),
    ]:
        with pytest.raises(ValueError, match=text):
            loss(logits, *change)
    with pytest.raises(ValueError, match="blank"):
        nn.CTCLoss(6)(logits, labels, inputs, counts)
    with pytest.raises(ValueError, match="reduction"):
        nn.CTCLoss(reduction="none")
    with pytest.raises(ValueError, match="blank"):
        nn.CTCLoss(-1)
    with pytest.raises(TypeError, match="3 targets"):
        loss(logits, labels)
