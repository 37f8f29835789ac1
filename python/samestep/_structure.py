"""Tensors that `forward` takes and gives in tuples, lists and dicts, as flat lists, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._trace import Tensor


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """(name, leaf) of every leaf: "" for a single one, "0", "1.state" and the like inside tuples and dicts."""
    if isinstance(value, Mapping):
        items = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, (tuple, list)):
        items = [(str(number), part) for number, part in enumerate(value)]
    else:
        return [(path, value)]
    return [leaf for key, part in items for leaf in flatten(part, f"{path}.{key}" if path else key)]


def rebuild(like: Any, leaves: Sequence[Any]) -> Any:
    """The opposite: `leaves` in the structure of `like`."""
    rest = iter(leaves)

    def build(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: build(value) for key, value in part.items()}
        if isinstance(part, (tuple, list)):
            return type(part)(build(value) for value in part)
        return next(rest)

    return build(like)


def tensors(value: Any, error: Callable[[str], Exception]) -> list[tuple[str, Tensor]]:
    """The leaves of what `forward` returned; None is left out. Raises TypeError for anything else than tensors."""
    leaves = [(name, leaf) for name, leaf in flatten(value) if leaf is not None]
    for name, leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise error(f"{'output ' + name if name else 'it'} is {type(leaf).__name__}")
    return leaves
