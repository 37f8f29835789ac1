"""Every operator leaves as ONNX: the cases that are compared with PyTorch, exported, computed by onnxruntime, and read back."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samestep import _core, nn
from samestep.nn import functional as F

pytest.importorskip("torch", reason="the cases are those against PyTorch (the extra 'oracles')")
pytest.importorskip("onnx", reason="ONNX files need the package onnx")
runtime = pytest.importorskip("onnxruntime", reason="the witness is onnxruntime")

from oracle_cases import Case, Cases, arrays_of, ready  # noqa: E402
from samestep import onnx as files  # noqa: E402

pytestmark = pytest.mark.oracle

for _family in (
    "activations",
    "arithmetic",
    "attention",
    "convolutions",
    "normalizations",
    "ops",
    "pooling",
    "recurrent",
    "reductions",
    "shapes",
):
    importlib.import_module(f"test_oracle_{_family}")

NOT_IN_A_NETWORK = {
    "accuracy", "confusion", "top_k_accuracy",
    "bce_loss", "bce_with_logits", "cross_entropy", "ctc_loss", "hinge_embedding", "huber_loss", "kl_div", "l1_loss",
    "mean_loss", "mse", "multi_margin", "nll_loss", "poisson_nll", "smooth_l1_loss", "soft_margin",
    "alpha_dropout", "dropout", "feature_dropout", "stochastic_depth",  # left out in evaluation
    "bf16_round", "relayout",  # inserted when a network is compiled
    "function",  # a user's own NumPy
}  # fmt: skip
"""Operators of training, and those that a traced network does not hold."""

WITHOUT_CASE = {"cast", "constant_index", "embedding", "expand", "gather", "one_hot"}
"""Compared by test_whole_numbers and the GPT block of test_onnx.py."""


def exported(item: Case, folder: Path) -> set[str]:
    """The operators of a case, when it agrees with onnxruntime; ValueError where export() refuses."""
    net, arrays = ready(item).eval(), arrays_of(item)
    files.export(net, folder / "net.onnx", example=tuple(arrays) if len(arrays) > 1 else arrays[0])
    session = runtime.InferenceSession(str(folder / "net.onnx"), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for batch in (len(arrays[0]), 2):
        given = [array[:batch] for array in arrays]
        theirs = session.run(None, dict(zip(names, given, strict=True)))[0]
        ours = np.asarray(net(*given))
        scale = max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=2e-4, atol=2e-5)
    return {item.op}


def test_every_operator_has_a_counterpart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done: dict[str, int] = {}
    refused: dict[str, set[str]] = {}
    wrong: list[str] = []
    items = [item for group in Cases.everywhere for item in group.items]
    for item in items:
        try:
            for op in exported(item, tmp_path):
                done[op] = done.get(op, 0) + 1
        except ValueError as error:
            refused.setdefault(item.op, set()).add(str(error))
        except Exception as error:
            if "output_padding (1) may be too large for stride" in str(error):
                continue  # allowed by ONNX with a dilation above the stride, not by onnxruntime
            wrong.append(f"{item.op} {item.label}: {type(error).__name__} {' '.join(str(error).split())[:300]}")
    with capsys.disabled():
        agree, refusals = sum(done.values()), sum(map(len, refused.values()))
        print(f"\nONNX export: {agree} cases of {len(done)} operators agree with onnxruntime, {refusals} refused")
    assert not wrong, "\n".join(wrong)
    needed = {entry["name"] for entry in _core.operators()} - NOT_IN_A_NETWORK - WITHOUT_CASE
    assert needed <= set(done), {op: refused.get(op) for op in needed - set(done)}
    page = (Path(__file__).resolve().parent.parent / "docs" / "onnx.md").read_text("utf-8")
    undocumented = {
        label for labels in refused.values() for label in labels
        if not any(re.search(pattern, label) for pattern in re.findall(r"^\| `(.+?)` \|", page, re.M))
    }  # fmt: skip
    assert not undocumented, "\n".join(sorted(undocumented))


class _WholeNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.shift = nn.Embedding(7, 3), nn.Parameter(np.linspace(-1, 1, 5, dtype=np.float32))

    def forward(self, x: Any) -> Any:
        place = (x + self.shift).argmax(1)
        ordered = F.gather(x, 1, F.cat([place.reshape(-1, 1), place.reshape(-1, 1)], 1))
        parts = [F.one_hot(place, 5), self.table(place), (x * 3.0).int().float(), x[:, [4, 0]], ordered]
        return F.cat([*parts, self.shift + 0.0 * x], 1)


def test_whole_numbers(tmp_path: Path) -> None:
    net, x = _WholeNumbers().eval(), np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
    files.export(net, tmp_path / "net.onnx", example=x)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], net(x), rtol=1e-6, atol=1e-6)
