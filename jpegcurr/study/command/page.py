"""The page of a command's study, one HTML file that works offline: verdict, differences, runs and provenance."""

import shlex
import sys
from pathlib import Path

from markupsafe import Markup

from jpegcurr.analysis.html.interval_chart import Difference, interval_chart
from jpegcurr.analysis.html.page import drawn, source, template
from jpegcurr.analysis.stats import short_p
from jpegcurr.files import write_text
from jpegcurr.study.command.results import CommandResults


def write_page(results: CommandResults, path: Path) -> None:
    """Write the page to ``path``, whole or not at all."""
    study = results.study
    page = template("jpegcurr.study", "command.html.jinja").render(
        style=source("page.css"),
        name=study.name,
        control=study.config.control,
        column=study.column,
        finished=results.finished,
        planned=results.planned,
        seeds=study.seeds,
        verdict=results.verdict,
        chart=_difference_chart(results),
        comparisons=results.comparisons,
        short_p=short_p,
        arms=[
            {
                "name": arm,
                "values": values,
                "mean": results.mean(arm),
                "runs": [results.outcomes[arm].get(seed) for seed in study.seeds],
            }
            for arm, values in study.arms.items()
        ],
        provenance={
            "Study": str(study.path),
            "Command of a run": study.config.command,
            "Metric": study.config.metric,
            "Seconds of all runs": f"{sum(run.seconds for runs in results.outcomes.values() for run in runs.values()):,.0f}",
            "Command": shlex.join(["jpegcurr", *sys.argv[1:]]),
        },
    )
    write_text(path, page)


def _difference_chart(results: CommandResults) -> Markup:
    """Return the chart of all differences, a row for every arm; empty while there is nothing to compare."""
    rows = [
        Difference(
            row.arm,
            row.difference,
            row.low,
            row.high,
            single=[(f"seed {seed}", difference) for seed, difference in zip(row.seeds, row.differences, strict=True)],
            form="+.4g",
        )
        for row in results.comparisons
    ]
    label = f"{results.study.column}, difference from {results.study.config.control}"
    return drawn(interval_chart(rows, x_label=label)) if rows else Markup()
