"""The study's page, one HTML file that works offline: verdict, matrix, comparisons, curves and cost."""

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
from jpegcurr.analysis.html.line_chart import Series, page_chart
from jpegcurr.analysis.html.page import drawn, source, template
from jpegcurr.analysis.stats import short_p
from jpegcurr.files import write_text
from jpegcurr.recipe.schema import Recipe
from jpegcurr.study.compare import ArmComparison
from jpegcurr.study.config import Arm
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
        control=study.config.control,
        primary=results.primary,
        finished=len(results.runs),
        planned=results.planned,
        seeds=study.seeds,
        verdict=results.verdict,
        arms=[
            {"name": arm, "recipe": describe_arm(study.recipes[arm]), "changes": list_changes(study.config.all_arms[arm])}
            for arm in study.arms
        ],
        columns=results.columns,
        matrix=_matrix(results),
        comparisons=_compared_columns(results),
        differences=_difference_chart(results),
        has_seeds=len(study.seeds) > 1,
        short_p=short_p,
        rates=_rate_chart(results),
        curves=_curve_charts(results),
        cost=_cost(results),
        provenance=_provenance(results),
    )
    write_text(path, page)


def describe_arm(recipe: Recipe) -> str:
    """Return what an arm trains on, until which epoch, and its schedule: ``clean to 80, q50 to 100; one cosine``."""
    plans, phases, begin = plan_epochs(recipe), [], 0
    for phase in recipe.curriculum:
        first, last = plans[begin], plans[phase.until_epoch - 1]
        data = first.data if first.shares == last.shares else f"{first.data}, gradually {last.data},"
        phases.append(f"{data} to {phase.until_epoch}")
        begin = phase.until_epoch
    if recipe.schedule.decay is not None:
        return f"{', '.join(phases)}; learning rate in steps"
    restarts = recipe.schedule.horizon == "phase" and len(phases) > 1
    return f"{', '.join(phases)}; {'the learning rate restarts with each phase' if restarts else 'one cosine'}"


def list_changes(arm: Arm) -> list[str]:
    """Return what an arm sets besides its curriculum, such as ``schedule.lr=1e-4``."""
    return [override for override in arm.overrides if not override.startswith("curriculum")]


def list_swaps(recipe: Recipe) -> list[tuple[int, str]]:
    """Return the epochs at which a phase starts with other data than the phase before, and these data."""
    plans = plan_epochs(recipe)
    return [
        (now.epoch, now.data) for before, now in pairwise(plans) if now.phase != before.phase and now.shares != before.shares
    ]


def _compared_columns(results: Results) -> list[tuple[Column, list[ArmComparison]]]:
    """Return the primary column with its comparisons, then the others in which arms can be compared with the control."""
    columns = sorted(results.columns, key=lambda column: column != results.primary)
    compared = [(column, results.comparisons[column]) for column in columns]
    return [(column, arms) for column, arms in compared if arms or column == results.primary]


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
            text = f"{cell.mean:.2f}" if cell else "not yet" if column[0] in results.study.recipes[arm].weights else "none"
            cells.append({"text": text, "spread": spread, "best": cell is not None and cell.mean == best[column]})
        rows.append({"arm": arm, "cells": cells})
    return rows


def _difference_chart(results: Results) -> Markup:
    """Return the chart of the primary outcome, a row for every arm; empty while there is nothing to compare."""
    rows = [
        Difference(
            f"{row.arm} †" if row.spread_floored else row.arm,
            row.difference,
            row.low,
            row.high,
            row.image_low,
            row.image_high,
            [(f"seed {seed}", pair.difference) for seed, pair in zip(row.seeds, row.pairs, strict=True)],
        )
        for row in results.comparisons[results.primary]
    ]
    label = f"points of top-1, difference from {results.study.config.control}"
    return drawn(interval_chart(rows, x_label=label)) if rows else Markup()


