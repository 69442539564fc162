"""Output files of predictions, all written in one pass: tables, a contact sheet, sorted folders, a confusion matrix, a page."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from jpegcurr.analysis.class_names import find_class
from jpegcurr.analysis.fingerprint import file_facts, find_changed_file, machine_facts, model_facts
from jpegcurr.analysis.journal import Journal, Part
from jpegcurr.analysis.prediction.columns import PredictionColumns
from jpegcurr.analysis.prediction.confusion import Confusion
from jpegcurr.analysis.prediction.contact_sheet import LIMIT, ContactSheet, check_sheet
from jpegcurr.analysis.prediction.page import page_files, write_page
from jpegcurr.analysis.prediction.predict import FilePrediction, Prediction, View, classify, number_classes, summarise
from jpegcurr.analysis.prediction.report import PredictionReport, Subject, build_report
from jpegcurr.analysis.prediction.sort_by_class import refuse_folder, sorted_folder
from jpegcurr.analysis.prediction.tables import Identity, PredictionTable, Submission, refuse_same_identities
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.sources.labelled_files import LabelledFiles
from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.files import csv_writer, refuse_existing, refuse_unwritable
from jpegcurr.runtime import Runtime
from jpegcurr.text import join_words
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.description import describe_model

THRESHOLD = 0.5  # of the positive class's probability
PRINTED = 40  # predictions that are kept for the terminal
_MOST_NAMED = 8  # classes in an error


class PredictionSink(Protocol):
    """A receiver of predictions, one after the other."""

    def add(self, prediction: FilePrediction) -> None:
        """Take in the prediction for one file."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Paths of the output files, None for one that is not wanted.

    Attributes:
        csv: the table, see ``tables.PredictionTable``.
        submission: all probabilities, see ``tables.Submission``; ``identity`` is what it calls files, and
            ``raw_submission`` writes names as they are, even those that a spreadsheet would take for formulas.
        sheet: the contact sheet, with at most ``sheet_limit`` images.
        by_class: the folder of images sorted by class, as copies if ``copy``, else as links.
        confusion: the confusion matrix.
        report: the page, with its JSON beside it; ``positive`` is the class that it judges against all others, and
            ``threshold`` the probability from which an image counts as of it.
    """

    csv: Path
    submission: Path | None = None
    identity: Identity = "stem"
    raw_submission: bool = False
    sheet: Path | None = None
    sheet_limit: int = LIMIT
    by_class: Path | None = None
    copy: bool = False
    confusion: Path | None = None
    report: Path | None = None
    positive: str | None = None
    threshold: float | None = None

    @property
    def options(self) -> list[tuple[str, Path]]:
        """The outputs that are files, with the options that name them."""
        files = {"--csv": self.csv, "--submission": self.submission, "--sheet": self.sheet, "--confusion": self.confusion}
        pages = [("--report", path) for path in page_files(self.report)] if self.report else []
        return [*((option, path) for option, path in files.items() if path is not None), *pages]

    @property
    def files(self) -> list[Path]:
        """The outputs that are files."""
        return [path for _, path in self.options]

    def written(self) -> list[Path]:
        """Return all outputs, files first."""
        return [*self.files, *([self.by_class] if self.by_class else [])]

    def check(self, files: Sequence[Path], *, force: bool) -> None:
        """Raise UsageError for an output that cannot be written, or that exists and ``force`` is not given."""
        self._check_report()
        absolute = [path.absolute() for path in self.written()]
        if repeated := [path for path in absolute if absolute.count(path) > 1]:
            raise UsageError(f"{repeated[0].name} would be written twice. Give each output a name of its own.")
        if self.sheet is not None:
            check_sheet(self.sheet)
        if self.copy and self.by_class is None:
            raise UsageError("--copy is for --by-class FOLDER, which sorts images into folders.")
        if self.raw_submission and self.submission is None:
            raise UsageError("--raw-submission is for --submission FILE.csv, which it writes with unchanged names.")
        for option, path in [*self.options, *([("--by-class", self.by_class)] if self.by_class else [])]:
            refuse_unwritable([path.parent], option=option)
        for option, path in self.options:
            refuse_existing([path], force=force, option=option)
        if self.by_class is not None:
            if inside := [path for path in self.files if self.by_class.absolute() in path.absolute().parents]:
                raise UsageError(f"{inside[0]} would lie in the folder of --by-class. Choose a place outside it.")
            refuse_folder(self.by_class, files, force=force)
        if self.submission is not None:
            refuse_same_identities(files, self.identity)

    def _check_report(self) -> None:
        """Raise UsageError for a page of another name, and for options of the page without it."""
        if self.report is not None and self.report.suffix != ".html":
            raise UsageError(f"--report {self.report}: the report is a page. Give a name that ends in .html.")
        if self.positive is not None and self.report is None:
            raise UsageError(f"--positive {self.positive} is for --report FILE.html, which shows its results.")
        if self.threshold is not None and self.positive is None:
            raise UsageError(f"--threshold {self.threshold:g} is for --positive CLASS, the class whose probability it is for.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            percent = f" Did you mean {self.threshold / 100:g}?" if 1 < self.threshold <= 100 else ""
            raise UsageError(f"--threshold {self.threshold:g} is not a probability, 0 to 1.{percent}")

    def positive_label(self, run: Classifier) -> int | None:
        """Return the label of the positive class, None if none is given; raise UsageError if the model has no such class."""
        if self.positive is None:
            return None
        labels = find_class(self.positive, run.classes)
        if len(labels) > 1:
            names = join_words([repr(run.classes[label]) for label in labels])
            raise UsageError(f"--positive {self.positive}: {run.path} has several classes of this name, {names}. Choose one.")
        if not labels:
            more = [f"{len(run.classes) - _MOST_NAMED:,} more"] if len(run.classes) > _MOST_NAMED else []
            its = join_words([*map(repr, run.classes[:_MOST_NAMED]), *more])
            near = did_you_mean(self.positive, run.classes) or f" Its classes are {its}."
            raise UsageError(f"--positive {self.positive}: {run.path} has no class of this name.{near}")
        return labels[0]

    def check_labels(self, run: Classifier, labelled: bool) -> None:
        """Raise UsageError if an output needs labels and no image has one, or the model lacks the positive class."""
        self.positive_label(run)
        needy = {"--by-class": self.by_class, "--confusion": self.confusion, "--positive": self.positive}
        wanted = [name for name, value in needy.items() if value is not None]
        if wanted and not labelled:
            raise UsageError(
                f"{wanted[0]} needs images in folders named like the classes of {run.path}, such as "
                f"{run.classes[0]!r}, or a table of labels (--labels); no image has a known class."
            )


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary of the pass, for the terminal.

    Attributes:
        files: the number of files.
        first: the first predictions.
        unread: (file, reason) of every file that could not be read.
        confusion: the counts, None if no image has a label.
        unknown: how many files have no class of the model, in a sentence; empty if all have one.
        report: the first sentences of the page; empty if none is written.
    """

    files: int
    first: tuple[Prediction, ...]
    unread: tuple[tuple[str, str], ...]
    confusion: Confusion | None
    unknown: str = ""
    report: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON; ``labelled`` and ``right`` count images, None if no class is known."""
        counts = (self.confusion.images, self.confusion.right) if self.confusion is not None else (None, None)
        return {
            "files": self.files,
            "unread": len(self.unread),
            "labelled": counts[0],
            "right": counts[1],
            "unknown": self.unknown or None,
            "report": list(self.report) or None,
            "predictions": [
                {
                    "file": prediction.file,
                    "classes": [{"class": name, "probability": share} for name, share in prediction.top],
                    "error": prediction.error or None,
                }
                for prediction in self.first
            ],
        }


def classify_files(
    run: Classifier,
    files: LabelledFiles,
    runtime: Runtime,
    outputs: Outputs,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    keep: int | None = PRINTED,
    max_pixels: int = MAX_PIXELS,
    view: View = "crop",
    journal: Journal | None = None,
) -> Summary:
    """Classify every file and write ``outputs``, whole or not at all.

    ``progress`` is called with the number of files done and in all, at first with those that the ``journal`` of an interrupted
    run has; it keeps the probabilities of all files, four bytes a class.

    The summary has the first ``keep`` predictions; all if it is None. An image of more than ``max_pixels`` is not read;
    the model sees its centre or all of it (``view``, see ``classify``).

    Raises:
        UsageError: an output needs labels and no image has one; or the model lacks the positive class or takes no whole images.
    """
    labelled = any(number >= 0 for number in number_classes(run, files))
    outputs.check_labels(run, labelled)
    confusion = Confusion(run.classes) if labelled else None
    columns = PredictionColumns(outputs.positive_label(run)) if outputs.report else None
    by_truth = files.renamed(run.class_list.truths)
    unknown = by_truth.describe_unknown(run.classes, str(run.path), known=run.names_known)
    first: list[Prediction] = []
    unread: list[tuple[str, str]] = []
    kept, resumed = _open_journal(journal or Journal(), run, files, runtime, max_pixels, view)
    if resumed:
        progress(resumed, len(files))
    with _open_sinks(run, files.files, outputs, confusion, columns) as (sinks, viewed):
        predictions = classify(run, files, runtime, max_pixels=max_pixels, view=view, kept=kept, viewed=viewed)
        for done, prediction in enumerate(predictions, start=1):
            for sink in sinks:
                sink.add(prediction)
            if keep is None or len(first) < keep:
                first.append(summarise(prediction, run.classes))
            if prediction.error:
                unread.append((str(prediction.file), prediction.error))
            if done > resumed:
                progress(done, len(files))
        report = _build_report(run, files, outputs, columns, unknown, view) if columns is not None else None
    if report is not None and outputs.report is not None:
        write_page(report, outputs.report)
    return Summary(len(files), tuple(first), tuple(unread), confusion, unknown, report.summary if report else ())


def _open_journal(
    journal: Journal, run: Classifier, files: LabelledFiles, runtime: Runtime, max_pixels: int, view: View
) -> tuple[Part, int]:
    """Return the part of a journal that keeps the pass, and how many files an interrupted pass has done."""
    if journal.path is None:
        return journal.part(0), 0
    options = {"--view": view, "--max-pixels": max_pixels, "number of files": len(files)}
    facts = {**options, **model_facts([run]), **file_facts(files, "the command"), **machine_facts(runtime)}
    resumed = journal.begin(facts, partial(find_changed_file, files.files))
    return journal.part(0), resumed


def _build_report(
    run: Classifier, files: LabelledFiles, outputs: Outputs, columns: PredictionColumns, unknown: str, view: View
) -> PredictionReport:
    names = [str(file) for file in files.files]
    subject = Subject(str(run.path), run.weights, describe_model(run), run.classes, names, unknown, view)
    threshold = THRESHOLD if outputs.threshold is None else outputs.threshold
    return build_report(subject, columns, positive=outputs.positive_label(run), threshold=threshold)


@contextmanager
def _open_sinks(
    run: Classifier,
    files: Sequence[Path],
    outputs: Outputs,
    confusion: Confusion | None,
    columns: PredictionColumns | None,
) -> Iterator[tuple[list[PredictionSink], Collection[Path]]]:
    """Yield the sinks of ``outputs`` and the files whose pixels they show.

    The confusion matrix and the contact sheet are written when the block ends.
    """
    with ExitStack() as stack:
        sinks: list[PredictionSink] = [PredictionTable(stack.enter_context(csv_writer(outputs.csv)), run.classes)]
        if outputs.submission is not None:
            writer = stack.enter_context(csv_writer(outputs.submission, raw=outputs.raw_submission))
            sinks.append(Submission(writer, run.classes, outputs.identity))
        if outputs.by_class is not None:
            sinks.append(stack.enter_context(sorted_folder(outputs.by_class, run.classes, copy=outputs.copy)))
        sheet = ContactSheet(str(run.path), files, run.classes, outputs.sheet_limit) if outputs.sheet else None
        sinks += [sink for sink in (confusion, sheet, columns) if sink is not None]
        yield sinks, sheet.chosen if sheet is not None else ()
        if outputs.confusion is not None and confusion is not None:
            confusion.write(outputs.confusion)
        if outputs.sheet is not None and sheet is not None:
            sheet.write(outputs.sheet, confusion)
