"""Encoding of a labelled data set: one pass over the images writes every requested quality, in every requested format.

Workers read and encode chunks of images; one writer takes the chunks in order. The look-ahead is bounded, so memory does
not grow with the data set, and the files have the same bytes for any number of workers and of interruptions.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise, takewhile
from math import floor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.manifest import Manifest, describe_other_samples
from jpegcurr.encoding.estimate import refuse_too_large
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.output import Output, make_item_row
from jpegcurr.encoding.outputs.shards import SHARD_BYTES
from jpegcurr.encoding.plan import Outputs, SplitPlan, plan_split, prepare_outputs, refusal, refuse_impossible
from jpegcurr.encoding.resume import FAILED, is_repaired, lock_file
from jpegcurr.encoding.sources.base import Item, Order, Source
from jpegcurr.encoding.workers import Outcome, encode_chunk, map_in_order, split_into_chunks
from jpegcurr.errors import EncodeError
from jpegcurr.files import locked, refuse_unwritable

AHEAD = 4  # chunks submitted for each worker
NAMED_FAILURES = 5
RESUME_ADVICE = "The encoded images are kept: continue with the same command and --resume."


class Watcher(Protocol):
    """A receiver of an encode's progress."""

    def begin(self, source: Source, done: int) -> None:
        """Note that a split begins; ``done`` of its images were encoded by an earlier run."""

    def done(self, source: Source, outcomes: Sequence[Outcome]) -> None:
        """Note that more images of the split were encoded, or failed."""


def encode_dataset(
    sources: Sequence[Source],
    outputs: Outputs,
    *,
    executor: Executor,
    workers: int,
    order: Order | None = None,
    seed: int = 0,
    max_failures: int | Fraction = 0,
    max_pixels: int = MAX_PIXELS,
    resume: bool = False,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    watcher: Watcher | None = None,
) -> dict[Path, Manifest]:
    """Encode every split once for all of its ``outputs`` (``{split: {path: spec}}``); return their manifests.

    Sample i is the same image in every output of a split: an image that fails at one quality is left out of all.

    Args:
        sources: the splits, as ``open_sources`` returns them.
        outputs: the files or folders to write, as ``plan_outputs`` names them; a manifest appears beside each.
        executor: runs ``encode_chunk``, which is pure and picklable, so a Dask client's executor serves as well as threads.
        workers: how many chunks the executor works on at once.
        order: ``shuffle`` or ``folder``; by default ``shuffle`` for the split called train and ``folder`` for others.
        seed: of the shuffle.
        max_failures: how many images of a split may fail, or which share of them if it is a ``Fraction``.
        max_pixels: how many pixels an image may have; a larger one fails. At most ``MOST_PIXELS``.
        resume: continue an interrupted encode and keep finished outputs. Encoded images survive any stop, in hidden files
            beside the outputs.
        force: replace existing outputs; with ``resume``, only those that were written with other options.
        shard_bytes: JPEGs of at most so many bytes make a shard, in the formats that have shards.
        watcher: receives the progress.

    Raises:
        UsageError: another process is writing one of the outputs; or one exists, finished or interrupted, and neither
            ``force`` nor ``resume`` is set; or it was written with other options; or the outputs surely do not fit on the
            disk. Nothing was changed.
        SourceError: a class or the source has a name that is not UTF-8, or two images would have one name in an output.
        EncodeError: more than ``max_failures`` images failed, an output could not be written, or the source fails.
    """
    paths = [path for source in sources for path in outputs[source.split]]
    refuse_unwritable(path.parent for path in paths)
    refuse_impossible(paths)
    splits = [plan_split(source, outputs[source.split], order, seed, shard_bytes) for source in sources]
    if not refusal(outputs, replacing=resume or force):  # which is more to the point, and prepare_outputs raises it
        refuse_too_large(sources, outputs, executor, resume=resume, max_pixels=max_pixels)
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(locked(lock_file(path), path))
        manifests = prepare_outputs(splits, resume=resume, force=force)
        for split in splits:
            unfinished = {path: plan for path, plan in split.plans.items() if path not in manifests}
            if unfinished:
                rest = replace(split, plans=unfinished)
                manifests |= _encode_split(rest, executor, workers, max_failures, max_pixels, watcher)
            elif watcher:
                watcher.begin(split.source, len(split.source.items))
            _check_paired({path: manifests[path] for path in split.plans})
    return {path: manifests[path] for path in paths}


