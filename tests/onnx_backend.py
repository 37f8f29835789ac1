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
    "InstanceNormalization", "LRN", "LSTM", "GRU", "RNN",
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
    if any(not item.type.HasField("tensor_type") for item in [*graph.input, *graph.output]):
        return "sequences and optional values"
    try:
        graph = _import._inlined(onnx, case.model).graph
    except (ValueError, RuntimeError, TypeError, onnx.checker.ValidationError) as error:
        return f"no definition by other operators: {error}"
    unknown = sorted({node.op_type for node in graph.node if node.domain or node.op_type not in _import.KNOWN})
    if unknown:
        return "no operator of samestep" if len(graph.node) == 1 else f"no operator of samestep: {', '.join(unknown)}"
    (inputs, expected), *_ = case.data_sets
    kinds = {np.asarray(item).dtype for item in [*inputs, *expected]}
    strange = sorted(str(kind) for kind in kinds if kind not in (np.float32, np.int64, np.int32, bool))
    if strange:
        return f"dtype: the core has float32 and int32, not {', '.join(strange)}"
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    node = graph.node[0]
    names = [item.name for item in model.graph.input]
    if not any(np.asarray(item).dtype == np.float32 for item in inputs) and not any(np.asarray(i).dtype == bool for i in inputs):
        return "no float input: nothing for the core to compute"
    sample = len(graph.node) > 1 or node.op_type not in BATCHED
    sample = sample or any(item.name == "training_mode" and item.i for item in node.attribute)
    turned = node.op_type in ("LSTM", "GRU", "RNN") and not any(a.name == "layout" and a.i for a in node.attribute)
    arrays = []
    for name, item in zip(names, inputs, strict=True):
        item = np.asarray(item)
        place = list(node.input).index(name) if name in node.input else 0
        moves = item.dtype == np.float32 and (sample or place == 0)
        moves = moves or (item.dtype == bool and sample)
        if len(graph.node) == 1 and node.op_type in ("Pad", "Clip", "Resize", "Dropout", "OneHot") and place > 0:
            moves = False
        if moves:
            arrays.append(item[None] if sample else np.swapaxes(item, 0, 1) if turned else item)
        else:
            model.graph.initializer.append(onnx.numpy_helper.from_array(item, name))
    try:
        net = _import.Network(model, sample=sample)
        net.eval()
        made = net(*arrays)
    except (ValueError, TypeError, RuntimeError, KeyError, NotImplementedError, AttributeError, IndexError) as error:
        return (
            "attribute or shape not supported: "
            + re.sub(r"^node '[^']*': operator \w+ ?(\{.*?\}:)? ?", "", str(error))[:80]
        )
    for ours, theirs in zip(made if isinstance(made, tuple) else (made,), expected, strict=True):
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
