"""Random graphs of functions against PyTorch in float64: the output and the gradient of every input and parameter.

Single operators have their own tests; here it is their company that is tested: values that are used several times, broadcasting
between branches, shapes that change on the way, channels-last layouts beside others, memory that is used again.

A graph is a few tensors and then nodes, each of which takes earlier values. The last values that nobody took are
flattened and joined, so that every node counts. The same function runs on both libraries; `lib` holds what is written
differently. Operators with kinks or poles get arguments that keep away from them, or the witness could be wrong rather
than we: rounding decides on which side of 0 a computed value lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

import oracle
from samestep import nn
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
TF = torch.nn.functional

pytestmark = [pytest.mark.oracle]

TOLERANCE = 5e-5
"""Relative to the largest element of PyTorch's array: float32 of up to 12 operators in a row."""
BATCH = 5
ELEMENTS = 400  # of a sample, at most: larger ones are not made

Shape = tuple[int, ...]


class Node(NamedTuple):
    """One step of a graph: what to call, on which values, with which parameters."""

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    takes: tuple[int, ...]
    parameters: tuple[Shape, ...]


class Graph(NamedTuple):
    inputs: tuple[Shape, ...]
    nodes: tuple[Node, ...]

    def run(self, ours: bool, inputs: Any, parameters: Any) -> Any:
        values, left = list(inputs), list(parameters)
        used: set[int] = set()
        for node in self.nodes:
            own, left = left[: len(node.parameters)], left[len(node.parameters) :]
            function = node.ours if ours else node.theirs
            values.append(function(*[values[place] for place in node.takes], *own))
            used |= set(node.takes)
        ends = [value.reshape(value.shape[0], -1) for place, value in enumerate(values) if place not in used]
        return (F if ours else torch).cat(ends, 1) if len(ends) > 1 else ends[0]

    def shapes(self) -> tuple[Shape, ...]:
        return tuple(shape for node in self.nodes for shape in node.parameters)

    def text(self) -> str:
        return f"inputs {self.inputs}\n" + "\n".join(
            f"  v{len(self.inputs) + place} = {node.name}({', '.join(f'v{taken}' for taken in node.takes)})"
            for place, node in enumerate(self.nodes)
        )


# ---- what can be drawn. A family takes draw, the shapes so far and a place, and gives a node or None where nothing fits.

UNARY: dict[str, tuple[Any, Any]] = {
    "sin": (F.sin, torch.sin), "cos": (F.cos, torch.cos), "erf": (F.erf, torch.erf), "tanh": (F.tanh, torch.tanh),
    "sigmoid": (F.sigmoid, torch.sigmoid), "silu": (F.silu, TF.silu), "gelu": (F.gelu, TF.gelu), "mish": (F.mish, TF.mish),
    "gelu tanh": (lambda x: F.gelu(x, "tanh"), lambda x: TF.gelu(x, approximate="tanh")),
    "softplus": (F.softplus, TF.softplus), "elu": (F.elu, TF.elu), "selu": (F.selu, TF.selu),
    "logsigmoid": (F.logsigmoid, TF.logsigmoid), "neg": (lambda x: -x, lambda x: -x),
    "softsign": (F.softsign, TF.softsign), "tanhshrink": (F.tanhshrink, TF.tanhshrink),
    "exp of tanh": (lambda x: F.exp(F.tanh(x)), lambda x: torch.exp(torch.tanh(x))),
    "expm1 of sin": (lambda x: F.expm1(F.sin(x)), lambda x: torch.expm1(torch.sin(x))),
    "square of sin": (lambda x: F.square(F.sin(x)), lambda x: torch.square(torch.sin(x))),
    "log": (lambda x: F.log(x * x + 0.5), lambda x: torch.log(x * x + 0.5)),
    "log1p": (lambda x: F.log1p(x * x), lambda x: torch.log1p(x * x)),
    "sqrt": (lambda x: F.sqrt(x * x + 0.5), lambda x: torch.sqrt(x * x + 0.5)),
    "rsqrt": (lambda x: F.rsqrt(x * x + 0.5), lambda x: torch.rsqrt(x * x + 0.5)),
    "reciprocal": (lambda x: F.reciprocal(x * x + 0.5), lambda x: torch.reciprocal(x * x + 0.5)),
    "power": (lambda x: (x * x + 0.5) ** 0.7, lambda x: (x * x + 0.5) ** 0.7),
    "scale": (lambda x: 0.5 - x / 3, lambda x: 0.5 - x / 3),
}  # fmt: skip
KINKS: dict[str, tuple[Any, Any]] = {
    "relu": (F.relu, torch.relu), "abs": (F.abs, torch.abs), "leaky relu": (F.leaky_relu, TF.leaky_relu),
    "clamp": (lambda x: F.clamp(x, -0.7007, 0.7007), lambda x: torch.clamp(x, -0.7007, 0.7007)),
    "hardtanh": (lambda x: F.hardtanh(x, -0.3003, 0.9007), lambda x: TF.hardtanh(x, -0.3003, 0.9007)),
}  # fmt: skip
"""Only on inputs of the graph, whose numbers are multiples of 1/1024 and equal on both sides. The bounds are no such multiples."""
BINARY: dict[str, Any] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / (b * b + 0.5),
}  # fmt: skip
REDUCED: dict[str, tuple[Any, Any]] = {
    "sum": (F.sum, torch.sum), "mean": (F.mean, torch.mean), "logsumexp": (F.logsumexp, torch.logsumexp),
    "var": (lambda x, d, keepdim: F.var(x, d, correction=0, keepdim=keepdim),
            lambda x, d, keepdim: torch.var(x, d, correction=0, keepdim=keepdim)),
}  # fmt: skip

