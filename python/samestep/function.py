"""`ss.Function`: forward and backward of a layer, written in NumPy by the user, inside a compiled plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _trace
from ._trace import Tensor

__all__ = ["Function"]


class Function:
    """A user's own layer in NumPy. Subclass it, write `forward` and `backward`, and call an object of it inside a
    network's `forward`, on tensors and parameters:

        class Cube(ss.Function):
            def forward(self, x):
                return x**3

            def backward(self, grad, x):
                return 3 * x**2 * grad

    Both are called for the samples of one lane at a time, never for more or fewer, so their results do not depend on
    ranks, threads or lanes_at_once; they must not depend on anything but their arguments. Arrays are float32: tensors
    (samples, ...), parameters whole. An exception, or an array of a wrong shape, ends the step before anything is
    updated, and is raised on every rank, with its traceback.
    """

    def forward(self, *inputs: Any) -> Any:
        """The output, (samples, ...), of the inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(self, grad: Any, *inputs: Any) -> Any:
        """The gradients of the inputs, one for each, in order (a tuple where there are several), given the gradient of
        the output. None stands for zeros. That of a parameter is the sum over the samples at hand."""
        raise NotImplementedError(f"{type(self).__name__} must define backward")

    def output_shape(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one sample's output. shapes: those of the inputs, of one sample, or of the whole parameter. The
        default runs forward on zeros."""
        raise NotImplementedError

    def __call__(self, *inputs: Any) -> Any:
        trace = _trace.active()
        if trace is None:
            from . import _eager

            return _eager.call(self, inputs)
        if not inputs:
            raise trace.error(f"{type(self).__name__} needs an input")
        shape = self._shape(trace, inputs)
        if len(shape) > 6:
            raise trace.error(
                f"{type(self).__name__}: the output of a sample has {len(shape)} axes; at most 6 are possible"
            )
        attrs: dict[str, float] = {"id": len(trace.functions), "rank": len(shape)}
        attrs.update({f"d{number}": extent for number, extent in enumerate(shape)})
        trace.functions.append(_Call(self, trace.layer or type(self).__name__))
        return trace.emit("function", inputs, attrs)

    def _shape(self, trace: _trace.Trace, inputs: tuple[Any, ...]) -> tuple[int, ...]:
        shapes = [item.sample_shape if isinstance(item, Tensor) else tuple(np.shape(item)) for item in inputs]
        try:
            return tuple(int(extent) for extent in self.output_shape(*shapes))
        except NotImplementedError:
            pass
        zeros = [
            np.zeros((2, *shape) if isinstance(item, Tensor) else shape, np.float32)
            for item, shape in zip(inputs, shapes, strict=True)
        ]
        with np.errstate(all="ignore"):
            output = np.asarray(self.forward(*zeros))
        if output.ndim < 1 or output.shape[0] != 2:
            raise trace.error(
                f"{type(self).__name__}: forward of 2 samples returned an array of shape {output.shape}; "
                "the first axis must be the samples"
            )
        return output.shape[1:]


class _Call:
    """One use of a function in a network: what the core calls."""

    def __init__(self, function: Function, layer: str) -> None:
        self._function, self._layer = function, layer

    def _forward(self, *inputs: Any) -> Any:
        return self._function.forward(*inputs)

    def _backward(self, grad: Any, inputs: tuple[Any, ...]) -> Any:
        return self._function.backward(grad, *inputs)
