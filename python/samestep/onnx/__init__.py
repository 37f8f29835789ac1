"""ONNX files: `export` writes a network, `load` reads one as a Module that can be trained further.

Needs the package `onnx` (pip install "samestep[onnx]"). docs/onnx.md lists what is mapped.
"""

from __future__ import annotations

from ._export import IR_VERSION, OPSET, export
from ._import import load

__all__ = ["IR_VERSION", "OPSET", "export", "load"]
