"""Cases of operators against PyTorch: values, gradients of all inputs and of all parameters, in training mode.

A file test_oracle_FAMILY.py makes `cases = Cases({operator: tolerance})`, adds cases, and ends with
`test_operator = cases.test()`. How a case works: `oracle.Probe` makes the inputs parameters, so one training step
through the public API yields the gradient of each input of each sample. The loss is the sum of squares of output minus
target. PyTorch computes the same twice, in float32 and in float64.

Errors are relative to the largest element of PyTorch's array. Tolerances are about four times what was measured
(AVX-512, both witnesses); the core's bits do not change from machine to machine, PyTorch's may.
test_every_operator_has_a_case (test_oracle_ops.py) fails for an operator that no file covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

import oracle
import samestep as ss
from samestep import nn

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")

LOSS_TOLERANCE = 4e-6
"""Of the loss of one step, relative. The squares of a sample take 16 interleaved accumulators; samples of a lane follow
in a chain."""


class Case(NamedTuple):
    """ours and theirs: a module, a class of modules with arguments, or a function of tensors; arrays: shapes of the
    inputs with the batch."""

    op: str
    label: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    scale: float = 1.0


class Ours(nn.Module):
    """A function with parameters of given shapes, as a module."""

    def __init__(self, function: Any, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for number, shape in enumerate(shapes):
            self.register_parameter(f"p{number}", nn.Parameter(oracle.grid(shape, 7 * number + 3)))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self._parameters.values())


class Theirs(torch.nn.Module):
    def __init__(self, function: Any, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for number, shape in enumerate(shapes):
            self.register_parameter(f"p{number}", torch.nn.Parameter(torch.zeros(shape)))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self._parameters.values())


def arrays_of(item: Case) -> list[np.ndarray]:
    return [
        oracle.grid(shape, 10**6 * (number + 1)) * np.float32(item.scale) for number, shape in enumerate(item.shapes)
    ]


def ready(item: Case) -> Any:
    """Our module, with parameters that PyTorch's default does not make plain."""
    ss.manual_seed(5)
    net = item.ours()
    for number, (name, parameter) in enumerate(net.named_parameters()):
        if name in ("weight", "bias") and parameter.ndim == 1:
            parameter.data = 1 + oracle.grid(parameter.shape, 99 + number) / 4
    return net


def compare(item: Case, dtype: Any, tolerance: float) -> dict[str, float]:
    """Errors of one case by array, against PyTorch in one precision."""
    arrays, net = arrays_of(item), ready(item)
    twin = item.theirs().to(dtype)
    twin.load_state_dict({name: torch.as_tensor(value) for name, value in net.state_dict().items()})
    inputs = [torch.tensor(array, dtype=dtype, requires_grad=True) for array in arrays]
    output = twin.train()(*inputs)
    target = oracle.grid(tuple(output.shape), 5 * 10**6)
    loss = ((output - torch.tensor(target, dtype=dtype)) ** 2).sum()
    loss.backward()

    eager = ready(item).train()(*arrays)
    found = oracle.probe(net, arrays, nn.MSELoss("sum"), target)
    assert item.op in found["operators"], f"the case runs {found['operators']}, not {item.op}"
    errors = {
        "loss": oracle.distance(found["loss"], loss.detach()) * tolerance / LOSS_TOLERANCE,
        "output": oracle.distance(eager, output.detach()),
    }
    for number, x in enumerate(inputs):
        errors[f"gradient of input {number}"] = oracle.distance(found[f"input{number}"], x.grad)
    theirs = dict(twin.named_parameters())
    assert set(found["parameters"]) == set(theirs)
    for name, parameter in theirs.items():
        errors[f"gradient of {name}"] = oracle.distance(found["parameters"][name], parameter.grad)
    for name, buffer in twin.named_buffers():
        errors[name] = oracle.distance(found["buffers"][name], buffer)
    return errors


class Cases:
    """The cases of a file. tolerance: by operator; elsewhere: operators that other tests of the file compare."""

    everywhere: ClassVar[list[Cases]] = []

    def __init__(self, tolerance: Mapping[str, float], elsewhere: Iterable[str] = ()) -> None:
        self.tolerance, self.elsewhere = dict(tolerance), set(elsewhere)
        self.items: list[Case] = []
        Cases.everywhere.append(self)

    def case(
        self, op: str, label: str, shapes: Any, ours: Callable[[], Any], theirs: Callable[[], Any], scale: float = 1.0
    ) -> None:
        self.items.append(Case(op, label, shapes if isinstance(shapes[0], tuple) else (shapes,), ours, theirs, scale))

    def layer(self, op: str, name: str, shape: Any, *arguments: Any, scale: float = 1.0, **options: Any) -> None:
        """A layer that both libraries have, with the same arguments."""
        text = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in options.items())])
        self.case(
            op,
            f"{name}({text}) of {shape}",
            shape,
            lambda: getattr(nn, name)(*arguments, **options),
            lambda: getattr(torch.nn, name)(*arguments, **options),
            scale,
        )

    def function(
        self,
        op: str,
        label: str,
        shapes: Any,
        ours: Any,
        theirs: Any = None,
        parameters: tuple[tuple[int, ...], ...] = (),
        scale: float = 1.0,
    ) -> None:
        """A function of tensors and parameters; `theirs` is the same text where both libraries read alike."""
        other = ours if theirs is None else theirs
        self.case(op, label, shapes, lambda: Ours(ours, *parameters), lambda: Theirs(other, *parameters), scale)

    def covered(self) -> set[str]:
        return {item.op for item in self.items} | self.elsewhere

    def test(self) -> Any:
        """The test of all cases; assign it to a name that begins with test_, after the last case."""
        names = [
            f"{item.op}-{item.label}" + (f", scale {item.scale:g}" if item.scale != 1 else "") for item in self.items
        ]

        @pytest.mark.oracle
        @pytest.mark.parametrize("item", self.items, ids=names)
        def test_operator(item: Case) -> None:
            for dtype in (torch.float32, torch.float64):
                errors = compare(item, dtype, self.tolerance[item.op])
                assert max(errors.values()) <= self.tolerance[item.op], (dtype, errors)

        return test_operator
