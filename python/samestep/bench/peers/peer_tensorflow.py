"""TensorFlow with Keras: one tf.function a step. Several ranks: MultiWorkerMirroredStrategy, from TF_CONFIG. Channels last."""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import child
import tensorflow as tf
from workloads import ADAM, ADAMW, CLASSES, RESNET_BLOCKS, SGD, VOCABULARY, Workload, data, share

layers = tf.keras.layers


def batch_norm() -> Any:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)


def convolution(channels: int, size: int, stride: int = 1) -> Any:
    return layers.Conv2D(channels, size, stride, padding="same", use_bias=False)


def block(x: Any, inputs: int, outputs: int, stride: int) -> Any:
    h = layers.ReLU()(batch_norm()(convolution(outputs, 3, stride)(x)))
    h = batch_norm()(convolution(outputs, 3)(h))
    if inputs != outputs:
        x = batch_norm()(convolution(outputs, 1, stride)(x))
    return layers.ReLU()(layers.add([h, x]))


class Tokens(layers.Layer):
    """Tables of tokens and of their places."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.tokens, self.places = layers.Embedding(VOCABULARY, width), layers.Embedding(length, width)
        self.length = length

    def call(self, x: Any) -> Any:
        return self.tokens(x) + self.places(tf.range(self.length))


def gelu(x: Any) -> Any:
    return tf.nn.gelu(x, approximate=True)


def text_network(workload: Workload) -> Any:
    (length,) = workload.sample_shape
    entry = tf.keras.Input((length,), dtype="int32")
    count, width, heads = workload.blocks
    if not count:
        x = layers.Embedding(VOCABULARY, 64)(entry)
        for _ in range(2):
            x = layers.LSTM(256, return_sequences=True)(x)
        return tf.keras.Model(entry, layers.Dense(VOCABULARY)(x))
    x = Tokens(length, width)(entry)
    for _ in range(count):
        h = layers.LayerNormalization(epsilon=1e-5)(x)
        x = layers.add([x, layers.MultiHeadAttention(heads, width // heads)(h, h, use_causal_mask=True)])
        h = layers.Dense(4 * width, gelu)(layers.LayerNormalization(epsilon=1e-5)(x))
        x = layers.add([x, layers.Dense(width)(h)])
    return tf.keras.Model(entry, layers.Dense(VOCABULARY, use_bias=False)(layers.LayerNormalization(epsilon=1e-5)(x)))


def network(workload: Workload) -> Any:
    if workload.widths:
        first, *hidden, last = workload.widths
        return tf.keras.Sequential(
            [tf.keras.Input((first,)), *(layers.Dense(width, "relu") for width in hidden), layers.Dense(last)]
        )
    if workload.text:
        return text_network(workload)
    channels, height, width = workload.sample_shape
    x = entry = tf.keras.Input((height, width, channels))
    if workload.name == "cnn":
        for filters in (32, 64):
            x = layers.MaxPool2D()(layers.Conv2D(filters, 3, padding="same", activation="relu")(x))
        x = layers.Dropout(0.25)(layers.Dense(128, "relu")(layers.Flatten()(x)))
    else:
        x = layers.ReLU()(batch_norm()(convolution(16, 3)(x)))
        for shape in RESNET_BLOCKS:
            x = block(x, *shape)
        x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(entry, layers.Dense(CLASSES)(x))


def build(setting: child.Setting) -> Any:
    tf.config.threading.set_intra_op_parallelism_threads(setting.threads)
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
    rank, ranks = (cluster["task"]["index"], len(cluster["cluster"]["worker"])) if cluster else (0, 1)
    if ranks > 1:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if ranks > 1 else tf.distribute.get_strategy()
    tf.keras.utils.set_random_seed(0)
    workload = setting.workload
    with strategy.scope():
        net = network(workload)
        kinds = tf.keras.optimizers
        made: dict[str, Any] = {
            "sgd": lambda: kinds.SGD(SGD["lr"], SGD["momentum"]),
            "adam": lambda: kinds.Adam(ADAM["lr"]),
            "adamw": lambda: kinds.AdamW(ADAMW["lr"], weight_decay=ADAMW["weight_decay"]),
        }
        optimizer = made[workload.optimizer]()
        optimizer.build(net.trainable_variables)
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    x, y = (tf.constant(array) for array in share(*data(workload, channels_last=True), rank, ranks))

    targets = workload.batch * (workload.sample_shape[0] if workload.text else 1)

    def replica() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(cross_entropy(y, net(x, training=True))) / targets
        gradients = tape.gradient(loss, net.trainable_variables)
        optimizer.apply_gradients(zip(gradients, net.trainable_variables, strict=True))
        return loss

    @tf.function
    def step() -> Any:
        return strategy.reduce("SUM", strategy.run(replica), axis=None) if ranks > 1 else replica()

    def steps(n: int) -> float:
        for _ in range(n):
            loss = step()
        return float(loss)

    return tf.__version__, steps, {}


if __name__ == "__main__":
    child.serve(build, json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"])