Draw = Callable[[Any], Any]
Made = tuple[str, Any, Any, tuple[int, ...], tuple[Shape, ...]]


def some(draw: Draw, items: Any) -> Any:
    return draw(st.sampled_from(sorted(items) if isinstance(items, (dict, set)) else list(items)))


def elementwise(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    name = some(draw, list(UNARY) + (list(KINKS) if at < inputs else []))
    return (name, *({**UNARY, **KINKS}[name]), (at,), ())


def pairwise(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    """With a value that broadcasts, often of another shape, or with a parameter."""
    name, fits = some(draw, BINARY), []
    for place, shape in enumerate(shapes):
        try:
            whole = np.broadcast_shapes(shape, shapes[at])
        except ValueError:
            continue
        # The batch is axis 0 of both in PyTorch, so it must be the same axis from the right.
        if len(shape) == len(shapes[at]) and np.prod(whole) <= ELEMENTS:
            fits.append(place)
    other = draw(st.sampled_from([*fits, None]))
    f = BINARY[name]
    if other is not None:
        takes = (at, other) if draw(st.booleans()) else (other, at)
        return name, f, f, takes, ()
    keep = [draw(st.booleans()) for _ in shapes[at]]
    own = tuple(extent if kept else 1 for extent, kept in zip(shapes[at], keep, strict=True))
    own = own[draw(st.integers(0, max(len(own) - 1, 0))) :] or (1,)
    swapped = draw(st.booleans())
    g = (lambda x, p: f(p, x)) if swapped else f
    return f"{name}, {'parameter first' if swapped else 'parameter'} {own},", g, g, (at,), (own,)


def reduction(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    rank = len(shapes[at])
    if rank < 2:  # something must be left to work with
        return None
    dims = tuple(sorted(draw(st.sets(st.integers(1, rank), min_size=1, max_size=rank - 1))))
    keep, name = draw(st.booleans()), some(draw, REDUCED)
    f, g = REDUCED[name]
    return f"{name} {dims} {keep}", lambda x: f(x, dims, keepdim=keep), lambda x: g(x, dims, keepdim=keep), (at,), ()


def extreme(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    """Of inputs alone: the place of the greatest computed value is a matter of rounding."""
    if at >= inputs or len(shapes[at]) < 2:
        return None
    dim, name = draw(st.integers(1, len(shapes[at]))), some(draw, ("amax", "amin"))
    return f"{name} {dim}", lambda x: getattr(F, name)(x, dim), lambda x: getattr(torch, name)(x, dim), (at,), ()


def rows(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    dim, name = draw(st.integers(1, len(shapes[at]))), some(draw, ("softmax", "log_softmax", "cumsum"))
    theirs = torch.cumsum if name == "cumsum" else getattr(TF, name)
    return f"{name} {dim}", lambda x: getattr(F, name)(x, dim), lambda x: theirs(x, dim), (at,), ()


def movement(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    shape = shapes[at]
    rank = len(shape)
    dim = draw(st.integers(1, rank))
    extent = shape[dim - 1]
    kind = some(
        draw, ("permute", "reshape", "slice", "step", "select", "flip", "roll", "pad", "repeat", "unsqueeze", "cat")
    )
    f: Any
    g: Any = None
    if kind == "permute":
        order = (0, *draw(st.permutations(range(1, rank + 1))))
        kind, f = f"permute {order}", lambda x: x.permute(*order)
    elif kind == "reshape":
        start = draw(st.integers(1, rank))
        kind, f = f"flatten {start}", lambda x: x.flatten(start)
    elif kind == "slice":
        first = draw(st.integers(0, extent - 1))
        last = draw(st.integers(first + 1, extent))
        index = (*[slice(None)] * dim, slice(first, last))
        kind, f = f"slice {dim} {first}:{last}", lambda x: x[index]
    elif kind == "step":
        stepped = (*[slice(None)] * dim, slice(None, None, 2))
        kind, f = f"every second of {dim}", lambda x: x[stepped]
    elif kind == "select":
        if rank < 2:
            return None
        number = draw(st.integers(-extent, extent - 1))
        chosen = (*[slice(None)] * dim, number)
        kind, f = f"select {dim} {number}", lambda x: x[chosen]
    elif kind == "flip":
        kind, f = f"flip {dim}", lambda x: x.flip(dim)
    elif kind == "roll":
        count = draw(st.integers(-3, 3))
        kind, f = f"roll {dim} by {count}", lambda x: x.roll(count, dim)
    elif kind == "pad":
        ends = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
        kind, f, g = f"pad {ends}", lambda x: F.pad(x, ends, value=0.5), lambda x: TF.pad(x, ends, value=0.5)
    elif kind == "repeat":
        times = tuple(2 if axis == dim else 1 for axis in range(rank + 1))
        kind, f = f"repeat {times}", lambda x: x.repeat(*times)
    elif kind == "unsqueeze":
        if rank > 3:
            return None
        kind, f = f"unsqueeze {dim}", lambda x: x.unsqueeze(dim)
    else:
        fits = [
            place for place, other in enumerate(shapes)
            if len(other) == rank and other[: dim - 1] + other[dim:] == shape[: dim - 1] + shape[dim:]
        ]  # fmt: skip
        other = draw(st.sampled_from(fits))
        return f"cat {dim}", lambda a, b: F.cat([a, b], dim), lambda a, b: torch.cat([a, b], dim), (at, other), ()
    return kind, f, g or f, (at,), ()


def linear(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    out, entering = draw(st.integers(1, 9)), shapes[at][-1]
    if draw(st.booleans()):
        return f"linear {entering} to {out}", F.linear, TF.linear, (at,), ((out, entering), (out,))
    return f"linear {entering} to {out}, no bias", F.linear, TF.linear, (at,), ((out, entering),)


def product(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    shape = shapes[at]
    if len(shape) != 2:
        return None
    fits = [place for place, other in enumerate(shapes) if len(other) == 2 and other[0] == shape[1]]
    other = draw(st.sampled_from([*fits, None]))
    if other is None:
        return "product with its transpose", lambda x: x @ x.mT, lambda x: x @ x.mT, (at,), ()
    return "matmul", lambda a, b: a @ b, lambda a, b: a @ b, (at, other), ()


def convolution(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    shape = shapes[at]
    if len(shape) != 3:
        return None
    out, padding, stride = draw(st.integers(1, 5)), draw(st.integers(0, 1)), draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, min(3, extent + 2 * padding))) for extent in shape[1:])
    groups = shape[0] if draw(st.integers(0, 3)) == 0 else 1
    weight = (out * groups, shape[0] // groups, *kernel)
    options = {"stride": stride, "padding": padding, "groups": groups}
    return (
        f"conv2d {weight} {options}", lambda x, w, b: F.conv2d(x, w, b, **options),
        lambda x, w, b: TF.conv2d(x, w, b, **options), (at,), (weight, (out * groups,)),
    )  # fmt: skip


def pooling(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    shape = shapes[at]
    if len(shape) != 3 or min(shape[1:]) < 2:
        return None
    if at < inputs and draw(st.booleans()):
        return "max_pool2d 2", lambda x: F.max_pool2d(x, 2), lambda x: TF.max_pool2d(x, 2), (at,), ()
    return "avg_pool2d 2", lambda x: F.avg_pool2d(x, 2), lambda x: TF.avg_pool2d(x, 2), (at,), ()


def batch_norm_written_out(x: Any, w: Any, b: Any) -> Any:
    """The witness of batch_norm. torch.batch_norm of PyTorch 2.13 gives wrong gradients on CPUs where an axis of extent 1
    leaves the memory format of the gradient ambiguous, as before x.permute(0, 2, 1, 3) of (N, 2, 2, 1):
    test_the_witness_of_batch_norm."""
    dims, shape = [axis for axis in range(x.ndim) if axis != 1], (1, -1, *[1] * (x.ndim - 2))
    centred = x - x.mean(dims, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dims, keepdim=True) + 0.1) * w.reshape(shape) + b.reshape(shape)


def norm(draw: Draw, shapes: list[Shape], inputs: int, at: int) -> Made | None:
    """With a large eps: differences of neighbours that happen to be nearly equal are not blown up."""
    shape = shapes[at]
    last = shape[-1:]
    kind = some(draw, ("layer_norm", "rms_norm", "group_norm", "batch_norm"))
    if kind == "layer_norm":
        return (
            kind, lambda x, w, b: F.layer_norm(x, last, w, b, 0.1), lambda x, w, b: TF.layer_norm(x, last, w, b, 0.1),
            (at,), (last, last),
        )  # fmt: skip
    if kind == "rms_norm":
        return kind, lambda x, w: F.rms_norm(x, last, w, 0.1), lambda x, w: TF.rms_norm(x, last, w, 0.1), (at,), (last,)
    channels = shape[:1]
    if len(shape) < 2:
        return None
    if kind == "group_norm":
        groups = 2 if channels[0] % 2 == 0 else 1
        return (
            f"group_norm {groups}", lambda x, w, b: F.group_norm(x, groups, w, b, 0.1),
            lambda x, w, b: TF.group_norm(x, groups, w, b, 0.1), (at,), (channels, channels),
        )  # fmt: skip
    if len(shape) > 3:
        return None
    return (
        kind, lambda x, w, b: F.batch_norm(x, None, None, w, b, True, eps=0.1), batch_norm_written_out,
        (at,), (channels, channels),
    )  # fmt: skip


FAMILIES = [
    elementwise, pairwise, pairwise, reduction, extreme, rows, movement, movement, linear, product, convolution, pooling, norm,
]  # fmt: skip


@st.composite
def graphs(draw: Draw) -> Graph:
    side = st.integers(1, 6)
    inputs: list[Shape] = [tuple(draw(st.lists(side, min_size=1, max_size=3))) for _ in range(draw(st.integers(1, 3)))]
    shapes, nodes = list(inputs), []
    for _ in range(draw(st.integers(3, 12))):
        # Late values more often than early ones, so that graphs become deep.
        at = draw(st.one_of(st.just(len(shapes) - 1), st.integers(0, len(shapes) - 1)))
        made = some(draw, FAMILIES)(draw, shapes, len(inputs), at) or elementwise(draw, shapes, len(inputs), at)
        node = Node(*made)
        values = [torch.zeros(2, *shapes[place]) for place in node.takes]
        shape = tuple(node.theirs(*values, *[torch.zeros(own) for own in node.parameters]).shape[1:])
        if np.prod(shape) <= ELEMENTS and 1 <= len(shape) <= 4:
            nodes.append(node)
            shapes.append(shape)
    if not nodes:
        nodes.append(Node(*elementwise(draw, shapes, len(inputs), 0)))
    return Graph(tuple(inputs), tuple(nodes))


class Net(nn.Module):
    def __init__(self, graph: Graph, values: list[np.ndarray]) -> None:
        super().__init__()
        self.graph = graph
        for number, value in enumerate(values):
            self.register_parameter(f"p{number}", nn.Parameter(value))

    def forward(self, *inputs: Any) -> Any:
        return self.graph.run(True, inputs, self._parameters.values())


def compare(graph: Graph, threads: int = 2, **options: Any) -> dict[str, float]:
    """Errors by array."""
    arrays = [oracle.grid((BATCH, *shape), 10**6 * (n + 1)) for n, shape in enumerate(graph.inputs)]
    values = [oracle.grid(shape, 7 * n + 3) / 2 for n, shape in enumerate(graph.shapes())]
    inputs = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
    parameters = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    output = graph.run(False, inputs, parameters)
    target = oracle.grid(tuple(output.shape), 5 * 10**6)
    loss = ((output - torch.tensor(target)) ** 2).sum()
    loss.backward()

    found = oracle.probe(Net(graph, values), arrays, nn.MSELoss("sum"), target, threads=threads, **options)
    errors = {
        "loss": abs(found["loss"] - loss.item()) / loss.item(),
        "output": oracle.distance(Net(graph, values).train()(*arrays), output.detach()),
    }
    # Gradients that cancel (of a bias before a normalisation) are compared on the scale of the others.
    gradients = {f"gradient of input {n}": (found[f"input{n}"], x.grad) for n, x in enumerate(inputs)}
    gradients |= {f"gradient of p{n}": (found["parameters"][f"p{n}"], p.grad) for n, p in enumerate(parameters)}
    scale = max(float(theirs.abs().max()) for _, theirs in gradients.values() if theirs is not None)
    for name, (ours, theirs) in gradients.items():
        assert ours.shape == tuple(theirs.shape)
        error = np.abs(np.asarray(ours, np.float64) - theirs.numpy()).max()
        errors[name] = (
            float(error / max(float(theirs.abs().max()), 1e-2 * scale, 1e-6)) if np.isfinite(error) else np.inf
        )
    return errors


@settings(
    max_examples=1500,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(graphs(), st.sampled_from([1, 2, 3]), st.sampled_from([1, 4]))
def test_random_graphs(graph: Graph, threads: int, at_once: int) -> None:
    """The same graphs in every run."""
    note(graph.text())
    for node in graph.nodes:
        event(node.name.split()[0].rstrip(","))
    errors = compare(graph, threads, lanes=4, lanes_at_once=at_once)
    assert max(errors.values()) <= TOLERANCE, (graph.text(), errors)


def test_a_wrong_gradient_is_seen() -> None:
    """The comparison itself: a function whose gradient differs, and one whose value does."""
    sine = Node("sin", F.sin, torch.sin, (0,), ())
    assert max(compare(Graph(((3, 4),), (sine,))).values()) <= TOLERANCE
    detached = sine._replace(theirs=lambda x: torch.sin(x.detach()) + 0 * x)
    errors = compare(Graph(((3, 4),), (detached,)))
    assert errors["output"] <= TOLERANCE < errors["gradient of input 0"]
    assert compare(Graph(((3, 4),), (sine._replace(theirs=torch.cos),)))["output"] > TOLERANCE


def test_the_witness_of_batch_norm() -> None:
    """Finite differences in float64 decide between us, batch norm written out and torch.batch_norm, whose gradient is not
    asked: a later PyTorch may mend it."""

    def after(x: Any) -> Any:
        return x.permute(0, 2, 1, 3)

    norm_node = Node(
        "batch_norm",
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True, eps=0.1),
        batch_norm_written_out,
        (0,),
        ((2,), (2,)),
    )
    graph = Graph(((2, 2, 1),), (norm_node, Node("permute", after, after, (1,), ())))
    assert max(compare(graph).values()) <= TOLERANCE
    w, b = (torch.tensor(oracle.grid((2,), 7 * n + 3) / 2, dtype=torch.float64) for n in range(2))
    x = torch.tensor(oracle.grid((BATCH, 2, 2, 1), 10**6), dtype=torch.float64, requires_grad=True)
    assert torch.allclose(
        batch_norm_written_out(x, w, b), TF.batch_norm(x, None, None, w, b, True, eps=0.1), atol=1e-12
    )
    assert torch.autograd.gradcheck(lambda x: after(batch_norm_written_out(x, w, b)), (x,))
