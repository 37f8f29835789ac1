"""Attention and transformers. The batch is always the first axis; the names of parameters are PyTorch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import functional as F
from .. import init
from .._stored import Buffer, empty
from ..container import ModuleList, Sequential
from ..module import Module
from ._base import count, switched_off
from .activations import GELU
from .dropouts import Dropout
from .normalizations import LayerNorm
from .products import Linear

__all__ = [
    "GPTBlock", "MultiheadAttention", "PositionalEncoding", "SelfAttention", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer",
]  # fmt: skip


def _batch_first(name: str, batch_first: bool) -> None:
    if not batch_first:
        raise ValueError(f"{name}: batch_first must be True: the batch is always the first axis here")


def _heads(x: Any, heads: int) -> Any:
    """(B, T, H * D) to (B, H, T, D)."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _joined(x: Any) -> Any:
    """(B, H, T, D) to (B, T, H * D)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], x.shape[1] * x.shape[3])


class MultiheadAttention(Module):
    """Attention of several heads between linear layers, as torch.nn.MultiheadAttention with batch_first=True.

    forward(query, key, value): (B, T, embed_dim), (B, S, kdim), (B, S, vdim) to (output (B, T, embed_dim), None).
    key_padding_mask: (B, S), not 0 for keys that are NOT seen (PyTorch's sense); attn_mask: an array (T, S) or (heads, T, S):
    booleans, True where a query may NOT look (PyTorch's sense here), or numbers that are added. The weights themselves are
    never made: need_weights must be False. Source: Vaswani and others: "Attention is all you need", 2017.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        _batch_first("MultiheadAttention", batch_first)
        if add_bias_kv or add_zero_attn:
            raise ValueError("MultiheadAttention: add_bias_kv and add_zero_attn are not supported")
        self.embed_dim = count(embed_dim, "MultiheadAttention: embed_dim")
        self.num_heads = count(num_heads, "MultiheadAttention: num_heads")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"MultiheadAttention: num_heads={num_heads} must divide embed_dim={embed_dim}")
        if not 0 <= dropout < 1:
            raise ValueError(f"MultiheadAttention: dropout must lie in [0, 1), but is {dropout!r}")
        self.dropout, self.batch_first = float(dropout), True
        self.kdim, self.vdim = kdim or self.embed_dim, vdim or self.embed_dim
        self._whole = self.kdim == self.embed_dim and self.vdim == self.embed_dim
        self.in_proj_weight: Any
        self.in_proj_bias: Any
        if self._whole:
            self.in_proj_weight = empty((3 * self.embed_dim, self.embed_dim))
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.register_parameter("in_proj_weight", None)
            self.q_proj_weight = empty((self.embed_dim, self.embed_dim))
            self.k_proj_weight = empty((self.embed_dim, self.kdim))
            self.v_proj_weight = empty((self.embed_dim, self.vdim))
        if bias:
            self.in_proj_bias = empty((3 * self.embed_dim,))
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot's uniform values for the projections in, 0 for biases."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = getattr(self, name)
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def _projected(self, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
        size = self.embed_dim
        if self._whole and query is key and key is value:
            q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).split(size, 2)
            return q, k, v
        if self._whole:  # the weight is one parameter: each operand takes its part of the product
            parts = [F.linear(x, self.in_proj_weight, self.in_proj_bias) for x in (query, key, value)]
            return parts[0][:, :, :size], parts[1][:, :, size : 2 * size], parts[2][:, :, 2 * size :]
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        made = [F.linear(x, weight) for x, weight in zip((query, key, value), weights, strict=True)]
        if self.in_proj_bias is not None:
            made = [x + self.in_proj_bias[n * size : (n + 1) * size] for n, x in enumerate(made)]
        return made[0], made[1], made[2]

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = False,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        if need_weights:
            raise ValueError("MultiheadAttention: the weights are never made; need_weights must be False")
        q, k, v = (_heads(x, self.num_heads) for x in self._projected(query, key, value))
        if isinstance(attn_mask, np.ndarray) and attn_mask.dtype == bool:
            attn_mask = ~attn_mask
        seen = None if key_padding_mask is None else F.eq(key_padding_mask, 0)
        drop = 0.0 if switched_off(self) else self.dropout
        y = F.scaled_dot_product_attention(
            q, k, v, None if is_causal else attn_mask, drop, is_causal, key_padding_mask=seen
        )
        return self.out_proj(_joined(y)), None

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, dropout={self.dropout}"


def _activation(name: str, given: Any) -> Any:
    known = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
    if isinstance(given, str):
        if given not in known:
            raise ValueError(f"{name}: activation must be one of {', '.join(known)} or a function, not {given!r}")
        return known[given]
    if not callable(given):
        raise TypeError(f"{name}: activation must be a name or a function, not {given!r}")
    return given


class TransformerEncoderLayer(Module):
    """Self-attention and two linear layers, each with a residual connection and layer normalisation, as
    torch.nn.TransformerEncoderLayer with batch_first=True: (B, T, d_model) to the same shape."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Any = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _batch_first("TransformerEncoderLayer", batch_first)
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.norm_first = bool(norm_first)
        self.activation = _activation("TransformerEncoderLayer", activation)

    def _attend(self, x: Any, mask: Any, padding: Any, causal: bool) -> Any:
        return self.dropout1(self.self_attn(x, x, x, key_padding_mask=padding, attn_mask=mask, is_causal=causal)[0])

    def _feed(self, x: Any) -> Any:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        x = src
        if self.norm_first:
            x = x + self._attend(self.norm1(x), src_mask, src_key_padding_mask, is_causal)
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._feed(x))


class TransformerDecoderLayer(Module):
    """Self-attention, attention to the encoder's output, and two linear layers, as torch.nn.TransformerDecoderLayer with
    batch_first=True: forward(tgt (B, T, d_model), memory (B, S, d_model)) to (B, T, d_model)."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Any = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _batch_first("TransformerDecoderLayer", batch_first)
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.norm3 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias)
        self.dropout1, self.dropout2, self.dropout3 = Dropout(dropout), Dropout(dropout), Dropout(dropout)
        self.norm_first = bool(norm_first)
        self.activation = _activation("TransformerDecoderLayer", activation)

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
    ) -> Any:
        def attend(x: Any) -> Any:
            return self.dropout1(
                self.self_attn(
                    x, x, x, key_padding_mask=tgt_key_padding_mask, attn_mask=tgt_mask, is_causal=tgt_is_causal
                )[0]
            )

        def look(x: Any) -> Any:
            made = self.multihead_attn(
                x, memory, memory, key_padding_mask=memory_key_padding_mask, attn_mask=memory_mask
            )
            return self.dropout2(made[0])

        def feed(x: Any) -> Any:
            return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        x = tgt
        if self.norm_first:
            x = x + attend(self.norm1(x))
            x = x + look(self.norm2(x))
            return x + feed(self.norm3(x))
        x = self.norm1(x + attend(x))
        x = self.norm2(x + look(x))
        return self.norm3(x + feed(x))


