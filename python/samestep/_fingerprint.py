"""The digest of a network's bits."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from . import _core
from .nn.module import Module


def fingerprint(net: Module) -> str:
    """SHA-256, in hexadecimal, over the version of the order of sums and the names, shapes and bits of the parameters
    and of the float buffers.

    Equal bits give equal text, on every rank and machine. The counters of batches (`num_batches_tracked`) are left out.
    """
    if not isinstance(net, Module):
        raise TypeError(f"net must be a samestep.nn.Module, not {type(net).__name__}")
    digest = hashlib.sha256(struct.pack("<i", _core.ORDER_VERSION))
    for name, item in [*net.named_parameters(), *net.named_buffers()]:
        if item.dtype == np.float32:
            digest.update(name.encode() + b"\0" + struct.pack(f"<{item.ndim}q", *item.shape))
            digest.update(np.ascontiguousarray(item.data).tobytes())
    return digest.hexdigest()
