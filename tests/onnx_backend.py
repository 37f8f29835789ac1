"""The single-operator cases of the package onnx, run through the importer.

Batch mode: axis 0 of the case is the batch. Sample mode: the whole tensor is one sample, with a leading axis of 1.
"""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

BATCHED = {
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization",
    "InstanceNormalization", "LSTM", "GRU", "RNN", "Gemm", "Flatten",
}  # fmt: skip


@functools.lru_cache(maxsize=1)
def cases() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind="node"))


def run(case: Any) -> str:
    """ "" for a pass, or why the case is skipped. Raises AssertionError where numbers differ."""
    import onnx

    from samestep.onnx import _import

    graph = case.model.graph
    if len(graph.node) != 1:
        return "several nodes"
    node = graph.node[0]
    if node.op_type not in _import._OPERATORS or _import._OPERATORS[node.op_type] is None or node.domain:
        return "not mapped yet"
    if any(not item.type.HasField("tensor_type") for item in [*graph.input, *graph.output]):
        return "sequences and optional values"
    (inputs, expected), *_ = case.data_sets
    if any(np.asarray(item).dtype not in (np.float32, np.int64, np.int32, bool) for item in [*inputs, *expected]):
        return "dtype other than float32"
    sample = node.op_type not in BATCHED
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [item.name for item in model.graph.input]
    floats = [n for n, item in enumerate(inputs) if np.asarray(item).dtype == np.float32]
    if floats != [n for n in floats if n < len(node.input)] or not floats:
        return "dtype other than float32"
    batched = [] if sample else [0]
    arrays = []
    for name, item in zip(names, inputs, strict=True):
        item = np.asarray(item)
        place = list(node.input).index(name)
        moves = item.dtype == np.float32 and (sample or place in batched)
        moves = moves or (item.dtype == bool and sample)
        if node.op_type in ("Pad", "Clip") and place > 0:
            moves = False
        if moves:
            arrays.append(item[None] if sample else item)
            if node.op_type in ("LSTM", "GRU", "RNN") and not any(a.name == "layout" and a.i for a in node.attribute):
                arrays[-1] = np.swapaxes(item, 0, 1)
        else:
            model.graph.initializer.append(onnx.numpy_helper.from_array(item, name))
    if node.op_type in ("LSTM", "GRU", "RNN") and not any(a.name == "layout" and a.i for a in node.attribute):
        return "steps before samples: the loaded network has the batch first (tested with exported files)"
    try:
        net = _import.Network(model, sample=sample)
        net.eval()
        made = net(*arrays)
    except (ValueError, TypeError, RuntimeError, KeyError, NotImplementedError, AttributeError, IndexError) as error:
        return (
            "attribute or shape not supported: "
            + re.sub(r"^node '[^']*': operator \w+ ?(\{.*?\}:)? ?", "", str(error))[:80]
        )
    for ours, theirs in zip(made if isinstance(made, tuple) else (made,), expected, strict=False):
        ours = ours[0] if sample else ours
        assert ours.shape == np.shape(theirs), f"{case.name}: shape {ours.shape}, expected {np.shape(theirs)}"
        np.testing.assert_allclose(
            ours, np.asarray(theirs, ours.dtype), rtol=case.rtol, atol=case.atol, err_msg=case.name
        )
    return ""


def results() -> tuple[list[str], dict[str, tuple[str, str]], list[str]]:
    """Names that pass, {name: (operator, reason)} of those skipped, and messages of those that fail."""
    passed, skipped, failed = [], {}, []
    for case in cases():
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reason = run(case)
        except AssertionError as error:
            failed.append(f"{case.name}: {' '.join(str(error).split())[:200]}")
            continue
        if reason:
            skipped[case.name] = (case.model.graph.node[0].op_type if len(case.model.graph.node) else "", reason)
        else:
            passed.append(case.name)
    return passed, skipped, failed


def table(skipped: dict[str, tuple[str, str]]) -> str:
    """What is skipped, by operator and kind of reason."""
    counts = Counter((operator, reason.split(":")[0]) for operator, reason in skipped.values())
    rows = [f"| {operator} | {reason} | {count} |" for (operator, reason), count in sorted(counts.items())]
    return "\n".join(["| operator | reason | cases |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    passed, skipped, failed = results()
    if len(sys.argv) > 1:  # the page whose table is made anew
        page = Path(sys.argv[1])
        text = page.read_text("utf-8")
        page.write_text(text[: text.index("| operator |")] + table(skipped), "utf-8")
    print("\n".join(failed))
    print(len(passed), "pass,", len(skipped), "skipped,", len(failed), "fail")
