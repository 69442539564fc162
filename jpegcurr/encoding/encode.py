"""Encoding of a labelled data set: one pass over the images writes every requested quality, in every requested format.

Workers read and encode chunks of images; one writer takes the chunks in order. The look-ahead is bounded, so memory does
not grow with the data set, and the files have the same bytes for any number of workers and of interruptions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
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
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.output import Output, make_item_row
from jpegcurr.encoding.outputs.shards import SHARD_BYTES
from jpegcurr.encoding.plan import Outputs, SplitPlan, plan_outputs, plan_split, prepare_outputs, refusal, refuse_impossible
from jpegcurr.encoding.resume import FAILED, is_repaired, lock_file
from jpegcurr.encoding.sources.base import Item, Order, Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import Outcome, encode_chunk, map_in_order, open_executor, split_into_chunks
from jpegcurr.errors import EncodeError, UsageError
from jpegcurr.files import locked, refuse_unwritable
from jpegcurr.system import available_cpus

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
    sources: str | Path | Source | Sequence[Source],
    qualities: Outputs | Quality | EncodeSpec | Sequence[Quality | EncodeSpec],
    folder: str | Path | None = None,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    order: Order | None = None,
    seed: int = 0,
    max_failures: int | Fraction = 0,
    max_pixels: int = MAX_PIXELS,
    resume: bool = False,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    watcher: Watcher | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, Manifest]:
    """Encode every split of a data set once for all qualities, into ``folder/split-q50.beton`` and the like.

    Sample i is the same image in every output of a split: an image that fails at one quality is left out of all.

        jpegcurr.encode_dataset("data/imagenet", [50, "source"], "betons")

    Args:
        sources: the data set, or its splits, as ``open_sources`` returns them.
        qualities: 1 to 100, ``source`` for the original bytes, or ``EncodeSpec``, one or more. Or outputs of other names, as
            ``plan_outputs`` returns them: ``{split: {path: spec}}``, which may be of other
            formats than betons.
        folder: where the betons and a manifest beside each are written.
        executor: runs ``encode_chunk``, which is pure and picklable, so a Dask client's executor serves as well as threads. By
            default threads on all processors, which end with the call.
        workers: how many chunks the executor works on at once, or the number of threads without one; by default one for each
            processor.
        order: ``shuffle`` or ``folder``; by default ``shuffle`` for the split called train and ``folder`` for others.
        seed: of the shuffle.
        max_failures: how many images of a split may fail, or which share of them if it is a ``Fraction``.
        max_pixels: how many pixels an image may have; a larger one fails. At most ``MOST_PIXELS``.
        resume: continue an interrupted encode and keep finished outputs. Encoded images survive any stop, in hidden files
            beside the outputs.
        force: replace existing outputs; with ``resume``, only those that were written with other options.
        shard_bytes: JPEGs of at most so many bytes make a shard, in the formats that have shards.
        watcher: receives the progress by split, with every outcome.
        progress: called in this thread with the number of images done and in all, of all splits.

    Returns:
        The manifest of every output by its path, which states ``images``, ``failures``, ``bytes_out`` and much else.

    Raises:
        UsageError: a quality is none, or given twice, or there is no folder; another process is writing one of the outputs; or
            one exists, finished or interrupted, and neither ``force`` nor ``resume`` is set; or it was written with other
            options; or the outputs surely do not fit on the disk. Nothing was changed.
        SourceError: a class or the source has a name that is not UTF-8, or two images would have one name in an output.
        EncodeError: more than ``max_failures`` images failed, an output could not be written, or the source fails.
    """
    opened = _open(sources)
    outputs = _plan(opened, qualities, folder)
    watchers = [one for one in (watcher, _Counter(progress, opened) if progress else None) if one]
    with ExitStack() as stack:
        if executor is None:
            executor, workers = stack.enter_context(open_executor(workers))
        options = _Options(executor, workers or available_cpus(), order, seed, max_failures, max_pixels, shard_bytes)
        return _encode_all(opened, outputs, options, watchers, resume=resume, force=force)


def _open(sources: str | Path | Source | Sequence[Source]) -> Sequence[Source]:
    if isinstance(sources, str | Path):
        return open_sources(sources)
    return [sources] if isinstance(sources, Source) else sources


def _plan(
    sources: Sequence[Source],
    qualities: Outputs | Quality | EncodeSpec | Sequence[Quality | EncodeSpec],
    folder: str | Path | None,
) -> Outputs:
    """Return the outputs of every split; raise UsageError if it is unclear which these are."""
    if isinstance(qualities, dict):
        if folder is not None:
            raise UsageError(f"The outputs have paths already, so the folder {folder} does nothing. Omit it.")
        return qualities
    if folder is None:
        raise UsageError('Which folder? encode_dataset("data/imagenet", [50, "source"], "betons") writes to betons.')
    listed = [qualities] if isinstance(qualities, int | str | EncodeSpec) else qualities
    return plan_outputs(sources, listed, folder)


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of ``encode_dataset`` of these names."""

    executor: Executor
    workers: int
    order: Order | None
    seed: int
    max_failures: int | Fraction
    max_pixels: int
    shard_bytes: int


