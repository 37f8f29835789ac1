"""ONNX's optimizers (domain ai.onnx.preview.training), run by samestep's kernels through the public API.

One step from given parameters, gradients and state. The gradient is made by a network whose output is the sum of parameter
times gradient, and a loss whose derivative is 1. What the formulas name differently is mapped exactly:

- norm_coefficient is weight_decay (an L2 penalty that is added to the gradient),
- Adagrad's rate R / (1 + T decay_factor) is that of samestep's step number T + 1,
- Adam divides by sqrt(H) + epsilon and corrects both means in the rate; samestep's eps is epsilon / sqrt(1 - beta^T),
- Momentum's beta (1 at T = 0) is 1 - dampening.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import samestep as ss
from samestep import nn, optim

DOMAIN = "ai.onnx.preview.training"


class _Products(nn.Module):
    def __init__(self, values: list[np.ndarray]) -> None:
        super().__init__()
        for n, value in enumerate(values):
            self.register_parameter(f"p{n}", nn.Parameter(value))

    def forward(self, *gradients: Any) -> Any:
        parts = [(p * g).sum(-1, keepdim=True) for p, g in zip(self.parameters(), gradients, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def _optimizer(op: str, a: dict[str, Any], rate: float, count: int) -> tuple[Any, int, list[str]]:
    """The optimizer, the number of its step, and the names of its state in the order of ONNX."""
    decay = a.get("norm_coefficient", 0.0)
    if op == "Adagrad":
        factor = a.get("decay_factor", 0.0)
        # step 1 would start the sum anew: at T = 0, where decay_factor has no effect, it is a later step without decay
        made = optim.Adagrad(rate, lr_decay=factor if count else 0.0, weight_decay=decay, eps=a.get("epsilon", 1e-6))
        return made, count + 1 if count else 2, ["sum"]
    if op == "Adam":
        alpha, beta = a.get("alpha", 0.9), a.get("beta", 0.999)
        if not count:  # no correction: as after very many steps
            made = optim.Adam(rate, (alpha, beta), a.get("epsilon", 1e-6), decay)
            return made, 1_000_000, ["exp_avg", "exp_avg_sq"]
        eps = a.get("epsilon", 1e-6) / math.sqrt(1 - beta**count)
        return optim.Adam(rate, (alpha, beta), eps, decay), count, ["exp_avg", "exp_avg_sq"]
    mode = a["mode"].decode()
    beta = a["beta"] if count else 1.0
    made = optim.SGD(rate, a["alpha"], dampening=1 - beta, weight_decay=decay, nesterov=mode == "nesterov")
    return made, max(count, 2), ["momentum_buffer"]


def run(case: Any) -> str:
    """ "" for a pass. Raises AssertionError where numbers differ."""
    import onnx

    node = case.model.graph.node[0]
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == "Adam" and attributes.get("norm_coefficient_post"):
        return "norm_coefficient_post: a decay after the update is not one of samestep's"
    (inputs, expected), *_ = case.data_sets
    rate, count, arrays = float(inputs[0]), int(inputs[1]), [np.asarray(item) for item in inputs[2:]]
    optimizer, number, names = _optimizer(node.op_type, attributes, rate, count)
    many = len(arrays) // (2 + len(names))
    values, gradients, *states = [arrays[n * many : (n + 1) * many] for n in range(2 + len(names))]

    net = _Products(values)
    plan = ss.compile(net, nn.L1Loss(reduction="sum"), optimizer, 1, input_shape=[g.shape for g in gradients])
    model = plan.model
    for name, group in zip(names, states, strict=True):
        for n, state in enumerate(group):
            model.set_slot(name, f"p{n}", state)
    model.step = number - 1
    plan.step(tuple(g[None] for g in gradients), np.full((1, 1), -1e6, np.float32))  # far below: the derivative is 1
    made = [model.get(f"p{n}") for n in range(many)]
    made += [model.get_slot(name, f"p{n}") for name in names for n in range(many)]
    for ours, theirs in zip(made, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=case.rtol, atol=case.atol, err_msg=case.name)
    return ""
