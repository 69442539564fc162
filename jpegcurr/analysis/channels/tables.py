"""Statistics of channels and prune studies as tables: for the terminal, as CSV and as plain values for JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from jpegcurr.analysis.channels.pruning import PruneStudy, Trial
from jpegcurr.analysis.channels.statistics import Channels
from jpegcurr.analysis.channels.study import ChannelStudy, QualityColumn
from jpegcurr.analysis.evaluation.evaluate import paired_values
from jpegcurr.analysis.evaluation.tables import Table
from jpegcurr.analysis.stats import LEVEL
from jpegcurr.files import json_values

CSV_HEAD = ("run", "weights", "loader", "layer", "channel", "data", "quality", "tested", "at_load", "images")
# By name, what a channel's figures are called in CSV and JSON; ``min`` and ``max`` are over every place of every image.
FIGURES = {
    "mean": "mean",
    "sd": "deviation",
    "min": "low",
    "max": "high",
    "dead_share": "dead",
    "shift_sd": "shift",
    "per_image_sd": "per_image",
    "paired_change": "change",
    "paired_error": "error",
    "paired_t": "t",
    "p_value": "p",
    "p_holm": "p_holm",
}


def stage_table(study: ChannelStudy) -> Table:
    """Column names, and one row for each layer at each quality."""
    rows = []
    for layer in study.layers:
        for arm, each in zip(study.arms, layer.channels, strict=True):
            facts = summary(each)
            shifts = [_short(facts["mean_abs_shift"]), _short(facts["largest_abs_shift"])]
            moved = "" if each is layer.channels[0] else str(facts["moved"])
            dead = [f"{facts['dead_percent']:.1f}", str(facts["dead_in_all_images"])]
            rows.append([layer.layer, arm.name, str(len(layer)), *shifts, moved, _short(facts["mean_per_image"]), *dead])
    return ["layer", "quality", "channels", "|shift|", "largest", "moved", "per image", "dead, %", "in all"], rows


def moved_table(study: ChannelStudy, top: int) -> Table | None:
    """Column names, and for each layer and quality the most moved channels with their shifts; None for one quality alone."""
    rows = []
    for layer in study.layers:
        for arm, each in list(zip(study.arms, layer.channels, strict=True))[1:]:
            listed = (f"{at}:{each.shift[at]:+.3f}{'' if each.moved[at] else '?'}" for at in each.most_moved()[:top])
            rows.append([layer.layer, arm.name, " ".join(listed)])
    return (["layer", "quality", "channel:shift, the most moved first"], rows) if rows else None


def meanings(study: ChannelStudy) -> list[str]:
    """What the columns of ``stage_table`` and the marks of ``moved_table`` are."""
    dead = (
        "Dead: nowhere in an image farther from 0 than a thousandth of the layer's root mean square there. After a ReLU that "
        "is zero everywhere; where values are signed, next to nothing of either sign. In %: of all channels of all images; "
        "in all: the channels that are dead in every image."
    )
    if len(study.arms) < 2:
        return [dead]
    first, looks = study.arms[0].name, sum(int(np.isfinite(each.p).sum()) for row in study.layers for each in row.channels)
    return [
        f"Shift: how far a channel's mean activation moves from {first}, in standard deviations over the images at {first}; "
        "|shift| is its mean over the channels.",
        f"Moved: channels whose change on the same images is told from noise: paired t, {100 * LEVEL:.0f} % over all "
        f"{looks:,} looks (Holm); ? marks one that is not.",
        "Per image: how far a single image moves, up or down (root mean square), in the same unit; mean over the channels.",
        dead,
    ]


def prune_title(study: PruneStudy) -> str:
    """What stands over ``prune_table``."""
    return f"{study.layer}: k of its {study.channels} channels set to zero, top-1 in %"


def prune_table(study: PruneStudy) -> Table:
    """Column names, and top-1 by quality in a row for each choice; the random ones of a k in two, mean and range."""
    rows = [["0", "none", *(f"{top1:.2f}" for top1 in study.unmasked.values())]]
    for k in dict.fromkeys(trial.choice.k for trial in study.trials):
        mine = [trial for trial in study.trials if trial.choice.k == k]
        for trial in mine:
            if trial.choice.which != "random":
                rows.append([str(k), trial.choice.which, *(_cell(trial, name) for name in study.unmasked)])
        random = {name: [each.top1[name] for each in mine if each.choice.which == "random"] for name in study.unmasked}
        means = [f"{np.mean(top1):.2f} ({np.mean(top1) - study.unmasked[name]:+.2f})  " for name, top1 in random.items()]
        rows.append([str(k), "random, mean", *means])
        rows.append([str(k), "random, range", *(f"{min(top1):.2f} to {max(top1):.2f}  " for top1 in random.values())])
    return ["k", "set to 0", *study.unmasked], rows


def prune_meanings(study: PruneStudy) -> list[str]:
    """How the channels were chosen, and what the marks of ``prune_table`` are."""
    draws = 1 + max(trial.choice.draw for trial in study.trials)
    detectable = max(pair.detectable for trial in study.trials for pair in trial.pairs.values())
    return [
        f"Chosen on {study.chosen_on:,} images (half of each class, seed {study.seed}), by the largest shift at any quality; "
        f"tested on the other {study.images:,}. Random: {draws} draws.",
        f"In brackets: points more than with none. *: differs by McNemar's test at {100 * LEVEL:.0f} %, each by itself; "
        f"without it no detectable difference (one of {detectable:.2f} points would have been seen with 80 % power).",
    ]


def summary(channels: Channels) -> dict[str, Any]:
    """One layer at one quality, in a few numbers; nan where there is no shift."""
    size = np.abs(channels.shift[np.isfinite(channels.shift)])
    return {
        "mean_abs_shift": float(size.mean()) if len(size) else float("nan"),
        "largest_abs_shift": float(size.max()) if len(size) else float("nan"),
        "mean_per_image": float(np.nanmean(channels.per_image)) if len(size) else float("nan"),
        "with_shift": len(size),
        "moved": int(channels.moved.sum()),
        "dead_percent": 100 * float(channels.dead.mean()),
        "dead_in_all_images": int((channels.dead == 1).sum()),
    }


def to_csv(study: ChannelStudy) -> str:
    """One row for each layer, quality and channel; what is unknown or undefined is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*CSV_HEAD, *FIGURES])
    for layer in study.layers:
        for arm, each in zip(study.arms, layer.channels, strict=True):
            facts = [arm.data, arm.quality, arm.tested, arm.at_load, each.images]
            for number in range(len(layer)):
                figures = _figures(each, number).values()
                writer.writerow([study.run, study.weights, study.loader, layer.layer, number, *facts, *figures])
    return file.getvalue()


