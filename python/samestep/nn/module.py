"""The base of all layers and networks."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core, _trace
from .._arrays import as_array, as_float
from ._stored import Buffer, Parameter, Stored


class IncompatibleKeys(NamedTuple):
    """What load_state_dict(strict=False) passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A layer or a network, as torch.nn.Module: assign parameters and other modules to attributes, and write `forward`.

    `forward(self, x)` is run once on a symbolic tensor when the network is compiled; `net(x)` on a NumPy array of shape
    (samples, ...) runs the layers at once and returns an array. `train()` and `eval()` say how `net(x)` treats dropout
    and batch normalisation; `ss.Trainer` and `ss.compile` train in training mode and measure in evaluation mode by
    themselves.
    """

    training: bool = True

    def __init__(self) -> None:
        for name in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, name, OrderedDict())
        object.__setattr__(self, "training", True)

    def forward(self, *inputs: Any) -> Any:
        """What the module computes: symbolic tensors in, a symbolic tensor out. To be written by subclasses."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(self, x)")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """forward(*inputs, **options): on symbolic tensors inside another forward, at once on arrays of samples."""
        trace = _trace.active()
        if trace is not None:
            return trace.run(self, inputs, options)
        from .. import _eager

        return _eager.call_module(self, inputs, options)

    # --- registration

    def __setattr__(self, name: str, value: Any) -> None:
        tables = self.__dict__
        if isinstance(value, (Stored, Module)):
            if "_modules" not in tables:
                raise AttributeError(
                    f"call super().__init__() in {type(self).__name__}.__init__ before the first assignment of a layer or parameter"
                )
            home = (
                "_parameters"
                if isinstance(value, Parameter)
                else "_buffers"
                if isinstance(value, Buffer)
                else "_modules"
            )
            for other in ("_parameters", "_buffers", "_modules"):
                if other != home:
                    tables[other].pop(name, None)
            tables.pop(name, None)
            tables[home][name] = value
            return
        for home in ("_parameters", "_buffers", "_modules"):
            if name in tables.get(home, ()):
                if value is None:
                    tables[home][name] = None
                elif home == "_modules":
                    break  # an ordinary value takes the place of a module
                else:
                    if tables[home][name] is None:
                        raise TypeError(
                            f"'{name}' of {type(self).__name__} is registered: "
                            f"assign a nn.{'Parameter' if home == '_parameters' else 'Buffer'}"
                        )
                    tables[home][name].data = value
                return
        tables.get("_modules", {}).pop(name, None)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        for home in ("_parameters", "_buffers", "_modules"):
            table = self.__dict__.get(home)
            if table is not None and name in table:
                return table[name]
        raise AttributeError(f"{type(self).__name__} has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for home in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(home, ()):
                del self.__dict__[home][name]
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._parameters, *self._buffers, *self._modules})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Like an assignment; None keeps the name without a parameter."""
        _check_name(name)
        if param is None:
            self._parameters[name] = None
        else:
            setattr(self, name, param)

    def register_buffer(self, name: str, tensor: npt.ArrayLike | None) -> None:
        """An array that is saved with the network and not trained."""
        _check_name(name)
        self._buffers[name] = tensor if tensor is None or isinstance(tensor, Buffer) else Buffer(tensor)

    def register_module(self, name: str, module: Module | None) -> None:
        """Like an assignment."""
        _check_name(name)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"'{name}' must be a Module, not {type(module).__name__}")
        self._modules[name] = module

    add_module = register_module

    # --- what there is

    def named_modules(self, prefix: str = "", memo: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """(path, module) of this module (path "") and of all below it, each once."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        memo.add(id(self))
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(f"{prefix}.{name}" if prefix else name, memo)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly below."""
        seen = set()
        for name, child in self._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly below."""
        return (child for _, child in self.named_children())

    def _named(self, home: str, recurse: bool, once: bool) -> Iterator[tuple[str, Any]]:
        """Entries of one table by path; `once` leaves out the second name of a shared entry."""
        seen: set[int] = set()
        for path, module in self._all_paths("") if recurse else [("", self)]:
            for name, item in getattr(module, home).items():
                if item is not None and not (once and id(item) in seen):
                    seen.add(id(item))
                    yield (f"{path}.{name}" if path else name), item

    def _all_paths(self, prefix: str) -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child._all_paths(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self, recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter), each once; the paths are PyTorch's keys."""
        return self._named("_parameters", recurse, True)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (item for _, item in self.named_parameters(recurse))

    def named_buffers(self, recurse: bool = True) -> Iterator[tuple[str, Buffer]]:
        """(path, buffer), each once."""
        return self._named("_buffers", recurse, True)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """All buffers, each once."""
        return (item for _, item in self.named_buffers(recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a path such as "features.3". Raises AttributeError."""
        module: Any = self
        for name in target.split(".") if target else []:
            module = getattr(module, name)
        return module

    # --- modes

    def train(self, mode: bool = True) -> Module:
        """Training mode for `net(x)`: dropout drops, batch normalisation uses the batch. Returns self."""
        for module in self.modules():
            object.__setattr__(module, "training", bool(mode))
        return self

    def eval(self) -> Module:
        """Evaluation mode for `net(x)`. Returns self."""
        return self.train(False)

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Calls fn on all modules below, and then on this one. Returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Whether training changes the parameters; counts from the next compilation on. Returns self."""
        for parameter in self.parameters():
            parameter.requires_grad = bool(requires_grad)
        return self

    # --- values

    def _entries(self) -> OrderedDict[str, Stored]:
        """The entries of the state dict, in PyTorch's order."""
        result: OrderedDict[str, Stored] = OrderedDict()
        for path, module in self._all_paths(""):
            for table in (module._parameters, module._buffers):
                for name, item in table.items():
                    if item is not None:
                        result[f"{path}.{name}" if path else name] = item
        return result

    def state_dict(self) -> OrderedDict[str, npt.NDArray[Any]]:
        """Copies of all parameters and buffers, under PyTorch's keys and in its layouts."""
        return OrderedDict((name, item.numpy()) for name, item in self._entries().items())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Takes over the values of a state dict of samestep or PyTorch (arrays or CPU tensors). All of it or, on an
        error, nothing.

        strict: keys must agree. Raises ss.CheckpointError, which lists the missing and unexpected keys and the shapes
        that differ.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a mapping from names to arrays, not {type(state_dict).__name__}")
        entries = self._entries()
        # Files made elsewhere often lack this counter, and nothing depends on it.
        missing = [name for name in entries if name not in state_dict and not name.endswith("num_batches_tracked")]
        unexpected = [name for name in state_dict if name not in entries]
        problems = []
        if strict and missing:
            problems.append("missing: " + ", ".join(missing))
        if strict and unexpected:
            problems.append("unexpected: " + ", ".join(map(str, unexpected)))
        values = {}
        for name, item in entries.items():
            if name in state_dict:
                array = as_array(state_dict[name], f"'{name}'")
                if array.shape != item.shape:
                    problems.append(f"{name} has the shape {array.shape} in the state and {item.shape} in the network")
                else:
                    values[name] = as_float(array, f"'{name}'") if item.dtype == np.float32 else array
        if problems:
            raise _core.CheckpointError(f"the state does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, value in values.items():
            entries[name].data = value
        return IncompatibleKeys(missing, unexpected)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes parameters and buffers to a safetensors file, which PyTorch reads with safetensors.torch.load_file.
        Under MPI rank 0 alone writes; call ss.barrier() before another rank reads the file. Raises OSError."""
        from .. import comm, safetensors_io

        if comm.rank() == 0:
            safetensors_io.write(path, self.state_dict(), {"format": "pt"})

    def load(self, path: str | os.PathLike[str], strict: bool = True) -> IncompatibleKeys:
        """Reads a safetensors file of samestep or PyTorch; under MPI every rank reads it. Raises OSError,
        ss.CheckpointError (see load_state_dict)."""
        from .. import safetensors_io

        tensors, _ = safetensors_io.read(path)
        try:
            return self.load_state_dict(tensors, strict)
        except _core.CheckpointError as error:
            raise _core.CheckpointError(f"{path}: {error}") from None

    # --- display

    def summary(self, input_shape: tuple[int, ...]) -> Any:
        """A table of layers, output shapes and numbers of parameters. input_shape: the shape of one sample, without the
        batch. `print(...)` shows it."""
        from .._summary import Summary

        return Summary(self, tuple(input_shape))

    def extra_repr(self) -> str:
        """The arguments that the representation shows."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): " + repr(child).replace("\n", "\n  ") for name, child in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"

    def _repr_html_(self) -> str:
        from .._summary import html

        return html(self)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave compiled state behind."""
        return {name: value for name, value in self.__dict__.items() if name != "_eager"}


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or "." in name:
        raise ValueError(f"a name must be a non-empty text without dots, not {name!r}")
