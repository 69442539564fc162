"""The audit of a data set: one pass over its files, and everything that its page, its JSON and the terminal say."""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jpegcurr.analysis.audit.columns import FileColumns, header_fields
from jpegcurr.analysis.audit.label_prediction import PERMUTATIONS, LabelPrediction, predict_labels
from jpegcurr.analysis.audit.rows import HEADER, file_row
from jpegcurr.analysis.audit.summary import (
    ClassSummary,
    Duplicates,
    SplitSummary,
    TraceCounts,
    common_side,
    count_duplicates,
    summarise_classes,
    summarise_split,
)
from jpegcurr.encoding.jpeg.former_size import FormerSize
from jpegcurr.encoding.sources.base import LabelFrom, Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.sources.unlabelled import open_unlabelled
from jpegcurr.encoding.survey import FileFacts, survey, survey_former_size
from jpegcurr.encoding.workers import open_executor
from jpegcurr.errors import SourceError, UsageError
from jpegcurr.files import CsvWriter, csv_writer, json_values
from jpegcurr.system import library_versions

SCHEMA_VERSION = 1
SAMPLE = 256  # images of a split that are searched for an earlier compression
log = logging.getLogger("jpegcurr")
_PACKAGES = ("jpegcurr", "numpy", "pillow", "simplejpeg", "scikit-learn")


class Watcher(Protocol):
    """A receiver of an audit's progress."""

    def read(self, source: Source, facts: Sequence[FileFacts]) -> None:
        """Note that more files of a split were read."""

    def compared(self, source: Source, done: int, total: int) -> None:
        """Note the progress of the search for blocks from before the images of a split were resized."""

    def tested(self, target: str, done: int, total: int) -> None:
        """Note the progress of the prediction of ``target``."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Everything that an audit says.

    ``splits`` and ``classes`` summarise the files; ``duplicates`` counts those that are the same; ``predictions`` are of the
    class, and of the split where there are several. Images without classes have no ``classes`` and no prediction.
    """

    where: str
    splits: tuple[SplitSummary, ...]
    classes: tuple[ClassSummary, ...]
    duplicates: Duplicates
    predictions: tuple[LabelPrediction, ...]
    sampled: int
    seed: int
    ignored: int
    unlabelled: int
    provenance: dict[str, str]

    @property
    def images(self) -> int:
        """The number of files."""
        return sum(split.images for split in self.splits)

    @property
    def unread(self) -> int:
        """The number of files whose header cannot be read."""
        return sum(split.unread for split in self.splits)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; a number that is not known is None."""
        splits = [
            {
                **asdict(split),
                "jpegs": split.jpegs,
                "traces": _trace_values(split.traces),
                "moved": _trace_values(split.moved),
                "former": {**asdict(split.former), "detected": split.former.detected} if split.former else None,
            }
            for split in self.splits
        ]
        document = {
            "schema_version": SCHEMA_VERSION,
            "where": self.where,
            "images": self.images,
            "unread": self.unread,
            "splits": splits,
            "classes": [asdict(one) for one in self.classes],
            "duplicates": asdict(self.duplicates),
            "predictions": [asdict(prediction) for prediction in self.predictions],
            "sample": self.sampled,
            "seed": self.seed,
            "files_ignored": self.ignored,
            "files_without_label": self.unlabelled,
            "provenance": self.provenance,
        }
        return {name: json_values(value) for name, value in document.items()}


def _trace_values(traces: TraceCounts) -> dict[str, Any]:
    earlier = [
        {"lowest": lowest, "highest": highest, "images": count} for (lowest, highest), count in traces.earlier.most_common()
    ]
    counts = {name: getattr(traces, name) for name in ("sampled", "judged", "detected")}
    return {**counts, "p_value": traces.p_value if traces.judged else None, "earlier": earlier}


def audit(
    src: str | Path | Sequence[str | Path],
    *,
    labels: str | Path | None = None,
    label_from: LabelFrom | None = None,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    flat_classes: bool = False,
    limit: int | None = None,
    sample: int = SAMPLE,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    csv: str | Path | None = None,
    workers: int | None = None,
    watcher: Watcher | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Read the header of every image of a data set: what its JPEGs are, and whether headers alone tell their classes.

        print(jpegcurr.audit("data/imagenet").as_dict())

    Args:
        src: the data set, or more of them, as for ``open_sources``; or a folder of images without classes, which are then not
            predicted.
        labels: a table of labels, as for ``open_sources``.
        label_from: which folder is the class, where ``labels`` is a list of bare paths.
        splits: the splits to read; all of them if not given.
        classes: the classes to read; all of them if not given.
        flat_classes: take every folder as a class, also one that is named like a split.
        limit: how many images of a split to read, chosen by ``seed``.
        sample: how many images of a split are searched for an earlier compression, at most 32 of them on all grids. Where
            nearly all have a side in common, up to 4,000 together are searched for one before they were resized. 0: none.
        permutations: shuffles of the labels to compare the prediction with; 0 leaves the prediction out.
        seed: of ``limit``, the sample, the folds and the shuffles.
        csv: a file that gets a row for every image, which this replaces if it exists.
        workers: threads; one for each processor if not given.
        watcher: receives the progress by split.
        progress: called with the number of files read and in all.

    Raises:
        SourceError: there is no such data set; see ``open_sources``.
        EncodeError: the source fails, as in an encode.
    """
    try:
        sources = open_sources(
            src,
            labels=labels,
            label_from=label_from,
            splits=splits,
            classes=classes,
            flat_classes=flat_classes,
            limit=limit,
            seed=seed,
        )
    except SourceError:
        chosen = labels or label_from or splits or classes or flat_classes
        source = None if chosen else _open_flat([src] if isinstance(src, str | Path) else src)
        if source is None:
            raise
        sources = (source if limit is None else source.limited(limit, seed),)
    names = list(dict.fromkeys(name for source in sources for name in source.classes))
    columns = [FileColumns(len(source.items)) for source in sources]
    traces = [(TraceCounts(), TraceCounts()) for _ in sources]
    former: list[FormerSize | None] = []
    done, total = 0, sum(len(source.items) for source in sources)
    with ExitStack() as stack:
        executor, threads = stack.enter_context(open_executor(workers))
        write = stack.enter_context(_rows(csv))
        for source, numbers, counts in zip(sources, columns, traces, strict=True):
            for facts in survey(source, executor, threads, sample=sample, seed=seed):
                for one in facts:
                    item = source.items[len(numbers)]
                    numbers.add(item.key, one)
                    if one.sampled:
                        counts[0].add(one.trace)
                    if one.moved_sampled:
                        counts[1].add(one.moved)
                    if write is not None:
                        write.writerow(file_row(source.split, item.key, source.classes[item.label], one))
                done += len(facts)
                if watcher is not None:
                    watcher.read(source, facts)
                if progress is not None:
                    progress(done, total)
            side = common_side(numbers) if sample else None
            sizes = np.stack([numbers["width"], numbers["height"]], axis=1)
            compared = _compared(watcher, source)
            former.append(
                survey_former_size(source, sizes, side[1], executor, threads, seed=seed, progress=compared) if side else None
            )
    return _report(sources, names, columns, traces, former, sample, permutations, seed, watcher)


