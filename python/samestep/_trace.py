"""Tracing: `forward` runs once on symbolic tensors, and what it does to them becomes the core's graph."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import _core

if TYPE_CHECKING:
    from .nn._stored import Stored
    from .nn.module import Module

_local = threading.local()
_Result = TypeVar("_Result")

_MOVES = {
    "broadcast_to", "concat", "flatten", "gather", "index_select", "pad", "permute", "reshape", "slice",
}  # fmt: skip
"""Operators that move elements of their first input and change none."""


class NeedsInteger(Exception):
    """An input of the network is used as indices, so its values must arrive as whole numbers: trace again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"input '{name}' must hold whole numbers")
        self.name = name


def retraced(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """For a function that traces a network: runs it again, with int32 inputs where indices are needed."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> _Result:
        before: frozenset[str] = getattr(_local, "integers", frozenset())
        _local.integers = frozenset()
        try:
            while True:
                try:
                    return function(*args, **options)
                except NeedsInteger as need:
                    if need.name in _local.integers:
                        raise
                    _local.integers |= {need.name}
        finally:
            _local.integers = before

    return wrapper


def active() -> Trace | None:
    """The trace that runs in this thread."""
    return getattr(_local, "trace", None)


class Batch:
    """The size of the batch while a network is traced: `B, C, H, W = x.shape` gives one. It may be passed on to reshape
    and view; it has no value yet."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, (int, np.integer)) and not isinstance(other, bool) and other > 0:
            return Batch(self.factor * int(other))
        return NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, (int, np.integer)) and other > 0 and self.factor % other == 0:
            return Batch(self.factor // int(other))
        return NotImplemented

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) and other.factor == self.factor

    def __hash__(self) -> int:
        return hash((Batch, self.factor))

    def __index__(self) -> int:
        raise TypeError(
            "the batch size is not known while a network is traced: pass x.shape[0] on to reshape or view, or use -1"
        )

    __int__ = __index__

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "B" if self.factor == 1 else f"B*{self.factor}"


