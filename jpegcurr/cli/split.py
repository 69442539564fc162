"""The command ``split``: a table that says which images are for training, for validation and for a test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.options import (
    FlatClassesOption,
    ForceOption,
    JsonOption,
    LabelFromOption,
    QuietOption,
    TestShareOption,
    ValShareOption,
    lock_outputs,
    parse_draw,
)
from jpegcurr.cli.terminal import out, print_table, show_log
from jpegcurr.errors import UsageError

if TYPE_CHECKING:
    from jpegcurr.encoding.splits import DrawnSplits


def split(
    context: typer.Context,
    src: Annotated[list[str], typer.Argument(metavar="SRC", help="The images, as for encode. Several are one data set.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TABLE", help="The table to write.")] = Path("splits.csv"),
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV or TSV of path,label, or a list of paths, as for encode.")
    ] = None,
    label_from: LabelFromOption = None,
    flat_classes: FlatClassesOption = False,
    val: ValShareOption = None,
    test: TestShareOption = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of the draw.")] = 0,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Keep images together for which this matches the same text of their paths: its group 1, or all of it.",
        ),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="Keep the splits of the images in this table; draw new images only.")
    ] = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw train, val and test splits of images that have none, with exact shares of every class.

    Writes a table of path,label,split for `jpegcurr encode SRC --labels splits.csv`. For images that were added since,
    `--keep splits.csv -o splits.csv` draws only these, towards the exact shares of all; the others stay where they are.
    """
    from jpegcurr.encoding.sources.open import lone_split, open_sources
    from jpegcurr.encoding.sources.split_table import read_kept, refuse_moved_keys, refuse_unwritable_names, write_split_table
    from jpegcurr.encoding.splits import UNDRAWN, describe_draw, draw_splits, find_groups, refuse_poor_draw
    from jpegcurr.files import refuse_existing

    show_log(quiet=quiet)
    draw = parse_draw(val, test, seed)
    if draw is None:
        raise UsageError("Which share? Give --val 0.2, --test 0.1, or both.")
    if output.suffix.lower() != ".csv":
        raise UsageError(f"-o {output}: the table has commas. Give it a name that ends in .csv.")
    updating = keep is not None and output.exists() and keep.exists() and output.samefile(keep)
    refuse_existing([output], force=force or updating, or_else=f"keep the splits in it with --keep {output}")
    lock_outputs(context, {output: "-o"})
    source = lone_split(open_sources(src, labels=labels, label_from=label_from, flat_classes=flat_classes))
    refuse_moved_keys(source)
    refuse_unwritable_names(source)
    remarks = []
    kept, gone = None, 0
    if keep is not None:
        kept, gone, relabelled = read_kept(keep, source)
        held = int((kept != UNDRAWN).sum())
        remarks += [f"Kept where {keep} has them: {held:,} images; drawn: {len(kept) - held:,}."]
        remarks += [f"Kept, but of another class now: {relabelled:,}."] if relabelled else []
        remarks += [f"In {keep}, but gone, and left out: {gone:,}."] if gone else []
    if gone and updating and not force:
        raise UsageError(
            f"Not all images of {keep} are in {source.where}: {gone:,} would be lost from it. Check that all of SRC is "
            "there; then leave them out with --force, or write another table with -o."
        )
    groups = None if group is None else find_groups(source.items, group)
    if groups is not None:
        single = sum(name is None for name in groups)
        remarks += [f"Groups: {len(set(groups) - {None}):,}; images that match none, and are drawn one by one: {single:,}."]
    drawn = draw_splits(source.items, len(source.classes), draw, groups=groups, kept=kept)
    refuse_poor_draw(drawn, source.classes, draw, grouped=groups is not None)
    write_split_table(output, source, drawn.splits)
    print_draw(drawn, [*remarks, *describe_draw(drawn, draw)], output, as_json=as_json)


def print_draw(drawn: "DrawnSplits", remarks: Sequence[str], output: Path, *, as_json: bool) -> None:
    """Print a row per split with its images by class, then ``remarks``."""
    import numpy as np

    from jpegcurr.encoding.sources.base import SPLITS

    counts = drawn.counts[drawn.counts.sum(1) > 0]
    splits, rows = [], []
    for name, images in zip(SPLITS, counts.T, strict=True):
        if images.any():
            total, classes, least, most = (
                int(number) for number in (images.sum(), (images > 0).sum(), images.min(), images.max())
            )
            per_class = {"least": least, "median": float(np.median(images)), "most": most}
            splits.append({"split": name, "images": total, "classes": classes, "images_per_class": per_class})
            spread = [f"{number:,.10g}" for number in per_class.values()]
            rows.append([name, f"{total:,}", f"{100 * total / counts.sum():.2f}", f"{classes:,}", *spread])
    if as_json:
        out.print_json(json.dumps({"path": str(output), "splits": splits, "remarks": remarks}))
        return
    print_table(["split", "images", "%", "classes", "images per class: least", "median", "most"], rows)
    for remark in remarks:
        out.print(remark, markup=False)
    out.print(f"{output}", markup=False)