def _rate_chart(results: Results) -> Markup:
    """Return the chart of the learning rate over the epochs; arms with the same curve share a line."""
    curves: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for arm, recipe in results.study.recipes.items():
        epochs = planned_epochs(recipe, count_images(recipe))
        ends = [
            point
            for epoch in epochs  # the first and the last step of each, so that a restart is a jump
            for point in ((epoch.plan.epoch, epoch.lr_first), (epoch.plan.epoch + 1 - 1 / epoch.steps, epoch.lr_last))
        ]
        curves.setdefault(tuple(ends), []).append(arm)
    series = [Series(", ".join(arms), [y for _, y in ends], x=[x for x, _ in ends]) for ends, arms in curves.items()]
    return page_chart(series, x_label="epoch", title="Learning rate", marks=_marks(results))


def _curve_charts(results: Results) -> list[Markup]:
    """Return charts of top-1 on the primary set, if training evaluated it, and of the loss: means over the seeds."""
    weights, name = results.primary
    column = f"val/{name}/{'ema_' if weights == 'ema' else ''}top1"
    charts = []
    for key, title in (
        (column, f"Top-1 of the {weights} weights on {name}, %"),
        ("train/loss", "Training loss"),
    ):
        curves = (_curve(arm, [run for run in results.runs if run.arm == arm], key) for arm in results.study.arms)
        series = [curve for curve in curves if curve is not None]
        if series:
            charts.append(page_chart(series, x_label="epoch", title=title, marks=_marks(results)))
    return charts


def _curve(arm: str, runs: Sequence[RunResult], key: str) -> Series | None:
    """Return the mean over the seeds after every epoch that measured it (epoch 0 ends at 1), or None if none did."""
    rows = [[float(row.get(key, nan)) for row in run.metrics] for run in runs]
    measured = [epoch for epoch in range(len(rows[0]) if rows else 0) if any(key in run.metrics[epoch] for run in runs)]
    if not measured or not np.isfinite(rows).any():
        return None
    return Series(arm, np.mean(rows, axis=0)[measured].tolist(), x=[epoch + 1 for epoch in measured])


def _marks(results: Results) -> list[tuple[float, str]]:
    """Return the epochs at which any arm swaps its data, each with a label."""
    where: dict[int, list[str]] = {}
    for recipe in results.study.recipes.values():
        for epoch, data in list_swaps(recipe):
            where.setdefault(epoch, []).append(data)
    return [(epoch, f"swap to {' or '.join(dict.fromkeys(names))}") for epoch, names in sorted(where.items())]


def _cost(results: Results) -> dict[str, Any]:
    """Return hours and images of the finished runs by arm; a trunk counts once per seed."""
    rows = [_arm_cost(results, arm) for arm in results.study.arms]
    trunks = {(trunk.name, run.seed): run.shared for run in results.runs if (trunk := results.study.trunk(run.arm))}
    shared = sum(trunks.values()) / 3600
    return {"rows": rows, "shared": shared, "total": shared + sum(float(row["hours"]) for row in rows)}


def _arm_cost(results: Results, arm: str) -> dict[str, Any]:
    recipe, trunk = results.study.recipes[arm], results.study.trunk(arm)
    seconds = [run.seconds for run in results.runs if run.arm == arm]
    images = sum(epoch.images for epoch in planned_epochs(recipe, count_images(recipe)))
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
        f"{len(study.trunks)} trunk{'s' if len(study.trunks) > 1 else ''} of {study.trunks[0].epoch} epochs per seed"
        if study.trunks
        else "none: every run trains from its first epoch"
    )
    measured = {}
    for run in results.runs[:1]:  # all were measured on the same images
        images = {name: scores.images for (_, name), scores in run.scores.items()}
        measured = {"Measured on": ", ".join(f"{name}, {count:,} images" for name, count in images.items())}
        measured |= {"Decoded by": results.conditions["decoded by"], "Computed on": results.conditions["computed"]}
    return {
        "Study": str(study.path),
        "Base recipe": str(study.config.recipe),
        "Seeds": ", ".join(map(str, study.seeds)),
        "Fork": fork,
        **measured,
        "Command": shlex.join(["jpegcurr", *sys.argv[1:]]),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(_PACKAGES).items()),
    }
