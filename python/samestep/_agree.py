"""What must be equal on all ranks is compared before anything is trained."""

from __future__ import annotations

import json
from typing import Any

from . import _core


def agree(ranks: _core.Comm, mine: dict[str, Any]) -> None:
    """Raises the same ValueError on every rank when an item differs from rank 0's, with the item, the rank and both
    values."""
    if ranks.size == 1:
        return
    everyone = [json.loads(data) for data in ranks.allgather(json.dumps(mine).encode())]
    for number, theirs in enumerate(everyone):
        difference = _first_difference("", everyone[0], theirs)
        if difference:
            raise ValueError(f"rank {number} differs from rank 0: {difference}")


def _first_difference(path: str, ours: Any, theirs: Any) -> str:
    if ours == theirs:
        return ""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            place = (
                f"{path}.{key}"
                if path and "." not in path and path != "parameters"
                else f"{path} '{key}'"
                if path
                else key
            )
            if key not in ours or key not in theirs:
                return f"{place} exists on {'rank 0' if key in ours else 'the other'} only"
            if difference := _first_difference(place, ours[key], theirs[key]):
                return difference
    if isinstance(ours, list) and isinstance(theirs, list) and path == "network":
        for number in range(max(len(ours), len(theirs))):
            pair = [part[number] if number < len(part) else "nothing" for part in (ours, theirs)]
            if pair[0] != pair[1]:
                return f"network: operation {number} is {pair[1]}, on rank 0 {pair[0]}"
    if path.startswith("parameters") and isinstance(ours, list):
        for what, a, b in zip(("shape", "requires_grad", "values"), ours, theirs, strict=True):
            if a != b:
                return f"{path}: {what} " + (
                    "(drawn from another seed or order, or loaded from another file)"
                    if what == "values"
                    else f"{b}, on rank 0 {a}"
                )
    return f"{path} is {theirs!r}, on rank 0 {ours!r}"
