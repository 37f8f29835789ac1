"""ONNX files: other programs compute the same, and what is read back trains further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx_backend
import samestep as ss
from samestep import nn, optim

pytest.importorskip("onnx", reason="ONNX files need the package onnx")

from samestep import onnx as files


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Any) -> Any:
        return (self.conv2(self.norm(self.conv1(x)).relu()) + x).relu()


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer = kind(3, 5, num_layers=2, bidirectional=True)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x)[0])


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(7, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 4), nn.Softmax(1)), (7,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 4),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
        ),
        (3, 8, 8),
    ),
    "residual": (Residual, (3, 6, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM), (6, 3)),
    "gru": (lambda: Recurrent(nn.GRU), (6, 3)),
    "rnn": (lambda: Recurrent(nn.RNN), (6, 3)),
    "gpt": (
        lambda: nn.Sequential(nn.Embedding(11, 8), nn.GPTBlock(8, 4, n_kv_heads=2, rotary=True), nn.Linear(8, 11)),
        (6,),
    ),
}  # fmt: skip


def sample(name: str, batch: int = 4) -> Any:
    generator = np.random.default_rng(3)
    shape = (batch, *NETS[name][1])
    return generator.integers(0, 11, shape) if name == "gpt" else generator.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_computes_the_same(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the witness is onnxruntime")
    ss.manual_seed(1)
    net, x = NETS[name][0](), sample(name)
    files.export(net, tmp_path / "net.onnx", example=x)
    assert net.training
    net.eval()
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 4):  # the batch axis is dynamic
        theirs = session.run(None, {"x": x[:batch]})[0]
        np.testing.assert_allclose(net(x[:batch]), theirs, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(3)

        def forward(self, x: Any) -> Any:
            return self.pool(x)

    with pytest.raises(ValueError, match=r"adaptive_avg_pool2d.*layer 'pool'"):
        files.export(Odd(), tmp_path / "net.onnx", (2, 4, 4))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="either input_shape or example"):
        files.export(Odd(), tmp_path / "net.onnx")


@pytest.mark.parametrize("name", NETS)
def test_what_is_read_back_computes_the_same_and_trains(name: str, tmp_path: Path) -> None:
    ss.manual_seed(1)
    net, x = NETS[name][0](), sample(name)
    files.export(net, tmp_path / "net.onnx", example=x)
    net.eval()
    copy = files.load(tmp_path / "net.onnx")
    copy.eval()
    expected = net(x)
    np.testing.assert_allclose(copy(x), expected, rtol=1e-5, atol=1e-5)
    plan = ss.compile(copy, "mse", optim.SGD(0.01), len(x))
    target = np.zeros_like(expected)
    losses = [plan.step(x, target) for _ in range(6)]
    assert losses[-1] < losses[0]


def test_cases_of_single_operators(capsys: pytest.CaptureFixture[str]) -> None:
    """Every node test of onnx that is not skipped passes; docs/onnx.md names what is skipped, and is current."""
    passed, skipped, failed = onnx_backend.results()
    with capsys.disabled():
        print(f"\nonnx node tests: {len(passed)} pass, {len(skipped)} skipped, {len(failed)} fail")
    assert not failed, "\n".join(failed)
    assert len(passed) >= 1020
    page = (Path(__file__).resolve().parent.parent / "docs" / "onnx.md").read_text("utf-8")
    assert onnx_backend.table(skipped) in page, "docs/onnx.md is not current: python tests/onnx_backend.py docs/onnx.md"
