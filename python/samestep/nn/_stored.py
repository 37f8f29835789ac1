"""Parameters and buffers: named arrays that live in Python until a network is compiled, and in the core's arena from
then on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core, _trace
from .._arrays import as_array, as_float
from .._random import next_stream

Array = npt.NDArray[Any]
_SYMBOLIC = (
    "{} cannot be turned into numbers while a network is traced: use the operators of samestep.nn.functional on it"
)


_ON_VALUES = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power}


class Stored:
    """What Parameter and Buffer share.

    The values are drawn at their first use: under MPI rank 0 draws and the others receive, unless they look before.
    """

    _kind = "stored array"

    def __init__(self, data: npt.ArrayLike) -> None:
        array = as_array(data, f"data of {self._kind}")
        wanted = array.dtype if array.dtype.kind in "iub" and self._kind == "buffer" else np.dtype(np.float32)
        self._shape = array.shape
        self._dtype = wanted
        self._value: Array | None = np.array(
            as_float(array, f"data of {self._kind}") if wanted == np.float32 else array, dtype=wanted, order="C"
        )
        self._recipe: tuple[Any, ...] | None = None
        self._model: _core.Model | None = None
        self._name = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def ndim(self) -> int:
        return len(self._shape)

    def numel(self) -> int:
        """Number of elements."""
        return int(np.prod(self._shape, dtype=np.int64))

    @property
    def size(self) -> int:
        return self.numel()

    @property
    def data(self) -> Array:
        """A read-only view of the values. Assign to it (`p.data = array`), or to a part of the parameter (`p[0] = 1`),
        to change them."""
        if self._model is not None:
            return self._model.get(self._name)
        view = self._drawn().view()
        view.flags.writeable = False
        return view

    @data.setter
    def data(self, value: npt.ArrayLike) -> None:
        array = (
            as_float(value, "data")
            if self._dtype == np.float32
            else np.asarray(as_array(value, "data"), dtype=self._dtype)
        )
        if array.shape != self._shape:
            raise ValueError(f"data must have the shape {self._shape}, but has {array.shape}")
        if self._model is not None:
            self._model.set(self._name, array)
        else:
            self._value = np.array(array, order="C")
        self._recipe = None

    def numpy(self) -> Array:
        """A copy of the values."""
        return np.array(self.data)

    def copy_(self, value: npt.ArrayLike) -> Stored:
        """Takes over the values of an array, which is broadcast to the shape. Returns self."""
        self.data = np.broadcast_to(as_array(value, "value"), self._shape)
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if _trace.active() is not None:
            raise TypeError(_SYMBOLIC.format(f"A {self._kind}"))
        if copy or (dtype is not None and dtype != self._dtype):
            return np.array(self.data, dtype=dtype)
        return self.data

    def __getitem__(self, index: Any) -> Any:
        if _trace.active() is not None:  # a part of a parameter: the batch axis of a tensor comes first
            position = index if isinstance(index, tuple) else (index,)
            place: tuple[Any, ...] = (slice(None), *position)
            return self._tensor()[place]
        return self.data[index]

    def __setitem__(self, index: Any, value: npt.ArrayLike) -> None:
        array = self.numpy()
        array[index] = value
        self.data = array

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError(f"len() of a {self._kind} without axes")
        return self._shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self._shape}, data=\n{np.array2string(self.data, threshold=60, edgeitems=2)})"

    # Arithmetic outside of a network works on the values, as with an array; inside forward it is part of the network.
    def _compute(self, name: str, a: Any, b: Any) -> Any:
        if _trace.active() is not None or isinstance(a, _trace.Tensor) or isinstance(b, _trace.Tensor):
            return _trace._function(name)(a, b)
        return _ON_VALUES[name](np.asarray(a), np.asarray(b))

    def __add__(self, other: Any) -> Any:
        return self._compute("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._compute("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._compute("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._compute("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._compute("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._compute("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._compute("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._compute("div", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._compute("pow", self, other)

    def __neg__(self) -> Any:
        return self._compute("mul", self, np.float32(-1))

    def __getattr__(self, name: str) -> Any:
        """Inside forward a parameter has the functions of a tensor: self.weight.exp(), self.mask.reshape(...)."""
        if (
            not name.startswith("_")
            and _trace.active() is not None
            and hasattr(_trace.Tensor, name) | (name in _trace._METHODS)
        ):
            return getattr(self._tensor(), name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _tensor(self) -> Any:
        """The values once for every sample, as a tensor of the network that is being traced."""
        trace = _trace.active()
        assert trace is not None
        return trace.expand(self, self._shape)

    # --- for the package

    def _draw_later(self, recipe: tuple[Any, ...]) -> None:
        """recipe: ("uniform", seed, stream, low, high), ("normal", seed, stream, mean, std) or ("constant", value)."""
        if self._model is not None:
            self._value, model, self._model = None, self._model, None
            self._recipe = recipe
            values = self._drawn()
            self._model, self._value = model, None
            model.set(self._name, values)
        self._value, self._recipe = None, recipe

    def _drawn(self) -> Array:
        if self._value is None:
            assert self._recipe is not None
            kind, *rest = self._recipe
            if kind == "constant":
                self._value = np.full(self._shape, rest[0], dtype=self._dtype)
            else:
                flat = np.empty(self.numel(), dtype=np.float32)
                (_core.fill_uniform if kind == "uniform" else _core.fill_normal)(flat, *rest)
                self._value = flat.reshape(self._shape)
        return self._value

    def _source(self) -> str:
        """A text that is equal where the values are equal: how they are drawn, or a hash of their bits."""
        if self._recipe is not None and self._model is None:
            return repr(self._recipe)
        return hashlib.sha256(np.ascontiguousarray(self.data).tobytes()).hexdigest()

    def _bind(self, model: _core.Model, name: str) -> None:
        self._model, self._name, self._value, self._recipe = model, name, None, None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the values and belong to no compiled network."""
        state = dict(self.__dict__)
        if self._model is not None:
            state["_value"] = self.numpy()
        state["_model"], state["_name"] = None, ""
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Stored:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(self.__getstate__())
        if twin._value is not None:
            twin._value = twin._value.copy()
        return twin


