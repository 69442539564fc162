"""Output files of an evaluation: scores, class accuracies, and the curve of accuracy over quality."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.analysis.evaluation.naming import axis_labels, axis_position, quality_lines, tested_name
from jpegcurr.analysis.evaluation.tables import write_classes, write_scores
from jpegcurr.analysis.html.line_chart import Series, line_chart
from jpegcurr.analysis.stats import Paired, accuracy_interval
from jpegcurr.errors import UsageError
from jpegcurr.files import refuse_existing, refuse_unwritable, write_text

log = logging.getLogger("jpegcurr")

PlotAxis = Literal["quality", "bytes"]


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """Paths of the output files, None for one that is not wanted.

    Attributes:
        csv: the scores, see ``tables.write_scores``.
        classes: the accuracy of each class, see ``tables.write_classes``.
        plot: the curve of accuracy, as SVG, over the qualities or over the bytes: ``axis``.
    """

    csv: Path | None = None
    classes: Path | None = None
    plot: Path | None = None
    axis: PlotAxis = "quality"

    @property
    def paths(self) -> list[Path]:
        """The files that are wanted."""
        return [path for path in (self.csv, self.classes, self.plot) if path is not None]

    def check(self, *, force: bool) -> None:
        """Raise UsageError for a file that cannot be written, or that exists and ``force`` is not given, or a lone axis."""
        if self.plot is None and self.axis != "quality":
            raise UsageError(f"--axis {self.axis} is for --plot FILE.svg. Give it too, or omit --axis.")
        if self.plot is not None and self.plot.suffix != ".svg":
            raise UsageError(f"--plot {self.plot}: the curve is drawn as SVG; give it a name that ends in .svg.")
        absolute = [path.absolute() for path in self.paths]
        if repeated := [path for path in absolute if absolute.count(path) > 1]:
            raise UsageError(f"{repeated[0].name} would be written twice. Give each output a name of its own.")
        for option, path in (("--csv", self.csv), ("--classes", self.classes), ("--plot", self.plot)):
            if path is not None:
                refuse_unwritable([path.parent], option=option)
                refuse_existing([path], force=force, option=option)

    def write(self, results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> None:
        """Write the files that are wanted."""
        if self.csv is not None:
            write_scores(self.csv, results, pairs)
        if self.classes is not None:
            write_classes(self.classes, results)
        if self.plot is not None:
            write_text(self.plot, accuracy_curve(results) if self.axis == "quality" else bytes_curve(results))


def bytes_curve(results: Sequence[Evaluation]) -> str:
    """Draw top-1 over the mean bytes of an image, in thousands, and name the qualities; return the SVG text.

    Evaluations whose bytes no file has are left out, with a warning. The lines are those of ``accuracy_curve``.

    Raises:
        UsageError: no evaluation has bytes.
    """
    known = [result for result in results if result.jpegs is not None]
    if not known:
        raise UsageError("--axis bytes: no evaluation is of whole images at one quality, so none has bytes. Omit --axis.")
    if len(known) < len(results):
        log.warning("%d of %d evaluations have no bytes, and are not in the plot", len(results) - len(known), len(results))
    named: set[Path] = set()
    series = []
    for name, line in quality_lines(known):
        line = sorted(line, key=lambda result: result.jpegs.mean if result.jpegs else 0)
        intervals = [accuracy_interval(int(result.outcomes.right.sum()), len(result.outcomes)) for result in line]
        low, high = zip(*intervals, strict=True)
        x = [result.jpegs.mean / 1e3 for result in line if result.jpegs]
        first = not named & {result.data for result in line}  # other models' points are below or above those of the first
        named |= {result.data for result in line}
        labels = [tested_name(result) if first else "" for result in line]
        series.append(Series(name, [result.scores.top1 for result in line], low, high, x, labels=labels))
    return line_chart(
        series,
        x_label="kB an image, at each JPEG quality",
        y_label="top-1, %, with 95 % intervals (Wilson)",
        title=f"Accuracy by bytes, {results[0].weights} weights",
        standalone=True,
    )


def accuracy_curve(results: Sequence[Evaluation]) -> str:
    """Draw top-1 over quality with Wilson's 95 % intervals, a line for each of ``quality_lines``; return the SVG text.

    The intervals belong to each accuracy by itself. Two evaluations on the same images can differ by less than they suggest:
    see ``compare_evaluations``.
    """
    positions = sorted(set(map(axis_position, results)))
    ticks, remark = axis_labels(positions)
    series = []
    for name, line in quality_lines(results):
        intervals = [accuracy_interval(int(result.outcomes.right.sum()), len(result.outcomes)) for result in line]
        low, high = zip(*intervals, strict=True)
        x = [positions.index(axis_position(result)) for result in line]
        series.append(Series(name, [result.scores.top1 for result in line], low, high, x))
    counts = {len(result.outcomes) for result in results}
    images = f"{counts.pop():,} validation images" if len(counts) == 1 else "validation images"
    return line_chart(
        series,
        ticks=ticks,
        x_label=f"JPEG quality of the {images}{remark}",
        y_label="top-1, %, with 95 % intervals (Wilson)",
        title=f"Accuracy by JPEG quality, {results[0].weights} weights",
        standalone=True,
    )
