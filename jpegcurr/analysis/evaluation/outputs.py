"""The files that evaluations can be written to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpegcurr.analysis.evaluation.accuracy_curve import accuracy_curve
from jpegcurr.analysis.evaluation.class_tables import write_classes
from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.analysis.evaluation.tables import write_scores
from jpegcurr.analysis.stats import Paired
from jpegcurr.errors import UsageError
from jpegcurr.files import refuse_existing, refuse_unwritable, write_text


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """What is to be written, and where: the figures of each arm, those of each class, and the accuracy-quality curve."""

    csv: Path | None = None
    classes: Path | None = None
    plot: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Those that were asked for."""
        return [path for path in (self.csv, self.classes, self.plot) if path is not None]

    def check(self, *, force: bool) -> None:
        """Raise UsageError for what cannot be written, or is there already, before anything is read."""
        if self.plot is not None and self.plot.suffix != ".svg":
            raise UsageError(f"--plot {self.plot}: the curve is drawn as SVG; give it a name that ends in .svg.")
        places = [path.absolute() for path in self.paths]
        if twice := [path for path in places if places.count(path) > 1]:
            raise UsageError(f"{twice[0].name} would be written twice. Give each output a name of its own.")
        for option, path in (("--csv", self.csv), ("--classes", self.classes), ("--plot", self.plot)):
            if path is not None:
                refuse_unwritable([path.parent], option=option)
                refuse_existing([path], force=force, option=option)

    def write(self, results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> None:
        """Write all of them."""
        if self.csv is not None:
            write_scores(self.csv, results, pairs)
        if self.classes is not None:
            write_classes(self.classes, results)
        if self.plot is not None:
            write_text(self.plot, accuracy_curve(results))
