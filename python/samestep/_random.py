"""The seed of initial values, and the running number that gives each parameter a stream of its own."""

from __future__ import annotations

import operator

_seed = 0
_next = 0


def check_seed(seed: int) -> int:
    """A seed as a whole number of 64 bits. Raises TypeError, ValueError."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number, not {seed!r}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"seed must lie in [0, 2**64), but is {number}")
    return number


def manual_seed(seed: int) -> None:
    """Starts the random numbers of initial values anew, from `seed` (0 at the start of the program).

    The n-th parameter that is drawn after this call gets the n-th stream of the counter-based generator, so one script
    gives the same initial values on every rank and on every machine. Shuffles and dropout follow the `seed` of
    `ss.Trainer` or `ss.compile`, not this one.
    """
    global _seed, _next
    _seed, _next = check_seed(seed), 0


def next_stream() -> tuple[int, int]:
    """(seed, number of the stream) for the next drawn parameter."""
    global _next
    _next += 1
    return _seed, _next - 1
