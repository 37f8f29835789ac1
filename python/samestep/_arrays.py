"""What users pass as arrays, brought to what the core reads: rows of native, aligned numbers. The user's arrays are
never written, and copied only where needed.

The core itself converts float64 and integers to float32, and integers to the int32 of labels, row by row as it reads
them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_READ_BY_CORE = {np.dtype(code) for code in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")}


def as_array(value: Any, argument: str) -> Array:
    """Any array-like of numbers as an array. Raises TypeError that names the argument."""
    if value is None:
        raise TypeError(f"{argument} must be an array of numbers, not None")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TypeError(f"{argument} cannot be read as an array: {error}") from None
    if array.dtype.kind not in "fiub":
        hint = " (rows of different length?)" if array.dtype.kind == "O" else ""
        raise TypeError(f"{argument} must hold numbers, but has dtype {array.dtype}{hint}")
    return array


def as_float(value: Any, argument: str) -> Array:
    """float32, C order; the same object where it is that already. Raises TypeError, or ValueError where finite numbers
    would overflow."""
    array = as_array(value, argument)
    with np.errstate(over="ignore"):
        result = np.require(array, np.float32, ["C", "A"])
    if result.dtype != array.dtype and array.dtype.kind == "f" and array.itemsize > 4:
        if not np.isfinite(result).all() and (np.isfinite(array) & ~np.isfinite(result)).any():
            raise ValueError(f"{argument} holds numbers beyond the range of float32")
    return result


def as_rows(value: Any, argument: str) -> Array:
    """An array whose rows the core can read: one row a sample. Raises TypeError, ValueError that name the argument."""
    array = as_array(value, argument)
    if array.ndim == 0:
        raise ValueError(f"{argument} must have one row a sample, but is the single number {array}")
    native = array.dtype.newbyteorder("=")
    if native not in _READ_BY_CORE:
        native = np.dtype(np.float32 if array.itemsize < 8 else np.float64)
    if array.dtype != native or not array.flags.aligned:
        return np.require(array, native, ["C", "A"])
    rows_lie_together = array.size == 0 or (array.strides[0] >= 0 and array[:1].flags.c_contiguous)
    return array if rows_lie_together else np.ascontiguousarray(array)


def as_labels(value: Any, argument: str) -> Array:
    """Like as_rows, for class numbers: whole numbers only. (The core checks their range and names the sample.)"""
    array = as_rows(value, argument)
    if array.dtype.kind == "f":
        raise TypeError(
            f"{argument} must hold class numbers as integers, but has dtype {array.dtype}; for regression use loss='mse'"
        )
    return array


def check_shape(array: Array, shape: tuple[int, ...], argument: str) -> None:
    """Raises ValueError unless the array is [samples, *shape]."""
    if array.shape[1:] != tuple(shape):
        wanted = ", ".join(["samples", *map(str, shape)])
        raise ValueError(f"{argument} must have the shape ({wanted}), but has {array.shape}")