class Trace:
    """One pass through a network: its graph, the parameters it met, and the modules that were called.

    Use as a context manager; inside, calls of modules and of samestep.nn.functional add nodes.
    """

    def __init__(self, root: Module | None = None) -> None:
        self.graph = _core.Graph()
        self.root = root
        self.stored: dict[str, Stored] = {}  # by the name in the graph
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.calls: list[tuple[str, Module, tuple[int, ...] | None]] = []
        self.output: Any = None  # the structure that forward returned, with 0 in the place of tensors
        self.output_shapes: list[tuple[int, ...]] = []
        self.targets: list[tuple[str, tuple[int, ...], str]] = []  # (name, shape, dtype)
        self.results: Any = None  # _heads.Results
        self.roles: list[str] = []  # what mixing does to each array
        self.repeated: list[int] = []  # targets that are fed a second time, as they are
        self.functions: list[Any] = []  # what runs in Python inside the plan (ss.Function)
        self.first_input: Tensor | None = None  # any value with a row for each sample
        self._values: dict[int, int] = {}  # id of a stored array -> value
        self._keep: list[Any] = []  # keeps those ids from being reused
        self._layers: list[str] = []
        self._module_names: dict[int, str] = {}
        self._stored_names: dict[int, str] = {}
        if root is not None:
            self._module_names = {id(module): name for name, module in root.named_modules()}
            for name, item in [*root.named_parameters(), *root.named_buffers()]:
                self._stored_names[id(item)] = name

    def __enter__(self) -> Trace:
        if active() is not None:
            raise RuntimeError("a network cannot be compiled or traced inside another network's forward")
        _local.trace = self
        return self

    def __exit__(self, *unused: Any) -> None:
        _local.trace = None

    @property
    def layer(self) -> str:
        """Path of the module that runs, for messages."""
        return self._layers[-1] if self._layers else ""

    def run(self, module: Module, inputs: tuple[Any, ...], options: Mapping[str, Any] | None = None) -> Any:
        """Calls a module's forward under its name."""
        name = self._module_names.get(id(module)) or type(module).__name__
        place = len(self.calls)
        self.calls.append((name, module, None))
        self._layers.append(name)
        try:
            result = module.forward(*inputs, **(options or {}))
        finally:
            self._layers.pop()
        first = result[0] if isinstance(result, tuple) and result else result  # a recurrent layer also gives its state
        self.calls[place] = (name, module, first.sample_shape if isinstance(first, Tensor) else None)
        return result

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Tensor:
        if name in getattr(_local, "integers", ()):
            dtype = "int32"
        tensor = Tensor(self, self.graph.input(name, [int(extent) for extent in shape], dtype))
        tensor.origin = name
        self.first_input = tensor if self.first_input is None else self.first_input
        return tensor

    def as_integer(self, item: Any) -> Tensor:
        """A tensor, or an array that is the same for all samples, as whole numbers. Raises NeedsInteger for a float
        input of the network, ValueError for numbers that are computed."""
        if isinstance(item, Tensor):
            if self.graph.dtype(item.value) == "int32":
                return item
            if item.origin is not None:
                raise NeedsInteger(item.origin)
            raise self.error("indices must be whole numbers from the data")
        array = np.asarray(item)
        if array.dtype.kind not in "iu":
            raise self.error(f"indices must be whole numbers, not {array.dtype}")
        if array.size == 0 or array.min() < 0 or array.max() >= 1 << 24:
            raise self.error("constant indices must lie between 0 and 2**24 - 1, and there must be at least one")
        if self.first_input is None:
            raise self.error("constant indices need a network with an input")
        made: Tensor = self.emit("constant_index", [self.first_input, self.constant(array, buffer=True)])
        return made

    def value(self, item: Any) -> int | None:
        """The number of anything that can be an input of a node; arrays become constants."""
        from .nn._stored import Buffer, Parameter, Stored

        if item is None:
            return None
        if isinstance(item, Tensor):
            if item.trace is not self:
                raise ValueError(
                    f"{self._prefix()}a tensor of another trace was kept; forward must use its own inputs only"
                )
            return item.value
        if id(item) in self._values:
            return self._values[id(item)]
        if isinstance(item, Stored):
            name = self._stored_names.get(id(item))
            if name is None:
                if self.root is not None:
                    raise ValueError(
                        f"{self._prefix()}a {item._kind} of shape {item.shape} is used that is not registered: "
                        "assign it to an attribute of a Module, "
                        "and lists of modules to nn.ModuleList"
                    )
                name = f"{item._kind}{len(self.stored)}"
            if isinstance(item, Buffer):
                number = self.graph.buffer(name, item.shape)
            else:
                assert isinstance(item, Parameter)
                number = self.graph.parameter(name, item.shape, item.requires_grad)
            self.stored[name] = item
        else:
            number = self.constant(item).value
        self._values[id(item)] = number
        self._keep.append(item)
        return number

    def name(self, item: Stored, name: str) -> Stored:
        """Lets a parameter that belongs to no module take part."""
        self._stored_names[id(item)] = name
        return item

    def constant(self, values: Any, buffer: bool = False) -> Tensor:
        """An array that no training changes."""
        array = np.array(values, dtype=np.float32, order="C")
        name = f"constant.{len(self.constants)}"
        self.constants[name] = array
        return Tensor(
            self, self.graph.buffer(name, array.shape) if buffer else self.graph.parameter(name, array.shape, False)
        )

    def emit(
        self, op: str, inputs: Sequence[Any], attrs: Mapping[str, float] | None = None, layer: str | None = None
    ) -> Any:
        """Adds a node: a Tensor, or a tuple of them where the operator has several outputs. Shape errors are ValueErrors
        that name the layer."""
        values = [self.value(item) for item in inputs]
        made = self.graph.node(op, values, dict(attrs or {}), self.layer if layer is None else layer)
        if isinstance(made, tuple):
            return tuple(Tensor(self, value) for value in made)
        result = Tensor(self, made)
        if op in _MOVES:
            moved = inputs if op == "concat" else inputs[:1]
            result.origin = next((item.origin for item in moved if isinstance(item, Tensor) and item.origin), None)
        return result

    def expand(self, item: Any, shape: tuple[int, ...]) -> Tensor:
        """A parameter or array, broadcast to the shape of a sample, once for every sample."""
        if self.first_input is None:
            raise self.error("a parameter takes part in arithmetic before the network has an input")
        attrs: dict[str, float] = {"rank": len(shape), **{f"d{axis}": extent for axis, extent in enumerate(shape)}}
        made: Tensor = self.emit("expand", [self.first_input, item], attrs)
        return made

    def _prefix(self) -> str:
        return f"layer '{self.layer}': " if self.layer else ""

    def error(self, message: str) -> ValueError:
        return ValueError(self._prefix() + message)

    def signature(self) -> Any:
        """Equal for two traces of one network."""
        leaves = [(name, item.shape, getattr(item, "requires_grad", None)) for name, item in self.stored.items()]
        constants = [(name, array.shape, array.tobytes()) for name, array in self.constants.items()]
        return self.graph.nodes(), leaves, constants


