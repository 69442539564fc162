"""The files that evaluations can be written to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.analysis.evaluation.naming import place_names, place_of, quality_lines
from jpegcurr.analysis.evaluation.tables import write_classes, write_scores
from jpegcurr.analysis.html.line_chart import Series, line_chart
from jpegcurr.analysis.stats import Paired, accuracy_interval
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


def accuracy_curve(results: Sequence[Evaluation]) -> str:
    """Top-1 with Wilson's 95 % intervals, as the text of an SVG file; which lines there are, ``quality_lines`` says.

    The intervals are of each accuracy by itself. Arms on the same images differ by less than these make it look: see
    ``compare_evaluations``.
    """
    places = sorted({place_of(each) for each in results})
    ticks, treated = place_names(places)
    series = []
    for name, arms in quality_lines(results):
        intervals = [accuracy_interval(int(each.outcomes.right.sum()), len(each.outcomes)) for each in arms]
        low, high = zip(*intervals, strict=True)
        x = [places.index(place_of(each)) for each in arms]
        series.append(Series(name, [each.scores.top1 for each in arms], low, high, x))
    counts = {len(each.outcomes) for each in results}
    images = f"{counts.pop():,} validation images" if len(counts) == 1 else "validation images"
    return line_chart(
        series,
        ticks=ticks,
        x_label=f"JPEG quality of the {images}{treated}",
        y_label="top-1, %, with 95 % intervals (Wilson)",
        title=f"Accuracy by JPEG quality, {results[0].weights} weights",
        standalone=True,
    )
