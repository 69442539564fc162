"""Random numbers of a sample: a pure function of (seed, epoch, sample), whatever the order, the batch or the process.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), run for all
samples at once. NumPy's counter-based generator, Philox, would need a new object for every sample, which at ten thousand
images a second takes a whole processor.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


_NAMED: ContextVar[NDArray[np.int64] | None] = ContextVar("samples", default=None)


@contextmanager
def samples_named(samples: int | Sequence[int] | NDArray[np.int64] | None) -> Iterator[None]:
    """Name, for the block and this thread, the sample or the batch of samples that a transform gets; None changes nothing."""
    token = _NAMED.set(_NAMED.get() if samples is None else np.atleast_1d(np.asarray(samples, np.int64)))
    try:
        yield
    finally:
        _NAMED.reset(token)


def named_samples() -> NDArray[np.int64] | None:
    """Return the samples that the innermost ``samples_named`` of this thread names, int64 [n]; None outside of any."""
    return _NAMED.get()


class SampleRng:
    """Independent streams of random numbers for every sample of ``samples``, int64 [n], in ``epoch``."""

    def __init__(self, seed: int, epoch: int, samples: NDArray[np.int64]) -> None:
        state = np.full(len(samples), seed, np.uint64)
        for number in (np.uint64(epoch), samples.astype(np.uint64)):
            state = _mixed(state + _GAMMA) + number
        self._state = _mixed(state + _GAMMA)

    def __len__(self) -> int:
        return len(self._state)

    def uniform(self, stream: int) -> NDArray[np.float64]:
        """Return float64 [n] in [0, 1), always the same for one ``stream`` (0, 1, 2, ...)."""
        step = np.uint64((stream + 1) * int(_GAMMA) % 2**64)
        return (_mixed(self._state + step) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integer(self, stream: int, low: NDArray[np.int64] | int, high: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Return int64 [n] from ``low`` to ``high``, both included."""
        return np.floor(low + self.uniform(stream) * (np.asarray(high) - low + 1)).astype(np.int64)

    def take(self, positions: NDArray[np.int64]) -> "SampleRng":
        """Return the streams of the samples at ``positions``."""
        taken = object.__new__(SampleRng)
        taken._state = self._state[positions]
        return taken


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * _FIRST
        state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
