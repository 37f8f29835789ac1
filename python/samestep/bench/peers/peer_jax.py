"""JAX with optax: one jitted function a step, parameters and optimizer state donated. Channels last, as XLA prefers on CPUs."""

from __future__ import annotations

import itertools
from typing import Any

import child
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from workloads import ADAM, ADAMW, RESNET_BLOCKS, SGD, VOCABULARY, Workload, data

_random = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    """He initialisation; the last axis is the output."""
    return jnp.asarray(_random.standard_normal(shape, dtype=np.float32) * np.sqrt(2 / np.prod(shape[:-1])))


def dense(inputs: int, outputs: int) -> Any:
    return {"w": weights(inputs, outputs), "b": jnp.zeros(outputs)}


def apply_dense(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"]


def conv(x: Any, kernel: Any, stride: int = 1) -> Any:
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def norm(channels: int) -> Any:
    return {"gamma": jnp.ones(channels), "beta": jnp.zeros(channels)}


def running(channels: int) -> Any:
    return {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}


def batch_norm(p: Any, kept: Any, x: Any) -> Any:
    """The normalised values, and the running statistics."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) * (lax.rsqrt(var + 1e-5) * p["gamma"]) + p["beta"]
    unbiased = var * (x.size / (x.size / x.shape[-1] - 1) / x.shape[-1])
    return y, {"mean": 0.9 * kept["mean"] + 0.1 * mean, "var": 0.9 * kept["var"] + 0.1 * unbiased}


def perceptron(workload: Workload) -> Any:
    def forward(layers: Any, kept: Any, x: Any, key: Any) -> Any:
        for p in layers[:-1]:
            x = jax.nn.relu(apply_dense(p, x))
        return apply_dense(layers[-1], x), kept

    return [dense(a, b) for a, b in itertools.pairwise(workload.widths)], (), forward


def cnn() -> Any:
    def forward(p: Any, kept: Any, x: Any, key: Any) -> Any:
        for layer in p["conv"]:
            x = pool(jax.nn.relu(conv(x, layer["w"]) + layer["b"]))
        x = jax.nn.relu(apply_dense(p["hidden"], x.reshape(x.shape[0], -1)))
        keep = jax.random.bernoulli(key, 0.75, x.shape)
        return apply_dense(p["out"], jnp.where(keep, x / 0.75, 0)), kept

    shapes = [(1, 32), (32, 64)]
    layers = [{"w": weights(3, 3, a, b), "b": jnp.zeros(b)} for a, b in shapes]
    return {"conv": layers, "hidden": dense(3136, 128), "out": dense(128, 10)}, (), forward


def resnet() -> Any:
    def block(p: Any, kept: Any, x: Any, stride: int) -> Any:
        new = {}
        h, new["n1"] = batch_norm(p["n1"], kept["n1"], conv(x, p["c1"], stride))
        h, new["n2"] = batch_norm(p["n2"], kept["n2"], conv(jax.nn.relu(h), p["c2"]))
        if "c3" in p:
            x, new["n3"] = batch_norm(p["n3"], kept["n3"], conv(x, p["c3"], stride))
        return jax.nn.relu(h + x), new

    def forward(p: Any, kept: Any, x: Any, key: Any) -> Any:
        x, first = batch_norm(p["norm"], kept[0], conv(x, p["conv"]))
        x, new = jax.nn.relu(x), [first]
        for layer, old, (_, _, stride) in zip(p["blocks"], kept[1:], RESNET_BLOCKS, strict=True):
            x, statistics = block(layer, old, x, stride)
            new.append(statistics)
        return apply_dense(p["out"], x.mean((1, 2))), new

    blocks, kept = [], [running(16)]
    for a, b, _ in RESNET_BLOCKS:
        layer = {"c1": weights(3, 3, a, b), "n1": norm(b), "c2": weights(3, 3, b, b), "n2": norm(b)}
        statistics = {"n1": running(b), "n2": running(b)}
        if a != b:
            layer |= {"c3": weights(1, 1, a, b), "n3": norm(b)}
            statistics["n3"] = running(b)
        blocks.append(layer)
        kept.append(statistics)
    return {"conv": weights(3, 3, 3, 16), "norm": norm(16), "blocks": blocks, "out": dense(64, 10)}, kept, forward


def table(rows: int, width: int) -> Any:
    return jnp.asarray(0.02 * _random.standard_normal((rows, width), dtype=np.float32))


def layer_norm(p: Any, x: Any) -> Any:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * p["gamma"] + p["beta"]


def gpt(length: int, layers: int, width: int, heads: int) -> Any:
    def attention(p: Any, x: Any) -> Any:
        q, k, v = (
            part.reshape(*x.shape[:2], heads, width // heads) for part in jnp.split(apply_dense(p["qkv"], x), 3, -1)
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return apply_dense(p["out"], y.reshape(x.shape))

    def forward(p: Any, kept: Any, x: Any, key: Any) -> Any:
        h = p["tokens"][x] + p["places"]
        for layer in p["blocks"]:
            h = h + attention(layer, layer_norm(layer["n1"], h))
            feed = jax.nn.gelu(apply_dense(layer["up"], layer_norm(layer["n2"], h)), approximate=True)
            h = h + apply_dense(layer["down"], feed)
        return layer_norm(p["norm"], h) @ p["head"], kept

    blocks = [
        {
            "qkv": dense(width, 3 * width),
            "out": dense(width, width),
            "n1": norm(width),
            "n2": norm(width),
            "up": dense(width, 4 * width),
            "down": dense(4 * width, width),
        }
        for _ in range(layers)
    ]
    p = {"tokens": table(VOCABULARY, width), "places": table(length, width), "blocks": blocks, "norm": norm(width)}
    return {**p, "head": weights(width, VOCABULARY)}, (), forward


def lstm() -> Any:
    def layer(p: Any, x: Any) -> Any:
        def step(state: Any, gates: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates + h @ p["hidden"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((x.shape[0], p["hidden"].shape[0]))
        inputs = apply_dense(p["input"], x)  # of all steps at once
        return lax.scan(step, (start, start), inputs.swapaxes(0, 1))[1].swapaxes(0, 1)

    def forward(p: Any, kept: Any, x: Any, key: Any) -> Any:
        h = p["tokens"][x]
        for part in p["layers"]:
            h = layer(part, h)
        return apply_dense(p["out"], h), kept

    layers = [{"input": dense(inputs, 1024), "hidden": weights(256, 1024)} for inputs in (64, 256)]
    return {"tokens": table(VOCABULARY, 64), "layers": layers, "out": dense(256, VOCABULARY)}, (), forward


def network(workload: Workload) -> Any:
    if workload.widths:
        return perceptron(workload)
    if workload.text:
        return gpt(*workload.sample_shape, *workload.blocks) if workload.blocks[0] else lstm()
    return cnn() if workload.name == "cnn" else resnet()


def build(setting: child.Setting) -> Any:
    workload = setting.workload
    parameters, kept, forward = network(workload)
    x, y = (jnp.asarray(array) for array in data(workload, channels_last=True))
    kinds: dict[str, Any] = {
        "sgd": lambda: optax.sgd(SGD["lr"], SGD["momentum"]),
        "adam": lambda: optax.adam(ADAM["lr"]),
        "adamw": lambda: optax.adamw(ADAMW["lr"], weight_decay=ADAMW["weight_decay"]),
    }
    optimizer = kinds[workload.optimizer]()

    def loss_of(parameters: Any, kept: Any, x: Any, y: Any, key: Any) -> Any:
        scores, kept = forward(parameters, kept, x, key)
        return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean(), kept

    def one(state: Any, x: Any, y: Any) -> Any:
        parameters, kept, slots, key = state
        key, dropout = jax.random.split(key)
        (loss, kept), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters, kept, x, y, dropout)
        updates, slots = optimizer.update(gradients, slots, parameters)
        return (optax.apply_updates(parameters, updates), kept, slots, key), loss

    step = jax.jit(one, donate_argnums=0)
    state = (parameters, kept, optimizer.init(parameters), jax.random.PRNGKey(0))

    def steps(n: int) -> float:
        nonlocal state
        for _ in range(n):
            state, loss = step(state, x, y)
        jax.block_until_ready(state)
        return float(loss)

    return f"{jax.__version__} (optax {optax.__version__})", steps, {}


if __name__ == "__main__":
    child.serve(build)
