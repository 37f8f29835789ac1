"""PyTorch. Variants: "" eager, "channels-last", "compile" (torch.compile). Several ranks: DistributedDataParallel over gloo."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import Any

import child
import torch
import torch.nn.functional as F
from torch import nn
from workloads import ADAM, ADAMW, CLASSES, RESNET_BLOCKS, SGD, VOCABULARY, Workload, data, share


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Identity()
        if inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.short(x))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(width, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, length: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*[TransformerBlock(width, heads) for _ in range(layers)])
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.blocks(self.tokens(x) + self.places)))


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(VOCABULARY, 64), nn.LSTM(64, 256, 2, batch_first=True)
        self.out = nn.Linear(256, VOCABULARY)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.tokens(x))[0])


def network(workload: Workload) -> nn.Module:
    layers: list[nn.Module] = []
    if workload.widths:
        for inputs, outputs in itertools.pairwise(workload.widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])
    if workload.text:
        return GPT(*workload.sample_shape, *workload.blocks) if workload.blocks[0] else LanguageModel()
    if workload.name == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(3136, 128),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(128, CLASSES),
        )
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [Block(*shape) for shape in RESNET_BLOCKS]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def build(setting: child.Setting) -> Any:
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    workload, ranks = setting.workload, int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    x, y = (torch.from_numpy(array) for array in share(*data(workload), rank, ranks))
    net: Any = network(workload)
    if setting.variant == "channels-last":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
        net = nn.parallel.DistributedDataParallel(net)
    # fused: the fastest of PyTorch's own variants of both optimizers
    kinds = {"sgd": (torch.optim.SGD, SGD), "adam": (torch.optim.Adam, ADAM), "adamw": (torch.optim.AdamW, ADAMW)}
    kind, settings = kinds[workload.optimizer]
    optimizer = kind(net.parameters(), fused=True, **settings)
    forward = torch.compile(net) if setting.variant == "compile" else net

    def half() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if setting.precision == "bf16" else contextlib.nullcontext()

    def steps(n: int) -> float:
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            with half():
                scores = forward(x)
            loss = F.cross_entropy(scores.flatten(0, -2).float(), y.flatten())
            loss.backward()
            optimizer.step()
        return float(loss)

    return torch.__version__, steps, {}


if __name__ == "__main__":
    child.serve(build, int(os.environ.get("RANK", "0")))
