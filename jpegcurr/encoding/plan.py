"""What is to be made, and whether it may be."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jpegcurr.encoding.beton.format import page_size_for
from jpegcurr.encoding.beton.manifest import Manifest, Plan
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.resume import begin, output_files, refuse_begun, to_resume
from jpegcurr.encoding.sources.base import Order, Source
from jpegcurr.errors import SourceError, UsageError
from jpegcurr.files import refuse_existing, refuse_unwritable
from jpegcurr.system import library_versions

Outputs = dict[str, dict[Path, EncodeSpec]]


def plan_outputs(sources: Sequence[Source], specs: Sequence[EncodeSpec], folder: Path) -> Outputs:
    """Name the betons of every split: ``{split: {folder/split-q50.beton: spec}}``."""
    return {source.split: {folder / f"{source.split}-{spec.name}.beton": spec for spec in specs} for source in sources}


def plan_output(source: Source, spec: EncodeSpec, order: Order | None, seed: int) -> Plan:
    """Everything that decides the bytes of one output; ``order`` is the split's usual one if it is None.

    Raises:
        SourceError: a class or the source has a name that no manifest can hold.
    """
    _check_names(source)
    order = order or _usual(source)
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
        seed=seed if order == "shuffle" or source.limit is not None else 0,  # where it decides nothing, any will do
        classes=source.classes,
        items=len(source.items),
        page_size=page_size_for(2 * int(sizes.max()), int(sizes.mean())),  # a re-encode can be larger than its source
        versions=library_versions(),
    )


def _usual(source: Source) -> Order:
    return "shuffle" if source.split == "train" else "folder"


def _check_names(source: Source) -> None:
    """An image may be called anything, but what a manifest names must be UTF-8, which JSON is."""
    for name in (source.root, source.labels or "", source.split, *source.classes):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{name} is not UTF-8, so no manifest can name it. Rename it.") from None


def refusal(outputs: Outputs, *, replacing: bool = False) -> str:
    """Why these outputs could not be made as things are; empty if they could. For a dry run: nothing is locked or changed.

    With ``replacing`` what is there does not stand against it.
    """
    paths = [path for each in outputs.values() for path in each]
    try:
        refuse_unwritable(path.parent for path in paths)
        _refuse([] if replacing else paths)
    except UsageError as error:
        return str(error)
    return ""


def _refuse(paths: Sequence[Path]) -> None:
    for path in paths:
        refuse_begun(path)
    refuse_existing([file for path in paths for file in output_files(path)], force=False, or_else="keep it with --resume")


def settled(plans: Mapping[str, Mapping[Path, Plan]], *, resume: bool, force: bool) -> dict[Path, Manifest]:
    """The outputs that are finished and kept; raises UsageError for what may be neither gone on with nor replaced."""
    every = {path: plan for each in plans.values() for path, plan in each.items()}
    if resume:
        return {path: made for path, plan in every.items() if (made := to_resume(path, plan, force=force))}
    if not force:
        _refuse(list(every))
    for path, plan in every.items():
        begin(path, plan)  # all at once, so that a run that is stopped in the first split is gone on with in every one
    return {}