def as_values(study: ChannelStudy, pruned: Sequence[PruneStudy], top: int) -> dict[str, Any]:
    """Plain values by name, for JSON; what is unknown or undefined is None."""
    layers = [
        {
            "layer": layer.layer,
            "channels": len(layer),
            "grid": list(layer.layout.grid),
            "layout": layer.layout.kind,
            "qualities": [_quality(arm, each, top) for arm, each in zip(study.arms, layer.channels, strict=True)],
        }
        for layer in study.layers
    ]
    head = {"run": str(study.run), "weights": study.weights, "loader": study.loader, "images": study.images}
    return head | {"reference": study.arms[0].name, "layers": layers, "prune_study": [_pruned(each) for each in pruned]}


def _quality(arm: QualityColumn, each: Channels, top: int) -> dict[str, Any]:
    facts = {**asdict(arm), "data": str(arm.data)}
    channels = [{"channel": number, **_figures(each, number)} for number in range(len(each.mean))]
    summed: dict[str, Any] = json_values(summary(each))
    return facts | summed | {"most_moved": each.most_moved()[:top], "channels": channels}


def _pruned(study: PruneStudy) -> dict[str, Any]:
    head = {name: value for name, value in asdict(study).items() if name != "trials"}
    trials = [
        {
            **asdict(trial.choice),
            "qualities": {
                name: {"top1": trial.top1[name], "against_unmasked": paired_values(pair)} for name, pair in trial.pairs.items()
            },
        }
        for trial in study.trials
    ]
    return head | {"trials": trials}


def _figures(channels: Channels, number: int) -> dict[str, float | None]:
    figures: dict[str, float | None] = json_values(
        {key: float(getattr(channels, each)[number]) for key, each in FIGURES.items()}
    )
    return figures


def _short(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else ""


def _cell(trial: Trial, name: str) -> str:
    pair = trial.pairs[name]
    return f"{trial.top1[name]:.2f} ({pair.difference:+.2f}) {' ' if pair.verdict == 'no detectable difference' else '*'}"
