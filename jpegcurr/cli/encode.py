"""The command ``encode``: its options, its dry run, its progress and its closing table."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jpegcurr.cli.options import (
    MAX_PIXELS,
    FlatClassesOption,
    JsonOption,
    LabelFromOption,
    MaxPixelsOption,
    QualitiesOption,
    QuietOption,
    ShardSizeOption,
    TestShareOption,
    ToOption,
    ValShareOption,
    parse_draw,
    parse_shard_size,
    parse_specs,
)
from jpegcurr.cli.terminal import err, out, print_table, progress_bar, show_log
from jpegcurr.errors import Interrupted, UsageError
from jpegcurr.system import keep_freed_memory
from jpegcurr.text import duration, megabytes, sanitize

if TYPE_CHECKING:
    from jpegcurr.encoding.beton.manifest import Manifest
    from jpegcurr.encoding.box_windows import BoxFormat, BoxLabel, BoxOptions
    from jpegcurr.encoding.changes import EncodeChanges
    from jpegcurr.encoding.estimate import EncodeEstimate
    from jpegcurr.encoding.jpeg.codec import Filter, Resize
    from jpegcurr.encoding.sources.base import Source
    from jpegcurr.encoding.workers import Outcome
    from jpegcurr.progress import Progress

log = logging.getLogger("jpegcurr")

MOST_FAILURES = 20  # that are printed one by one


def encode(
    src: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SRC", help="The images to encode; see above. Several are one data set. Default: data/imagenet."
        ),
    ] = None,
    qualities: QualitiesOption = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the files.")] = Path("betons"),
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV or TSV of path,label or path,label,split; a list of paths; ImageNet's own."),
    ] = None,
    label_from: LabelFromOption = None,
    val: ValShareOption = None,
    test: TestShareOption = None,
    to: ToOption = None,
    shard_size: ShardSizeOption = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="Encode only this split, or name the split of SRC; repeatable."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--classes", metavar="A,B,C|FILE", help="Encode only these classes; FILE has one a line; repeatable."),
    ] = None,
    flat_classes: FlatClassesOption = False,
    boxes: Annotated[
        Literal["yolo", "coco", "voc"] | None,
        typer.Option(help="Encode the annotated boxes of the images in SRC, not the images; this is their format."),
    ] = None,
    pad: Annotated[
        str | None,
        typer.Option(
            metavar="MODE:SIZE",
            help="Padding of boxes: pixel:100, bbox:0.1 or image:0.1 (shares), fix:224, or fix2:384, which is square.",
        ),
    ] = None,
    keep_inside: Annotated[
        bool,
        typer.Option(
            "--keep-inside", help="Move padded boxes that leave the image back inside; they are clipped if not given."
        ),
    ] = False,
    box_class: Annotated[
        list[str] | None,
        typer.Option("--box-class", metavar="A,B", help="Keep only boxes of these classes, by name or number; repeatable."),
    ] = None,
    label: Annotated[
        Literal["folder", "box"] | None,
        typer.Option(help="The class of a box: of its image's folder, or its own. Needed where both are possible."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Maximum images per split, chosen by --seed.")] = None,
    order: Annotated[
        Literal["auto", "shuffle", "folder"], typer.Option(help="Order in the file; auto shuffles train and no other split.")
    ] = "auto",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of the shuffle, --limit, --val, --test.")
    ] = 0,
    subsampling: Annotated[
        Literal["420", "422", "444", "keep"] | None,
        typer.Option(help="Chroma subsampling of encoded images; keep: as in the source. 420 if not given."),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(min=1, max=65500, metavar="PIXELS", help="Shrink images whose longer side exceeds this.")
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(min=1, max=65500, metavar="PIXELS", help="Shrink images whose shorter side exceeds this.")
    ] = None,
    resize_filter: Annotated[
        Literal["box", "bilinear", "hamming", "bicubic", "lanczos"] | None,
        typer.Option("--filter", help="Pillow's filter for shrinking; bicubic if not given."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of threads; all processors if not given.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Encode on a Dask cluster, given its scheduler's address.")
    ] = None,
    max_failures: Annotated[
        str, typer.Option(metavar="N|N%", help="Unreadable images to tolerate per split, as a number or a share.")
    ] = "0",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate files, sizes and time; write nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted encode; keep finished files.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", "-f", help="Replace existing files; with --resume, only those with other settings."),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode labelled images at one or more JPEG qualities into FFCV .beton files, or into other formats.

    Several SRC are one data set, in which an image's name begins with the name
    of its SRC. SRC is one of these:

    \b
    - a folder with train/<class>/* and val/<class>/*, or with <class>/*
    - a folder of images, with --labels labels.csv, or with ImageNet's
      LOC_val_solution.csv, val.txt or devkit
    - a folder with ImageNet's own archives, ILSVRC2012_img_train.tar and
      ILSVRC2012_img_val.tar; or with class archives, <class>.tar
    - WebDataset shards: a folder of them, or 'shards/train-{000..146}.tar'
    - a Hugging Face data set: hf:NAME or hf:NAME:CONFIGURATION; or x.parquet
    - with --boxes, a folder of images and of their annotated boxes, each of
      which becomes a sample: images/*.jpg and labels/*.txt, and the like

    --val 0.2 draws the splits of a data set that has none, as jpegcurr split
    does, which also keeps them where images are added.

    Written are, each with its manifest and items beside it:

    \b
    - train-q50.beton
    - --to folder: train_50/<class>/<name>, for torchvision's ImageFolder
    - --to webdataset: train-q50.wds/train-q50-000000.tar and on
    - --to parquet: train-q50.parquet/train-q50-00000.parquet and on
    """
    from jpegcurr.encoding.changes import sample_changes
    from jpegcurr.encoding.encode import encode_dataset
    from jpegcurr.encoding.estimate import estimate_splits
    from jpegcurr.encoding.outputs.paths import parse_formats
    from jpegcurr.encoding.plan import plan_outputs, refusal
    from jpegcurr.encoding.sources.open import open_sources
    from jpegcurr.encoding.workers import open_executor

    if dry_run and resume:
        raise UsageError("--dry-run estimates a whole encode, not what --resume would still have to do. Omit one of them.")
    show_log(quiet=quiet)
    draw = parse_draw(val, test, seed)
    kinds = parse_formats(to or ["beton"])
    shard_bytes = parse_shard_size(shard_size, kinds)
    specs = parse_specs(qualities or (), subsampling, parse_resize(max_side, short_side, resize_filter))
    tolerated = parse_max_failures(max_failures)
    class_names = parse_classes(classes or ())
    box_options = parse_boxes(boxes, pad, box_class or (), label, keep_inside=keep_inside)
    keep_freed_memory()
    stopped = "stopped." if dry_run else "stopped. What is encoded is kept; to continue, give the same command with --resume."
    if box_options and any(spec.quality == "source" for spec in specs):
        log.info("A part of an image has no original bytes: at the quality source, boxes are JPEGs of quality 95, 4:4:4.")
    with interruptible(stopped), open_executor(threads, dask) as (executor, workers):
        sources = open_sources(
            src or ["data/imagenet"],
            labels=labels,
            label_from=label_from,
            splits=split or (),
            classes=class_names,
            limit=limit,
            seed=seed,
            flat_classes=flat_classes,
            boxes=box_options,
            draw=draw,
        )
        outputs = plan_outputs(sources, specs, output, kinds)
        if dry_run:
            estimates = estimate_splits(sources, outputs, executor, seed=seed, max_pixels=max_pixels)
            changes = [sample_changes(source, specs, executor, seed=seed) for source in sources if source.boxes is None]
            print_estimates(sources, estimates, output, refusal(outputs, replacing=force), changes, as_json=as_json)
            return
        if not quiet:
            for source in sources:
                err.print(describe_classes(source), markup=False)
        with encode_progress(quiet=quiet) as watcher:
            manifests = encode_dataset(
                sources,
                outputs,
                executor=executor,
                workers=workers,
                order=None if order == "auto" else order,
                seed=seed,
                max_failures=tolerated,
                max_pixels=max_pixels,
                resume=resume,
                force=force,
                shard_bytes=shard_bytes,
                watcher=watcher,
            )
    print_manifests(manifests, as_json=as_json)


