"""One HTML page that works offline: the verdict, the matrix, every comparison, the curves and the cost."""

import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from jpegcurr.analysis.html.interval_chart import Difference, interval_chart
from jpegcurr.analysis.html.line_chart import Series, line_chart
from jpegcurr.analysis.html.page import drawn, source, template
from jpegcurr.analysis.stats import short_p
from jpegcurr.files import write_text
from jpegcurr.recipe.schema import Recipe
from jpegcurr.study.results import Column, Results, RunResult
from jpegcurr.system import library_versions
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.datasets import count_images
from jpegcurr.training.schedule import planned_epochs

_PACKAGES = ("jpegcurr", "torch", "timm", "numpy", "scipy", "pillow", "simplejpeg")


def write_page(results: Results, path: Path) -> None:
    """Write the page to ``path``."""
    study = results.study
    page = template("jpegcurr.study", "study.html.jinja").render(
        style=source("page.css"),
        name=study.name,
        control=study.plan.control,
        primary=results.primary,
        finished=len(results.runs),
        planned=results.planned,
        seeds=study.seeds,
        verdict=results.verdict,
        arms=[{"name": arm, "recipe": describe_arm(study.recipes[arm])} for arm in study.arms],
        columns=results.columns,
        matrix=_matrix(results),
        comparisons=[(column, results.comparisons[column]) for column in _primary_first(results)],
        differences=_difference_chart(results),
        several=len(study.seeds) > 1,
        short_p=short_p,
        rates=_rate_chart(results),
        curves=_curve_charts(results),
        cost=_cost(results),
        provenance=_provenance(results),
    )
    write_text(path, page)


def describe_arm(recipe: Recipe) -> str:
    """``clean to 80, q50 to 100; one cosine``."""
    plans, phases, begin = plan_epochs(recipe), [], 0
    for phase in recipe.curriculum:
        first, last = plans[begin], plans[phase.until_epoch - 1]
        data = first.data if first.shares == last.shares else f"{first.data}, by degrees {last.data},"
        phases.append(f"{data} to {phase.until_epoch}")
        begin = phase.until_epoch
    if recipe.schedule.decay is not None:
        return f"{', '.join(phases)}; the rate falls in steps"
    restarts = recipe.schedule.horizon == "phase" and len(phases) > 1
    return f"{', '.join(phases)}; {'the rate restarts with each phase' if restarts else 'one cosine'}"


def swaps(recipe: Recipe) -> list[tuple[int, str]]:
    """Where a phase begins with other data than the one before, and what is trained on from there."""
    plans = plan_epochs(recipe)
    return [
        (now.epoch, now.data) for before, now in pairwise(plans) if now.phase != before.phase and now.shares != before.shares
    ]


def _primary_first(results: Results) -> list[Column]:
    return sorted(results.columns, key=lambda column: column != results.primary)


def _matrix(results: Results) -> list[dict[str, Any]]:
    best = {
        column: max((cell.mean for arm in results.study.arms if (cell := results.cell(arm, column))), default=nan)
        for column in results.columns
    }
    rows = []
    for arm in results.study.arms:
        cells = []
        for column in results.columns:
            cell = results.cell(arm, column)
            spread = f"±{cell.spread:.2f}, {cell.seeds} seeds" if cell and isfinite(cell.spread) else "1 seed" if cell else ""
            text = f"{cell.mean:.2f}" if cell else "not yet"
            cells.append({"text": text, "spread": spread, "best": cell is not None and cell.mean == best[column]})
        rows.append({"arm": arm, "cells": cells})
    return rows


def _difference_chart(results: Results) -> Markup:
    """Every arm against the control in the primary outcome; nothing before there are two to compare."""
    rows = [
        Difference(
            each.arm,
            each.difference,
            each.low,
            each.high,
            each.image_low,
            each.image_high,
            [(f"seed {seed}", pair.difference) for seed, pair in zip(each.seeds, each.pairs, strict=True)],
        )
        for each in results.comparisons[results.primary]
    ]
    label = f"points of top-1 against {results.study.plan.control}"
    return drawn(interval_chart(rows, x_label=label)) if rows else Markup()


