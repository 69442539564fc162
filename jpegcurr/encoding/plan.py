"""Plans of the outputs of an encode: their paths, everything that decides their bytes, and checks before the first byte."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.format import page_size_for
from jpegcurr.encoding.beton.manifest import Manifest, Plan
from jpegcurr.encoding.jpeg.codec import LIBRARIES, EncodeSpec, Quality, as_specs
from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
from jpegcurr.encoding.outputs.paths import Format, format_of, output_path
from jpegcurr.encoding.outputs.sample_names import refuse_same_names
from jpegcurr.encoding.outputs.shards import SHARD_BYTES
from jpegcurr.encoding.resume import (
    create_partial_files,
    refuse_finished,
    refuse_foreign,
    refuse_interrupted,
    resolve_output,
)
from jpegcurr.encoding.sources.base import Order, Source
from jpegcurr.errors import SourceError, UsageError
from jpegcurr.files import refuse_unwritable
from jpegcurr.system import library_versions

Outputs = dict[str, dict[Path, EncodeSpec]]


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """One split: its ``source``, the plan of each of its outputs, and ``order``, the positions of its items in file order."""

    source: Source
    plans: dict[Path, Plan]
    order: NDArray[np.int64]


def plan_split(
    source: Source, outputs: Mapping[Path, EncodeSpec], order: Order | None, seed: int, shard_bytes: int = SHARD_BYTES
) -> SplitPlan:
    """Plan all outputs of one split, which share their order; raises as ``plan_output``, or for two images of one name."""
    where = f"{source.root}, split {source.split}"
    refuse_same_names(where, source.classes, source.items, {format_of(path) for path in outputs})
    plans = {path: plan_output(source, spec, order, seed, format_of(path), shard_bytes) for path, spec in outputs.items()}
    first = next(iter(plans.values()))
    return SplitPlan(source, plans, source.ordered(first.order, first.seed))


def plan_outputs(
    sources: Sequence[Source],
    qualities: Sequence[EncodeSpec | Quality],
    folder: str | Path,
    kinds: Sequence[Format] = ("beton",),
) -> Outputs:
    """Name the outputs of every split: ``{split: {folder/split-q50.beton: spec}}``; see ``output_path`` for other formats.

    Raises:
        UsageError: a quality is none.
    """
    folder, specs = Path(folder), as_specs(qualities)
    return {
        source.split: {output_path(folder, source.split, spec, kind): spec for kind in kinds for spec in specs}
        for source in sources
    }


def plan_output(
    source: Source,
    spec: EncodeSpec,
    order: Order | None,
    seed: int,
    kind: Format = "beton",
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """Return everything that decides the bytes of one output; an ``order`` of None means the split's default.

    Raises:
        SourceError: the source or one of its classes has a name that a manifest cannot hold.
    """
    _check_names(source)
    order = order or _default_order(source)
    sizes = source.items.sizes
    return Plan(
        split=source.split,
        source=source.root,
        labels=source.labels,
        limit=source.limit,
        quality=spec.quality,
        subsampling=spec.subsampling,
        max_side=spec.resize.pixels if spec.resize and spec.resize.side == "max" else None,
        short_side=spec.resize.pixels if spec.resize and spec.resize.side == "short" else None,
        filter=spec.resize.filter if spec.resize else None,
        order=order,
        seed=seed if order == "shuffle" or source.limit is not None else 0,  # an unused seed must not block --resume
        classes=source.classes,
        items=len(source.items),
        page_size=page_size_for(2 * int(sizes.max()), int(sizes.mean())),  # a re-encode can be larger than its source
        versions=library_versions(LIBRARIES + OUTPUT_FORMATS[kind].libraries),
        flat_classes=source.flat_classes,
        boxes=source.boxes,
        more_sources=source.more_roots,
        label_from=source.label_from,
        val_share=source.draw.val if source.draw else None,
        test_share=source.draw.test if source.draw else None,
        split_seed=source.draw.seed if source.draw else None,
        format=kind,
        shard_bytes=shard_bytes if OUTPUT_FORMATS[kind].sharded else None,
    )


def _default_order(source: Source) -> Order:
    return "shuffle" if source.split == "train" else "folder"


def _check_names(source: Source) -> None:
    """Raise SourceError for a name that is not UTF-8, as JSON must be; the names of images are exempt."""
    for name in (source.root, *source.more_roots, source.labels or "", source.split, *source.classes):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"The name {name} is not UTF-8, so it cannot be written to a manifest. Rename it.") from None


def refusal(outputs: Outputs, *, replacing: bool = False) -> str:
    """Return why these outputs could not be written now; empty if they could. Locks and changes nothing, for a dry run.

    With ``replacing``, existing files are no reason.
    """
    paths = [path for specs in outputs.values() for path in specs]
    try:
        refuse_unwritable(path.parent for path in paths)
        refuse_impossible(paths)
        refuse_existing_outputs([] if replacing else paths)
    except UsageError as error:
        return str(error)
    return ""


def refuse_impossible(paths: Iterable[Path]) -> None:
    """Raise UsageError for outputs that no option lets be written: a package is missing, or another's folder is in the way."""
    for path in paths:
        refuse_foreign(path)
        OUTPUT_FORMATS[format_of(path)].check(path.parent)


def refuse_existing_outputs(paths: Sequence[Path]) -> None:
    """Raise UsageError if an output exists, finished or interrupted."""
    for path in paths:
        refuse_interrupted(path)
    refuse_finished(paths, or_else="keep it with --resume")


def prepare_outputs(splits: Sequence[SplitPlan], *, resume: bool, force: bool) -> dict[Path, Manifest]:
    """Return the finished outputs that are kept, and make all others ready to be written.

    Raises:
        UsageError: an output exists and may be neither resumed nor replaced.
    """
    if resume:
        resolved = {
            path: resolve_output(path, plan, split.source, split.order, force=force)
            for split in splits
            for path, plan in split.plans.items()
        }
        return {path: manifest for path, manifest in resolved.items() if manifest}
    plan_by_path = {path: plan for split in splits for path, plan in split.plans.items()}
    if not force:
        refuse_existing_outputs(list(plan_by_path))
    for path, plan in plan_by_path.items():
        create_partial_files(path, plan)  # of all splits now, so that --resume continues all of them after any stop
    return {}
