"""Arithmetic, element by element, with NumPy's broadcasting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import _trace
from ..._trace import Tensor
from .._stored import Stored
from ._base import apply

__all__ = [
    "abs", "add", "ceil", "clamp", "clip", "cos", "div", "eq", "erf", "exp", "expm1", "floor", "ge", "gt", "le", "log",
    "log1p", "logical_and", "logical_not", "logical_or", "lt", "masked_fill", "maximum", "minimum", "mul", "ne", "neg",
    "pow", "reciprocal", "round", "rsqrt", "scale", "sign", "sin", "sqrt", "square", "sub", "where",
]  # fmt: skip


# --- one operand


def exp(input: Any) -> Any:
    """e^x."""
    return apply("exp", [input])


def log(input: Any) -> Any:
    """Natural logarithm: -inf at 0, NaN below."""
    return apply("log", [input])


def log1p(input: Any) -> Any:
    """log(1 + x), exact also for small x."""
    return apply("log1p", [input])


def expm1(input: Any) -> Any:
    """e^x - 1, exact also for small x."""
    return apply("expm1", [input])


def sqrt(input: Any) -> Any:
    """Square root; NaN below 0."""
    return apply("sqrt", [input])


def rsqrt(input: Any) -> Any:
    """1 / sqrt(x)."""
    return apply("rsqrt", [input])


def reciprocal(input: Any) -> Any:
    """1 / x."""
    return apply("reciprocal", [input])


def abs(input: Any) -> Any:
    """|x|; the gradient at 0 is 0."""
    return apply("abs", [input])


def neg(input: Any) -> Any:
    """-x."""
    return scale(input, -1.0)


def sign(input: Any) -> Any:
    """-1, 0 or 1; its gradient is 0."""
    return apply("sign", [input])


def square(input: Any) -> Any:
    """x^2."""
    return apply("square", [input])


def sin(input: Any) -> Any:
    """Sine of radians."""
    return apply("sin", [input])


def cos(input: Any) -> Any:
    """Cosine of radians."""
    return apply("cos", [input])


def erf(input: Any) -> Any:
    """The error function."""
    return apply("erf", [input])


def floor(input: Any) -> Any:
    """The whole number at or below x; its gradient is 0."""
    return apply("floor", [input])


def ceil(input: Any) -> Any:
    """The whole number at or above x; its gradient is 0."""
    return apply("ceil", [input])


def round(input: Any) -> Any:
    """The nearest whole number, ties to the even one; its gradient is 0."""
    return apply("round", [input])


def clamp(input: Any, min: float | None = None, max: float | None = None) -> Any:
    """x, at least min and at most max; None: no bound. The gradient passes inside the bounds."""
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given")
    low, high = -math.inf if min is None else float(min), math.inf if max is None else float(max)
    return apply("clip", [input], attrs={"low": low, "high": high})


clip = clamp


def scale(input: Any, factor: float = 1.0, offset: float = 0.0) -> Any:
    """factor * x + offset."""
    return apply("scale", [input], attrs={"mul": float(factor), "add": float(offset)})


# --- two operands: tensors, parameters, arrays and numbers, in any order


def add(input: Any, other: Any) -> Any:
    """a + b."""
    if _trace._is_number(other) and isinstance(input, Tensor):
        return scale(input, offset=float(other))
    if _trace._is_number(input) and isinstance(other, Tensor):
        return scale(other, offset=float(input))
    return _pairwise("add", input, other)


def mul(input: Any, other: Any) -> Any:
    """a * b."""
    if _trace._is_number(other) and isinstance(input, Tensor):
        return scale(input, float(other))
    if _trace._is_number(input) and isinstance(other, Tensor):
        return scale(other, float(input))
    return _pairwise("mul", input, other)


def sub(input: Any, other: Any) -> Any:
    """a - b."""
    if _trace._is_number(other) and isinstance(input, Tensor):
        return scale(input, offset=-float(other))
    if _trace._is_number(input) and isinstance(other, Tensor):
        return scale(other, -1.0, float(input))
    if isinstance(input, Tensor) and isinstance(other, np.ndarray):
        return add(input, -other)
    if isinstance(input, Tensor) and isinstance(other, Stored):  # add takes a parameter as it is
        return neg(add(neg(input), other))
    if isinstance(other, Tensor) and isinstance(input, (Stored, np.ndarray)):
        return add(neg(other), input)
    return _pairwise("sub", input, other)


def div(input: Any, other: Any) -> Any:
    """a / b."""
    if _trace._is_number(other) and isinstance(input, Tensor):
        if other == 0:
            raise input.trace.error("division by 0")
        return scale(input, 1.0 / float(other))
    if _trace._is_number(input) and isinstance(other, Tensor):
        return scale(reciprocal(other), float(input))
    return _pairwise("div", input, other)


def pow(input: Any, exponent: Any) -> Any:
    """a^b. A whole number as exponent is a product, 0.5 a root."""
    if _trace._is_number(exponent) and not _trace._is_number(input):
        if float(exponent) == 2:
            return square(input)
        return apply("power", [input], attrs={"exponent": float(exponent)})
    if _trace._is_number(input) and isinstance(exponent, Tensor):
        if input <= 0:
            raise exponent.trace.error(f"{input} ** tensor: the base must be positive")
        return exp(scale(exponent, math.log(input)))
    return _pairwise("pow", input, exponent)


def maximum(input: Any, other: Any) -> Any:
    """The greater of both; NaN if either is. Of equal ones each takes half of the gradient."""
    return _pairwise("maximum", input, other)


def minimum(input: Any, other: Any) -> Any:
    """The less of both; NaN if either is. Of equal ones each takes half of the gradient."""
    return _pairwise("minimum", input, other)


def gt(input: Any, other: Any) -> Any:
    """1 where a > b, else 0; no gradient."""
    return _pairwise("greater", input, other)


def ge(input: Any, other: Any) -> Any:
    """1 where a >= b, else 0; no gradient."""
    return _pairwise("greater_equal", input, other)


def lt(input: Any, other: Any) -> Any:
    """1 where a < b, else 0; no gradient."""
    return _pairwise("less", input, other)


def le(input: Any, other: Any) -> Any:
    """1 where a <= b, else 0; no gradient."""
    return _pairwise("less_equal", input, other)


def eq(input: Any, other: Any) -> Any:
    """1 where a equals b, else 0; no gradient."""
    return _pairwise("equal", input, other)


def ne(input: Any, other: Any) -> Any:
    """1 where a differs from b, else 0; no gradient."""
    return _pairwise("not_equal", input, other)


def logical_not(input: Any) -> Any:
    """1 where x is 0, else 0."""
    return eq(input, 0.0)


def logical_and(input: Any, other: Any) -> Any:
    """1 where neither is 0, else 0."""
    return mul(ne(input, 0.0), ne(other, 0.0))


def logical_or(input: Any, other: Any) -> Any:
    """1 where either is not 0, else 0."""
    return maximum(ne(input, 0.0), ne(other, 0.0))


def where(condition: Any, input: Any, other: Any) -> Any:
    """input where the condition is not 0, else other; all three are broadcast to one shape."""
    parts = [condition, input, other]
    if not any(isinstance(part, (Tensor, Stored)) for part in parts) and _trace.active() is None:
        return np.where(condition, input, other)
    trace = _of(parts)
    parts = _alike(trace, parts)
    if trace.graph.dtype(parts[0].value) == "int32":
        parts[0] = _pairwise("not_equal", parts[0], 0)
    return trace.emit("where", parts)


def masked_fill(input: Any, mask: Any, value: float) -> Any:
    """value where the mask is not 0, else the input."""
    return where(mask, value, input)


def _of(parts: list[Any]) -> _trace.Trace:
    for part in parts:
        if isinstance(part, Tensor):
            return part.trace
    trace = _trace.active()
    if trace is None:
        raise TypeError("parameters compute with arrays as numbers: use parameter.data")
    return trace


def _shape_of(part: Any) -> tuple[int, ...]:
    return part.sample_shape if isinstance(part, Tensor) else tuple(np.shape(part))


def _alike(trace: _trace.Trace, parts: list[Any]) -> list[Tensor]:
    """The operands as tensors of one shape (of one sample)."""
    for part in parts:
        known = isinstance(part, (Tensor, Stored, np.ndarray, np.generic)) or _trace._is_number(part)
        if not known and not isinstance(part, bool):
            raise TypeError(f"{trace._prefix()}arithmetic of a tensor and {type(part).__name__} is not possible")
    try:
        shape = np.broadcast_shapes(*[_shape_of(part) for part in parts])
    except ValueError:
        texts = " and ".join(
            str(part.shape) if isinstance(part, Tensor) else str(tuple(np.shape(part))) for part in parts
        )
        raise trace.error(f"shapes {texts} cannot be broadcast together (the batch is axis 0 of tensors)") from None
    whole = any(isinstance(part, Tensor) and trace.graph.dtype(part.value) == "int32" for part in parts)
    return [_broadcast(trace, part, shape, whole) for part in parts]


def _broadcast(trace: _trace.Trace, part: Any, shape: tuple[int, ...], whole: bool) -> Tensor:
    if not isinstance(part, Tensor):
        if not isinstance(part, Stored):
            part = np.asarray(part, np.float32)
        return trace.expand(part, shape)
    attrs: dict[str, float] = {"rank": len(shape), **{f"d{axis}": extent for axis, extent in enumerate(shape)}}
    if part.sample_shape != shape:
        part = part._reshaped((*[1] * (len(shape) - len(part.sample_shape)), *part.sample_shape))
    return part if part.sample_shape == shape else trace.emit("broadcast_to", [part], attrs)


def _pairwise(op: str, a: Any, b: Any) -> Any:
    """An operator of two operands. add and mul take a parameter as it is; others get it once for every sample."""
    symbolic = isinstance(a, Tensor) or isinstance(b, Tensor)
    if not symbolic and _trace.active() is None:
        return _numbers(op, a, b)
    if not symbolic and not isinstance(a, Stored) and not isinstance(b, Stored):
        return _numbers(op, a, b)
    trace = _of([a, b])
    if op in ("add", "mul"):
        if not isinstance(a, Tensor) and isinstance(b, Tensor):
            a, b = b, a  # both are commutative
        if isinstance(a, Tensor) and isinstance(b, (Stored, np.ndarray)):
            shape = tuple(np.shape(b))
            fits = len(shape) <= len(a.sample_shape) and all(
                extent in (1, whole) for extent, whole in zip(shape[::-1], a.sample_shape[::-1], strict=False)
            )
            if fits:
                return trace.emit(op, [a, b])
    whole = [isinstance(part, Tensor) and trace.graph.dtype(part.value) == "int32" for part in (a, b)]
    attrs: dict[str, float] = {}
    if any(whole):
        if not all(whole):  # whole numbers meet floats
            a, b = (
                trace.emit("cast", [part]) if is_whole else part for part, is_whole in zip((a, b), whole, strict=True)
            )
        elif op in _COMPARISONS:
            attrs["whole"] = 1
        else:
            a, b = trace.emit("cast", [a]), trace.emit("cast", [b])
    return trace.emit(op, _alike(trace, [a, b]), attrs)


_COMPARISONS = {
    "greater": np.greater, "greater_equal": np.greater_equal, "less": np.less, "less_equal": np.less_equal,
    "equal": np.equal, "not_equal": np.not_equal,
}  # fmt: skip
_ON_NUMBERS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power, "maximum": np.maximum,
    "minimum": np.minimum,
}  # fmt: skip


def _numbers(op: str, a: Any, b: Any) -> Any:
    """Outside of a network: NumPy's own broadcasting."""
    a, b = np.asarray(a), np.asarray(b)
    if op in _COMPARISONS:
        return _COMPARISONS[op](a, b).astype(np.float32)
    return _ON_NUMBERS[op](a, b)
