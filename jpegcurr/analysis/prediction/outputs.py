"""One pass over image files, and all that is made of it: tables, a contact sheet, sorted folders, a confusion matrix."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jpegcurr.analysis.prediction.confusion import Confusion
from jpegcurr.analysis.prediction.contact_sheet import LIMIT, ContactSheet, check_sheet
from jpegcurr.analysis.prediction.predict import FilePrediction, Prediction, classify, count_labelled, summarise
from jpegcurr.analysis.prediction.sort_by_class import refuse_folder, sorted_folder
from jpegcurr.analysis.prediction.tables import Identity, PredictionTable, Submission, refuse_same_identities
from jpegcurr.errors import UsageError
from jpegcurr.files import csv_writer, refuse_existing, refuse_unwritable
from jpegcurr.runtime import Runtime
from jpegcurr.text import sanitize
from jpegcurr.training.models.load import Classifier

SHOWN = 40  # predictions that are kept to be printed


class PredictionSink(Protocol):
    """What is made of files, one after the other."""

    def add(self, seen: FilePrediction) -> None:
        """Take in a file."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is to be written, and where; ``identity`` is what a submission calls files."""

    csv: Path
    submission: Path | None = None
    identity: Identity = "stem"
    sheet: Path | None = None
    sheet_limit: int = LIMIT
    by_class: Path | None = None
    copy: bool = False
    confusion: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Those that are files."""
        return [each for each in (self.csv, self.submission, self.sheet, self.confusion) if each is not None]

    def written(self) -> list[Path]:
        """All of them, files first."""
        return [*self.files, *([self.by_class] if self.by_class else [])]

    def check(self, files: Sequence[Path], *, force: bool) -> None:
        """Raise UsageError for what cannot be written, or is there already, before anything is read."""
        places = [each.absolute() for each in self.written()]
        if twice := [each for each in places if places.count(each) > 1]:
            raise UsageError(f"{twice[0].name} would be written twice. Give each output a name of its own.")
        if self.sheet is not None:
            check_sheet(self.sheet)
        if self.copy and self.by_class is None:
            raise UsageError("--copy is for --by-class FOLDER, which sorts images into folders.")
        refuse_unwritable([each.parent for each in self.written()])
        refuse_existing(self.files, force=force)
        if self.by_class is not None:
            refuse_folder(self.by_class, files, force=force)
            if inside := [each for each in self.files if self.by_class.absolute() in each.absolute().parents]:
                raise UsageError(f"{inside[0]} would lie in the folder of --by-class. Give it a place outside.")
        if self.submission is not None:
            refuse_same_identities(files, self.identity)

    def check_labels(self, run: Classifier, labelled: int) -> None:
        """Raise UsageError if something needs labels and no image has one."""
        wanted = [name for name, path in (("--by-class", self.by_class), ("--confusion", self.confusion)) if path]
        if wanted and not labelled:
            raise UsageError(
                f"{wanted[0]} needs images in folders called like the classes of {run.path}, such as "
                f"{run.classes[0]!r}; there are none."
            )


@dataclass(frozen=True, slots=True)
class Summary:
    """What is left after the pass: the first predictions, (file, reason) of all that was not read, and the confusion."""

    files: int
    first: tuple[Prediction, ...]
    unread: tuple[tuple[str, str], ...]
    confusion: Confusion | None


def classify_files(
    run: Classifier,
    files: Sequence[Path],
    runtime: Runtime,
    outputs: Outputs,
    on_file: Callable[[int], None] = lambda _done: None,
) -> Summary:
    """Classify every file and write ``outputs``; nothing is left of them if it is interrupted.

    Raises:
        UsageError: something needs labels and no image has one.
    """
    labelled = count_labelled(files, run.classes)
    outputs.check_labels(run, labelled)
    confusion = Confusion(run.classes) if labelled else None
    first: list[Prediction] = []
    unread: list[tuple[str, str]] = []
    with _opened(run, files, outputs, confusion) as takers:
        for done, seen in enumerate(classify(run, files, runtime), start=1):
            for taker in takers:
                taker.add(seen)
            if len(first) < SHOWN:
                first.append(summarise(seen, run.classes))
            if seen.error:
                unread.append((sanitize(seen.file), sanitize(seen.error)))
            on_file(done)
    return Summary(len(files), tuple(first), tuple(unread), confusion)


@contextmanager
def _opened(
    run: Classifier, files: Sequence[Path], outputs: Outputs, confusion: Confusion | None
) -> Iterator[list[PredictionSink]]:
    """Yield what takes in the files; what is only known at the end is written when the block is left."""
    with ExitStack() as stack:
        takers: list[PredictionSink] = [PredictionTable(stack.enter_context(csv_writer(outputs.csv)), run.classes)]
        if outputs.submission is not None:
            writer = stack.enter_context(csv_writer(outputs.submission))
            takers.append(Submission(writer, run.classes, outputs.identity))
        if outputs.by_class is not None:
            takers.append(stack.enter_context(sorted_folder(outputs.by_class, run.classes, copy=outputs.copy)))
        sheet = ContactSheet(sanitize(run.path), files, run.classes, outputs.sheet_limit) if outputs.sheet else None
        takers += [each for each in (confusion, sheet) if each is not None]
        yield takers
        if outputs.confusion is not None and confusion is not None:
            confusion.write(outputs.confusion)
        if outputs.sheet is not None and sheet is not None:
            sheet.write(outputs.sheet, confusion)