def parse_resize(max_side: int | None, short_side: int | None, resize_filter: "Filter | None") -> "Resize | None":
    """Parse --max-side, --short-side and --filter; raise UsageError if they contradict each other."""
    from jpegcurr.encoding.jpeg.codec import Resize

    if max_side is not None and short_side is not None:
        raise UsageError("--max-side and --short-side both set the size of images. Give only one of them.")
    pixels = max_side or short_side
    if pixels is None:
        if resize_filter is not None:
            raise UsageError(f"--filter {resize_filter} does nothing without --max-side or --short-side. Give one of them too.")
        return None
    return Resize("max" if max_side else "short", pixels, resize_filter or "bicubic")


def parse_boxes(
    kind: "BoxFormat | None", pad: str | None, classes: Sequence[str], label: "BoxLabel | None", *, keep_inside: bool
) -> "BoxOptions | None":
    """Parse --boxes and the options that need it; raise UsageError for those without it, or that contradict each other."""
    from jpegcurr.encoding.box_windows import BoxOptions, Pad

    if kind is None:
        given = {"--pad": pad, "--keep-inside": keep_inside, "--box-class": classes, "--label": label}
        for option, value in given.items():
            if value:
                raise UsageError(f"{option} is for annotated boxes. Give their format too: --boxes yolo, coco or voc.")
        return None
    names = tuple(dict.fromkeys(name.strip() for text in classes for name in text.split(",") if name.strip()))
    if classes and not names:
        raise UsageError(f"--box-class {classes[0]} names no class. Give A,B by name or number.")
    options = BoxOptions(kind, str(Pad.parse(pad)) if pad is not None else None, keep_inside, names, label)
    options.rule()
    return options


