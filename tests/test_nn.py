"""Modules, layers and losses: registration, state, initial values, and agreement with PyTorch."""
# ruff: noqa: E501

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import samestep as ss
from samestep import nn
from samestep.nn import functional as F


class Residual(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.more = nn.ModuleList([nn.Identity(), nn.ReLU()])

    def forward(self, x):
        y = self.norm(self.conv(x))
        for module in self.more:
            y = module(y)
        return x + y


def small() -> nn.Sequential:
    ss.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Residual(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))


def images(n: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1, 8, 8)).astype(np.float32)


def test_registration():
    net = small()
    assert [name for name, _ in net.named_parameters()] == [
        "0.weight", "0.bias", "1.conv.weight", "1.norm.weight", "1.norm.bias", "4.weight", "4.bias",
    ]  # fmt: skip
    assert list(net.state_dict())[3:8] == [
        "1.norm.weight", "1.norm.bias", "1.norm.running_mean", "1.norm.running_var", "1.norm.num_batches_tracked",
    ]  # fmt: skip
    assert net.state_dict()["1.norm.num_batches_tracked"].dtype == np.int64
    assert [type(module).__name__ for module in net.children()] == [
        "Conv2d",
        "Residual",
        "MaxPool2d",
        "Flatten",
        "Linear",
    ]
    assert net.get_submodule("1.more.1") is net[1].more[1]
    net.eval()
    assert not any(module.training for module in net.modules())
    seen = []
    net.apply(seen.append)
    assert seen[-1] is net and len(seen) == len(list(net.modules()))


def test_assignment_needs_init():
    class Forgot(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 2)

    with pytest.raises(AttributeError, match=r"super\(\).__init__"):
        Forgot()


def test_attributes_can_be_replaced():
    net = small()
    net[0].bias = None
    assert net[0].bias is None and "0.bias" not in net.state_dict()
    net.extra = nn.Linear(2, 2)
    net.extra = 5
    assert net.extra == 5 and "extra.weight" not in net.state_dict()


def test_containers():
    parts = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), act=nn.ReLU(), last=nn.Linear(4, 2)))
    assert list(parts.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert isinstance(parts[:2], nn.Sequential) and list(parts[:2]._modules) == ["first", "act"]
    assert parts[-1] is parts.last and len(parts) == 3
    with pytest.raises(IndexError):
        parts[3]
    with pytest.raises(TypeError, match="holds modules"):
        nn.Sequential(F.relu)
    numbered = nn.ModuleList([nn.Linear(1, 1)]).append(nn.ReLU()).extend([nn.Tanh()])
    numbered.insert(0, nn.Identity())
    del numbered[1]
    assert [type(module).__name__ for module in numbered] == ["Identity", "ReLU", "Tanh"]
    named = nn.ModuleDict({"a": nn.Linear(1, 2)})
    named["b"] = nn.ReLU()
    assert list(named) == ["a", "b"] and "a" in named and named.pop("b") is not None and len(named) == 1


def test_shared_parameters_count_once():
    first = nn.Linear(4, 4)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = first.weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "2.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    twin = copy.deepcopy(net)
    assert twin[2].weight is twin[0].weight and twin[0].weight is not first.weight
    assert net(np.ones((2, 4), np.float32)).shape == (2, 4)


def test_state_travels():
    net, other = small(), small()
    for parameter in other.parameters():
        parameter.data = parameter.numpy() + 1
    assert ss.fingerprint(net) != ss.fingerprint(other)
    assert other.load_state_dict(net.state_dict()) == ([], [])
    assert ss.fingerprint(net) == ss.fingerprint(other)
    assert ss.fingerprint(pickle.loads(pickle.dumps(net))) == ss.fingerprint(net)
    state = net.state_dict()
    state["0.weight"][...] = 7  # a copy
    assert ss.fingerprint(net) == ss.fingerprint(other)


def test_load_is_all_or_nothing():
    net = small()
    before = ss.fingerprint(net)
    state = {name: value + 1 for name, value in net.state_dict().items()}
    del state["0.bias"]
    state["spare"] = np.zeros(3)
    state["4.weight"] = np.zeros((10, 65))
    with pytest.raises(ss.CheckpointError) as caught:
        net.load_state_dict(state)
    for part in (
        "missing: 0.bias",
        "unexpected: spare",
        "4.weight has the shape (10, 65) in the state and (10, 64) in the network",
    ):
        assert part in str(caught.value)
    assert ss.fingerprint(net) == before


def test_not_strict_names_what_was_passed_over():
    net = small()
    state = net.state_dict()
    del state["0.bias"]
    state["spare"] = np.zeros(3)
    assert net.load_state_dict(state, strict=False) == (["0.bias"], ["spare"])


def test_values_are_read_only_and_assignable():
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.data[0] = 1
    layer.weight[0] = 1
    assert (layer.weight[0] == 1).all() and not (layer.weight[1] == 1).any()
    layer.weight = np.full((2, 3), 4.0)
    assert isinstance(layer.weight, nn.Parameter) and (layer.weight.data == 4).all()
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        layer.weight.data = np.zeros((3, 2))
    assert (np.asarray(layer.weight + 1) == 5).all() and (layer.weight * np.float32(2) == 8).all()


def test_initial_values_follow_the_seed():
    ss.manual_seed(5)
    a, b = nn.Linear(7, 9), nn.Linear(7, 9)
    ss.manual_seed(5)
    c = nn.Linear(7, 9)
    assert ss.fingerprint(a) == ss.fingerprint(c) != ss.fingerprint(b)
    ss.manual_seed(6)
    assert ss.fingerprint(nn.Linear(7, 9)) != ss.fingerprint(a)
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match="seed"):
            ss.manual_seed(wrong)
    with pytest.raises(TypeError, match="seed"):
        ss.manual_seed(0.5)