def _open_flat(roots: Sequence[str | Path]) -> Source | None:
    """Return the images of a folder without folders in it as one split without classes; None if it is something else."""
    source = open_unlabelled(str(roots[0])) if len(roots) == 1 else None
    if source is None or any("/" in item.key for item in source.items):
        return None
    log.warning("%s has no class folders, so its %s images are one set without classes", source.where, f"{len(source.items):,}")
    return source


@contextmanager
def _rows(csv: str | Path | None) -> Iterator[CsvWriter | None]:
    if csv is None:
        yield None
        return
    with csv_writer(Path(csv)) as writer:
        writer.writerow(HEADER)
        yield writer


def _report(
    sources: Sequence[Source],
    names: Sequence[str],
    columns: Sequence[FileColumns],
    traces: Sequence[tuple[TraceCounts, TraceCounts]],
    former: Sequence[FormerSize | None],
    sample: int,
    permutations: int,
    seed: int,
    watcher: Watcher | None,
) -> AuditReport:
    places = {name: place for place, name in enumerate(names)}
    labels = np.concatenate(
        [np.array([places[name] for name in source.classes], np.int64)[source.items.labels] for source in sources]
    )
    split_of = np.repeat(np.arange(len(sources)), [len(one) for one in columns])
    fingerprints = np.concatenate([one.fingerprints for one in columns])
    read = np.flatnonzero(~np.concatenate([one["unread"] for one in columns]))
    predictions = []
    classed = any(names)
    targets = {**({"class": labels} if classed else {}), **({"split": split_of} if len(sources) > 1 else {})}
    for target, values in targets.items() if permutations else ():
        advance = _advance(watcher, target)
        try:
            prediction = predict_labels(
                target,
                values[read],
                lambda chosen: header_fields(columns, read[chosen]),
                fingerprints[read],
                permutations=permutations,
                seed=seed,
                progress=advance,
            )
        except UsageError as error:  # a package is missing, which the rest does not need
            prediction = LabelPrediction(target, missing=str(error))
        predictions.append(prediction)
    return AuditReport(
        where=sources[0].where,
        splits=tuple(
            summarise_split(source.split, numbers, *counts, blocks)
            for source, numbers, counts, blocks in zip(sources, columns, traces, former, strict=True)
        ),
        classes=summarise_classes(names, labels, columns) if classed else (),
        duplicates=count_duplicates(fingerprints[read], split_of[read], labels[read]),
        predictions=tuple(predictions),
        sampled=sample,
        seed=seed,
        ignored=sum(source.ignored for source in sources),
        unlabelled=sum(source.unlabelled for source in sources),
        provenance={
            "Data set": sources[0].where,
            "Labels": sources[0].labels or ("the source itself" if classed else "none"),
            "Limit": f"{sources[0].limit:,} images of a split" if sources[0].limit else "none",
            "Command": shlex.join(["jpegcurr", *sys.argv[1:]]) if sys.argv[1:2] == ["audit"] else "jpegcurr.audit in Python",
            "Seed": str(seed),
            "Written": datetime.now().astimezone().isoformat(" ", timespec="minutes"),
            "Versions": ", ".join(f"{name} {number}" for name, number in library_versions(_PACKAGES).items()),
        },
    )


def _advance(watcher: Watcher | None, target: str) -> Callable[[int, int], None]:
    return lambda done, total: watcher.tested(target, done, total) if watcher is not None else None


def _compared(watcher: Watcher | None, source: Source) -> Callable[[int, int], None] | None:
    return (lambda done, total: watcher.compared(source, done, total)) if watcher is not None else None
