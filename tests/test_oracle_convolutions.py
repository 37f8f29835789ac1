"""Convolutions and transposed convolutions over one to three axes against PyTorch, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import oracle
from oracle_cases import Cases
from samestep import nn
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
TF = torch.nn.functional

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]
needs_pad = pytest.mark.skipif(not hasattr(F, "pad"), reason="F.pad is not there")

cases = Cases({"conv2d": 3e-6, "conv_transpose": 3e-6})

for _shape, _arguments, _options in [
    ((7, 3, 19), (3, 8, 3), {"padding": 1}),
    ((7, 5, 19), (5, 17, 4), {"stride": 2, "bias": False}),
    ((7, 6, 19), (6, 9, 5), {"dilation": 2, "padding": 4, "groups": 3}),
    ((7, 6, 19), (6, 12, 3), {"groups": 6, "stride": 2}),
    ((7, 3, 19), (3, 4, 4), {"padding": "same"}),
    ((7, 3, 19), (3, 4, 4), {"padding": "same", "dilation": 3}),
    ((7, 3, 19), (3, 4, 4), {"padding": "valid"}),
    ((1, 1, 400), (1, 16, 80), {"stride": 4}),
]:
    cases.layer("conv2d", "Conv1d", _shape, *_arguments, **_options)
for _shape, _arguments, _options in [
    ((7, 4, 8, 9), (4, 6, 4), {"padding": "same"}),
    ((7, 4, 8, 9), (4, 6, (2, 3)), {"padding": "same", "dilation": (3, 2)}),
    ((7, 32, 9, 11), (32, 32, 3), {"groups": 32, "padding": 1}),
    ((7, 35, 9, 11), (35, 35, 3), {"groups": 35, "padding": 1, "stride": 2}),
    ((7, 9, 9, 11), (9, 27, (5, 2)), {"groups": 9, "padding": (2, 1), "dilation": (1, 2), "bias": False}),
    ((7, 2, 9, 11), (2, 40, 3), {"groups": 2, "padding": 1}),
]:
    cases.layer("conv2d", "Conv2d", _shape, *_arguments, **_options)
for _shape, _arguments, _options in [
    ((5, 3, 5, 6, 7), (3, 8, 3), {"padding": 1}),
    ((5, 4, 5, 6, 7), (4, 6, (2, 3, 1)), {"stride": (1, 2, 3), "padding": (1, 0, 0), "bias": False}),
    ((5, 4, 5, 6, 7), (4, 6, 2), {"groups": 2, "dilation": (2, 1, 3)}),
    ((5, 6, 5, 6, 7), (6, 6, 3), {"groups": 6, "padding": 1, "stride": 2}),
    ((5, 3, 5, 6, 7), (3, 4, (2, 3, 4)), {"padding": "same"}),
]:
    cases.layer("conv2d", "Conv3d", _shape, *_arguments, **_options)
for _shape, _arguments, _options in [
    ((7, 5, 9), (5, 4, 3), {}),
    ((7, 5, 9), (5, 4, 4), {"stride": 2, "padding": 1}),
    ((7, 6, 9), (6, 9, 3), {"stride": 3, "output_padding": 2, "groups": 3, "bias": False}),
]:
    cases.layer("conv_transpose", "ConvTranspose1d", _shape, *_arguments, **_options)
for _shape, _arguments, _options in [
    ((7, 5, 4, 6), (5, 4, 3), {}),
    ((7, 16, 4, 6), (16, 8, 2), {"stride": 2}),
    ((7, 5, 4, 6), (5, 17, 4), {"stride": 2, "padding": 1}),
    ((7, 5, 4, 6), (5, 4, (3, 2)), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    ((7, 5, 4, 6), (5, 4, 3), {"dilation": 2, "output_padding": 1}),
    ((7, 5, 4, 6), (5, 4, 2), {"stride": 4}),
    ((7, 6, 4, 6), (6, 4, 3), {"groups": 2, "stride": 2, "bias": False}),
    ((7, 18, 4, 6), (18, 18, 3), {"groups": 18, "stride": 2, "padding": 1, "output_padding": 1}),
]:
    cases.layer("conv_transpose", "ConvTranspose2d", _shape, *_arguments, **_options)
for _shape, _arguments, _options in [
    ((5, 3, 3, 4, 2), (3, 5, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((5, 4, 3, 4, 2), (4, 6, (1, 2, 3)), {"groups": 2, "stride": (1, 2, 1)}),
]:
    cases.layer("conv_transpose", "ConvTranspose3d", _shape, *_arguments, **_options)
cases.function(
    "conv_transpose", "after a convolution", (7, 3, 6, 8), lambda x, w, v: F.conv_transpose2d(F.conv2d(x, w, stride=2), v, stride=2),
    lambda x, w, v: TF.conv_transpose2d(TF.conv2d(x, w, stride=2), v, stride=2), parameters=((5, 3, 2, 2), (5, 3, 2, 2)),
)  # fmt: skip
cases.function(
    "conv2d", "1-d and 2-d in one network", (7, 3, 6, 8),
    lambda x, w, v: F.conv1d(F.conv2d(x, w).reshape(x.shape[0], 5, -1), v, padding=1),
    lambda x, w, v: TF.conv1d(TF.conv2d(x, w).reshape(x.shape[0], 5, -1), v, padding=1), parameters=((5, 3, 3, 3), (4, 5, 3)),
)  # fmt: skip
if hasattr(F, "pad"):
    for _mode in ("reflect", "replicate", "circular"):
        cases.layer("conv2d", "Conv1d", (7, 3, 11), 3, 5, 4, padding=2, padding_mode=_mode)
        cases.layer("conv2d", "Conv2d", (7, 3, 6, 8), 3, 5, 3, padding=(2, 1), padding_mode=_mode)
        cases.layer("conv2d", "Conv2d", (7, 3, 6, 8), 3, 5, 4, padding="same", padding_mode=_mode)
        cases.layer("conv2d", "Conv3d", (5, 3, 4, 5, 6), 3, 5, 3, padding=(1, 0, 2), padding_mode=_mode)

test_operator = cases.test()

IMAGE = oracle.grid((2, 3, 4, 5))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_state_and_display(axes: int, kind: str) -> None:
    name = f"{kind}{axes}d"
    ours, theirs = getattr(nn, name)(6, 4, 3, 2, groups=2), getattr(torch.nn, name)(6, 4, 3, 2, groups=2)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: tuple(value.shape) for key, value in theirs.state_dict().items()
    }
    assert repr(ours) == repr(theirs)
    for key, parameter in theirs.named_parameters():  # both uniform in the same bounds
        bound = float(parameter.detach().abs().max())
        found = float(np.abs(dict(ours.named_parameters())[key].numpy()).max())
        fan = (4 if kind == "ConvTranspose" else 6) // 2 * 3**axes
        assert max(bound, found) <= fan**-0.5, key
        assert key == "bias" or found > 0.8 * fan**-0.5


def test_output_size() -> None:
    for size in [(8, 10), (7, 9), [2, 3, 8, 9]]:
        ours, theirs = nn.ConvTranspose2d(3, 3, 3, 2, 1), torch.nn.ConvTranspose2d(3, 3, 3, 2, 1)
        ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
        wanted = theirs(torch.tensor(IMAGE), output_size=size).detach()
        assert oracle.distance(ours(IMAGE, output_size=size), wanted) <= 3e-6
    for size in [(6, 9), (9, 9), (7,)]:
        with pytest.raises(ValueError, match="output_size"):
            nn.ConvTranspose2d(3, 3, 3, 2, 1)(IMAGE, output_size=size)


def test_nan_reaches_what_reads_it() -> None:
    """Padding taps are multiplications by zero, and a NaN elsewhere does not spread to them."""
    x = np.zeros((1, 20, 5, 5), np.float32)
    x[0, 3, 0, 0] = np.nan
    for groups in (1, 20):
        ours = F.conv2d(x, np.ones((20, 20 // groups, 3, 3), np.float32), padding=1, groups=groups)
        theirs = TF.conv2d(torch.tensor(x), torch.ones(20, 20 // groups, 3, 3), padding=1, groups=groups).numpy()
        assert (np.isnan(ours) == np.isnan(theirs)).all() and np.isnan(ours).sum() == (4 if groups == 20 else 80)


def test_refusals() -> None:
    weight = np.ones((4, 3, 3, 3), np.float32)
    bad: list[tuple[Any, type[Exception], str]] = [
        (lambda: F.conv1d(IMAGE, weight), ValueError, "conv1d: weight must have 3 axes"),
        (lambda: F.conv3d(IMAGE, weight), ValueError, "conv3d: weight must have 5 axes"),
        (lambda: F.conv2d(IMAGE[:, :, 0], weight), ValueError, "weight"),
        (lambda: F.conv2d(IMAGE, weight, stride=(1, 2, 3)), TypeError, "stride"),
        (lambda: F.conv2d(IMAGE, weight, stride=0), ValueError, "stride"),
        (lambda: F.conv2d(IMAGE, weight, padding=-1), ValueError, "padding"),
        (lambda: F.conv2d(IMAGE, weight, padding="half"), ValueError, "padding"),
        (lambda: F.conv1d(IMAGE[:, :, 0], weight[:, :, 0], padding="same", stride=2), ValueError, "same"),
        (lambda: F.conv2d(IMAGE, weight, dilation=2), ValueError, "does not fit"),
        (lambda: F.conv_transpose2d(IMAGE, weight), ValueError, "takes 4 channels"),
        (lambda: F.conv_transpose2d(IMAGE, weight[:3], output_padding=1), ValueError, "output_padding"),
        (lambda: F.conv_transpose2d(IMAGE, weight[:3], padding=9), ValueError, "leaves nothing"),
        (lambda: nn.Conv1d(3, 4, (3, 3)), TypeError, "kernel_size"),
        (lambda: nn.Conv3d(3, 4, 3, groups=2), ValueError, "groups"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, "padding_mode"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), ValueError, "padding_mode"),
        (lambda: nn.ConvTranspose1d(3, 4, 0), ValueError, "kernel_size"),
    ]
    for call, error, text in bad:
        with pytest.raises(error, match=text):
            call()


@needs_pad
@pytest.mark.parametrize(
    ("kind", "arguments"), [("ZeroPad", ()), ("ConstantPad", (0.5,)), ("ReflectionPad", ()), ("ReplicationPad", ()), ("CircularPad", ())]
)  # fmt: skip
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_padding_layers(kind: str, arguments: tuple[float, ...], axes: int) -> None:
    x = oracle.grid((2, 3, *(4, 5, 6)[:axes]))
    for padding in (2, tuple([1, 2, 3, 0, 2, 1][: 2 * axes])):
        ours = getattr(nn, f"{kind}{axes}d")(padding, *arguments)(x)
        assert (ours == getattr(torch.nn, f"{kind}{axes}d")(padding, *arguments)(torch.tensor(x)).numpy()).all()