@pytest.mark.parametrize(
    ("layer", "bound"), [(nn.Linear(400, 300), 400**-0.5), (nn.Conv2d(8, 64, 5, groups=2), (4 * 25) ** -0.5)]
)
def test_default_distribution(layer, bound):
    for values in (layer.weight.numpy().ravel(), layer.bias.numpy()):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
        assert abs(values.mean()) < 4 * bound / np.sqrt(3 * len(values))
    values = layer.weight.numpy().ravel()
    assert abs(values.std() / (bound / np.sqrt(3)) - 1) < 0.02
    # Uniform: every tenth of the range holds a tenth of the values.
    shares = np.histogram(values, bins=10, range=(-bound, bound))[0] / len(values)
    assert np.abs(shares - 0.1).max() < 0.015


def test_init_functions():
    parameter = nn.Parameter(np.zeros((200, 100)))
    for function, std in [
        (lambda p: nn.init.kaiming_normal_(p, nonlinearity="relu"), np.sqrt(2 / 100)),
        (nn.init.xavier_uniform_, np.sqrt(2 / 300)),
        (nn.init.xavier_normal_, np.sqrt(2 / 300)),
        (lambda p: nn.init.normal_(p, 1.0, 0.5), 0.5),
        (lambda p: nn.init.uniform_(p, -1, 1), 1 / np.sqrt(3)),
    ]:
        function(parameter)
        assert abs(parameter.numpy().std() / std - 1) < 0.03
    assert (nn.init.ones_(parameter).numpy() == 1).all() and (nn.init.zeros_(parameter).numpy() == 0).all()
    with pytest.raises(ValueError, match="two axes"):
        nn.init.kaiming_uniform_(nn.Parameter(np.zeros(3)))


def test_arguments_are_checked():
    for make, error, text in [
        (lambda: nn.Linear(0, 3), ValueError, "in_features"),
        (lambda: nn.Linear(2.5, 3), TypeError, "in_features"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "groups"),
        (lambda: nn.Conv2d(3, 4, 3, padding="half"), ValueError, "padding"),
        (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), ValueError, "same"),
        (lambda: nn.Dropout(1.5), ValueError, "p must"),
        (lambda: nn.GELU("fast"), ValueError, "approximate"),
        (lambda: nn.BatchNorm1d(3, momentum=2), ValueError, "momentum"),
        (lambda: nn.CrossEntropyLoss(reduction="none"), ValueError, "reduction"),
        (lambda: nn.CrossEntropyLoss(weight=[1, -1]), ValueError, "weight"),
        (lambda: nn.CrossEntropyLoss(label_smoothing=2), ValueError, "label_smoothing"),
    ]:
        with pytest.raises(error, match=text):
            make()


def test_shape_errors_name_the_layer():
    net = nn.Sequential(nn.Flatten(), nn.Linear(65, 10))
    with pytest.raises(ValueError, match=r"layer '1'.*\(10, 65\)"):
        net(images())


def test_dropout_modes():
    layer = nn.Dropout(0.25)
    x = np.ones((50, 400), np.float32)
    y = layer(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / np.float32(0.75))}
    assert abs((y == 0).mean() - 0.25) < 0.02
    assert (layer.eval()(x) == x).all()
    whole = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    whole[0].eval(), whole[1].eval()
    assert (whole(x) == x).all()


