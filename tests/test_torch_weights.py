"""Weights written by PyTorch as safetensors are read by every layer that has parameters, and the outputs agree."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samestep import nn

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed (the extra 'oracles')")

pytestmark = pytest.mark.oracle

# class: arguments, options, shape of the input (None: whole numbers below 7)
LAYERS: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {
    "Linear": ((5, 4), {}, (3, 5)),
    "Bilinear": ((5, 4, 3), {}, ((3, 5), (3, 4))),
    "Embedding": ((7, 4), {}, None),
    "Conv1d": ((4, 6, 3), {"groups": 2}, (3, 4, 9)),
    "Conv2d": ((4, 6, 3), {"groups": 2}, (3, 4, 9, 8)),
    "Conv3d": ((4, 6, 3), {"groups": 2}, (3, 4, 5, 6, 7)),
    "ConvTranspose1d": ((4, 6, 3), {"groups": 2}, (3, 4, 9)),
    "ConvTranspose2d": ((4, 6, 3), {"groups": 2}, (3, 4, 9, 8)),
    "ConvTranspose3d": ((4, 6, 3), {"groups": 2}, (3, 4, 3, 4, 5)),
    "BatchNorm1d": ((4,), {}, (3, 4, 9)),
    "BatchNorm2d": ((4,), {}, (3, 4, 5, 6)),
    "BatchNorm3d": ((4,), {}, (3, 4, 2, 3, 4)),
    "InstanceNorm1d": ((4,), {"affine": True}, (3, 4, 9)),
    "InstanceNorm2d": ((4,), {"affine": True}, (3, 4, 5, 6)),
    "InstanceNorm3d": ((4,), {"affine": True}, (3, 4, 2, 3, 4)),
    "GroupNorm": ((2, 4), {}, (3, 4, 5)),
    "LayerNorm": (((4, 5),), {}, (3, 4, 5)),
    "RMSNorm": ((5,), {}, (3, 4, 5)),
    "PReLU": ((4,), {}, (3, 4, 5)),
    "RNN": ((4, 5), {"num_layers": 2, "bidirectional": True, "batch_first": True}, (3, 6, 4)),
    "GRU": ((4, 5), {"num_layers": 2, "bidirectional": True, "batch_first": True}, (3, 6, 4)),
    "LSTM": ((4, 5), {"num_layers": 2, "bidirectional": True, "batch_first": True}, (3, 6, 4)),
    "RNNCell": ((4, 5), {}, (3, 4)),
    "GRUCell": ((4, 5), {}, (3, 4)),
    "LSTMCell": ((4, 5), {}, (3, 4)),
    "MultiheadAttention": ((8, 2), {"batch_first": True}, ((3, 6, 8),) * 3),
    "TransformerEncoderLayer": ((8, 2, 16), {"batch_first": True}, (3, 6, 8)),
    "TransformerDecoderLayer": ((8, 2, 16), {"batch_first": True}, ((3, 6, 8), (3, 5, 8))),
    "SyncBatchNorm": ((4,), {}, (3, 4, 5, 6)),
}
OURS = {
    "GPTBlock": "PyTorch has no such layer; its parts are Linear and LayerNorm",
    "SelfAttention": "part of GPTBlock",
}


def classes() -> set[str]:
    """Layers of samestep.nn that have parameters, found by making each with the arguments of the table or none."""
    found = set()
    for name, item in vars(nn).items():
        if not (inspect.isclass(item) and issubclass(item, nn.Module)) or name.startswith("_"):
            continue
        needed = [
            p for p in list(inspect.signature(item.__init__).parameters.values())[1:]
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        ]  # fmt: skip
        if name not in LAYERS and name not in OURS and len(needed) > 3:
            found.add(name)  # to be named in a table
            continue
        arguments, options, _ = LAYERS.get(name, ((2,) * len(needed), {}, None))
        if name in OURS:
            continue
        try:
            layer = item(*arguments, **options)
        except (TypeError, ValueError, AttributeError):
            continue  # a container or a function's wrapper: no layer with weights of its own
        if list(layer.parameters()):
            found.add(name)
    return found


def test_every_layer_with_parameters_is_covered() -> None:
    assert classes() <= set(LAYERS) | set(OURS)


@pytest.mark.parametrize("name", [name for name in LAYERS if hasattr(nn, name)])
def test_weights_from_torch(name: str, tmp_path: Path) -> None:
    arguments, options, shapes = LAYERS[name]
    torch.manual_seed(3)
    theirs = getattr(torch.nn, name)(*arguments, **options).eval()
    with torch.no_grad():
        for tensor in [*theirs.parameters(), *theirs.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.1)
    files.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = getattr(nn, name)(*arguments, **options).eval()
    ours.load(tmp_path / "theirs.safetensors")

    generator = np.random.default_rng(5)
    if shapes is None:
        inputs = [generator.integers(0, 7, (3, 4))]
    else:
        each = shapes if isinstance(shapes[0], tuple) else (shapes,)
        inputs = [generator.normal(size=shape).astype(np.float32) for shape in each]
    with torch.no_grad():
        expected = theirs(*map(torch.tensor, inputs))
    made = ours(*inputs)
    while isinstance(expected, tuple):
        expected, made = expected[0], made[0]
    np.testing.assert_allclose(made, expected.numpy(), rtol=2e-5, atol=2e-5)
