"""The rate range test: rates, the stop, and that nothing of the caller's changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import samestep as ss
from samestep import nn, optim


def data() -> tuple[Any, Any]:
    generator = np.random.default_rng(3)
    y = generator.integers(0, 3, 300)
    return (generator.normal(size=(300, 8)) + y[:, None]).astype(np.float32), y


def net() -> Any:
    ss.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def test_the_loss_over_growing_rates(tmp_path: Path) -> None:
    x, y = data()
    network, rule = net(), optim.SGD(0.123, momentum=0.9)
    before = ss.fingerprint(network)
    found = ss.rate_range_test(network, "cross_entropy", rule, x, y, low=1e-4, high=100.0, steps=80, verbose=False)
    assert ss.fingerprint(network) == before and rule.lr == 0.123
    assert len(found.rates) == len(found.losses) < 80, "rates of 100 throw the loss up, which ends the test"
    np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e6) / 79, rtol=1e-9)
    assert found.suggestion is not None and 1e-3 < found.suggestion < 3.0
    again = ss.rate_range_test(
        network, "cross_entropy", rule, x, y, low=1e-4, high=100.0, steps=80, verbose=False, threads=1, lanes_at_once=1
    )
    assert again.losses == found.losses
    assert "suggestion" in repr(found)
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 5000


def test_the_suggestion_lies_before_the_least_loss() -> None:
    """What falls back after the loss was thrown up does not count."""
    rates = [float(rate) for rate in np.geomspace(1e-4, 1e2, 120)]
    losses = [1.0 - 0.5 / (1 + np.exp(-4 * np.log10(rate / 1e-2))) + (3.0 if 1 < rate < 3 else 0.0) for rate in rates]
    found = ss.RateRange(rates, losses).suggestion
    assert found is not None and 3e-3 < found < 1e-1


def test_a_loss_that_never_falls_has_no_suggestion() -> None:
    assert ss.RateRange([0.1, 0.2, 0.3], [1.0, 1.0, 1.0]).suggestion is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"low": 1.0, "high": 0.1}, "low=1.0 and high=0.1"),
        ({"steps": 1}, "steps=1"),
        ({"batch_size": 301}, "a batch of 301 from 300 samples"),
        ({"stop": 1.0}, "stop=1.0"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], text: str) -> None:
    x, y = data()
    with pytest.raises(ValueError, match=text):
        ss.rate_range_test(net(), "cross_entropy", optim.SGD(0.1), x, y, verbose=False, **options)
