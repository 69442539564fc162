"""Channel studies and prune studies as tables: for the terminal, as CSV and as plain values for JSON."""

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
from jpegcurr.files import CsvWriter, json_values

CSV_HEAD = ("run", "weights", "loader", "layer", "channel", "data", "quality", "tested", "at_load", "images")
# Names of a channel's statistics in CSV and JSON, and as fields of ``Channels``; ``min`` and ``max`` are over all images.
STATISTICS = {
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
    """Return one row for each layer at each quality."""
    rows = []
    for layer in study.layers:
        for column, channels in zip(study.columns, layer.channels, strict=True):
            totals = summary(channels)
            shifts = [_short(totals["mean_abs_shift"]), _short(totals["largest_abs_shift"])]
            moved = "" if channels is layer.channels[0] else str(totals["moved"])
            dead = [f"{totals['dead_percent']:.1f}", str(totals["dead_in_all_images"])]
            rows.append([layer.layer, column.name, str(len(layer)), *shifts, moved, _short(totals["mean_per_image"]), *dead])
    return ["layer", "quality", "channels", "|shift|", "largest", "moved", "per image", "dead, %", "in all"], rows


def moved_table(study: ChannelStudy, top: int) -> Table | None:
    """Return, for each layer and quality, the ``top`` most moved channels with their shifts; None for a single quality."""
    rows = []
    for layer in study.layers:
        for column, channels in list(zip(study.columns, layer.channels, strict=True))[1:]:
            most = channels.most_moved()[:top]
            cells = (f"{at}:{channels.shift[at]:+.3f}{'' if channels.moved[at] else '?'}" for at in most)
            rows.append([layer.layer, column.name, " ".join(cells)])
    return (["layer", "quality", "channel:shift, the most moved first"], rows) if rows else None


def meanings(study: ChannelStudy) -> list[str]:
    """Explain the columns of ``stage_table`` and the marks of ``moved_table``, a sentence or two each."""
    dead = (
        "Dead: nowhere in an image farther from 0 than a thousandth of the layer's root mean square there. After a ReLU that "
        "is zero everywhere; where values are signed, close to 0 of either sign. In %: of all channels of all images; "
        "in all: the channels that are dead in every image."
    )
    if len(study.columns) < 2:
        return [dead]
    first, tests = study.columns[0].name, sum(int(np.isfinite(of.p).sum()) for row in study.layers for of in row.channels)
    return [
        f"Shift: how far a channel's mean activation moves from {first}, in standard deviations over the images at {first}; "
        "|shift| is its mean over the channels.",
        f"Moved: channels whose change on the same images is significant: paired t-test at {100 * LEVEL:.0f} % over all "
        f"{tests:,} tests (Holm); ? marks a shift that is not.",
        "Per image: how far a single image moves, up or down (root mean square), in the same unit; mean over the channels.",
        dead,
    ]


def prune_title(study: PruneStudy) -> str:
    """Return the title of ``prune_table``."""
    return f"{study.layer}: k of its {study.channels} channels set to zero, top-1 in %"


def prune_table(study: PruneStudy) -> Table:
    """Return top-1 by quality, a row for each choice; the random choices of a k have two rows, mean and range."""
    rows = [["0", "none", *(f"{top1:.2f}" for top1 in study.unmasked.values())]]
    for k in dict.fromkeys(trial.choice.k for trial in study.trials):
        trials = [trial for trial in study.trials if trial.choice.k == k]
        for trial in trials:
            if trial.choice.which != "random":
                rows.append([str(k), trial.choice.which, *(_cell(trial, name) for name in study.unmasked)])
        random = {name: [trial.top1[name] for trial in trials if trial.choice.which == "random"] for name in study.unmasked}
        means = [f"{np.mean(top1):.2f} ({np.mean(top1) - study.unmasked[name]:+.2f})  " for name, top1 in random.items()]
        rows.append([str(k), "random, mean", *means])
        rows.append([str(k), "random, range", *(f"{min(top1):.2f} to {max(top1):.2f}  " for top1 in random.values())])
    return ["k", "set to 0", *study.unmasked], rows


def prune_meanings(study: PruneStudy) -> list[str]:
    """Explain how the channels were chosen, and the marks of ``prune_table``."""
    draws = 1 + max(trial.choice.draw for trial in study.trials)
    detectable = max(pair.detectable for trial in study.trials for pair in trial.pairs.values())
    return [
        f"Chosen on {study.chosen_on:,} images, every second one in the order of their classes (shuffled within each, seed "
        f"{study.seed}), by the largest shift at any quality; tested on the other {study.images:,}. Random: {draws} draws.",
        f"In brackets: the difference from no channel set to zero, points. *: significant by McNemar's test at "
        f"{100 * LEVEL:.0f} %, each comparison by itself; otherwise there is no detectable difference (one of "
        f"{detectable:.2f} points would be detected with 80 % power).",
    ]


def summary(channels: Channels) -> dict[str, Any]:
    """Return totals over the channels of one layer at one quality, by name; nan where no channel has a shift."""
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
    """Return CSV text: one row for each layer, quality and channel; unknown or undefined cells are empty."""
    file = io.StringIO()
    writer = CsvWriter(file)
    writer.writerow([*CSV_HEAD, *STATISTICS])
    for layer in study.layers:
        for column, channels in zip(study.columns, layer.channels, strict=True):
            source = [column.data, column.quality, column.tested, column.at_load, channels.images]
            for number in range(len(layer)):
                values = _channel_values(channels, number).values()
                writer.writerow([study.run, study.weights, study.loader, layer.layer, number, *source, *values])
    return file.getvalue()


def as_values(study: ChannelStudy, pruned: Sequence[PruneStudy], top: int) -> dict[str, Any]:
    """Return plain values by name, for JSON; unknown or undefined ones are None."""
    layers = [
        {
            "layer": layer.layer,
            "channels": len(layer),
            "grid": list(layer.layout.grid),
            "layout": layer.layout.kind,
            "qualities": [
                _quality_values(column, channels, top) for column, channels in zip(study.columns, layer.channels, strict=True)
            ],
        }
        for layer in study.layers
    ]
    head = {"run": str(study.run), "weights": study.weights, "loader": study.loader, "images": study.images}
    head |= study.description.as_dict()
    prune_studies = json_values([_prune_values(prune_study) for prune_study in pruned])
    return head | {"reference": study.columns[0].name, "layers": layers, "prune_study": prune_studies}


def _quality_values(column: QualityColumn, channels: Channels, top: int) -> dict[str, Any]:
    source = {**asdict(column), "data": str(column.data)}
    values = [{"channel": number, **_channel_values(channels, number)} for number in range(len(channels.mean))]
    totals: dict[str, Any] = json_values(summary(channels))
    return source | totals | {"most_moved": channels.most_moved()[:top], "channels": values}


def _prune_values(study: PruneStudy) -> dict[str, Any]:
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


def _channel_values(channels: Channels, number: int) -> dict[str, float | None]:
    values: dict[str, float | None] = json_values(
        {name: float(getattr(channels, field)[number]) for name, field in STATISTICS.items()}
    )
    return values


def _short(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else ""


def _cell(trial: Trial, name: str) -> str:
    pair = trial.pairs[name]
    return f"{trial.top1[name]:.2f} ({pair.difference:+.2f}) {' ' if pair.verdict == 'no detectable difference' else '*'}"
