"""Recurrent networks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .. import functional as F
from .. import init
from .._stored import empty
from ..functional.dropouts import check_probability
from ..functional.recurrent import scan, step
from ..module import Module
from ._base import count, switched_off

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


class _Weights(Module):
    """What networks and cells share: parameters of gates * hidden_size rows."""

    _gates: ClassVar[int]
    bias: bool
    hidden_size: int

    def _register(self, suffix: str, features: int) -> None:
        rows = self._gates * self.hidden_size
        for name, shape in (("weight_ih", (rows, features)), ("weight_hh", (rows, self.hidden_size))):
            self.register_parameter(name + suffix, empty(shape))
        for name in ("bias_ih", "bias_hh"):
            if self.bias:
                self.register_parameter(name + suffix, empty((rows,)))
            elif not suffix:  # torch's cells know their absent biases, its networks do not
                self.register_parameter(name, None)

    def _weights(self, suffix: str) -> list[Any]:
        return [self._parameters.get(name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]

    def reset_parameters(self) -> None:
        """Draws new initial values, uniform in +-1/sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)


def _check_nonlinearity(value: str, name: str) -> str:
    if value not in ("tanh", "relu"):
        raise ValueError(f"{name}: nonlinearity must be 'tanh' or 'relu', not {value!r}")
    return value


class _Recurrent(_Weights):
    _op: ClassVar[str]
    _memory: ClassVar[bool] = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = count(input_size, f"{name}: input_size")
        self.hidden_size = count(hidden_size, f"{name}: hidden_size")
        self.num_layers = count(num_layers, f"{name}: num_layers")
        if not batch_first:
            raise ValueError(
                f"{name}: batch_first must be True: the batch axis comes first everywhere in samestep, "
                f"x has the shape (samples, steps, {self.input_size})"
            )
        if proj_size:
            raise ValueError(f"{name}: proj_size is not supported; a Linear layer after it projects its output")
        self.bias, self.batch_first, self.bidirectional = bool(bias), True, bool(bidirectional)
        self.proj_size = 0
        self.dropout = check_probability(dropout, name)
        self._suffixes = [
            [f"_l{layer}", f"_l{layer}_reverse"][: 1 + self.bidirectional] for layer in range(self.num_layers)
        ]
        for layer, suffixes in enumerate(self._suffixes):
            for suffix in suffixes:
                self._register(suffix, self.hidden_size * len(suffixes) if layer else self.input_size)
        self.reset_parameters()

    def _attrs(self) -> dict[str, float]:
        return {}

    def _check(self, x: Any, states: list[Any]) -> None:
        name, prefix = type(self).__name__, x.trace._prefix()
        if x.ndim != 3 or x.sample_shape[1] != self.input_size:
            raise ValueError(f"{prefix}{name} takes inputs of shape (samples, steps, {self.input_size}), not {x.shape}")
        wanted = (self.num_layers * (1 + self.bidirectional), self.hidden_size)
        for state in states:
            if state.sample_shape != wanted:
                raise ValueError(
                    f"{prefix}{name}: initial states have the shape (samples, {wanted[0]}, {wanted[1]}), the batch "
                    f"first, not {state.shape}"
                )

    def _run(self, x: Any, states: list[Any], lengths: Any) -> tuple[Any, list[Any]]:
        """The output and the last states."""
        self._check(x, states)
        last: list[list[Any]] = []
        for layer, suffixes in enumerate(self._suffixes):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, not switched_off(self))
            outputs = []
            for direction, suffix in enumerate(suffixes):
                place = len(last)
                first = [state[:, place] for state in states]
                attrs = {"reverse": direction, **self._attrs()}
                made = scan(self._op, x, self._weights(suffix), first, self._memory, lengths, attrs)
                outputs.append(made[0])
                last.append(list(made[1:]))
            x = F.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
        return x, [F.cat([part.unsqueeze(1) for part in parts], 1) for parts in zip(*last, strict=True)]

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        output, (h_n,) = self._run(x, [] if hx is None else [hx], lengths)
        return output, h_n

    def extra_repr(self) -> str:
        options = [f"{self.input_size}, {self.hidden_size}"]
        for name, usual in (("num_layers", 1), ("bias", True), ("dropout", 0.0), ("bidirectional", False)):
            if getattr(self, name) != usual:
                options.append(f"{name}={getattr(self, name)}")
        return ", ".join(options)


