"""One pass over a labelled data set that writes a ``.beton`` for every quality asked for.

Workers read and encode chunks of images; one writer takes the chunks in order. The look-ahead is bounded, so memory does
not grow with the data set, and the files are the same bytes for any number of workers and any number of stops.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from functools import partial
from itertools import pairwise, takewhile
from math import floor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.manifest import Manifest, Plan
from jpegcurr.encoding.output import Output, item_row
from jpegcurr.encoding.plan import Outputs, plan_output, settled
from jpegcurr.encoding.resume import lock_file
from jpegcurr.encoding.sources.base import Item, Order, Source
from jpegcurr.encoding.workers import Outcome, cut, encode_chunk, in_order
from jpegcurr.errors import EncodeError
from jpegcurr.files import locked, refuse_unwritable

AHEAD = 4  # chunks under way for each worker
NAMED_FAILURES = 5


class Watcher(Protocol):
    """Hears how an encode goes."""

    def begin(self, source: Source, done: int) -> None:
        """A split begins, ``done`` of whose images need not be encoded again."""

    def done(self, source: Source, outcomes: Sequence[Outcome]) -> None:
        """Some more images of the split are encoded, or have failed."""


def encode_dataset(
    sources: Sequence[Source],
    outputs: Outputs,
    *,
    executor: Executor,
    workers: int,
    order: Order | None = None,
    seed: int = 0,
    max_failures: int | Fraction = 0,
    resume: bool = False,
    force: bool = False,
    watcher: Watcher | None = None,
) -> dict[Path, Manifest]:
    """Encode every split once for all of its outputs: ``{split: {path of the beton: spec}}``, each with its manifest beside it.

    Sample i is the same image in every output of a split: one that fails at one quality is left out of all. ``order`` is
    ``shuffle`` for the split called train and ``folder`` for any other unless given. ``executor`` runs
    ``encode_chunk``, which is pure and picklable, so a Dask client's executor serves as well as a thread pool.

    ``max_failures`` images of a split may be left out, or that share of them if it is a ``Fraction``.

    Whatever ends the run, what is encoded stays in hidden files beside the outputs, and the same call with ``resume``
    goes on from there; it keeps outputs that are finished. With both ``resume`` and ``force`` only what was made or begun
    otherwise is replaced. ``watcher`` hears how it goes.

    Raises:
        UsageError: another process is writing one of the outputs; or one exists or was begun, and neither ``force`` nor
            ``resume`` is set; or it was made or begun otherwise. Nothing was changed.
        SourceError: a class or the source has a name that is not UTF-8.
        EncodeError: more than ``max_failures`` images failed, an output could not be written, or the source fails.
    """
    plans = {
        source.split: {path: plan_output(source, spec, order, seed) for path, spec in outputs[source.split].items()}
        for source in sources
    }
    paths = [path for each in plans.values() for path in each]
    refuse_unwritable(path.parent for path in paths)
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(locked(lock_file(path), path))
        done = settled(plans, resume=resume, force=force)
        for source in sources:
            left = {path: plan for path, plan in plans[source.split].items() if path not in done}
            if left:
                done |= _encode_split(source, left, executor, workers, max_failures, watcher)
            elif watcher:
                watcher.begin(source, len(source.items))
            _check_paired({path: done[path] for path in plans[source.split]})
    return {path: done[path] for path in paths}


def _encode_split(
    source: Source,
    plans: Mapping[Path, Plan],
    executor: Executor,
    workers: int,
    max_failures: int | Fraction,
    watcher: Watcher | None,
) -> dict[Path, Manifest]:
    """Encode what is left of one split, all of whose outputs have one order and seed."""
    plan = next(iter(plans.values()))
    specs = [each.spec for each in plans.values()]
    images = len(source.items)
    allowed = floor(max_failures * images) if isinstance(max_failures, Fraction) else max_failures
    with _saying_how_to_go_on(), ExitStack() as stack:
        begun = [stack.enter_context(Output.opened(path, each)) for path, each in plans.items()]
        run = _Run(source, source.ordered(plan.order, plan.seed), begun, allowed)
        if watcher:
            watcher.begin(source, run.start)
        encode = partial(encode_chunk, source.store, specs=specs)
        with closing(in_order(encode, run.chunks(), executor, AHEAD * workers)) as chunks:
            for outcomes in chunks:
                run.write(outcomes)
                if watcher:
                    watcher.done(source, outcomes)
        return dict(zip(plans, run.finish(), strict=True))


def _check_paired(made: Mapping[Path, Manifest]) -> None:
    """Outputs that were begun one by one may have left out different images."""
    for (one, first), (other, second) in pairwise(made.items()):
        if first.keys_sha256 != second.keys_sha256:
            raise EncodeError(
                f"{one} holds {first.images} images and {other} {second.images}: some could not be encoded at every quality, "
                "so sample i is not one image in both. Encode all qualities anew in one run, with --force."
            )


class _Run:
    """The writing side of one pass: ``start`` items are there, the others follow in order."""

    def __init__(self, source: Source, order: NDArray[np.int64], outputs: Sequence[Output], max_failures: int) -> None:
        self._source, self._order, self._outputs, self._max_failures = source, order, outputs, max_failures
        self._named: list[str] = []
        self._more = 0  # failures behind the one at which the run stopped, that one included
        self.start = min(output.recovered(source, order) for output in outputs)
        for output in outputs:
            output.rewind(self.start, source, order)
        self._stopped = self._failures > max_failures

    @property
    def _failures(self) -> int:
        return self._outputs[0].failures + self._more

    def chunks(self) -> Iterator[list[Item]]:
        """What is left to encode, until too many have failed."""
        return takewhile(lambda _: not self._stopped, cut(self._source.items, self._order[self.start :]))

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Add a chunk to all outputs; from the first failure too many on, only listen to which others fail."""
        for outcome in map(self._checked, outcomes):
            if outcome.reason:
                self._name(outcome)
                self._stopped |= self._failures >= self._max_failures
                self._more += self._stopped
            if not self._stopped:
                for position, output in enumerate(self._outputs):
                    encoded = outcome.encoded[position] if outcome.encoded else None
                    output.add(item_row(outcome.item, outcome.bytes_in, encoded, outcome.reason), encoded)
        for output in self._outputs:
            output.flush()

    def finish(self) -> list[Manifest]:
        """Complete all outputs; raises EncodeError if too many images failed, or all."""
        if self._stopped:
            raise EncodeError(self._complaint())
        if self._failures == len(self._source.items):
            raise EncodeError(
                f"None of the {len(self._source.items)} files in {self._source.root} is an image that can be read."
            )
        for output in self._outputs:
            output.sync()  # none gets its name before all can: they are a pair
        return [output.finish(self._source) for output in self._outputs]

    def _checked(self, outcome: Outcome) -> Outcome:
        """Turn an image that some page cannot hold into a failure, for all outputs alike."""
        for output, encoded in zip(self._outputs, outcome.encoded, strict=False):
            if len(encoded.data) > output.plan.page_size:
                reason = f"{len(encoded.data)} bytes do not fit into a page of the beton"
                return Outcome(outcome.item, outcome.item.size, (), reason)
        return outcome

    def _name(self, outcome: Outcome) -> None:
        if len(self._named) < NAMED_FAILURES:
            self._named.append(f"  {self._source.store.where(outcome.item)}: {outcome.reason}")

    def _complaint(self) -> str:
        images = "1 image" if self._failures == 1 else f"{self._failures} images"
        others = self._failures - len(self._named)
        named = [*self._named, *([f"  and {others} more, in the items"] if others else [])]
        return (
            f"{images} could not be encoded, {self._max_failures} may fail: stopped there.\n"
            + "\n".join(named)
            + "\nMend them, or leave up to N such images out with --max-failures N."
        )


@contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    """What is encoded is on the disk whatever went wrong."""
    kept = "What is encoded is kept: the same command with --resume goes on."
    try:
        yield
    except EncodeError as error:
        raise EncodeError(f"{error} {kept}") from error.__cause__
    except OSError as error:
        raise EncodeError(f"{error.filename or 'an output'}: {error.strerror}. {kept}") from error
