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

import onnx_training

BATCHED = {
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization",
    "InstanceNormalization", "LRN", "LSTM", "GRU", "RNN",
}  # fmt: skip


REASONS = {
    "extent below 1|takes nothing of axis": "tensors without elements",
    "more than the 6 that are supported": "more than six axes besides the batch",
    "does not depend on the input|needs an input": "the result is known from shapes alone",
    "not supported on tensors": "read on constants alone: no operator of samestep for tensors",
    "must be constants": "indices or sizes that are computed from data",
    "must be the batch|one row a sample": "convolution over values that other operators make from constants",
    "Dropout|draws random numbers": "random numbers of ONNX's own",
}
"""What the messages of errors come down to."""


@functools.lru_cache(maxsize=1)
def cases() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind="node"))


def _batch_first(onnx: Any, graph: Any, expected: Any) -> list[Any]:
    """Recurrent operators with the steps first, as files hold them: axes are exchanged before and after the node, so that
    the network's inputs and outputs have the batch first. Returns the expected outputs with the batch first."""
    node = graph.node[0]
    before, after, wanted = [], [], []
    for place in (0, 5, 6):
        if len(node.input) > place and node.input[place]:
            name = node.input[place]
            before.append(onnx.helper.make_node("Transpose", [name], [f"{name}_turned"], perm=[1, 0, 2]))
            node.input[place] = f"{name}_turned"
    for item, array in zip(graph.output, expected, strict=True):
        place = list(node.output).index(item.name)
        perm = [2, 0, 1, 3] if place == 0 else [1, 0, 2]
        node.output[place] = f"{item.name}_turned"
        after.append(onnx.helper.make_node("Transpose", [f"{item.name}_turned"], [item.name], perm=perm))
        wanted.append(np.transpose(array, perm))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return wanted


def run(case: Any) -> str:
    """ "" for a pass, or why the case is skipped. Raises AssertionError where numbers differ."""
    import onnx

    from samestep.onnx import _import

    graph = case.model.graph
    if any(not item.type.HasField("tensor_type") for item in [*graph.input, *graph.output]):
        return "sequences and optional values"
    if case.model.graph.node and case.model.graph.node[0].domain == onnx_training.DOMAIN:
        return onnx_training.run(case)
    try:
        graph = _import._inlined(onnx, case.model).graph
    except (ValueError, RuntimeError, TypeError, onnx.checker.ValidationError) as error:
        return f"no definition by operators of samestep ({type(error).__name__})"
    unknown = sorted({node.op_type for node in graph.node if node.domain or node.op_type not in _import.KNOWN})
    if unknown:
        return "no operator of samestep" if len(graph.node) == 1 else f"needs {', '.join(unknown)}"
    (inputs, expected), *_ = case.data_sets
    kinds = {item.type.tensor_type.elem_type for item in [*case.model.graph.input, *case.model.graph.output]}
    ours = {getattr(onnx.TensorProto, name) for name in ("FLOAT", "INT32", "INT64", "BOOL")}
    if kinds - ours:
        names = sorted(onnx.TensorProto.DataType.Name(kind).lower() for kind in kinds - ours)
        small = [
            name for name in names if name.startswith(("float4", "float6", "float8", "int2", "int4", "uint2", "uint4"))
        ]
        return "tensors of less than 8 bits or 8-bit floats" if small else f"tensors of {names[0]}"
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    node = graph.node[0]
    names = [item.name for item in model.graph.input]
    if not any(np.asarray(item).dtype == np.float32 for item in inputs) and not any(
        np.asarray(i).dtype == bool for i in inputs
    ):
        return "whole numbers alone, which the core does not compute with"
    sample = len(graph.node) > 1 or node.op_type not in BATCHED
    sample = sample or any(item.name == "training_mode" and item.i for item in node.attribute)
    turned = node.op_type in ("LSTM", "GRU", "RNN") and not any(a.name == "layout" and a.i for a in node.attribute)
    if turned:
        expected = _batch_first(onnx, model.graph, expected)
    arrays = []
    for name, item in zip(names, inputs, strict=True):
        item = np.asarray(item)
        place = list(node.input).index(name) if name in node.input else 0
        moves = item.dtype == np.float32 and (sample or place == 0)
        if node.op_type in ("LSTM", "GRU", "RNN"):
            moves = place in (0, 4, 5, 6)
        moves = moves or (item.dtype == bool and sample)
        if (
            len(graph.node) == 1
            and node.op_type in ("Pad", "Clip", "Resize", "Dropout", "OneHot", "Compress")
            and place > 0
        ):
            moves = False
        if moves:
            arrays.append(item[None] if sample else np.swapaxes(item, 0, 1) if turned and place != 4 else item)
        else:
            model.graph.initializer.append(onnx.numpy_helper.from_array(item, name))
    try:
        net = _import.Network(model, sample=sample)
        net.eval()
        made = net(*arrays)
    except (ValueError, TypeError, RuntimeError, KeyError, NotImplementedError, AttributeError, IndexError) as error:
        message = re.sub(r"^node '[^']*': operator \w+ ?(\{.*?\}|b?'.*?')?:? ?|layer 'Network': ", "", str(error))
        for pattern, reason in REASONS.items():
            if re.search(pattern, message):
                return reason
        return message.lstrip(": ")[:100]
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
            skipped[case.name] = (family(case), reason)
        else:
            passed.append(case.name)
    return passed, skipped, failed


def family(case: Any) -> str:
    """The operator of a case. The graphs called expanded write an operator in terms of others: it stands in their names."""
    nodes = case.model.graph.node
    found = [re.match(r"(\w+?)_test_\w+_function_", name) for node in nodes for name in node.output]
    names = [match.group(1) for match in found if match]
    return names[0] if names else nodes[0].op_type if len(nodes) else "no node"


def table(skipped: dict[str, tuple[str, str]]) -> str:
    """What is skipped, by reason: operators with the number of their cases."""
    reasons: dict[str, Counter[str]] = {}
    for operator, reason in skipped.values():
        reasons.setdefault(reason, Counter())[operator] += 1
    rows = [
        f"| {reason} | {sum(count.values())} | {', '.join(f'{op} {n}' for op, n in sorted(count.items()))} |"
        for reason, count in sorted(reasons.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    ]
    return "\n".join(["| reason | cases | operators |", "|---|---:|---|", *rows]) + "\n"


if __name__ == "__main__":
    passed, skipped, failed = results()
    if len(sys.argv) > 1:  # the page whose table is made anew
        page = Path(sys.argv[1])
        text = page.read_text("utf-8")
        page.write_text(text[: text.index("| reason |")] + table(skipped), "utf-8")
    print("\n".join(failed))
    print(len(passed), "pass,", len(skipped), "skipped,", len(failed), "fail")