def _encode_split(
    split: SplitPlan,
    executor: Executor,
    workers: int,
    max_failures: int | Fraction,
    max_pixels: int,
    watcher: Watcher | None,
) -> dict[Path, Manifest]:
    """Encode the outputs of one split, all of which are unfinished."""
    source, plans = split.source, split.plans
    specs = list(dict.fromkeys(plan.spec for plan in plans.values()))
    images = len(source.items)
    allowed = floor(max_failures * images) if isinstance(max_failures, Fraction) else max_failures
    with explain_resume(), ExitStack() as stack:
        outputs = [stack.enter_context(Output.open(path, plan)) for path, plan in plans.items()]
        writer = _SplitWriter(source, split.order, outputs, specs, allowed)
        if watcher:
            watcher.begin(source, writer.start)
        encode = partial(
            encode_chunk,
            source.store,
            specs=specs,
            max_pixels=max_pixels,
            time_stamps=any(output.time_stamps for output in outputs),
        )
        with closing(map_in_order(encode, writer.remaining_chunks(), executor, AHEAD * workers)) as chunks:
            for outcomes in chunks:
                writer.write(outcomes)
                if watcher:
                    watcher.done(source, outcomes)
        return dict(zip(plans, writer.finish(), strict=True))


def _check_paired(manifests: Mapping[Path, Manifest]) -> None:
    """Raise EncodeError if outputs, some of which an earlier run has written, hold different images."""
    for (one, first), (other, second) in pairwise(manifests.items()):
        if difference := describe_other_samples(first, second):
            raise EncodeError(
                f"{other} does not hold the samples of {one}: {difference}. Encode all qualities again in one run with --force."
            )


class _SplitWriter:
    """The ordered writer of one split's outputs; ``start`` items were recovered, the others follow in order."""

    def __init__(
        self,
        source: Source,
        order: NDArray[np.int64],
        outputs: Sequence[Output],
        specs: Sequence[EncodeSpec],
        max_failures: int,
    ) -> None:
        self._source, self._order, self._max_failures = source, order, max_failures
        self._outputs = [(output, specs.index(output.plan.spec)) for output in outputs]  # several formats share an encoding
        self._examples: list[str] = []
        self._late_failures = 0  # failures from the one at which the run stopped
        self.start = min(output.count_recovered(partial(self._is_outdated, output)) for output in outputs)
        for output in outputs:
            output.rewind(self.start)
        self._stopped = self._failures > max_failures

    @property
    def _failures(self) -> int:
        return self._outputs[0][0].failures + self._late_failures

    def _is_outdated(self, output: Output, number: int, line: bytes) -> bool:
        """Return whether a row is of a failed image that was repaired since."""
        return FAILED in line and is_repaired(output.parse(line), self._source.items[int(self._order[number])])

    def remaining_chunks(self) -> Iterator[list[Item]]:
        """Yield the items still to encode, in chunks, until too many have failed."""
        return takewhile(lambda _: not self._stopped, split_into_chunks(self._source.items, self._order[self.start :]))

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Add a chunk to all outputs; once too many images have failed, only count and name further failures."""
        for outcome in map(self._check_page, outcomes):
            if outcome.reason:
                self._note_example(outcome)
                self._stopped |= self._failures >= self._max_failures
                self._late_failures += self._stopped
            if not self._stopped:
                for output, position in self._outputs:
                    encoded = outcome.encoded[position] if outcome.encoded else None
                    row = make_item_row(outcome, encoded, time_stamp=output.time_stamps)
                    output.add(row, encoded.data if encoded else None)
        for output, _ in self._outputs:
            output.flush()

    def finish(self) -> list[Manifest]:
        """Complete all outputs; raises EncodeError if too many images failed, or all of them."""
        if self._stopped:
            raise EncodeError(self._describe_failures())
        if self._failures == len(self._source.items):
            raise EncodeError(
                f"None of the {len(self._source.items)} files in {self._source.root} is an image that can be read."
            )
        for output, _ in self._outputs:
            output.sync()  # before any gets its name: the outputs of a split belong together
        return [output.finish(self._source.ignored) for output, _ in self._outputs]

    def _check_page(self, outcome: Outcome) -> Outcome:
        """Turn an image that is too large for a page of one output into a failure, for all outputs alike."""
        for output, position in self._outputs if outcome.encoded else ():
            encoded = outcome.encoded[position]
            if len(encoded.data) > output.plan.page_size:
                reason = f"{len(encoded.data)} bytes do not fit into a page of the beton"
                return Outcome(outcome.item, outcome.item.size, (), reason)
        return outcome

    def _note_example(self, outcome: Outcome) -> None:
        if len(self._examples) < NAMED_FAILURES:
            self._examples.append(f"  {self._source.store.locate(outcome.item)}: {outcome.reason}")

    def _describe_failures(self) -> str:
        images = "1 image" if self._failures == 1 else f"{self._failures} images"
        others = self._failures - len(self._examples)
        examples = [*self._examples, *([f"  and {others} more, in the items"] if others else [])]
        return (
            f"{images} could not be encoded and {self._max_failures} may fail, so the encode stopped.\n"
            + "\n".join(examples)
            + "\nRepair them, or skip up to N such images with --max-failures N."
        )


@contextmanager
def explain_resume() -> Iterator[None]:
    """Add to every EncodeError and OSError how to continue: encoded images are on the disk whatever went wrong."""
    try:
        yield
    except EncodeError as error:
        raise EncodeError(f"{error} {RESUME_ADVICE}") from error.__cause__
    except OSError as error:
        raise EncodeError(f"{error.filename or 'an output'}: {error.strerror}. {RESUME_ADVICE}") from error
