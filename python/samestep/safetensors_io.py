"""Reading and writing safetensors files (format: https://huggingface.co/docs/safetensors, the "Format" section).

A file is 8 bytes of header length (little-endian), a JSON header, and the tensors' bytes without gaps. Nothing in a
file is ever executed, and every number in the header is checked before it is used.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._core import CheckpointError

__all__ = ["read", "read_metadata", "write"]

LONGEST_HEADER = 100_000_000  # the limit that the reference implementation sets
_TYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
        "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "BF16": "<u2",
    }.items()
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items() if name != "BF16"}


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, npt.ArrayLike], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the arrays to `path` in one move: the file is complete or it is the old one. Raises TypeError for a dtype
    that the format lacks, OSError."""
    arrays = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        little = array.dtype.newbyteorder("<")
        if little not in _NAMES:
            raise TypeError(f"tensor '{name}' has dtype {array.dtype}, which a safetensors file cannot hold")
        arrays[name] = np.asarray(array, dtype=little, order="C")
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = {str(key): str(value) for key, value in metadata.items()}
    # Widest elements first keeps every tensor aligned to its own element.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _NAMES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(arrays[name].tobytes())


class atomic_file:
    """`with atomic_file(path) as file`: a binary file that takes the place of `path` when the block ends without an
    error, and leaves no trace otherwise."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> Any:
        handle, self.temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent)
        self.file = os.fdopen(handle, "wb")
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(self.temporary, 0o666 & ~mask)  # mkstemp gives 0600
                os.replace(self.temporary, self.path)
        finally:
            self.file.close()
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text pairs that the file carries beside its tensors."""
    with open(path, "rb") as file:
        return _header(path, file)[1]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The tensors (BF16 as float32) and the metadata of a file. Raises OSError where it cannot be read, CheckpointError
    where it is no valid file."""
    with open(path, "rb") as file:
        entries, metadata, begin = _header(path, file)
        tensors = {}
        for name, (code, shape, start, stop) in entries.items():
            file.seek(begin + start)
            array = np.frombuffer(bytearray(file.read(stop - start)), _TYPES[code])
            if code == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            elif code == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
                raise CheckpointError(f"{path}: tensor '{name}' of booleans holds bytes other than 0 and 1")
            tensors[name] = array.reshape(shape)
        return tensors, metadata


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in it")
    return result


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _header(path: Any, file: Any) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], dict[str, str], int]:
    """Entries {name: (dtype, shape, begin, end)} in order of their place, metadata, and where the data begins."""

    def refuse(why: str) -> CheckpointError:
        return CheckpointError(f"{path} is not a valid safetensors file: {why}")

    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise refuse(f"it has {size} bytes, fewer than the 8 of the header's length")
    length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER or length > size - 8:
        raise refuse(f"its header claims {length} bytes, the file has {size}")
    raw = file.read(length)
    if not raw.startswith(b"{"):
        raise refuse("its header does not begin with '{'")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header cannot be read: {error}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise refuse("__metadata__ must map text to text")
    entries = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise refuse(f"entry '{name}' must have dtype, shape and data_offsets")
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in _TYPES:
            raise refuse(f"tensor '{name}' has the unknown dtype {code!r}")
        if not isinstance(shape, list) or len(shape) > 32 or not all(_whole(extent) for extent in shape):
            raise refuse(f"tensor '{name}' has the shape {str(shape)[:80]}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(offset) for offset in offsets):
            raise refuse(f"tensor '{name}' has the offsets {str(offsets)[:80]}")
        if math.prod(shape) * _TYPES[code].itemsize != offsets[1] - offsets[0]:
            raise refuse(
                f"tensor '{name}' of shape {tuple(shape)} and dtype {code} does not fill its {offsets[1] - offsets[0]} bytes"
            )
        entries[name] = (code, tuple(shape), offsets[0], offsets[1])
    entries = dict(sorted(entries.items(), key=lambda item: item[1][2:]))
    end = 0
    for name, (_, _, start, stop) in entries.items():
        if start != end:
            raise refuse(f"tensor '{name}' begins at byte {start} where {end} was due")
        end = stop
    if 8 + length + end != size:
        raise refuse(f"its tensors end at byte {8 + length + end}, the file has {size}")
    return entries, metadata, 8 + length