def _rate_chart(results: Results) -> Markup:
    """The learning rate over the epochs; arms of one curve are one line."""
    curves: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for arm, recipe in results.study.recipes.items():
        epochs = planned_epochs(recipe, count_images(recipe))
        ends = [
            point
            for each in epochs  # both ends of each, so that a restart is a jump
            for point in ((each.plan.epoch, each.lr_first), (each.plan.epoch + 1 - 1 / each.steps, each.lr_last))
        ]
        curves.setdefault(tuple(ends), []).append(arm)
    series = [Series(", ".join(arms), [y for _, y in ends], x=[x for x, _ in ends]) for ends, arms in curves.items()]
    return drawn(line_chart(series, x_label="epoch", title="Learning rate", marks=_marks(results)))


def _curve_charts(results: Results) -> list[Markup]:
    """Top-1 on the primary set, if training evaluated it, and the loss, over the epochs: means over the seeds."""
    weights, name = results.primary
    column = f"val/{name}/{'ema_' if weights == 'ema' else ''}top1"
    charts = []
    for key, title in (
        (column, f"Top-1 of the {weights} weights on {name} after each epoch, %"),
        ("train/loss", "Training loss"),
    ):
        series = [each for arm in results.study.arms if (each := _curve(arm, [r for r in results.runs if r.arm == arm], key))]
        if series:
            charts.append(drawn(line_chart(series, x_label="epoch", title=title, marks=_marks(results))))
    return charts


def _curve(arm: str, runs: Sequence[RunResult], key: str) -> Series | None:
    """The mean over the seeds after every epoch, which is one later than its number; None if nothing was measured."""
    rows = [[float(row.get(key, nan)) for row in run.metrics] for run in runs]
    if not rows or not np.isfinite(rows).any():
        return None
    return Series(arm, np.mean(rows, axis=0).tolist(), x=[epoch + 1 for epoch in range(len(rows[0]))])


def _marks(results: Results) -> list[tuple[float, str]]:
    """Every epoch at which some arm swaps its data, once."""
    where: dict[int, list[str]] = {}
    for recipe in results.study.recipes.values():
        for epoch, data in swaps(recipe):
            where.setdefault(epoch, []).append(data)
    return [(epoch, f"swap to {' or '.join(dict.fromkeys(names))}") for epoch, names in sorted(where.items())]


def _cost(results: Results) -> dict[str, Any]:
    """Hours and images of the runs that are finished; epochs of a trunk count once for a seed."""
    rows = [_arm_cost(results, arm) for arm in results.study.arms]
    trunks = {(trunk.name, run.seed): run.shared for run in results.runs if (trunk := results.study.trunk(run.arm))}
    shared = sum(trunks.values()) / 3600
    return {"rows": rows, "shared": shared, "total": shared + sum(float(row["hours"]) for row in rows)}


def _arm_cost(results: Results, arm: str) -> dict[str, Any]:
    recipe, trunk = results.study.recipes[arm], results.study.trunk(arm)
    seconds = [run.seconds for run in results.runs if run.arm == arm]
    images = sum(each.images for each in planned_epochs(recipe, count_images(recipe)))
    return {
        "arm": arm,
        "runs": len(seconds),
        "images": images,
        "hours": sum(seconds) / 3600,
        "fork": trunk.epoch if trunk else 0,
    }


def _provenance(results: Results) -> dict[str, str]:
    study = results.study
    fork = (
        f"{len(study.trunks)} trunks of {study.trunks[0].epoch} epochs a seed" if study.trunks else "none: every run is whole"
    )
    measured = {}
    for run in results.runs[:1]:  # all were measured on the same images
        images = {name: scores.images for (_, name), scores in run.scores.items()}
        measured = {"Measured on": ", ".join(f"{name}, {count:,} images" for name, count in images.items())}
        measured |= {"Decoded by": results.conditions["decoded by"], "Computed on": results.conditions["computed"]}
    return {
        "Study": str(study.path),
        "Base recipe": str(study.plan.recipe),
        "Seeds": ", ".join(map(str, study.seeds)),
        "Fork": fork,
        **measured,
        "Command": shlex.join(["jpegcurr", *sys.argv[1:]]),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(_PACKAGES).items()),
    }