_SHAPES = """

    x: (samples, steps, input_size), the batch first: batch_first=False raises ValueError. hx, and the last states
    that come back, have the shape (samples, num_layers * directions, hidden_size), the batch first as well, where
    torch puts it second; layer by layer, in each forward then reverse. hx=None: zeros. lengths: (samples,) whole
    numbers, the steps that count of each sample: past them the output is 0 and the state stays, as with torch's packed
    sequences, and the reverse direction begins at the last step that counts. They come straight from an input of the
    network. x must be finite there too.

    Parameters: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, and so on for further layers, with _reverse for the
    reverse direction; all start uniform in +-1/sqrt(hidden_size). dropout: between layers, in training.
    """


class RNN(_Recurrent):
    __doc__ = (
        """Simple recurrent network: h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu with
    nonlinearity="relu". Returns (output, h_n): (samples, steps, directions * hidden_size) and the last states."""
        + _SHAPES
    )
    _op, _gates = "rnn", 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        self.nonlinearity = _check_nonlinearity(nonlinearity, "RNN")

    def _attrs(self) -> dict[str, float]:
        return {"nonlinearity": self.nonlinearity == "relu"}

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class GRU(_Recurrent):
    __doc__ = (
        """Gated recurrent units (Cho et al., 2014), with the reset gate after the product as in torch. Returns
    (output, h_n): (samples, steps, directions * hidden_size) and the last states. The rows of the weights are the gates
    r, z, n."""
        + _SHAPES
    )
    _op, _gates = "gru", 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)


class LSTM(_Recurrent):
    __doc__ = (
        """Long short-term memory (Hochreiter and Schmidhuber, 1997). Returns (output, (h_n, c_n)): (samples, steps,
    directions * hidden_size) and the last states; hx is a pair (h_0, c_0). The rows of the weights are the gates
    i, f, g, o. proj_size must be 0."""
        + _SHAPES
    )
    _op, _gates, _memory = "lstm", 4, True

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        output, (h_n, c_n) = self._run(x, _pair(hx, "LSTM"), lengths)
        return output, (h_n, c_n)


def _pair(hx: Any, name: str) -> list[Any]:
    if hx is None:
        return []
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise ValueError(f"{name}: hx must be a pair (h_0, c_0)")
    return list(hx)


class _Cell(_Weights):
    _op: ClassVar[str]
    _memory: ClassVar[bool] = False

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = count(input_size, f"{name}: input_size")
        self.hidden_size = count(hidden_size, f"{name}: hidden_size")
        self.bias = bool(bias)
        self._register("", self.input_size)
        self.reset_parameters()

    def _attrs(self) -> dict[str, float]:
        return {}

    def _run(self, x: Any, states: list[Any]) -> list[Any]:
        name, prefix = type(self).__name__, x.trace._prefix()
        if x.sample_shape != (self.input_size,):
            raise ValueError(f"{prefix}{name} takes inputs of shape (samples, {self.input_size}), not {x.shape}")
        for state in states:
            if state.sample_shape != (self.hidden_size,):
                raise ValueError(
                    f"{prefix}{name}: states have the shape (samples, {self.hidden_size}), not {state.shape}"
                )
        return step(self._op, x, self._weights(""), states, self._memory, self._attrs())

    def forward(self, x: Any, hx: Any = None) -> Any:
        return self._run(x, [] if hx is None else [hx])[0]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step of RNN: x (samples, input_size) and hx (samples, hidden_size), or None for zeros, give the next state."""

    _op, _gates = "rnn", 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh") -> None:
        super().__init__(input_size, hidden_size, bias)
        self.nonlinearity = _check_nonlinearity(nonlinearity, "RNNCell")

    def _attrs(self) -> dict[str, float]:
        return {"nonlinearity": self.nonlinearity == "relu"}

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class GRUCell(_Cell):
    """One step of GRU: x (samples, input_size) and hx (samples, hidden_size), or None for zeros, give the next state."""

    _op, _gates = "gru", 3


class LSTMCell(_Cell):
    """One step of LSTM: x (samples, input_size) and hx = (h, c), each (samples, hidden_size), or None for zeros, give the
    next (h, c)."""

    _op, _gates, _memory = "lstm", 4, True

    def forward(self, x: Any, hx: Any = None) -> Any:
        h, c = self._run(x, _pair(hx, "LSTMCell"))
        return h, c