def test_eager_batch_norm_updates_its_statistics():
    layer = nn.BatchNorm1d(3)
    x = np.random.default_rng(0).normal(2, 3, size=(64, 3)).astype(np.float32)
    y = layer(x)
    assert np.allclose(y.mean(0), 0, atol=1e-5) and np.allclose(y.std(0), 1, atol=1e-3)
    assert np.allclose(layer.running_mean.data, 0.1 * x.mean(0), rtol=1e-4)
    assert np.allclose(layer.running_var.data, 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-4)
    assert layer.num_batches_tracked.data == 1
    before = ss.fingerprint(layer)
    layer.eval()(x)
    assert ss.fingerprint(layer) == before


def test_summary_and_display():
    net = small()
    table = str(net.summary((1, 8, 8)))
    assert (
        "(B, 4, 4, 4)" in table
        and "(B, 10)" in table
        and f"{sum(p.numel() for p in net.parameters())} parameters" in table
    )
    assert "1.conv" in table
    assert "Conv2d(1, 4, kernel_size=(3, 3)" in repr(net) and "(more): ModuleList" in repr(net)
    assert "<table>" in net._repr_html_() and "<table>" in net.summary((1, 8, 8))._repr_html_()
    assert len(net.state_dict()) == 10


def test_functions_on_arrays():
    x = images()
    assert np.allclose(F.relu(x), np.maximum(x, 0))
    assert F.max_pool2d(x, 2).shape == (6, 1, 4, 4)
    weight, bias = np.ones((3, 64), np.float32), np.arange(3, dtype=np.float32)
    assert np.allclose(F.linear(x.reshape(6, 64), weight, bias), x.reshape(6, 64) @ weight.T + bias, atol=1e-4)
    assert np.allclose(F.softmax(x, dim=-1).sum(-1), 1, atol=1e-6)
    assert F.adaptive_avg_pool2d(x, (None, 2)).shape == (6, 1, 8, 2)
    assert F.flatten(x, 1).shape == (6, 64) and ss.cat([x, x], dim=1).shape == (6, 2, 8, 8)
    assert F.relu(x[:0]).shape == (0, 1, 8, 8)


torch = None
try:
    import torch
except ImportError:
    pass
oracle = [pytest.mark.oracle, pytest.mark.skipif(torch is None, reason="PyTorch is not installed")]