class Tensor:
    """A symbolic tensor inside `forward`: it has a shape and operators, and no numbers. The first axis is the batch."""

    __array_ufunc__ = None  # NumPy leaves the operators to this class

    def __init__(self, trace: Trace, value: int) -> None:
        self.trace = trace
        self.value = value
        self.origin: str | None = None  # the input of the network whose elements these are, moved at most
        self.sample_shape: tuple[int, ...] = tuple(trace.graph.shape(value))

    @property
    def shape(self) -> tuple[Any, ...]:
        """(B, ...), where B is symbolic."""
        return (Batch(), *self.sample_shape)

    @property
    def ndim(self) -> int:
        return 1 + len(self.sample_shape)

    def dim(self) -> int:
        """Number of axes, the batch included."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one extent of it."""
        return self.shape if dim is None else self.shape[dim]

    def axis(self, dim: Any, what: str) -> int:
        """`dim` (which counts the batch as axis 0) among the axes of one sample."""
        if not isinstance(dim, (int, np.integer)):
            raise TypeError(f"{self.trace._prefix()}{what} must be a whole number, not {dim!r}")
        number = int(dim) + (self.ndim if dim < 0 else 0)
        if not 0 <= number < self.ndim:
            raise self.trace.error(f"{what}={dim} is not an axis of a tensor of shape {self.shape}")
        if number == 0:
            raise self.trace.error(f"{what}={dim} is the batch axis; samples of a batch are independent of each other")
        return number - 1

    # --- shapes

    def reshape(self, *shape: Any) -> Tensor:
        """Another shape of the same elements; the batch axis (x.shape[0] or -1) stays first. One extent may be -1."""
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if not wanted:
            raise self.trace.error("reshape needs a shape")
        first = wanted[0]
        rest: list[Any] = [extent if isinstance(extent, Batch) else int(extent) for extent in wanted[1:]]
        total = math.prod(self.sample_shape)
        text = f"a tensor of shape {self.shape} cannot take the shape ({', '.join(map(str, wanted))})"
        if (
            any(isinstance(extent, Batch) for extent in rest)
            or any(extent < -1 for extent in rest)
            or rest.count(-1) > 1
        ):
            raise self.trace.error(text)
        if isinstance(first, Batch):
            if first.factor != 1:
                raise self.trace.error(f"{text}: the batch axis must stay as it is")
            if -1 in rest:
                known = -math.prod(rest)
                if known == 0 or total % known:
                    raise self.trace.error(text)
                rest[rest.index(-1)] = total // known
            if math.prod(rest) != total:
                raise self.trace.error(text)
        elif first != -1 or -1 in rest or math.prod(rest) != total:
            raise self.trace.error(f"{text}: the batch axis must stay as it is; write x.shape[0] for it")
        return self._reshaped(tuple(rest))

    view = reshape

    def _reshaped(self, shape: tuple[int, ...]) -> Tensor:
        if shape == self.sample_shape:
            return self
        attrs: dict[str, float] = {"rank": len(shape)}
        attrs.update({f"d{i}": extent for i, extent in enumerate(shape)})
        return self.trace.emit("reshape", [self], attrs)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Joins the axes start_dim to end_dim; start_dim must be at least 1 here, as the batch axis stays."""
        from .nn import functional

        return functional.flatten(self, start_dim, end_dim)

    def unsqueeze(self, dim: int) -> Tensor:
        """A new axis of extent 1 at `dim`."""
        number = int(dim) + (self.ndim + 1 if dim < 0 else 0)
        if not 1 <= number <= self.ndim:
            raise self.trace.error(f"unsqueeze: dim={dim} is not possible for a tensor of shape {self.shape}")
        shape = self.sample_shape
        return self._reshaped((*shape[: number - 1], 1, *shape[number - 1 :]))

    def squeeze(self, dim: int | None = None) -> Tensor:
        """Without the axis `dim`, or all axes, of extent 1; the batch axis stays."""
        if dim is None:
            return self._reshaped(tuple(extent for extent in self.sample_shape if extent != 1))
        axis = self.axis(dim, "dim")
        shape = self.sample_shape
        return self._reshaped(shape[:axis] + shape[axis + 1 :]) if shape[axis] == 1 else self

    def permute(self, *dims: Any) -> Tensor:
        """The axes in another order; the batch axis (0) stays first."""
        from .nn import functional

        return functional.permute(self, dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims)

    def flip(self, *dims: Any) -> Tensor:
        """The elements of some axes in reverse order."""
        from .nn import functional

        return functional.flip(self, dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims)

    def expand(self, *shape: Any) -> Tensor:
        """Axes of extent 1 repeated; -1 keeps an extent. The batch axis (x.shape[0] or -1) comes first."""
        from .nn import functional

        return functional.broadcast_to(
            self, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        )

    def repeat(self, *repeats: Any) -> Tensor:
        """The whole tensor several times along each axis; 1 for the batch axis."""
        from .nn import functional

        return functional.tile(
            self, repeats[0] if len(repeats) == 1 and isinstance(repeats[0], (tuple, list)) else repeats
        )

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        from .nn import functional

        return functional.transpose(self, -2, -1)

    T = mT

    def _sliced(self, axis: int, start: int, step: int, count: int) -> Tensor:
        """Along an axis of one sample."""
        if (start, step, count) == (0, 1, self.sample_shape[axis]):
            return self
        return self.trace.emit("slice", [self], {"axis": axis, "start": start, "step": step, "count": count})

    def __getitem__(self, index: Any) -> Tensor:
        """Parts of the samples: the first index is `:`, for the batch; then numbers, slices, None, `...`, and one array
        of whole numbers an axis."""
        items = list(index) if isinstance(index, tuple) else [index]
        used = sum(item is not None and item is not Ellipsis for item in items)
        dots = [place for place, item in enumerate(items) if item is Ellipsis]
        if len(dots) > 1 or used > self.ndim:
            raise self.trace.error(f"the index {index!r} does not fit a tensor of shape {self.shape}")
        place = dots[0] if dots else len(items)
        items[place : place + len(dots)] = [slice(None)] * (self.ndim - used)
        if not isinstance(items[0], slice) or items[0] != slice(None):
            raise self.trace.error(
                f"the first index of a tensor of shape {self.shape} must be ':': it is the batch axis, and samples of a "
                "batch are independent of each other"
            )
        result, axis, shape = self, 0, []
        for item in items[1:]:
            if item is None:
                shape.append(1)
                continue
            extent = self.sample_shape[axis]
            if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
                if not -extent <= item < extent:
                    raise self.trace.error(f"index {item} is outside of axis {axis + 1} of shape {self.shape}")
                result = result._sliced(axis, int(item) % extent, 1, 1)
            elif isinstance(item, slice):
                taken = range(*item.indices(extent))
                if not taken:
                    raise self.trace.error(f"{item} takes nothing of axis {axis + 1} of shape {self.shape}")
                result = result._sliced(axis, taken.start, taken.step, len(taken))
                shape.append(len(taken))
            elif isinstance(item, (list, np.ndarray)):
                from .nn import functional

                result = functional.index_select(result, axis + 1, item)
                shape.append(result.sample_shape[axis])
            else:
                raise TypeError(
                    f"{self.trace._prefix()}a tensor is indexed by numbers, slices, None, '...' and arrays, "
                    f"not by {type(item).__name__}; for indices from the data there are gather and index_select"
                )
            axis += 1
        return result._reshaped(tuple(shape))

    def _cast(self, dtype: str) -> Tensor:
        if self.trace.graph.dtype(self.value) == dtype:
            return self
        return self.trace.emit("cast", [self], {"to_int": float(dtype == "int32")})

    def contiguous(self) -> Tensor:
        """The tensor itself; memory layouts are the plan's business."""
        return self

    # --- arithmetic

    def __add__(self, other: Any) -> Any:
        return _function("add")(self, other)

    def __radd__(self, other: Any) -> Any:
        return _function("add")(other, self)

    def __sub__(self, other: Any) -> Any:
        return _function("sub")(self, other)

    def __rsub__(self, other: Any) -> Any:
        return _function("sub")(other, self)

    def __mul__(self, other: Any) -> Any:
        return _function("mul")(self, other)

    def __rmul__(self, other: Any) -> Any:
        return _function("mul")(other, self)

    def __truediv__(self, other: Any) -> Any:
        return _function("div")(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _function("div")(other, self)

    def __pow__(self, other: Any) -> Any:
        return _function("pow")(self, other)

    def __rpow__(self, other: Any) -> Any:
        return _function("pow")(other, self)

    def __lt__(self, other: Any) -> Any:
        return _function("lt")(self, other)

    def __le__(self, other: Any) -> Any:
        return _function("le")(self, other)

    def __gt__(self, other: Any) -> Any:
        return _function("gt")(self, other)

    def __ge__(self, other: Any) -> Any:
        return _function("ge")(self, other)

    def __matmul__(self, other: Any) -> Any:
        return _function("matmul")(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _function("matmul")(other, self)

    def __abs__(self) -> Any:
        return _function("abs")(self)

    def __neg__(self) -> Tensor:
        from .nn import functional

        return functional.scale(self, -1.0)

    def __pos__(self) -> Tensor:
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            from .nn import functional

            function = getattr(functional, name)
            return lambda *args, **options: function(self, *args, **options)
        if name in _CASTS:
            return lambda: self._cast(_CASTS[name])
        raise AttributeError(
            f"{self.trace._prefix()}a tensor has no '{name}' here; the operators are those of samestep.nn and samestep.nn.functional"
        )

    # --- what has no meaning before there are numbers

    def _no_numbers(self, *unused: Any, **unused_too: Any) -> Any:
        raise TypeError(
            f"{self.trace._prefix()}a tensor of shape {self.shape} has no numbers while the network is traced: "
            "forward may use operators of samestep.nn, "
            "samestep.nn.functional and the tensor's own, not NumPy, float() or conditions on values"
        )

    __array__ = __bool__ = __float__ = __int__ = __len__ = __iter__ = __setitem__ = _no_numbers

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape})"


_METHODS = {
    "abs", "add", "amax", "amin", "argmax", "argmin", "bmm", "broadcast_to", "ceil", "chunk", "clamp", "clip", "cos",
    "cumsum", "div", "eq", "erf", "exp", "expm1", "floor", "gather", "ge", "gt", "index_select", "le", "log", "log1p",
    "log_softmax", "logical_and", "logical_not", "logical_or", "logsumexp", "lt", "masked_fill", "matmul", "max",
    "maximum", "mean", "min", "minimum", "movedim", "mul", "narrow", "ne", "neg", "norm", "pow", "prod", "reciprocal",
    "relu", "repeat_interleave", "roll", "round", "rsqrt", "select", "sigmoid", "sign", "sin", "softmax", "split",
    "sqrt", "square", "std", "sub", "sum", "swapaxes", "tanh", "tile", "transpose", "unbind", "unflatten", "var",
    "where",
}  # fmt: skip
_CASTS = {"float": "float32", "int": "int32", "long": "int32"}


def _function(name: str) -> Any:
    from .nn import functional

    if not hasattr(functional, name):
        raise TypeError(f"tensors have no '{name}'")
    return getattr(functional, name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