def parse_max_failures(text: str) -> int | Fraction:
    """Parse ``"3"`` as 3 images and ``"0.5%"`` as that exact share of them; raise UsageError for anything else."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        if percent and 0 <= Fraction(number) <= 100:
            return Fraction(number) / 100
        if not percent and int(number) >= 0:
            return int(number)
    except (ValueError, ZeroDivisionError):
        pass
    raise UsageError(f"--max-failures {text}: give a number of images, 0 or more, or a share of them, 0% to 100%.")


def parse_classes(values: Sequence[str]) -> tuple[str, ...]:
    """Parse class names, as ``A,B`` or as a file with one a line; raise UsageError if there are none in it."""
    names: list[str] = []
    for value in values:
        if os.path.isfile(value):  # noqa: PTH113  # a Path would raise for a list that is longer than file names may be
            text = Path(value).read_text(encoding="utf-8-sig", errors="surrogateescape")
            names += filter(None, (line.strip() for line in text.splitlines()))
        else:
            names += filter(None, (name.strip() for name in value.split(",")))
    if values and not names:
        raise UsageError(f"--classes {values[0]} names no class. Give A,B,C or a file with one name a line.")
    return tuple(dict.fromkeys(names))


def describe_classes(source: "Source") -> str:
    """Return the number of a split's classes, their first names, and their images: the least, the median and the most."""
    from jpegcurr.encoding.sources.class_labels import count_classes

    counts = count_classes(source)
    names = ", ".join(map(sanitize, counts.first)) + (", ..." if counts.classes > len(counts.first) else "")
    classes = "1 class" if counts.classes == 1 else f"{counts.classes:,} classes"
    unit = "images" if source.boxes is None else "boxes"
    images = f"{unit} per class: least {counts.least:,}, median {counts.median:,.10g}, most {counts.most:,}"
    unlabelled = f"; {source.unlabelled:,} {unit} without a label are left out" if source.unlabelled else ""
    return f"{sanitize(source.split)}: {classes} ({names}); {images}{unlabelled}"


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Turn Ctrl-C into ``message`` and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message) from None


class EncodeBar:
    """Progress of ``encode_dataset`` on a bar, and its first failures in words."""

    def __init__(self, bar: "Progress") -> None:
        self._bar, self._done, self._failed = bar, 0, 0

    def begin(self, source: "Source", done: int) -> None:
        """Begin a split, of which ``done`` images are already encoded."""
        self._done = done
        if done:
            err.print(f"encoding {source.split}: {done:,} of {len(source.items):,} images are already there", markup=False)
        self._bar.begin(f"encoding {source.split}")
        self._bar.resume(done, len(source.items))

    def done(self, source: "Source", outcomes: "Sequence[Outcome]") -> None:
        """Count more images of the split, and print those that failed."""
        self._done += len(outcomes)
        self._bar(self._done, len(source.items))
        for outcome in outcomes:
            if outcome.reason:
                self._failed += 1
                if self._failed <= MOST_FAILURES:
                    err.print(f"not encoded: {source.store.locate(outcome.item)}: {outcome.reason}", markup=False)
                elif self._failed == MOST_FAILURES + 1:
                    err.print("not encoded: more images, which are listed in the outputs' .items.jsonl", markup=False)


