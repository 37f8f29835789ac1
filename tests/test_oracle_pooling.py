"""Pooling over one to three axes, interpolation and pixel shuffling against PyTorch, and what they refuse."""

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

pytestmark = pytest.mark.oracle

cases = Cases(
    {
        "adaptive_avg_pool2d": 1e-6,
        "adaptive_max_pool2d": 1e-6,
        "avg_pool2d": 1e-6,
        "max_pool2d": 1e-6,
        "pixel_shuffle": 1e-6,
        "upsample": 4e-6,
    }
)

LINE, IMAGE, VOLUME = (7, 3, 13), (7, 3, 8, 11), (5, 3, 6, 5, 7)

for _options in [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": (4,), "stride": (3,), "padding": (2,), "ceil_mode": True},
]:
    cases.layer("max_pool2d", "MaxPool1d", LINE, **_options)
    cases.layer("avg_pool2d", "AvgPool1d", LINE, **_options)
    cases.layer("avg_pool2d", "AvgPool1d", LINE, count_include_pad=False, **_options)
cases.layer("max_pool2d", "MaxPool1d", LINE, 3, dilation=2, padding=1, stride=1)
for _options in [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (1, 3, 2), "stride": (2, 1, 3), "padding": (0, 1, 1), "ceil_mode": True},
]:
    cases.layer("max_pool2d", "MaxPool3d", VOLUME, **_options)
    cases.layer("avg_pool2d", "AvgPool3d", VOLUME, **_options)
    cases.layer("avg_pool2d", "AvgPool3d", VOLUME, count_include_pad=False, **_options)
cases.layer("max_pool2d", "MaxPool3d", VOLUME, 2, dilation=(2, 1, 3), stride=1)
cases.layer("avg_pool2d", "AvgPool2d", IMAGE, 3, 2, divisor_override=5)
cases.layer("avg_pool2d", "AvgPool3d", VOLUME, 2, divisor_override=3)
for _size in (1, 4, 17, None):
    cases.layer("adaptive_avg_pool2d", "AdaptiveAvgPool1d", LINE, _size or 13)
    cases.layer("adaptive_max_pool2d", "AdaptiveMaxPool1d", LINE, _size or 13)
    cases.layer("adaptive_avg_pool2d", "AdaptiveAvgPool3d", VOLUME, (_size, 2, 3))
    cases.layer("adaptive_max_pool2d", "AdaptiveMaxPool3d", VOLUME, (2, _size, 3))
cases.layer("adaptive_avg_pool2d", "Upsample", IMAGE, size=(3, 4), mode="area")

for _options in [{"size": 29}, {"size": 5}, {"scale_factor": 2}, {"scale_factor": 2.7}, {"scale_factor": 0.6}]:
    cases.layer("upsample", "Upsample", LINE, **_options)
    for _align in (False, True):
        cases.layer("upsample", "Upsample", LINE, mode="linear", align_corners=_align, **_options)
for _options in [
    {"size": (16, 22)}, {"size": 5}, {"size": (3, 29)}, {"scale_factor": 2}, {"scale_factor": (1.7, 0.45)}, {"scale_factor": 3},
    {"scale_factor": 1.7, "recompute_scale_factor": True},
]:  # fmt: skip
    cases.layer("upsample", "Upsample", IMAGE, **_options)
    for _align in (None, False, True):
        cases.layer("upsample", "Upsample", IMAGE, mode="bilinear", align_corners=_align, **_options)
for _options in [{"size": (7, 9, 4)}, {"scale_factor": 2}, {"scale_factor": (0.6, 1.3, 2.2)}]:
    cases.layer("upsample", "Upsample", VOLUME, **_options)
    for _align in (False, True):
        cases.layer("upsample", "Upsample", VOLUME, mode="trilinear", align_corners=_align, **_options)
cases.layer("upsample", "Upsample", (5, 3, 1, 1), size=(4, 3), mode="bilinear")
cases.layer("upsample", "Upsample", IMAGE, size=1, mode="bilinear", align_corners=True)
cases.layer("upsample", "UpsamplingNearest2d", IMAGE, scale_factor=2)
cases.layer("upsample", "UpsamplingBilinear2d", IMAGE, scale_factor=2)
cases.function(
    "upsample", "between convolutions", IMAGE, lambda x, w: F.conv2d(F.interpolate(F.conv2d(x, w), scale_factor=2, mode="bilinear"), w),
    lambda x, w: TF.conv2d(TF.interpolate(TF.conv2d(x, w), scale_factor=2, mode="bilinear"), w), parameters=((3, 3, 3, 3),),
)  # fmt: skip

cases.layer("pixel_shuffle", "PixelShuffle", (7, 12, 3, 4), 2)
cases.layer("pixel_shuffle", "PixelShuffle", (7, 18, 3, 4), 3)
cases.layer("pixel_shuffle", "PixelUnshuffle", (7, 5, 6, 9), 3)
cases.function(
    "pixel_shuffle", "there and back", (7, 8, 4, 6), lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2) * 2.0, 2),
    lambda x: TF.pixel_unshuffle(TF.pixel_shuffle(x, 2) * 2.0, 2),
)  # fmt: skip

test_operator = cases.test()


