"""The accuracy-quality curve: top-1 of runs over the JPEG qualities that they were tested at."""

from collections.abc import Sequence

from jpegcurr.analysis.evaluation.naming import place_names, place_of, quality_lines
from jpegcurr.analysis.html.line_chart import Series, line_chart
from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.analysis.stats import accuracy_interval


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