@contextmanager
def encode_progress(*, quiet: bool) -> "Iterator[EncodeBar | None]":
    """Yield the watcher for ``encode_dataset``; None if ``quiet``."""
    with progress_bar(quiet=quiet) as bar:
        yield None if quiet else EncodeBar(bar)


def print_manifests(manifests: "Mapping[Path, Manifest]", *, as_json: bool) -> None:
    """Print the closing table, one row per file."""
    if as_json:
        out.print_json(json.dumps([{"path": str(path), **manifest.model_dump()} for path, manifest in manifests.items()]))
        return
    rows = []
    for path, manifest in manifests.items():
        ratio = manifest.bytes_out / manifest.bytes_in if manifest.bytes_in else 1.0
        ratio_text = f"{ratio:.2f}" if manifest.boxes is None else "-"  # a box is only a part of its source
        sizes = [megabytes(manifest.bytes_in), megabytes(manifest.beton_bytes), ratio_text]
        rows.append([str(path), f"{manifest.images:,}", *sizes, f"{manifest.failures:,}"])
    print_table(["output", "images", "source size", "output size", "JPEG ratio", "failures"], rows)
    skipped = "files without the suffix of an image or without a label were skipped"
    if any(manifest.boxes for manifest in manifests.values()):
        skipped = "images without an annotation and boxes without a label were skipped"
    for split, ignored in {manifest.split: manifest.ignored for manifest in manifests.values() if manifest.ignored}.items():
        out.print(f"{split}: {ignored:,} {skipped}", markup=False)


def _json_classes(source: "Source") -> dict[str, object]:
    from jpegcurr.encoding.sources.class_labels import count_classes

    counts = count_classes(source)
    images = {"least": counts.least, "median": counts.median, "most": counts.most}
    names = list(map(sanitize, counts.first))
    return {"classes": counts.classes, "first_classes": names, "images_per_class": images, "unlabelled": source.unlabelled}


def print_estimates(
    sources: "Sequence[Source]",
    estimates: "Sequence[EncodeEstimate]",
    folder: Path,
    refused: str,
    changes: "Sequence[EncodeChanges]" = (),
    *,
    as_json: bool,
) -> None:
    """Print the classes, files, sizes and seconds of ``--dry-run``, and whatever would stop the encode.

    ``estimates`` are of the ``sources``, in their order; ``refused`` is "" if nothing would; ``changes`` are of whole images.
    """
    from jpegcurr.files import nearest_folder

    free = shutil.disk_usage(nearest_folder(folder)).free
    if as_json:
        splits = [
            {
                "split": estimate.split,
                "images": estimate.images,
                "bytes_in": estimate.bytes_in,
                "seconds": estimate.seconds,
                "sampled": estimate.sampled,
                "sample_failures": len(estimate.failed),
                **_json_classes(source),
                "outputs": {str(path): size for path, size in estimate.bytes_out.items()},
            }
            for source, estimate in zip(sources, estimates, strict=True)
        ]
        changed = [asdict(one) for one in changes]
        out.print_json(json.dumps({"splits": splits, "changes": changed, "free_bytes": free, "refused": refused or None}))
        return
    rows = [
        [str(path), f"{estimate.images:,}", megabytes(estimate.bytes_in), f"about {megabytes(size)}"]
        for estimate in estimates
        for path, size in estimate.bytes_out.items()
    ]
    for source in sources:
        out.print(describe_classes(source), markup=False)
    print_table(["file to write", "images", "source size", "output size"], rows)
    for line in (line for one in changes for line in one.describe()):
        out.print(line, markup=False)
    seconds = sum(estimate.seconds for estimate in estimates)
    needed = sum(sum(estimate.bytes_out.values()) for estimate in estimates)
    sampled = sum(estimate.sampled for estimate in estimates)
    failures = [failure for estimate in estimates for failure in estimate.failed]
    out.print(f"about {duration(seconds)} on this machine, measured on a sample of {sampled:,} images", markup=False)
    if refused:
        out.print(f"As it stands, this encode would be refused: {refused}", markup=False)
    if needed > free:
        out.print(f"Not enough space: {folder} needs {megabytes(needed)}, and {megabytes(free)} are free.", markup=False)
    for failure in failures[:MOST_FAILURES]:
        out.print(f"would fail: {failure}", markup=False)
    if failures:
        share = 100 * len(failures) / sampled
        out.print(
            f"{len(failures)} images of the sample would fail ({share:.2g} %): set --max-failures accordingly.", markup=False
        )