@pytest.mark.parametrize("factor", [None, 1.3, 2.0, 1 / 3, 0.7, 49.0 / 41])
def test_nearest_takes_pytorchs_neighbour(factor: float | None) -> None:
    """Which neighbour is taken depends on one rounding, which is PyTorch's."""
    for size in range(1, 60):
        x = np.arange(size, dtype=np.float32)[None, None]
        for out in range(1, 130, 1) if factor is None else (0,):
            if factor is not None and int(size * factor) < 1:
                continue
            options: dict[str, Any] = {"size": out} if factor is None else {"scale_factor": factor}
            if factor is None and (out * 7 + size) % 23:
                continue  # a part of all pairs
            ours, theirs = F.interpolate(x, **options), TF.interpolate(torch.tensor(x), **options).numpy()
            assert ours.shape == theirs.shape and (ours == theirs).all(), (size, options)


def test_nan_and_ties() -> None:
    x = np.array([[[1, np.nan, 0, 2, 2, np.nan, np.nan, -1]]], np.float32)
    np.testing.assert_array_equal(F.max_pool1d(x, 2), [[[np.nan, 2, np.nan, np.nan]]])
    np.testing.assert_array_equal(F.max_pool1d(x[..., 2:5], 3), [[[2]]])
    tie = nn.MaxPool1d(3)
    found = oracle.probe(tie, [np.full((1, 1, 3), 2, np.float32)], nn.MSELoss("sum"), np.zeros((1, 1, 1), np.float32))
    np.testing.assert_array_equal(found["input0"], [[[4, 0, 0]]])
    cube = np.full((1, 1, 2, 2, 2), 2, np.float32)
    found = oracle.probe(nn.MaxPool3d(2), [cube], nn.MSELoss("sum"), np.zeros((1, 1, 1, 1, 1), np.float32))
    np.testing.assert_array_equal(found["input0"].ravel(), [4, 0, 0, 0, 0, 0, 0, 0])


def test_functions_on_arrays() -> None:
    x = oracle.grid(VOLUME)
    assert F.max_pool3d(x, 2).shape == (5, 3, 3, 2, 3) and F.avg_pool3d(x, (1, 2, 2)).shape == (5, 3, 6, 2, 3)
    assert F.adaptive_avg_pool3d(x, (None, 1, 2)).shape == (5, 3, 6, 1, 2)
    assert F.upsample(x[:, :, 0], scale_factor=2).shape == (5, 3, 10, 14)
    assert np.allclose(F.adaptive_avg_pool3d(x, 1)[..., 0, 0, 0], x.mean((2, 3, 4)), atol=1e-6)


def test_refusals() -> None:
    line, image = oracle.grid(LINE), oracle.grid(IMAGE)
    bad: list[tuple[Any, type[Exception], str]] = [
        (lambda: F.max_pool1d(image, 2), ValueError, "max_pool1d takes a tensor of 3 axes"),
        (lambda: F.avg_pool3d(image, 2), ValueError, "avg_pool3d takes a tensor of 5 axes"),
        (lambda: F.max_pool1d(line, (2, 2)), TypeError, "kernel_size"),
        (lambda: F.max_pool1d(line, 14), ValueError, "does not fit"),
        (lambda: F.max_pool1d(line, 2, padding=2), ValueError, "more than half"),
        (lambda: F.max_pool1d(line, 2, return_indices=True), ValueError, "return_indices"),
        (lambda: F.avg_pool2d(image, 2, divisor_override=0), ValueError, "divisor_override"),
        (lambda: nn.MaxPool3d(2, return_indices=True), ValueError, "return_indices"),
        (lambda: nn.AdaptiveMaxPool1d(2, return_indices=True), ValueError, "return_indices"),
        (lambda: nn.MaxPool1d(0), ValueError, "kernel_size"),
        (lambda: F.adaptive_avg_pool1d(line, 0), ValueError, "output_size"),
        (lambda: F.adaptive_avg_pool1d(image, 2), ValueError, "adaptive_avg_pool1d takes"),
        (lambda: F.interpolate(image), ValueError, "either size or scale_factor"),
        (lambda: F.interpolate(image, 4, 2), ValueError, "either size or scale_factor"),
        (lambda: F.interpolate(image, 4, mode="bicubic"), ValueError, "mode"),
        (lambda: F.interpolate(image, 4, mode="linear"), ValueError, "does not fit"),
        (lambda: F.interpolate(line, 4, mode="bilinear"), ValueError, "does not fit"),
        (lambda: F.interpolate(image, 4, align_corners=True), ValueError, "align_corners"),
        (lambda: F.interpolate(image, 0), ValueError, "size"),
        (lambda: F.interpolate(image, scale_factor=-1), ValueError, "scale_factor"),
        (lambda: F.interpolate(image, scale_factor=0.01), ValueError, "scale_factor"),
        (lambda: F.interpolate(image, scale_factor=(2, 2, 2)), ValueError, "scale_factor"),
        (lambda: F.interpolate(image, 4, mode="bilinear", antialias=True), ValueError, "antialias"),
        (nn.Upsample, ValueError, "either size or scale_factor"),
        (lambda: F.pixel_shuffle(image, 2), ValueError, "multiple"),
        (lambda: F.pixel_unshuffle(image, 3), ValueError, "multiples"),
        (lambda: F.pixel_shuffle(image, 0), ValueError, "upscale_factor"),
    ]
    for call, error, text in bad:
        with pytest.raises(error, match=text):
            call()
