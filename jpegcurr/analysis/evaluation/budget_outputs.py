"""Outputs of a budget: sentences and tables for the terminal, a CSV file, and accuracy against bytes as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpegcurr.analysis.evaluation.budget import Budget, QualityTest
from jpegcurr.analysis.evaluation.jpeg_bytes import BYTES, JpegBytes
from jpegcurr.analysis.evaluation.naming import data_names, join_name, run_name
from jpegcurr.analysis.evaluation.tables import Table
from jpegcurr.analysis.html.line_chart import Series, line_chart
from jpegcurr.analysis.noninferiority import POWER, fewest_images
from jpegcurr.errors import UsageError
from jpegcurr.files import csv_writer, refuse_existing, refuse_unwritable, write_text
from jpegcurr.text import join_words, megabytes

CSV_COLUMNS = (
    *("run", "weights", "data", "images", "against", "within", "level", "quality", "verdict", "chosen", "top1"),
    *("loss", "low", "high", "bound", "lost", "gained", "p_value", "images_needed"),
    *(*BYTES, "share"),
)


@dataclass(frozen=True, slots=True)
class BudgetFiles:
    """Paths of the output files, None for one that is not wanted: ``csv`` by quality, and the ``plot`` as SVG."""

    csv: Path | None = None
    plot: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files that are wanted."""
        return [path for path in (self.csv, self.plot) if path is not None]

    def check(self, *, force: bool) -> None:
        """Raise UsageError for a file that cannot be written, or that exists and ``force`` is not given."""
        if self.plot is not None and self.plot.suffix != ".svg":
            raise UsageError(f"--plot {self.plot}: the curve is drawn as SVG; give it a name that ends in .svg.")
        if self.csv is not None and self.plot is not None and self.csv.absolute() == self.plot.absolute():
            raise UsageError(f"{self.csv.name} would be written twice. Give each output a name of its own.")
        for option, path in (("--csv", self.csv), ("--plot", self.plot)):
            if path is not None:
                refuse_unwritable([path.parent], option=option)
                refuse_existing([path], force=force, option=option)

    def write(self, budgets: Sequence[Budget]) -> None:
        """Write the files that are wanted."""
        if self.csv is not None:
            write_budgets(self.csv, budgets)
        if self.plot is not None:
            write_text(self.plot, budget_curve(budgets))


def budget_names(budgets: Sequence[Budget]) -> list[str]:
    """Return what tells each budget from the others: the run and the data, where there are several; else both."""
    references = [budget.reference for budget in budgets]
    runs = [run_name(reference, references) for reference in references]
    of_data = data_names(reference.data for reference in references)
    many_runs, many_data = len(set(runs)) > 1, len(of_data) > 1
    if not many_runs and not many_data:
        return [join_name(run, of_data[reference.data]) for run, reference in zip(runs, references, strict=True)]
    return [
        join_name(run if many_runs else "", of_data[reference.data] if many_data else "")
        for run, reference in zip(runs, references, strict=True)
    ]


# Sentences


def state_result(budget: Budget) -> str:
    """Return the quality that was chosen and what it saves, or that none was, in a sentence or two."""
    chosen, against = budget.chosen, budget.reference.tested
    points = _points(budget.within)
    if chosen is None:
        return f"No quality is shown to lose less than {points} of top-1 against {against}."
    sentence = f"Quality {chosen.quality} is the lowest that is shown to lose less than {points} of top-1 against {against}."
    sizes = f"{_bytes(chosen.jpegs.total)} in place of {_bytes(budget.reference_jpegs.total)}"
    images = f"{budget.reference_jpegs.images:,} images"
    if chosen.jpegs.total >= budget.reference_jpegs.total:
        return f"{sentence} It saves nothing: the {images} take {sizes}."
    return f"{sentence} The {images} take {sizes}: {1 - budget.share(chosen):.1%} less."


def explain_stop(budget: Budget) -> str:
    """Return why the search went no further down."""
    stopped, points = budget.stopped_at, _points(budget.within)
    if stopped is None:
        lowest = budget.tests[-1].quality
        return f"All qualities down to {lowest} are shown; try lower ones: --qualities." if lowest > 1 else "All are shown."
    test, change = stopped.test, stopped.pair.difference
    measured = f"Quality {stopped.quality} {'gained' if change > 0 else 'lost'} {_points(abs(change))}"
    needed, images = test.images_needed, f"{test.images:,} image{'s' if test.images > 1 else ''}"
    if -stopped.pair.high > budget.within:
        return f"{measured} (95 % {-stopped.pair.high:.2f} to {-stopped.pair.low:.2f}), which is more than {points}."
    if needed is None:
        return (
            f"{measured}, no less than {points}, though it is not told from {points} either (95 % {-stopped.pair.high:.2f} to "
            f"{-stopped.pair.low:.2f}). If this is its true loss, no number of images shows less."
        )
    fewest = fewest_images(test.margin, budget.level)
    unchanged = f" {fewest:,} is the least, even if no answer changes." if test.images < fewest else ""
    more = f"{max(needed, test.images + 1):,} for a chance of {POWER:.0%}"
    flips = (
        "as large a share of them is lost, and gained, as here" if test.lost or test.gained else "none of them changes either"
    )
    cannot = f"that its loss is below {points} cannot be told with {images}.{unchanged}"
    return f"{measured}; {cannot} It would take about {more}, if {flips}."