class Parameter(Stored):
    """An array that training changes: assign one to an attribute of a Module and it is registered.

    Parameters: data: array-like, copied as float32; requires_grad: False keeps the values fixed.
    """

    _kind = "parameter"

    def __init__(self, data: npt.ArrayLike, requires_grad: bool = True) -> None:
        super().__init__(data)
        self.requires_grad = bool(requires_grad)


class Buffer(Stored):
    """An array that belongs to the state of a network but is no parameter: running statistics, fixed tables. float32,
    or whole numbers as given."""

    _kind = "buffer"


def empty(shape: tuple[int, ...]) -> Parameter:
    """A parameter whose values an init function is about to give."""
    parameter = Parameter.__new__(Parameter)
    parameter._shape, parameter._dtype, parameter._value = tuple(shape), np.dtype(np.float32), None
    parameter._recipe, parameter._model, parameter._name, parameter.requires_grad = ("constant", 0.0), None, "", True
    return parameter


def draw(target: Stored, kind: str, first: float, second: float) -> Stored:
    """Lets `target` be drawn from the next stream."""
    target._draw_later((kind, *next_stream(), float(first), float(second)))
    return target


class StepCounter(Buffer):
    """A whole number that grows by one with every training step of the compiled network."""

    def _follow(self, model: _core.Model) -> None:
        self._value, self._counted = self.numpy(), (model, int(model.step))

    @property
    def data(self) -> Array:
        """The count so far, as an array without axes."""
        counted = self.__dict__.get("_counted")
        value = self._drawn()
        if counted is not None:
            value = value + np.int64(counted[0].step - counted[1])
        view = np.array(value, dtype=np.int64)
        view.flags.writeable = False
        return view

    @data.setter
    def data(self, value: npt.ArrayLike) -> None:
        array = np.asarray(as_array(value, "data"), dtype=np.int64)
        if array.shape != self._shape:
            raise ValueError(f"data must have the shape {self._shape}, but has {array.shape}")
        self._value = array.copy()
        if "_counted" in self.__dict__:
            self._counted = (self._counted[0], int(self._counted[0].step))

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_value"] = self.numpy()
        state.pop("_counted", None)
        return state
