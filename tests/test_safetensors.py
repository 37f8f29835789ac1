"""The safetensors reader and writer: against the reference library, and against hostile files."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import samestep as ss
from samestep import safetensors_io

TENSORS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "count": np.array(7, dtype=np.int64),
    "name.with.dots": np.arange(5, dtype=np.uint8),
    "half": np.arange(4, dtype=np.float16),
    "flags": np.array([True, False, True]),
    "nothing": np.zeros((0, 3), np.float64),
    "unicode é": np.arange(3, dtype=np.int16),
}


def test_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors_io.write(path, TENSORS, {"a": "1", "ü": '"quoted"\n'})
    tensors, metadata = safetensors_io.read(path)
    assert metadata == {"a": "1", "ü": '"quoted"\n'} == safetensors_io.read_metadata(path)
    assert set(tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        assert (
            tensors[name].dtype == value.dtype and tensors[name].shape == value.shape and (tensors[name] == value).all()
        )
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_byte_order_and_strides(tmp_path):
    swapped = np.arange(6, dtype=">f4").reshape(2, 3).T
    safetensors_io.write(tmp_path / "a", {"x": swapped})
    assert (safetensors_io.read(tmp_path / "a")[0]["x"] == swapped).all()


def test_reference_library_reads_and_writes(tmp_path):
    reference = pytest.importorskip("safetensors.numpy")
    safetensors_io.write(tmp_path / "ours", TENSORS, {"format": "pt"})
    theirs = reference.load_file(tmp_path / "ours")
    assert set(theirs) == set(TENSORS) and all((theirs[name] == value).all() for name, value in TENSORS.items())
    reference.save_file(TENSORS, tmp_path / "theirs", {"k": "v"})
    tensors, metadata = safetensors_io.read(tmp_path / "theirs")
    assert metadata == {"k": "v"} and all((tensors[name] == value).all() for name, value in TENSORS.items())


def test_bfloat16_is_read_as_float32(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(make({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\x80\x3f\x00\xc0"))
    assert safetensors_io.read(path)[0]["x"].tolist() == [1.0, -2.0]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    safetensors_io.write(path, {"x": np.zeros(3)})
    old = path.read_bytes()
    with pytest.raises(TypeError, match="'x'"):
        safetensors_io.write(path, {"x": np.zeros(3, complex)})

    def fail(*unused):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        safetensors_io.write(path, {"x": np.ones(3)})
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["a"]


def make(header, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "0 bytes"),
        (b"1234567", "7 bytes"),
        (make({}, length=2**63), "claims"),
        (make({}, length=100), "claims"),
        (make(b"[]"), "begin with"),
        (make(b"{"), "cannot be read"),
        (make(b'{"\xff": 1}'), "cannot be read"),
        (make(b'{"a":' * 100_000), "cannot be read"),
        (make(b'{"a": 1, "a": 2}'), "twice"),
        (make({"x": 3}), "must have dtype"),
        (make({"x": {"dtype": "F32", "shape": [1]}}), "must have dtype"),
        (make({"x": entry("F33")}, b"1234"), "unknown dtype"),
        (make({"x": entry(["F32"])}, b"1234"), "unknown dtype"),
        (make({"x": entry(shape=(-1,))}, b"1234"), "shape"),
        (make({"x": entry(shape=(1.0,))}, b"1234"), "shape"),
        (make({"x": entry(shape=(True,))}, b"1234"), "shape"),
        (make({"x": entry(shape=[1] * 40)}, b"1234"), "shape"),
        (make({"x": entry(shape=(2**40, 2**40))}, b"1234"), "does not fill"),
        (make({"x": entry(offsets=(4, 0))}, b"1234"), "does not fill"),
        (make({"x": entry(offsets=(-4, 0))}, b"1234"), "offsets"),
        (make({"x": entry(offsets=(0, 4, 8))}, b"1234"), "offsets"),
        (make({"x": entry(offsets=(0, 2**70))}, b"1234"), "offsets"),
        (make({"x": entry(offsets=(4, 8))}, b"12345678"), "was due"),
        (make({"x": entry(), "y": entry()}, b"1234"), "was due"),
        (make({"x": entry()}, b"12345"), "the file has"),
        (make({"x": entry()}, b"123"), "the file has"),
        (make({"x": entry("BOOL", (1,), (0, 1))}, b"\x02"), "booleans"),
        (make({"__metadata__": {"a": 1}}), "__metadata__"),
        (make({"__metadata__": []}), "__metadata__"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, text):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ss.CheckpointError, match=text) as caught:
        safetensors_io.read(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_every_cut_is_noticed(tmp_path):
    path = tmp_path / "a"
    safetensors_io.write(path, {"x": np.arange(4, dtype=np.float32), "y": np.arange(3)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ss.CheckpointError):
            safetensors_io.read(path)
