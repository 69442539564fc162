"""Facts that decide the outcomes of an evaluation, and whether they are still what a journal or a run has recorded."""

import os
from collections.abc import Iterable, Sequence
from itertools import chain

from jpegcurr.analysis.evaluation.image_set import ImageSet
from jpegcurr.analysis.evaluation.merge import Merge
from jpegcurr.analysis.fingerprint import Facts, digest, first_change, machine_facts, model_facts
from jpegcurr.encoding.sources.base import file_changed_at
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.datasets import Dataset
from jpegcurr.training.data.identity import describe_differences, identify
from jpegcurr.training.models.classifier import Classifier, Run
from jpegcurr.training.run_folder import data_of


def evaluation_facts(
    runs: Sequence[Classifier],
    datasets: Sequence[Dataset | ImageSet],
    runtime: Runtime,
    kind: str,
    losses: Sequence[str],
    merge: Merge | None,
) -> Facts:
    """Return the facts, by names for people; ``kind`` is the loader's, ``losses`` are those that the runs are judged by."""
    facts: Facts = {"validation sets": [_name(dataset) for dataset in datasets], **model_facts(runs)}
    facts |= {
        "loader": kind,
        "losses": list(losses),
        "--merge": None if merge is None else digest(merge.groups.items()),
    }
    for dataset in datasets:
        facts |= set_facts(dataset)
    return facts | machine_facts(runtime)


def _name(dataset: Dataset | ImageSet) -> str:
    return f"{dataset.path} ({dataset.on_the_fly.describe()})" if dataset.on_the_fly else str(dataset.path)


def set_facts(dataset: Dataset | ImageSet) -> Facts:
    """Return what the images of a validation set are: those that an evaluation compares, see ``identity``."""
    if isinstance(dataset, Dataset):
        known = identify(dataset) | {"at_load": None}
        return {f"images or labels of {dataset.path}": digest(sorted(known.items()))}
    source = dataset.source
    rows = ((os.fsencode(item.key).hex(), item.size, source.classes[item.label]) for item in source.items)
    shares = None if source.shares is None else sorted((key, sorted(row.items())) for key, row in source.shares.items())
    return {f"images or labels of {dataset.path}": digest(chain(rows, [shares, dataset.max_pixels]))}


def find_changed_set(datasets: Iterable[Dataset | ImageSet], since: int) -> str:
    """Return which file has changed since a time in nanoseconds, ``a/1.jpg has changed``; an empty string if none has.

    A beton with a manifest is known by its content, so that it may be a fresh copy.
    """
    for dataset in datasets:
        if isinstance(dataset, Dataset):
            files: Iterable[tuple[str, int | None]] = (
                [(str(dataset.path), file_changed_at(str(dataset.path)))] if dataset.manifest is None else []
            )
        else:
            store = dataset.source.store
            files = ((store.locate(item), store.changed_at(item)) for item in dataset.source.items)
        if change := first_change(files, since):
            return change
    return ""


def describe_changes(run: Classifier, dataset: Dataset | ImageSet) -> list[str]:
    """Return in what a file that the run recorded is another now; nothing for a file that it did not use."""
    if not (isinstance(dataset, Dataset) and isinstance(run, Run) and run.path.exists()):  # it may have been moved since
        return []
    recorded = [facts for facts in data_of(run.path).values() if facts["path"] == str(dataset.path)]
    if not recorded:
        return []
    return describe_differences({**recorded[0], "at_load": None}, {**identify(dataset), "at_load": None})
