"""Attention and rotary positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._trace import Tensor
from ._base import apply, lift

__all__ = ["rotary_embedding", "rotary_tables", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    key_padding_mask: Any = None,
) -> Any:
    """softmax(q k^T scale + mask) v for each head, as torch.nn.functional.scaled_dot_product_attention.

    query: (B, heads, T, D); key: (B, kv heads, S, D); value: (B, kv heads, S, E). Output: (B, heads, T, E). attn_mask: an
    array of shape (T, S) or (heads, T, S): booleans, True where a query may look, or numbers that are added; or a tensor
    (B, T, S) or (B, heads, T, S) of numbers that are added. key_padding_mask: a tensor (B, S), 0 for keys that are not
    seen. scale: 1/sqrt(D) by default. enable_gqa: fewer key heads than query heads, of which they are a divisor. A query
    that sees no key gives 0. Memory grows with T + S.
    """
    if not isinstance(query, Tensor):
        symbols = [query, key, value]
        return lift(
            lambda q, k, v: scaled_dot_product_attention(
                q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa, key_padding_mask
            ),
            *symbols,
        )
    if not 0 <= dropout_p < 1:
        raise ValueError(f"scaled_dot_product_attention: dropout_p must lie in [0, 1), but is {dropout_p!r}")
    if scale is not None and not scale > 0:
        raise ValueError(f"scaled_dot_product_attention: scale must be positive, but is {scale!r}")
    heads, kv_heads = query.sample_shape[0], key.sample_shape[0]
    if heads != kv_heads and not enable_gqa:
        raise query.trace.error(f"{heads} query heads and {kv_heads} key heads differ: enable_gqa=True lets them share")
    mask = attn_mask
    if mask is not None and not isinstance(mask, Tensor):
        mask = np.asarray(mask)
        if mask.dtype == bool:
            mask = np.where(mask, 0.0, -np.inf)
        while mask.ndim > 3 and mask.shape[0] == 1:
            mask = mask[0]
        if mask.ndim < 2:
            raise query.trace.error(f"attn_mask must have the shape (T, S) or (heads, T, S), not {mask.shape}")
        wanted = (*mask.shape[:-2], query.sample_shape[1], key.sample_shape[1])
        mask = query.trace.constant(np.broadcast_to(mask, wanted), buffer=True)
    attrs = {"is_causal": float(is_causal), "scale": float(scale or 0.0), "p": float(dropout_p)}
    return apply("attention", [query, key, value, mask, key_padding_mask], attrs=attrs)


def rotary_tables(length: int, features: int, base: float = 10000.0, offset: int = 0) -> tuple[Any, Any]:
    """Cosines and sines (length, features / 2) of the angles position * base^(-2i / features), positions from offset on."""
    if features % 2:
        raise ValueError(f"rotary_tables: features must be even, but is {features}")
    rates = base ** (-np.arange(0, features, 2, dtype=np.float64) / features)
    angles = np.arange(offset, offset + length, dtype=np.float64)[:, None] * rates
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotary_embedding(input: Any, base: float = 10000.0, offset: int = 0, interleaved: bool = False) -> Any:
    """Turns pairs of features by an angle that grows with the position: input (B, ..., T, D), D even.

    Pairs are (i, i + D/2), as in GPT-NeoX and Llama, or neighbours with interleaved=True. Source: Su and others: "RoFormer:
    enhanced transformer with rotary position embedding", 2021.
    """
    if not isinstance(input, Tensor):
        return lift(lambda x: rotary_embedding(x, base, offset, interleaved), input)
    if len(input.sample_shape) < 2:
        raise input.trace.error(f"rotary_embedding takes (B, ..., T, D), got {input.shape}")
    cosines, sines = rotary_tables(input.sample_shape[-2], input.sample_shape[-1], base, offset)
    trace = input.trace
    tables = [trace.constant(table, buffer=True) for table in (cosines, sines)]
    return trace.emit("rope", [input, *tables], {"interleaved": float(interleaved)})