def explain_order(budget: Budget) -> str:
    """Return how often the claims are wrong and what is not claimed, for the foot of a table."""
    sentence = (
        "Shown: by an exact one-sided test on the same images, from the highest quality down until one is not shown, so the "
        f"chance that any quality shown loses {_points(budget.within)} or more is at most {budget.level:.3g}. "
        "Loss <: the least margin for which a quality would be shown."
    )
    alone = [str(test.quality) for test in budget.tests if test.verdict == "not tested" and test.test.shown]
    if alone:
        sentence += f" {join_words(alone)} would be shown alone, but counts for nothing behind a quality that is not shown."
    return sentence


def _bytes(count: int) -> str:
    return megabytes(count) if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _points(number: float) -> str:
    return f"{number:.4g} point{'' if number == 1 else 's'}"


# Tables, of 80 columns


def quality_table(budget: Budget) -> Table:
    """Return a row for each quality of one budget, from the reference down."""
    reference = budget.reference
    first = [_kilobytes(budget.reference_jpegs), "", f"{reference.scores.top1:.2f}", *[""] * 4]
    rows = [[str(reference.tested), "", *first]]
    rows += [[str(test.quality), test.verdict, *_cells(budget, test)] for test in budget.tests]
    return ["quality", "verdict", *_columns(budget)], rows


def summary_table(budgets: Sequence[Budget]) -> Table:
    """Return a row for each budget: the chosen quality, and nothing behind ``none`` where there is none."""
    rows = []
    for name, budget in zip(budget_names(budgets), budgets, strict=True):
        chosen = budget.chosen
        rows.append([name, *([str(chosen.quality), *_cells(budget, chosen)] if chosen else ["none", *[""] * 7])])
    one_model = len({budget.reference.run for budget in budgets}) == 1
    return ["data" if one_model else "model", "lowest", *_columns(budgets[0])], rows


def _columns(budget: Budget) -> list[str]:
    return ["kB/image", f"of {budget.reference.tested}", "top-1, %", "points", "loss <", "lost", "gained"]


def _cells(budget: Budget, test: QualityTest) -> list[str]:
    sizes = [_kilobytes(test.jpegs), f"{budget.share(test):.1%}"]
    accuracy = [f"{test.evaluation.scores.top1:.2f}", f"{test.pair.difference:+.2f}", f"{100 * test.test.bound:.2f}"]
    return [*sizes, *accuracy, f"{test.pair.lost:,}", f"{test.pair.gained:,}"]


def _kilobytes(jpegs: JpegBytes) -> str:
    return f"{jpegs.mean / 1e3:,.2f}"


# Files


def write_budgets(path: Path, budgets: Sequence[Budget]) -> None:
    """Write a CSV file: of every budget a row for the reference, and one for each quality; losses are points of top-1."""
    with csv_writer(path) as writer:
        writer.writerow(CSV_COLUMNS)
        for budget in budgets:
            values = budget.as_dict()
            head = {"quality": values["against"], "verdict": "reference", "chosen": False, **values["reference"]}
            rows = [head, *({**row, "chosen": row["quality"] == values["chosen"]} for row in values["qualities"])]
            for row in rows:
                writer.writerow([{**values, **row}.get(name) for name in CSV_COLUMNS])


def budget_curve(budgets: Sequence[Budget]) -> str:
    """Draw top-1 over bytes, a line for each budget, with the least accuracy allowed and the chosen quality; return SVG text.

    A band reaches down to the accuracy that the one-sided test does not exclude, so a quality whose band is above the margin is
    shown by itself.
    """
    names = budget_names(budgets)
    lines, margins, marks = [], [], []
    for number, (name, budget) in enumerate(zip(names, budgets, strict=True)):
        labelled = all(budget.reference.data != other.reference.data for other in budgets[:number])
        lines.append(_line(name, number, budget, labelled=labelled))
        least = budget.reference.scores.top1 - budget.within
        of = f"{name}: " if len(budgets) > 1 else ""
        edge = [min(lines[-1].x or [0]), max(lines[-1].x or [0])]
        label = f"{of}{budget.reference.tested} less {_points(budget.within)}"
        margins.append(Series(label, [least, least], x=edge, colour=number))
        if budget.chosen is not None:
            marks.append((budget.chosen.jpegs.mean / 1e3, f"{of}quality {budget.chosen.quality}"))
    return line_chart(
        [*lines, *margins],
        x_label="kB an image, at each JPEG quality",
        y_label=f"top-1, %; bands: down to the loss that is not excluded at {budgets[0].level:.3g}, one-sided",
        title=f"Accuracy by bytes, {budgets[0].reference.weights} weights",
        marks=marks,
        standalone=True,
    )


def _line(name: str, number: int, budget: Budget, *, labelled: bool) -> Series:
    """Return the line of one budget through the reference and all qualities, by rising bytes."""
    top1 = budget.reference.scores.top1
    points = [(budget.reference_jpegs.mean / 1e3, top1, top1, str(budget.reference.tested))]
    for test in budget.tests:
        accuracy, excluded = test.evaluation.scores.top1, top1 - 100 * test.test.bound
        points.append((test.jpegs.mean / 1e3, accuracy, max(0.0, min(accuracy, excluded)), str(test.quality)))
    x, y, low, labels = zip(*sorted(points), strict=True)
    return Series(name, y, low, y, x, number, labels if labelled else None)