class TransformerEncoder(Module):
    """num_layers copies of an encoder layer, each with initial values of its own, and a last normalisation if given."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        from copy import deepcopy

        self.num_layers = count(num_layers, "TransformerEncoder: num_layers")
        self.layers = ModuleList([deepcopy(encoder_layer) for _ in range(self.num_layers)])
        if norm is not None:
            self.norm = norm
        self._normed = norm is not None

    def forward(self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        x = src
        for layer in self.layers:
            x = layer(x, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal)
        return self.norm(x) if self._normed else x


class SelfAttention(Module):
    """Self-attention with one linear layer in front (query, key and value together) and one behind: (B, T, d) to the same.

    n_kv_heads: heads of keys and values, a divisor of n_heads (grouped queries); rotary: positions by rotation; causal:
    position t looks at 0 to t.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = True,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads = count(n_heads, "SelfAttention: n_heads")
        self.n_kv_heads = count(n_kv_heads or n_heads, "SelfAttention: n_kv_heads")
        if d_model % self.n_heads or self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"SelfAttention: n_heads={n_heads} must divide d_model={d_model}, and n_kv_heads={n_kv_heads} must divide n_heads"
            )
        self.features = d_model // self.n_heads
        if rotary and self.features % 2:
            raise ValueError(f"SelfAttention: rotary needs an even number of features a head, not {self.features}")
        self.dropout, self.causal, self.rotary = float(dropout), bool(causal), bool(rotary)
        self.qkv = Linear(d_model, (self.n_heads + 2 * self.n_kv_heads) * self.features, bias)
        self.out = Linear(d_model, d_model, bias)
        self.drop = Dropout(dropout)

    def forward(self, x: Any) -> Any:
        widths = [self.n_heads * self.features, self.n_kv_heads * self.features, self.n_kv_heads * self.features]
        parts = self.qkv(x).split(widths, 2)
        q, k, v = (
            _heads(part, heads)
            for part, heads in zip(parts, (self.n_heads, self.n_kv_heads, self.n_kv_heads), strict=True)
        )
        if self.rotary:
            q, k = F.rotary_embedding(q), F.rotary_embedding(k)
        drop = 0.0 if switched_off(self) else self.dropout
        y = F.scaled_dot_product_attention(
            q, k, v, dropout_p=drop, is_causal=self.causal, enable_gqa=self.n_heads != self.n_kv_heads
        )
        return self.drop(self.out(_joined(y)))


class GPTBlock(Module):
    """A transformer block as in GPT-2: layer norm, causal self-attention, layer norm, two linear layers with GELU between,
    both with residual connections. (B, T, d_model) to the same shape.

    n_kv_heads: grouped queries; rotary: positions by rotation. Source: Radford and others: "Language models are
    unsupervised multitask learners", 2019.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        n_kv_heads: int | None = None,
        rotary: bool = False,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(d_model, bias=bias)
        self.attention = SelfAttention(d_model, n_heads, n_kv_heads, dropout, bias, True, rotary)
        self.norm2 = LayerNorm(d_model, bias=bias)
        self.mlp = Sequential(
            Linear(d_model, expansion * d_model, bias),
            GELU(),
            Linear(expansion * d_model, d_model, bias),
            Dropout(dropout),
        )

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PositionalEncoding(Module):
    """Adds sines and cosines of the positions to (B, T, d_model), T up to max_len; then dropout.

    Source: Vaswani and others: "Attention is all you need", 2017.
    """

    def __init__(self, d_model: int, dropout: float = 0.0, max_len: int = 5000) -> None:
        super().__init__()
        if d_model % 2:
            raise ValueError(f"PositionalEncoding: d_model must be even, but is {d_model}")
        rates = np.exp(np.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        table = np.zeros((count(max_len, "PositionalEncoding: max_len"), d_model), np.float32)
        angles = np.arange(max_len)[:, None] * rates
        table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
        self.table = Buffer(table)
        self.dropout = Dropout(dropout)

    def forward(self, x: Any) -> Any:
        length = x.shape[1]
        if length > self.table.shape[0]:
            raise ValueError(f"PositionalEncoding: {length} positions, but max_len={self.table.shape[0]}")
        return self.dropout(x + self.table.numpy()[:length])