class _Counter:
    """A watcher that counts the images of all splits."""

    def __init__(self, progress: Callable[[int, int], None], sources: Sequence[Source]) -> None:
        self._progress, self._done = progress, 0
        self._total = sum(len(source.items) for source in sources)

    def begin(self, _source: Source, done: int) -> None:
        """Count the images that an earlier run has encoded."""
        self._add(done)

    def done(self, _source: Source, outcomes: Sequence[Outcome]) -> None:
        """Count more images of the split."""
        self._add(len(outcomes))

    def _add(self, more: int) -> None:
        if more:
            self._done += more
            self._progress(self._done, self._total)


def _encode_all(
    sources: Sequence[Source],
    outputs: Outputs,
    options: _Options,
    watchers: Sequence[Watcher],
    *,
    resume: bool,
    force: bool,
) -> dict[Path, Manifest]:
    paths = [path for source in sources for path in outputs[source.split]]
    refuse_unwritable(path.parent for path in paths)
    refuse_impossible(paths)
    splits = [plan_split(source, outputs[source.split], options.order, options.seed, options.shard_bytes) for source in sources]
    if not refusal(outputs, replacing=resume or force):  # which is more to the point, and prepare_outputs raises it
        refuse_too_large(sources, outputs, options.executor, resume=resume, max_pixels=options.max_pixels)
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(locked(lock_file(path), path))
        manifests = prepare_outputs(splits, resume=resume, force=force)
        for split in splits:
            unfinished = {path: plan for path, plan in split.plans.items() if path not in manifests}
            if unfinished:
                rest = replace(split, plans=unfinished)
                manifests |= _encode_split(rest, options, watchers)
            else:
                for watcher in watchers:
                    watcher.begin(split.source, len(split.source.items))
            _check_paired({path: manifests[path] for path in split.plans})
    return {path: manifests[path] for path in paths}


def _encode_split(split: SplitPlan, options: _Options, watchers: Sequence[Watcher]) -> dict[Path, Manifest]:
    """Encode the outputs of one split, all of which are unfinished."""
    source, plans = split.source, split.plans
    specs = list(dict.fromkeys(plan.spec for plan in plans.values()))
    images = len(source.items)
    allowed = options.max_failures
    if isinstance(allowed, Fraction):
        allowed = floor(allowed * images)
    with explain_resume(), ExitStack() as stack:
        outputs = [stack.enter_context(Output.open(path, plan)) for path, plan in plans.items()]
        writer = _SplitWriter(source, split.order, outputs, specs, allowed)
        for watcher in watchers:
            watcher.begin(source, writer.start)
        encode = partial(
            encode_chunk,
            source.store,
            specs=specs,
            max_pixels=options.max_pixels,
            time_stamps=any(output.time_stamps for output in outputs),
        )
        with closing(map_in_order(encode, writer.remaining_chunks(), options.executor, AHEAD * options.workers)) as chunks:
            for outcomes in chunks:
                writer.write(outcomes)
                for watcher in watchers:
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
