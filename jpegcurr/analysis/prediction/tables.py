"""Predictions as CSV files, written row by row."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jpegcurr.analysis.class_names import have_readable_names, readable_name
from jpegcurr.analysis.prediction.predict import TOP, FilePrediction
from jpegcurr.errors import UsageError

Identity = Literal["stem", "name", "path"]


class PredictionTable:
    """``file,class_1,probability_1,...,error``, a line a file; with ``name_1`` where classes have readable names."""

    def __init__(self, writer: Any, classes: Sequence[str]) -> None:
        self._writer, self._classes = writer, classes
        self._named = have_readable_names(classes)
        what = ("class", "name", "probability") if self._named else ("class", "probability")
        self._width = len(what) * TOP
        writer.writerow(["file", *(f"{each}_{rank}" for rank in range(1, TOP + 1) for each in what), "error"])

    def add(self, seen: FilePrediction) -> None:
        """Write a file's line."""
        cells: list[str] = []
        for label in seen.likeliest():
            name = self._classes[label]
            cells += [name, readable_name(name)] if self._named else [name]
            cells.append(f"{_share(seen, label):.6f}")
        self._writer.writerow([str(seen.file), *cells, *[""] * (self._width - len(cells)), seen.error])


class Submission:
    """``id,<class>,<class>,...``: every class's probability, as Kaggle's competitions ask for; without unreadable files."""

    def __init__(self, writer: Any, classes: Sequence[str], identity: Identity) -> None:
        self._writer, self._identity = writer, identity
        writer.writerow(["id", *classes])

    def add(self, seen: FilePrediction) -> None:
        """Write a file's line, if it was read."""
        if seen.probabilities is not None:
            shares = (f"{share:.7g}" for share in seen.probabilities.tolist())
            self._writer.writerow([identify(seen.file, self._identity), *shares])


def _share(seen: FilePrediction, label: int) -> float:
    return 0.0 if seen.probabilities is None else float(seen.probabilities[label])


def identify(file: Path, identity: Identity) -> str:
    """What a submission calls a file."""
    return {"stem": file.stem, "name": file.name, "path": str(file)}[identity]


def refuse_same_identities(files: Sequence[Path], identity: Identity) -> None:
    """Raise UsageError if two files would be called the same in a submission."""
    name, times = Counter(identify(file, identity) for file in files).most_common(1)[0]
    if times > 1:
        wider = next(each for each in ("name", "path") if len({identify(file, each) for file in files}) == len(files))
        raise UsageError(f"--submission: {times} files would have the id {name!r}. Tell them apart with --id {wider}.")