class TestTorch:
    pytestmark = oracle

    @staticmethod
    def pairs():
        t = torch.nn
        image, flat = (5, 6, 9, 11), (7, 12)
        return [
            (nn.Linear(12, 5), t.Linear(12, 5), flat),
            (nn.Linear(11, 5, bias=False), t.Linear(11, 5, bias=False), image),
            (nn.Conv2d(6, 8, 3), t.Conv2d(6, 8, 3), image),
            (nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0)), t.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0)), image),
            (nn.Conv2d(6, 9, 3, padding=2, dilation=2, groups=3, bias=False), t.Conv2d(6, 9, 3, padding=2, dilation=2, groups=3, bias=False), image),
            (nn.Conv2d(6, 4, 5, padding="same"), t.Conv2d(6, 4, 5, padding="same"), image),
            (nn.Conv2d(6, 4, 1, padding="valid"), t.Conv2d(6, 4, 1, padding="valid"), image),
            (nn.MaxPool2d(2), t.MaxPool2d(2), image),
            (nn.MaxPool2d(3, 2, 1, ceil_mode=True), t.MaxPool2d(3, 2, 1, ceil_mode=True), image),
            (nn.AvgPool2d((3, 2), padding=1, count_include_pad=False), t.AvgPool2d((3, 2), padding=1, count_include_pad=False), image),
            (nn.AdaptiveAvgPool2d((4, None)), t.AdaptiveAvgPool2d((4, None)), image),
            (nn.AdaptiveMaxPool2d(3), t.AdaptiveMaxPool2d(3), image),
            (nn.BatchNorm1d(12), t.BatchNorm1d(12), flat),
            (nn.BatchNorm2d(6, affine=False), t.BatchNorm2d(6, affine=False), image),
            (nn.Flatten(), t.Flatten(), image), (nn.Flatten(2), t.Flatten(2), image),
            (nn.ReLU(), t.ReLU(), flat), (nn.LeakyReLU(0.2), t.LeakyReLU(0.2), flat), (nn.Sigmoid(), t.Sigmoid(), flat), (nn.Tanh(), t.Tanh(), flat),
            (nn.GELU(), t.GELU(), flat), (nn.GELU("tanh"), t.GELU("tanh"), flat), (nn.SiLU(), t.SiLU(), flat),
            (nn.Softmax(1), t.Softmax(1), image), (nn.LogSoftmax(-1), t.LogSoftmax(-1), image), (nn.Identity(), t.Identity(), flat),
        ]  # fmt: skip

    @pytest.mark.parametrize("number", range(26))
    @pytest.mark.parametrize("training", [True, False])
    def test_layers(self, number, training):
        ours, theirs, shape = self.pairs()[number]
        ours.load_state_dict(theirs.state_dict())
        ours.train(training), theirs.train(training)
        x = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours(x), expected, rtol=2e-4, atol=2e-5)
        state = theirs.state_dict()
        assert set(state) == set(ours.state_dict())
        for name, value in ours.state_dict().items():
            np.testing.assert_allclose(value, state[name].numpy(), rtol=1e-5, atol=1e-6)

    def test_there_is_a_case_for_each(self):
        assert len(self.pairs()) == 26

    @pytest.mark.parametrize(
        "options",
        [{}, {"label_smoothing": 0.2}, {"reduction": "sum"}, {"weight": [0.5, 1, 2, 0.1]}, {"ignore_index": 2}],
    )
    @pytest.mark.parametrize("shape", [(9, 4), (5, 4, 3)])
    def test_cross_entropy(self, options, shape):
        rng = np.random.default_rng(0)
        scores = rng.normal(size=shape).astype(np.float32)
        labels = rng.integers(0, 4, size=shape[:1] + shape[2:])
        theirs = dict(options)
        if "weight" in theirs:
            theirs["weight"] = torch.tensor(theirs["weight"])
        expected = torch.nn.CrossEntropyLoss(**theirs)(torch.from_numpy(scores), torch.from_numpy(labels)).item()
        assert nn.CrossEntropyLoss(**options)(scores, labels) == pytest.approx(expected, rel=1e-5)
        moved = np.moveaxis(scores, 1, -1)
        assert nn.CrossEntropyLoss(**options, axis=-1)(moved, labels) == pytest.approx(expected, rel=1e-5)

    def test_soft_targets_and_mse(self):
        rng = np.random.default_rng(0)
        scores, chances = rng.normal(size=(6, 5)).astype(np.float32), rng.dirichlet(np.ones(5), 6).astype(np.float32)
        expected = torch.nn.functional.cross_entropy(torch.from_numpy(scores), torch.from_numpy(chances)).item()
        assert nn.CrossEntropyLoss()(scores, chances) == pytest.approx(expected, rel=1e-5)
        for reduction in ("mean", "sum"):
            expected = torch.nn.functional.mse_loss(
                torch.from_numpy(scores), torch.from_numpy(chances), reduction=reduction
            ).item()
            assert F.mse_loss(scores, chances, reduction) == pytest.approx(expected, rel=1e-5)

    def test_files_travel_both_ways(self, tmp_path):
        from safetensors.torch import load_file, save_file

        t = torch.nn
        theirs = t.Sequential(t.Conv2d(1, 4, 3), t.BatchNorm2d(4), t.ReLU(), t.Flatten(), t.Linear(144, 3))
        ours = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
        ours.save(tmp_path / "a.safetensors")
        theirs.load_state_dict(load_file(tmp_path / "a.safetensors"), strict=True)
        theirs.eval()
        x = images()
        np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
        for parameter in theirs.parameters():
            parameter.data.mul_(1.5)
        save_file(theirs.state_dict(), tmp_path / "b.safetensors")
        ours.load(tmp_path / "b.safetensors")
        np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)

    def test_training_follows_theirs(self):
        """Ten steps of each optimizer from the same values."""
        t = torch.nn
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(24, 10)).astype(np.float32), rng.integers(0, 3, 24)
        for ours_make, theirs_make in [
            (lambda: ss.optim.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
            (lambda: ss.optim.Adam(0.01, betas=(0.8, 0.99), weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.99), weight_decay=0.1)),
            (lambda: ss.optim.AdamW(0.01, amsgrad=True), lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True)),
        ]:  # fmt: skip
            theirs = t.Sequential(t.Linear(10, 16, bias=False), t.BatchNorm1d(16), t.Tanh(), t.Linear(16, 3))
            ours = nn.Sequential(nn.Linear(10, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))
            ours.load_state_dict(theirs.state_dict())
            plan = ss.compile(ours, optimizer=ours_make(), batch_size=24)
            optimizer = theirs_make(theirs.parameters())
            for _ in range(10):
                optimizer.zero_grad()
                loss = t.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
                loss.backward()
                optimizer.step()
                assert plan.step(x, y) == pytest.approx(loss.item(), rel=1e-3, abs=1e-5)
            for name, value in ours.state_dict().items():
                np.testing.assert_allclose(value, theirs.state_dict()[name].numpy(), rtol=2e-3, atol=2e-4, err_msg=name)
