"""Predictions as CSV files, written row by row."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jpegcurr.analysis.class_names import have_readable_names, readable_name
from jpegcurr.analysis.prediction.predict import TOP, FilePrediction
from jpegcurr.errors import UsageError
from jpegcurr.files import CsvWriter

Identity = Literal["stem", "name", "path"]


class PredictionTable:
    """The table ``file,class_1,probability_1,...,error``, a row a file; with ``name_1`` if classes have readable names."""

    def __init__(self, writer: CsvWriter, classes: Sequence[str]) -> None:
        self._writer, self._classes = writer, classes
        self._readable = have_readable_names(classes)
        fields = ("class", "name", "probability") if self._readable else ("class", "probability")
        self._width = len(fields) * TOP
        writer.writerow(["file", *(f"{field}_{rank}" for rank in range(1, TOP + 1) for field in fields), "error"])

    def add(self, prediction: FilePrediction) -> None:
        """Write the row of a file."""
        cells: list[str] = []
        for label in prediction.likeliest():
            name = self._classes[label]
            cells += [name, readable_name(name)] if self._readable else [name]
            cells.append(f"{_probability(prediction, label):.6f}")
        self._writer.writerow([str(prediction.file), *cells, *[""] * (self._width - len(cells)), prediction.error])


class Submission:
    """The table ``id,<class>,<class>,...`` of all probabilities, as Kaggle asks for; files that cannot be read are omitted."""

    def __init__(self, writer: CsvWriter, classes: Sequence[str], identity: Identity) -> None:
        self._writer, self._identity = writer, identity
        writer.writerow(["id", *classes])

    def add(self, prediction: FilePrediction) -> None:
        """Write the row of a file, if it was read."""
        if prediction.probabilities is not None:
            self._writer.writerow([identify(prediction.file, self._identity), *prediction.probabilities])  # shortest of float32


def _probability(prediction: FilePrediction, label: int) -> float:
    return 0.0 if prediction.probabilities is None else float(prediction.probabilities[label])


def identify(file: Path, identity: Identity) -> str:
    """Return the id of a file in a submission."""
    return {"stem": file.stem, "name": file.name, "path": str(file)}[identity]


def refuse_same_identities(files: Sequence[Path], identity: Identity) -> None:
    """Raise UsageError if two files have the same id in a submission."""
    name, times = Counter(identify(file, identity) for file in files).most_common(1)[0]
    if times > 1:
        unique = next(wider for wider in ("name", "path") if len({identify(file, wider) for file in files}) == len(files))
        raise UsageError(f"--submission: {times} files would have the id {name!r}. Tell them apart with --id {unique}.")
