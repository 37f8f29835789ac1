"""Compressors of gradients, for `ss.AllReduce(compression=...)`.

Every rank packs its own gradient, payloads travel, and all ranks unpack the same complete gradient. What a payload leaves
out is added to the next gradient (`feedback`, on by default). Training then depends on the number of ranks: runs with equal
numbers of ranks have equal bits, others do not. On one rank nothing is compressed.

    ss.compile(net, parallel=ss.Parallel(exchange=ss.AllReduce(ss.compress.Int8(exclude=["head.*"]))))

Small tensors cost more to pack than they save, so parameters of fewer than `least` elements travel as they are, and so do
those that `exclude` names by glob patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["BF16", "FP16", "Compressor", "Int8", "OneBit", "PowerSGD", "RandomK", "TopK"]


class Compressor:
    """Base of all compressors: a name in the core, its settings, and which parameters it is for."""

    _core_name = ""

    def __init__(self, feedback: bool, least: int, exclude: str | Iterable[str], **settings: float) -> None:
        self.feedback = bool(feedback)
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise ValueError(f"{type(self).__name__}: least must be a whole number of elements from 1, not {least!r}")
        self.least = least
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        if not all(isinstance(pattern, str) for pattern in self.exclude):
            raise TypeError(f"{type(self).__name__}: exclude must be patterns on names of parameters, not {exclude!r}")
        self.settings = settings

    def names(self, parameters: Mapping[str, int]) -> list[str]:
        """Of the parameters, name -> number of elements, those that are compressed. ValueError for a pattern in
        `exclude` that fits none."""
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in parameters):
                raise ValueError(
                    f"{self!r}: no parameter has a name like {pattern!r}; there are {', '.join(parameters) or 'none'}"
                )
        return [
            name
            for name, count in parameters.items()
            if count >= self.least and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        ]

    def _core(self, parameters: Mapping[str, int]) -> tuple[str, dict[str, float], bool, list[str]]:
        return self._core_name, dict(self.settings), self.feedback, self.names(parameters)

    def __repr__(self) -> str:
        shown: dict[str, Any] = {
            **self.settings,
            "feedback": self.feedback,
            "least": self.least,
            "exclude": self.exclude,
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class FP16(Compressor):
    """IEEE half precision: half the bytes, 11 bits of precision; magnitudes beyond 65504 become 65504."""

    _core_name = "fp16"

    def __init__(self, *, feedback: bool = True, least: int = 1024, exclude: str | Iterable[str] = ()) -> None:
        super().__init__(feedback, least, exclude)


class BF16(Compressor):
    """bfloat16: half the bytes, 8 bits of precision, the range of float32."""

    _core_name = "bf16"

    def __init__(self, *, feedback: bool = True, least: int = 1024, exclude: str | Iterable[str] = ()) -> None:
        super().__init__(feedback, least, exclude)


class Int8(Compressor):
    """Bytes with a scale for each 256 elements, rounded at random so that the mean is right: a quarter of the bytes.

    Source: Alistarh, Grubic, Li, Tomioka, Vojnovic: "QSGD: communication-efficient SGD via gradient quantization and
    encoding", 2017.
    """

    _core_name = "int8"

    def __init__(self, *, feedback: bool = True, least: int = 1024, exclude: str | Iterable[str] = ()) -> None:
        super().__init__(feedback, least, exclude)


class OneBit(Compressor):
    """The sign of each element, and for each 128 elements the means of the positive and of the negative ones: a bit and a
    half an element, a twenty-first of the bytes. Wants a smaller learning rate than training without it.

    Source: Seide, Fu, Droppo, Li, Yu: "1-bit stochastic gradient descent and its application to data-parallel distributed
    training of speech DNNs", 2014.
    """

    _core_name = "onebit"

    def __init__(self, *, feedback: bool = True, least: int = 1024, exclude: str | Iterable[str] = ()) -> None:
        super().__init__(feedback, least, exclude)


class TopK(Compressor):
    """The `ratio` of each parameter's elements that are largest, with their places: 2 * ratio of the bytes a rank.

    Source: Aji, Heafield: "Sparse communication for distributed gradient descent", 2017.
    """

    _core_name = "topk"

    def __init__(
        self, ratio: float = 0.01, *, feedback: bool = True, least: int = 1024, exclude: str | Iterable[str] = ()
    ) -> None:
        super().__init__(feedback, least, exclude, ratio=_ratio(ratio, "TopK"))


class RandomK(Compressor):
    """A `ratio` of each parameter's elements, drawn anew each step and alike on all ranks, so that no places travel.

    Source: Stich, Cordonnier, Jaggi: "Sparsified SGD with memory", 2018.
    """

    _core_name = "randomk"

    def __init__(
        self, ratio: float = 0.01, *, feedback: bool = True, least: int = 1024, exclude: str | Iterable[str] = ()
    ) -> None:
        super().__init__(feedback, least, exclude, ratio=_ratio(ratio, "RandomK"))


class PowerSGD(Compressor):
    """Each gradient with two or more axes as the product of two thin matrices of `rank` columns.

    Source: Vogels, Karimireddy, Jaggi: "PowerSGD: practical low-rank gradient compression for distributed optimization",
    2019.
    """

    _core_name = "powersgd"

    def __init__(
        self, rank: int = 4, *, feedback: bool = True, least: int = 1024, exclude: str | Iterable[str] = ()
    ) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= 1024:
            raise ValueError(f"PowerSGD: rank must be a whole number from 1 to 1024, not {rank!r}")
        super().__init__(feedback, least, exclude, rank=rank)


def _ratio(value: Any, name: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or not 0 < float(value) <= 1:
        raise ValueError(f"{name}: ratio must be a number above 0 and at most 1, not {value!r}")
    return float(value)
