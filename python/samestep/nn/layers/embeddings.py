"""Embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional as F
from .. import init
from .._stored import Parameter, empty
from ..functional.embeddings import check_options
from ..module import Module
from ._base import count

__all__ = ["Embedding"]


class Embedding(Module):
    """Rows of a table by number: whole numbers (samples, ...) to (samples, ..., embedding_dim).

    weight: (num_embeddings, embedding_dim), drawn from the normal distribution; row padding_idx starts as zeros and gets
    no gradient. max_norm and scale_grad_by_freq are not supported; sparse is accepted and not used.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        check_options(max_norm, scale_grad_by_freq)
        self.num_embeddings = count(num_embeddings, "Embedding: num_embeddings")
        self.embedding_dim = count(embedding_dim, "Embedding: embedding_dim")
        if padding_idx is not None:
            if not -self.num_embeddings <= padding_idx < self.num_embeddings:
                raise ValueError(f"Embedding: padding_idx={padding_idx} is none of the {num_embeddings} rows")
            padding_idx = int(padding_idx) % self.num_embeddings
        self.padding_idx = padding_idx
        self.weight = empty((self.num_embeddings, self.embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new initial values."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight[self.padding_idx] = 0

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """A layer with given rows, (num_embeddings, embedding_dim); freeze=True does not train them."""
        values = np.asarray(embeddings)
        if values.ndim != 2:
            raise ValueError(f"from_pretrained: embeddings must have two axes, but has the shape {values.shape}")
        layer = cls(values.shape[0], values.shape[1], padding_idx)
        layer.weight = Parameter(values, requires_grad=not freeze)
        return layer

    def forward(self, x: Any) -> Any:
        return F.embedding(x, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"
