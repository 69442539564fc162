"""The command ``audit``: the facts of a data set's JPEGs, and whether their headers alone tell the classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.options import FlatClassesOption, ForceOption, JsonOption, LabelFromOption, QuietOption, lock_outputs
from jpegcurr.cli.terminal import err, out, print_table, progress_bar, show_log
from jpegcurr.errors import JpegcurrError
from jpegcurr.progress import Progress

if TYPE_CHECKING:
    from jpegcurr.analysis.audit.report import AuditReport
    from jpegcurr.encoding.sources.base import Source
    from jpegcurr.encoding.survey import FileFacts

MOST_FAILURES = 20  # files that are printed one by one
MOST_CLASSES = 10


def audit(
    context: typer.Context,
    src: Annotated[
        list[str],
        typer.Argument(metavar="SRC", help="The images, as for encode, or a folder without classes. Several are one data set."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE.html", help="Write a page.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write a row for every file.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV or TSV of path,label, or a list of paths, as for encode.")
    ] = None,
    label_from: LabelFromOption = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="Audit only this split, or name the split of SRC; repeatable."),
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--classes", metavar="A,B,C|FILE", help="Audit only these classes, as for encode.")
    ] = None,
    flat_classes: FlatClassesOption = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Maximum images per split, chosen by --seed.")] = None,
    sample: Annotated[
        int, typer.Option(min=0, metavar="N", help="Images of a split to search for an earlier compression.")
    ] = 256,
    permutations: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Shuffles of the labels to compare their prediction with; 0 leaves it out."),
    ] = 1999,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of --limit, --sample and the shuffles.")
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of threads; all processors if not given.")
    ] = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read the headers of all images of a data set: quality, chroma, sizes, encoders, and whether they tell the classes.

    Nothing is decoded but a sample of JPEGs, whose coefficients show whether they were compressed before. A network can learn
    the encoder of a class in place of its subject: a model that sees headers only is tested on images that it was not fitted
    to, and compared with shuffled labels. That needs the package scikit-learn: pip install 'jpegcurr[audit]'.
    """
    from jpegcurr.analysis.audit.page import write_audit
    from jpegcurr.analysis.audit.report import audit as audit_images
    from jpegcurr.cli.encode import interruptible, parse_classes
    from jpegcurr.files import refuse_existing

    show_log(quiet=quiet)
    written: dict[Path | None, str] = {}
    for path, option in ((output, "-o"), (csv, "--csv")):
        if path is not None:
            written[path] = option
            refuse_existing([path], force=force, option=option)
    lock_outputs(context, written)
    with interruptible("stopped. Nothing was written."), progress_bar(quiet=quiet) as bar:
        report = audit_images(
            src,
            labels=labels,
            label_from=label_from,
            splits=split or (),
            classes=parse_classes(classes or ()),
            flat_classes=flat_classes,
            limit=limit,
            sample=sample,
            permutations=permutations,
            seed=seed,
            csv=csv,
            workers=workers,
            watcher=None if quiet else AuditBar(bar),
        )
        if output is not None:
            write_audit(report, output)
    if as_json:
        out.print_json(json.dumps(report.as_dict()))
    else:
        print_audit(report, [path for path in written if path is not None])
    if report.unread == report.images:
        raise JpegcurrError(f"None of the {report.images:,} files is a readable image.")


class AuditBar:
    """Progress of an audit, split by split and then of the shuffles, and its first unreadable files in words."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._split, self._done, self._failed = "", 0, 0

    def read(self, source: "Source", facts: "Sequence[FileFacts]") -> None:
        """Count more files of a split, and print those that cannot be read."""
        if source.split != self._split:
            self._split, self._done = source.split, 0
        for place, one in enumerate(facts, self._done):
            if one.reason:
                self._failed += 1
                if self._failed <= MOST_FAILURES:
                    err.print(f"not readable: {source.store.locate(source.items[place])}: {one.reason}", markup=False)
                elif self._failed == MOST_FAILURES + 1:
                    err.print("not readable: more files, which --csv lists", markup=False)
        self._done += len(facts)
        self._bar.update(f"auditing {source.split}", self._done, len(source.items), "files")

    def compared(self, source: "Source", done: int, total: int) -> None:
        """Show the progress of the search for blocks from before a resize."""
        self._bar.update(f"comparing {source.split}", done, total, "files")

    def tested(self, target: str, done: int, total: int) -> None:
        """Show the progress of the prediction of ``target``."""
        self._bar.update(f"predicting the {target}", done, total, "shuffles")


def print_audit(report: "AuditReport", written: Sequence[Path]) -> None:
    """Print the facts of every split, the classes that differ most from all, and what the facts mean."""
    from jpegcurr.analysis.audit.text import CLASS_COLUMNS, FIELD_COLUMNS, class_rows, fact_rows, field_rows, sentences

    print_table(["", *(split.name for split in report.splits)], fact_rows(report), left=1 + len(report.splits))
    for prediction in report.predictions:
        if prediction.fields:
            print_table(list(FIELD_COLUMNS), field_rows(prediction), title=f"Predicting the {prediction.target}")
    if len(report.classes) > 1 and max(one.images for one in report.classes) > 1:
        largest = f"The {MOST_CLASSES} largest of {len(report.classes):,} classes"
        title = largest if len(report.classes) > MOST_CLASSES else "Classes"
        print_table(list(CLASS_COLUMNS), class_rows(report.classes, MOST_CLASSES), title=title)
    out.print("")
    for line in sentences(report):
        out.print(f"- {line}", markup=False)
    for path in written:
        out.print(f"{path}", markup=False)
